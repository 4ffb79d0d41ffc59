"""The EventBus: carries events, in order, to whoever listens.

The memory's own relay is always a listener and is waited for; everybody else has a bounded feed with a declared policy,
so that no listener can slow the work or be buffered without limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Literal

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.protocol.errors import SlowConsumer
from memoryd.protocol.ids import BEFORE_ALL, Seq, UserId
from memoryd.protocol.internal import Deliver
from memoryd.protocol.messages import Ask, Done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.ref import Ref
    from memoryd.protocol.events import StoredEvent

FEED_EVENTS: Final = 1_024

Policy = Literal["disconnect", "drop_oldest"]


class Feed:
    """A listener's bounded queue. `users` None means every user.

    `disconnect`: a full feed ends with SlowConsumer and the listener resumes by cursor.
    `drop_oldest`: a full feed loses its oldest events and counts them in `dropped`.
    """

    def __init__(
        self, topic: str, users: frozenset[UserId] | None, policy: Policy, max_events: int = FEED_EVENTS
    ) -> None:
        self.dropped = 0
        self._topic = topic
        self._users = users
        self._policy = policy
        self._max_events = max_events
        self._events: deque[StoredEvent] = deque()
        self._news = asyncio.Event()
        self._overrun = False
        self.last = BEFORE_ALL  # the last event the listener took, or the one before its first

    def wants(self, event: StoredEvent) -> bool:
        """Whether this listener asked for such events."""
        return (self._users is None or event.user in self._users) and matches(self._topic, event.type)

    def offer(self, events: Sequence[StoredEvent]) -> bool:
        """Take the events that are wanted; return False when the feed has ended."""
        for event in events:
            if not self.wants(event):
                continue
            if len(self._events) >= self._max_events:
                if self._policy == "disconnect":
                    self._overrun = True
                    break
                self._events.popleft()
                self.dropped += 1
            self._events.append(event)
        self._news.set()
        return not self._overrun

    def end(self) -> None:
        """Take no more; the listener resumes by cursor."""
        self._overrun = True
        self._news.set()

    async def next(self) -> tuple[StoredEvent, ...]:
        """Wait for events and return all that are there. Raises SlowConsumer after the last one of an ended feed."""
        while not self._events:
            if self._overrun:
                raise SlowConsumer(
                    "the subscription was cut off", hint="subscribe again with after", after=int(self.last)
                )
            self._news.clear()
            await self._news.wait()
        events = tuple(self._events)
        self._events.clear()
        self.last = events[-1].seq
        return events


class Join(Ask[Seq], frozen=True, kw_only=True):
    """Add a listener; answers the number of the last event it will not see."""

    feed: Feed


class Leave(Ask[Done], frozen=True, kw_only=True):
    """Remove a listener."""

    feed: Feed


class EventBus(Actor):
    """Fans events out by topic."""

    def __init__(self, memory_relay: Ref) -> None:
        self._memory_relay = memory_relay
        self._feeds: set[Feed] = set()
        self._position = BEFORE_ALL

    async def handle(self, message: object, ctx: Context) -> object:
        match message:
            case Deliver(events=events):
                await self._deliver(message, events)
            case Join(feed=feed):
                self._feeds.add(feed)
                feed.last = self._position
                return self._position
            case Leave(feed=feed):
                self._feeds.discard(feed)
                return Done()
        return None

    async def closed(self) -> None:
        for feed in self._feeds:
            feed.end()

    async def _deliver(self, message: Deliver, events: tuple[StoredEvent, ...]) -> None:
        await self._memory_relay.tell(message)
        # The relay begins again at its cursor after a restart; a listener sees every event once all the same.
        fresh = [event for event in events if event.seq > self._position]
        for feed in list(self._feeds):
            if not feed.offer(fresh):
                self._feeds.discard(feed)
                metrics.SLOW_CONSUMERS.inc()
        self._position = max(self._position, events[-1].seq)


def matches(topic: str, event_type: str) -> bool:
    """Whether a topic (`*`, `prefix.*` or a type) covers an event type."""
    if topic == "*":
        return True
    if topic.endswith(".*"):
        return event_type.startswith(topic[:-1])
    return event_type == topic
