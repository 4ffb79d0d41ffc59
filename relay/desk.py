"""The Desk: turns a request of a granted user into messages to the actors. The socket and the in-process handle share it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import msgspec
import structlog

from memoryd import metrics
from memoryd.actors.bus import Feed, Join, Leave
from memoryd.actors.mailbox import Deadline
from memoryd.protocol import messages as m
from memoryd.protocol.errors import (
    ActorFailed,
    Expired,
    Forbidden,
    Locked,
    MemorydError,
    NotFound,
    Quarantined,
    StorageFault,
    Unsupported,
)
from memoryd.protocol.events import Receipt, StoredEvent, weight_of
from memoryd.protocol.ids import Seq, UserId
from memoryd.protocol.internal import (
    AddGlobal,
    Append,
    AwaitCommitted,
    Enqueue,
    Fetch,
    ObserveUser,
    ReadEvents,
    ReadLogStatus,
    ReadParked,
    RemoveGlobal,
    Repair,
    UnparkEvents,
)

if TYPE_CHECKING:
    from msgspec import Struct

    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.protocol.errors import ModelUnavailable
    from memoryd.protocol.interfaces import Backups, Finding, MemoryStore, RunningBackup
    from memoryd.relay.grants import Grant

log = structlog.get_logger("memoryd.desk")

CATCH_UP_EVENTS: Final = 256
READ_WITHIN_S: Final = 30.0
_STAYS_S: Final = 1.0  # a commit takes two fsyncs


class Overview(Protocol):
    """What the composition root tells about the whole daemon."""

    @property
    def model_fault(self) -> ModelUnavailable | None:
        """Why texts cannot be embedded, None if they can."""

    async def status(self, deadline: Deadline) -> m.Status: ...

    def tree(self) -> m.Tree: ...


class Desk:
    """Answers every request of the protocol."""

    def __init__(
        self,
        *,
        agent_of: Callable[[UserId], Ref],
        event_relay: Ref,
        memory_relay: Ref,
        bus: Ref,
        knowledge: Ref,
        store: MemoryStore,
        check_words: Callable[[UserId], Sequence[Finding]],
        backups: Backups,
        pools: Pools,
        overview: Overview,
    ) -> None:
        self._agent_of = agent_of
        self._event_relay = event_relay
        self._memory_relay = memory_relay
        self._bus = bus
        self._knowledge = knowledge
        self._store = store
        self._check_words = check_words
        self._backups = backups
        self._pools = pools
        self._overview = overview

    async def answer(self, user: UserId, message: m.Ask[object], deadline: Deadline) -> Struct:
        """Return the reply to one request. Raises MemorydError."""
        kind = m.KIND_OF[type(message)]
        try:
            reply = await self._answer(user, message, deadline)
        except MemorydError as error:
            metrics.REQUESTS.labels(kind, type(error).__name__).inc()
            raise
        metrics.REQUESTS.labels(kind, "ok").inc()
        return reply

    async def _answer(self, user: UserId, message: m.Ask[object], deadline: Deadline) -> Struct:  # noqa: C901, PLR0911, PLR0912 - a table
        match message:
            case m.Remember() | m.Publish(ack="committed") if (fault := self._overview.model_fault) is not None:
                raise fault
            case m.Publish():
                return await self._publish(user, message, deadline)
            case m.GetStatus():
                return await self._status(user, message, deadline)
            case m.GetTree():
                return self._overview.tree()
            case m.GetMetrics():
                return m.Metrics(text=metrics.text())
            case m.Verify(repair=repair):
                return await self._verify(user, deadline, repair=repair)
            case m.GetParked():
                return await self._parked(user, deadline)
            case m.Unpark():
                return await self._unpark(user, message, deadline)
            case m.PublishGlobal(ids=ids):
                fetched = await self._agent_of(user).ask(Fetch(ids=ids), deadline=deadline)
                return await self._knowledge.ask(
                    AddGlobal(user=user, records=fetched.records, vectors=fetched.vectors), deadline=deadline
                )
            case m.UnpublishGlobal(ids=ids):
                return await self._knowledge.ask(RemoveGlobal(user=user, ids=ids), deadline=deadline)
            case m.Forget():
                return await self._forget(user, message, deadline)
            case m.Subscribe() | m.Backup():
                raise Unsupported("this is answered by a stream", field="kind", hint="see docs/protocol.md")
            case _:
                return cast("Struct", await self._agent_of(user).ask(message, deadline=deadline))

    # --- events ---

    async def _publish(self, user: UserId, message: m.Publish, deadline: Deadline) -> m.Published:
        events = message.events
        weight = weight_of(events)
        if message.ack == "queued":
            await self._event_relay.tell(Enqueue(user=user, events=events, weight=weight))
            return m.Published(receipts=tuple(Receipt(event_id=e.id, seq=None, status="queued") for e in events))
        appended = await self._event_relay.ask(
            Append(user=user, events=events, weight=weight), deadline=deadline, wait_for_room=True
        )
        if message.ack == "committed":
            last = max(each.seq for each in appended)
            await self._memory_relay.ask(AwaitCommitted(user=user, seq=last), deadline=deadline, wait_for_room=True)
        return m.Published(
            receipts=tuple(
                Receipt(event_id=each.event_id, seq=each.seq, status="duplicate" if each.duplicate else message.ack)
                for each in appended
            )
        )

    async def subscribe(
        self, grant: Grant, user: UserId | None, message: m.Subscribe
    ) -> AsyncIterator[tuple[StoredEvent, ...]]:
        """Yield events in order: first what was missed since `after`, read from the log, then what comes.

        Raises CursorTooOld, or SlowConsumer when the listener falls behind.
        """
        users = grant.users if user is None else frozenset((user,))
        feed = Feed(message.topic, users, "disconnect")
        cursor = message.after
        if cursor is not None:
            async for events, reached in self._missed(cursor, feed, None):
                yield events
                cursor = reached
        position = await self._bus.ask(Join(feed=feed), deadline=Deadline.after(READ_WITHIN_S))
        try:
            if cursor is not None:
                async for events, reached in self._missed(cursor, feed, position):
                    yield events
                    cursor = reached
            seen = position if cursor is None else max(cursor, position)
            while True:
                fresh = tuple(event for event in await feed.next() if event.seq > seen)
                if fresh:
                    yield fresh
        finally:
            self._bus.poke(Leave(feed=feed))

    async def _missed(
        self, cursor: Seq, feed: Feed, until: Seq | None
    ) -> AsyncIterator[tuple[tuple[StoredEvent, ...], Seq]]:
        """Read the log from `cursor`, to its end or up to `until`, at the pace of the listener."""
        while until is None or cursor < until:
            events = await self._event_relay.ask(
                ReadEvents(after=cursor, limit=CATCH_UP_EVENTS),
                deadline=Deadline.after(READ_WITHIN_S),
                wait_for_room=True,
            )
            taken = [event for event in events if until is None or event.seq <= until]
            if taken:
                cursor = taken[-1].seq
            yield tuple(event for event in taken if feed.wants(event)), cursor
            if len(events) < CATCH_UP_EVENTS or len(taken) < len(events):
                return

    async def _forget(self, user: UserId, message: m.Forget, deadline: Deadline) -> m.Forgotten:
        """Forget what was published before this request too, not only what has already become a memory."""
        if message.everything:
            await self._knowledge.ask(RemoveGlobal(user=user, ids=None), deadline=deadline)
        if not message.ids:
            await self._all_committed(user, deadline)
        return await self._agent_of(user).ask(message, deadline=deadline)

    async def _all_committed(self, user: UserId, deadline: Deadline) -> None:
        """Wait until everything that is in the log now stands in the user's file."""
        events = await self._event_relay.ask(ReadLogStatus(), deadline=deadline)
        waiting = AwaitCommitted(user=user, seq=events.last)
        try:
            await self._memory_relay.ask(waiting, deadline=deadline, wait_for_room=True)
        except Expired as error:
            raise (self._overview.model_fault or error) from None

    # --- operations ---

    async def _status(self, user: UserId, message: m.GetStatus, deadline: Deadline) -> m.Status:
        status = await self._overview.status(deadline)
        if not message.of_user:
            return status
        return msgspec.structs.replace(status, user=await self._agent_of(user).ask(ObserveUser(), deadline=deadline))

    async def _verify(self, user: UserId, deadline: Deadline, *, repair: bool) -> m.Verified:
        if not await self._pools.disk(self._store.exists, user):
            await self._all_committed(user, deadline)  # what was published just now makes the file
            if not await self._pools.disk(self._store.exists, user):
                raise NotFound(
                    "this user has no memory", field="user", hint="name another, or remember something first"
                )
        if repair:
            await self._repair(user, deadline)
        findings = await self._pools.disk(self._found, user)
        if any(finding.may_pass for finding in findings):
            # The user's own agent may be at work: what is torn stays as it is, and a commit does not.
            await asyncio.sleep(_STAYS_S)
            seen, findings = findings, await self._pools.disk(self._found, user)
            findings = [finding for finding in findings if not finding.may_pass or finding in seen]
        return m.Verified(
            findings=tuple(m.VerifyFinding(what=f.what, offset=f.offset, hint=f.hint, file=f.file) for f in findings),
        )

    def _found(self, user: UserId) -> Sequence[Finding]:
        """Return what is wrong with the files of a user; what is made of them is only looked at when they are sound."""
        found = self._store.verify(user)
        return found or self._check_words(user)

    async def _repair(self, user: UserId, deadline: Deadline) -> None:
        """Have the files repaired by who has them open; by ourselves when nobody can, because of what is wrong."""
        while True:
            try:
                await self._agent_of(user).ask(Repair(), deadline=deadline)
            except (Quarantined, StorageFault, ActorFailed):
                with suppress(Locked):  # it was opened again meanwhile
                    await self._pools.disk(self._store.repair, user)
                    return
            else:
                return

    @asynccontextmanager
    async def backup(self, grant: Grant, message: m.Backup) -> AsyncIterator[Callable[[], Awaitable[m.BackupProgress]]]:
        """Begin a backup and yield how to do some more of it, until something is made; given up when this is left before.

        Raises Forbidden unless the credential grants every user: everybody's memories are in it, and the daemon's account
        writes where the client says.
        """
        if grant.users is not None:
            raise Forbidden("only who speaks for every user may back up", field="folder", hint="use a token for '*'")
        backup = self._backups.begin(Path(message.folder))
        try:
            yield lambda: self._step(backup)
        finally:
            await self._pools.disk_in_background(backup.abandon)

    async def _step(self, backup: RunningBackup) -> m.BackupProgress:
        step = asyncio.ensure_future(self._pools.disk_in_background(backup.step))
        try:
            progress = await asyncio.shield(step)
        except asyncio.CancelledError:
            backup.stop()  # a step that copies a large log takes long
            await asyncio.wait([step])
            raise
        if progress.made is not None:
            made = progress.made
            tell = log.warning if made.omitted_files else log.info
            tell("backup_made", snapshot=made.snapshot, bytes_written=made.bytes_written, omitted=made.omitted_files)
        return progress

    async def _parked(self, user: UserId, deadline: Deadline) -> m.Parked:
        parked = await self._event_relay.ask(ReadParked(), deadline=deadline)
        return m.Parked(
            items=tuple(
                m.ParkedItem(seq=p.seq, event_id=p.event_id, type=p.type, error=p.error, parked_at=p.parked_at)
                for p in parked
                if p.user == user
            )
        )

    async def _unpark(self, user: UserId, message: m.Unpark, deadline: Deadline) -> m.Unparked:
        own = {item.seq for item in (await self._parked(user, deadline)).items}
        seqs = tuple(seq for seq in message.seqs if seq in own)
        if not seqs:
            return m.Unparked(events=0)
        return m.Unparked(
            events=await self._event_relay.ask(UnparkEvents(seqs=seqs, drop=message.drop), deadline=deadline)
        )
