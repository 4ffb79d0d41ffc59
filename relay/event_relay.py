"""The EventRelay: owns the event log and carries what is stored to the bus.

Writing is grouped by itself: while one transaction is fsynced, the next one gathers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.protocol.errors import InvalidMessage, MemorydError
from memoryd.protocol.events import weight_of
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.internal import (
    AdvanceCursor,
    Append,
    Deliver,
    Enqueue,
    EraseEvents,
    ParkEvent,
    ReadEvents,
    ReadLogStatus,
    ReadParked,
    Rewind,
    UnparkEvents,
)
from memoryd.protocol.messages import Done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.clock import Clock
    from memoryd.protocol.events import Event, StoredEvent
    from memoryd.protocol.ids import Seq, UserId
    from memoryd.protocol.interfaces import Appended, EventStore

log = structlog.get_logger("memoryd.relay")

READER: Final = "memory"  # the name of the memory's cursor in the log
GROUP_EVENTS: Final = 1_024
READ_EVENTS: Final = 64  # mapped in one go: some milliseconds
RETENTION_EVERY_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Truncate:
    """Control message: look for events that nobody needs any more."""


@dataclass(slots=True)
class _Group:
    """Events of one publisher that wait for the next transaction."""

    user: UserId
    events: tuple[Event, ...]
    stored: asyncio.Future[tuple[Appended, ...]]


class EventRelay(Actor):
    """Appends events, tells the bus, remembers how far the memories have come."""

    def __init__(self, store: EventStore, bus: Ref, pools: Pools, clock: Clock, retain_s: float) -> None:
        self._store = store
        self._bus = bus
        self._pools = pools
        self._clock = clock
        self._retain = timedelta(seconds=retain_s)
        self._groups: deque[_Group] = deque()
        self._to_write = asyncio.Event()
        self._to_carry = asyncio.Event()
        self._position = BEFORE_ALL

    async def started(self, ctx: Context) -> None:
        await self._rewind()
        ctx.spawn(self._write())
        ctx.spawn(self._carry())
        ctx.after(RETENTION_EVERY_S, _Truncate())

    async def handle(self, message: object, ctx: Context) -> object:  # noqa: C901, PLR0911 - one line a message
        match message:
            case Append(user=user, events=events):
                return ctx.detach(self._append(user, events))
            case Enqueue(user=user, events=events):
                ctx.spawn(self._enqueue(user, events))
            case ReadEvents(after=after, limit=limit, user=user):
                return ctx.detach(self._read(after, limit, user))
            case Rewind():
                return await self._rewind()
            case AdvanceCursor(seq=seq):
                await self._pools.log_write(self._store.advance, READER, seq)
            case EraseEvents(user=user, events=erased):
                return ctx.detach(self._pools.log_write(self._store.erase, user, erased))
            case ParkEvent(seq=seq, error=error):
                await self._pools.log_write(self._store.park, seq, error)
                metrics.PARKED.inc()
                log.warning("event_parked", seq=seq, error=error)
                return Done()
            case ReadParked():
                return tuple(await self._pools.log_read(self._store.parked))
            case UnparkEvents(seqs=seqs, drop=drop):
                return ctx.detach(self._unpark(seqs, drop=drop))
            case ReadLogStatus():
                return await self._pools.log_read(self._store.status)
            case _Truncate():
                ctx.after(RETENTION_EVERY_S, _Truncate())
                return ctx.detach(self._pools.log_write(self._store.truncate, self._clock.now() - self._retain))
        return None

    async def _unpark(self, seqs: Sequence[Seq], *, drop: bool) -> int:
        moved = await self._pools.log_write(self._store.unpark, seqs, drop=drop)
        self._to_carry.set()
        return len(seqs) if drop else len(moved)

    async def _append(self, user: UserId, events: tuple[Event, ...]) -> tuple[Appended, ...]:
        group = _Group(user, events, asyncio.get_running_loop().create_future())
        self._groups.append(group)
        self._to_write.set()
        return await group.stored

    async def _enqueue(self, user: UserId, events: tuple[Event, ...]) -> None:
        try:
            await self._append(user, events)
        except MemorydError as error:
            # `queued` promises nothing more than this line.
            metrics.EVENTS.labels("lost").inc(len(events))
            log.warning("queued_events_lost", count=len(events), error=type(error).__name__)

    async def _read(self, after: Seq, limit: int, user: UserId | None) -> tuple[StoredEvent, ...]:
        return tuple(await self._pools.log_read(self._store.read, after, limit, user=user))

    async def _write(self) -> None:
        """Append what has gathered, one fsynced transaction after the other."""
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            while self._groups:
                taken = [self._groups.popleft()]
                size = len(taken[0].events)
                while self._groups and size + len(self._groups[0].events) <= GROUP_EVENTS:
                    size += len(self._groups[0].events)
                    taken.append(self._groups.popleft())
                await self._append_groups(taken)
                self._to_carry.set()

    async def _append_groups(self, groups: list[_Group]) -> None:
        batch = [(group.user, event) for group in groups for event in group.events]
        began = time.perf_counter()
        try:
            appended = await self._pools.log_write(self._store.append, batch)
        except InvalidMessage as error:
            # An event that cannot be written refuses its own publisher and nobody who shares the transaction.
            if len(groups) > 1:
                for group in groups:
                    await self._append_groups([group])
            elif not groups[0].stored.done():
                groups[0].stored.set_exception(error)
            return
        except MemorydError as error:
            # A full disk refuses the publishers and harms nobody else: the log itself is whole.
            for group in groups:
                if not group.stored.done():
                    group.stored.set_exception(error)
            return
        metrics.APPENDS.observe(time.perf_counter() - began)
        duplicates = sum(each.duplicate for each in appended)
        metrics.EVENTS.labels("stored").inc(len(appended) - duplicates)
        metrics.EVENTS.labels("duplicate").inc(duplicates)
        start = 0
        for group in groups:
            end = start + len(group.events)
            if not group.stored.done():
                group.stored.set_result(tuple(appended[start:end]))
            start = end

    async def _carry(self) -> None:
        """Hand the log to the bus, in order, from where the memories have come to."""
        while True:
            await self._to_carry.wait()
            self._to_carry.clear()
            while True:
                after = self._position
                events = await self._read(after, READ_EVENTS, None)
                if self._position != after:
                    continue  # rewound in the meantime
                if not events:
                    break
                self._position = events[-1].seq
                await self._bus.tell(Deliver(after=after, events=events, weight=weight_of(events)))

    async def _rewind(self) -> Seq:
        self._position = await self._pools.log_read(self._store.cursor, READER)
        self._to_carry.set()
        return self._position
