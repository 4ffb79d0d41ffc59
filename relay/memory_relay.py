"""The MemoryEventRelay: turns events into what each user's memory keeps, at the pace of each user.

A user has a lane with a bounded window of events that its agent has not applied yet. What does not fit is not held here:
the lane is marked as behind and read from the log when there is room. So one slow user fills only its own window, and
whatever is lost with a failed agent is read again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.actors.mailbox import Deadline
from memoryd.protocol.errors import MemorydError
from memoryd.protocol.ids import BEFORE_ALL, Seq, UserId
from memoryd.protocol.internal import (
    AdvanceCursor,
    Applied,
    AwaitCommitted,
    Committed,
    CommitUpTo,
    Crashed,
    Deliver,
    Ingest,
    MappedEvent,
    ParkEvent,
    ReadEvents,
    Resume,
    Rewind,
)
from memoryd.protocol.messages import Ask, Done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.ref import Ref
    from memoryd.protocol.events import StoredEvent
    from memoryd.relay.mapping import EventMapping

log = structlog.get_logger("memoryd.relay")

WINDOW: Final = 64  # events of one user on their way to its agent
INGEST: Final = 16  # events in one message: while one part is applied, the next is embedded
CURSOR_EVERY_S: Final = 1.0
RETRY_S: Final = 1.0
ASK_WITHIN_S: Final = 30.0
CRASHES_TO_PARK: Final = 2
UNMAPPED_TYPES: Final = 256  # that are counted by name; a publisher may make up any number
OTHER_TYPES: Final = "(others)"
QUIET_S: Final = 5.0  # a lane that waits so long without a sign of its agent wakes it
QUIET_LANES: Final = 64  # woken in one go


@dataclass(frozen=True, slots=True)
class _SaveCursor:
    """Control message: tell the log how far every memory has come."""


@dataclass(frozen=True, slots=True)
class _CatchUp:
    """Control message: try again to read a lane from the log."""

    user: UserId


class RelayStatus(Ask["Progress"], frozen=True, kw_only=True):
    """Ask how far the relay is and what it could not map."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`low_water` is the last event before which everything is committed."""

    position: Seq
    low_water: Seq
    unmapped: dict[str, int]


@dataclass(slots=True)
class _Lane:
    """One user's way from the log to its agent; it exists while something of it is not committed."""

    first: Seq  # the first event that is not committed
    head: Seq  # the last event seen
    delivered: Seq = BEFORE_ALL  # the last event sent
    read_to: Seq = BEFORE_ALL  # how far the log was read for this lane
    sent: deque[Seq] = field(default_factory=deque)  # sent and not applied
    behind: bool = False  # events up to `head` are still in the log
    reading: bool = False
    heard_at: float = 0.0  # on the loop's clock
    careful_until: Seq = BEFORE_ALL  # one event at a time up to here: something among them breaks the agent
    crashes: Counter[Seq] = field(default_factory=Counter)

    @property
    def room(self) -> int:
        window = 1 if self.delivered < self.careful_until else WINDOW
        return window - len(self.sent)


class MemoryEventRelay(Actor):
    """Maps, sends and keeps count."""

    def __init__(
        self, mapping: EventMapping, agent_of: Callable[[UserId], Ref], event_relay: Ref, unmapped: Counter[str]
    ) -> None:
        self._mapping = mapping
        self._agent_of = agent_of
        self._event_relay = event_relay
        self._unmapped = unmapped
        self._lanes: dict[UserId, _Lane] = {}
        self._position = BEFORE_ALL
        self._saved = BEFORE_ALL
        self._waiting: dict[UserId, list[tuple[Seq, asyncio.Future[None]]]] = {}

    async def started(self, ctx: Context) -> None:
        # What an earlier incarnation had on its way is carried once more; the agents know what they have.
        self._position = await self._event_relay.ask(Rewind(), deadline=Deadline.after(ASK_WITHIN_S))
        ctx.after(CURSOR_EVERY_S, _SaveCursor())

    async def handle(self, message: object, ctx: Context) -> object:
        match message:
            case Deliver(after=after, events=events) if after <= self._position:
                self._deliver(events, ctx)
            case Applied(user=user, seq=seq):
                self._applied(user, seq, ctx)
            case Committed(user=user, seq=seq):
                self._committed(user, seq)
            case Resume(user=user, seq=seq):
                self._resume(user, seq, ctx)
            case Crashed(user=user, seqs=seqs, error=error):
                await self._crashed(user, seqs, error)
            case AwaitCommitted(user=user, seq=seq):
                return ctx.detach(self._await_committed(user, seq))
            case RelayStatus():
                return Progress(self._position, self._low_water(), dict(self._unmapped))
            case _CatchUp(user=user):
                self._catch_up(user, ctx)
            case _SaveCursor():
                await self._save_cursor()
                self._wake_quiet(ctx)
                ctx.after(CURSOR_EVERY_S, _SaveCursor())
        return None

    # --- forward ---

    def _deliver(self, events: Sequence[StoredEvent], ctx: Context) -> None:
        """Take events from the bus: send what fits, leave the rest in the log."""
        fresh: dict[UserId, list[MappedEvent]] = {}
        for event in events:
            if event.seq <= self._position:
                continue
            self._position = event.seq
            if not self._mapping.knows(event.type):
                known = event.type in self._unmapped or len(self._unmapped) < UNMAPPED_TYPES
                self._unmapped[event.type if known else OTHER_TYPES] += 1
                metrics.UNMAPPED.inc()
                continue
            lane = self._lane(event.user, event.seq)
            lane.head = event.seq
            ready = fresh.setdefault(event.user, [])
            if lane.behind or lane.room <= len(ready):
                lane.behind = True
            elif (mapped := self._map(event)) is not None:
                ready.append(mapped)
        for user, items in fresh.items():
            self._send(user, self._lanes[user], items, ctx)
            self._hurry(user)
            self._catch_up(user, ctx)
        for user in list(self._waiting):
            self._answer_waiting(user)

    def _lane(self, user: UserId, seq: Seq) -> _Lane:
        lane = self._lanes.get(user)
        if lane is None:
            now = asyncio.get_running_loop().time()
            lane = self._lanes[user] = _Lane(first=seq, head=seq, heard_at=now)
        return lane

    def _heard(self, user: UserId) -> _Lane | None:
        lane = self._lanes.get(user)
        if lane is not None:
            lane.heard_at = asyncio.get_running_loop().time()
        return lane

    async def _mapped(self, events: Sequence[StoredEvent]) -> list[MappedEvent]:
        """Map events a few at a time, so that others have their turn in between."""
        found: list[MappedEvent] = []
        for start in range(0, len(events), INGEST):
            part = (self._map(event) for event in events[start : start + INGEST])
            found += [mapped for mapped in part if mapped is not None]
            await asyncio.sleep(0)
        return found

    def _map(self, event: StoredEvent) -> MappedEvent | None:
        mapped = self._mapping.apply(event)
        if mapped is None:
            return None
        return MappedEvent(seq=event.seq, drafts=mapped.drafts, run=mapped.run, feedback=mapped.feedback)

    def _send(self, user: UserId, lane: _Lane, items: Sequence[MappedEvent], ctx: Context) -> bool:
        """Send events to the agent; when it takes no more, leave the rest in the log and return False."""
        for start in range(0, len(items), INGEST):
            part = items[start : start + INGEST]
            weight = sum(256 + len(draft.text) for item in part for draft in item.drafts)
            if not self._agent_of(user).offer(Ingest(after=lane.delivered, items=tuple(part), weight=weight)):
                lane.behind = True
                ctx.after(RETRY_S, _CatchUp(user))
                return False
            lane.delivered = lane.read_to = part[-1].seq
            lane.sent.extend(item.seq for item in part)
        return True

    def _catch_up(self, user: UserId, ctx: Context) -> None:
        """Read the next events of a lane that is behind, once there is room for a good part of a window."""
        lane = self._lanes.get(user)
        if lane is None or not lane.behind or lane.reading or lane.room <= 0:
            return
        if lane.room < WINDOW // 2 and lane.delivered >= lane.careful_until:
            return
        lane.reading = True
        ctx.spawn(self._read(user, lane, ctx))

    async def _read(self, user: UserId, lane: _Lane, ctx: Context) -> None:
        wanted, head, after = lane.room, lane.head, max(lane.read_to, Seq(lane.first - 1))
        try:
            events = await self._event_relay.ask(
                ReadEvents(after=after, limit=wanted, user=user), deadline=Deadline.after(ASK_WITHIN_S)
            )
            mapped = await self._mapped(events)
        except MemorydError as error:
            log.warning("catch_up_failed", error=type(error).__name__)
            ctx.after(RETRY_S, _CatchUp(user))
            return
        finally:
            lane.reading = False
        if self._lanes.get(user) is not lane or after != max(lane.read_to, Seq(lane.first - 1)):
            self._catch_up(user, ctx)
            return  # the agent began anew in the meantime, and so did the lane
        # What the bus has not carried yet is left to it: nothing may overtake the position.
        taken = [event for event in events if event.seq <= self._position]
        if len(taken) < wanted:  # the log holds no more up to the head we knew
            lane.behind = lane.head > max(head, taken[-1].seq if taken else head)
        items = [item for item in mapped if item.seq <= self._position]
        if not self._send(user, lane, items, ctx):
            return
        if not lane.behind:
            lane.head = max(lane.delivered, Seq(lane.first - 1))  # what was erased or parked will never come
        elif not lane.sent:
            lane.read_to = max(lane.read_to, taken[-1].seq if taken else after)
            ctx.after(0.0 if taken else RETRY_S, _CatchUp(user))
        self._settle(user, lane)
        self._hurry(user)

    # --- back ---

    def _applied(self, user: UserId, seq: Seq, ctx: Context) -> None:
        lane = self._heard(user)
        if lane is None:
            return
        while lane.sent and lane.sent[0] <= seq:
            lane.sent.popleft()
        self._catch_up(user, ctx)

    def _committed(self, user: UserId, seq: Seq) -> None:
        lane = self._heard(user)
        if lane is not None:
            lane.first = max(lane.first, Seq(seq + 1))
            self._settle(user, lane)
        self._answer_waiting(user)

    def _settle(self, user: UserId, lane: _Lane) -> None:
        """Give the lane up when everything of it is committed."""
        if not lane.behind and lane.first > lane.head:
            self._lanes.pop(user, None)
            self._answer_waiting(user)

    def _resume(self, user: UserId, seq: Seq, ctx: Context) -> None:
        """Begin the lane anew behind what the agent's file holds."""
        lane = self._heard(user)
        if lane is None:
            return
        lane.first = max(lane.first, Seq(seq + 1))
        lane.delivered = lane.read_to = seq
        lane.sent.clear()
        lane.behind = lane.head > seq
        self._settle(user, lane)
        self._catch_up(user, ctx)

    async def _crashed(self, user: UserId, seqs: Sequence[Seq], error: str) -> None:
        """Count what the agent failed on; go on one by one; park what failed it twice."""
        lane = self._heard(user)
        if lane is None:
            return
        lane.crashes.update(seqs)
        lane.careful_until = max(lane.careful_until, *seqs)
        if len(seqs) == 1 and lane.crashes[seqs[0]] >= CRASHES_TO_PARK:
            await self._event_relay.ask(ParkEvent(seq=seqs[0], error=error), deadline=Deadline.after(ASK_WITHIN_S))
            lane.crashes.pop(seqs[0])

    # --- who waits for a commit ---

    async def _await_committed(self, user: UserId, seq: Seq) -> Done:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, []).append((seq, done))
        self._answer_waiting(user)
        self._hurry(user)
        await done
        return Done()

    def _hurry(self, user: UserId) -> None:
        """Ask the agent not to wait for company, if somebody waits for what it was sent."""
        lane = self._lanes.get(user)
        if lane is not None and user in self._waiting:
            self._agent_of(user).poke(CommitUpTo(seq=min(lane.head, max(seq for seq, _ in self._waiting[user]))))

    def _answer_waiting(self, user: UserId) -> None:
        lane = self._lanes.get(user)
        left = []
        for seq, done in self._waiting.pop(user, []):
            if done.done():
                continue
            if seq <= self._position and (lane is None or lane.first > min(seq, lane.head)):
                done.set_result(None)
            else:
                left.append((seq, done))
        if left:
            self._waiting[user] = left

    # --- the cursor ---

    def _low_water(self) -> Seq:
        return min((Seq(lane.first - 1) for lane in self._lanes.values()), default=self._position)

    async def _save_cursor(self) -> None:
        low = self._low_water()
        metrics.LAG.set(self._position - low)
        if low > self._saved:
            await self._event_relay.tell(AdvanceCursor(seq=low))
            self._saved = low

    def _wake_quiet(self, ctx: Context) -> None:
        """Ask agents that owe a commit and are silent how far they are; one that was killed is started by that."""
        now = asyncio.get_running_loop().time()
        quiet = ((user, lane) for user, lane in self._lanes.items() if now - lane.heard_at >= QUIET_S)
        for user, lane in list(islice(quiet, QUIET_LANES)):
            lane.heard_at = now
            self._agent_of(user).poke(CommitUpTo(seq=lane.head))
            self._catch_up(user, ctx)
