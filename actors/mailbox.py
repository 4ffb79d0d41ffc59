"""Bounded two-lane mailbox.

Control messages overtake work and always fit: they are few and small. Work is bounded in count and in bytes; what
happens when it is full is the sender's declared policy, never the mailbox's choice. Knows nothing of actors.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Final

_CONTROL: Final = 0
_AGAIN: Final = 1  # before all other work: the message an actor failed on, offered once more
_WORK: Final = 2

NOMINAL_BYTES: Final = 256  # what a message weighs that does not say


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the event loop's clock after which nobody waits any more."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(asyncio.get_running_loop().time() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - asyncio.get_running_loop().time())

    @property
    def passed(self) -> bool:
        return asyncio.get_running_loop().time() >= self.at


@dataclass(slots=True)
class Envelope:
    """A message on its way."""

    message: object
    deadline: Deadline | None = None
    reply: asyncio.Future[object] | None = None
    is_control: bool = False
    attempts: int = 0
    weight: int = field(init=False)

    def __post_init__(self) -> None:
        self.weight = int(getattr(self.message, "weight", NOMINAL_BYTES))

    @property
    def is_dead(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return (self.reply is not None and self.reply.done()) or (self.deadline is not None and self.deadline.passed)


class Mailbox:
    """A priority queue of envelopes with one reader and any number of writers."""

    def __init__(self, *, max_items: int = 1024, max_bytes: int = 64 << 20) -> None:
        self._queue: asyncio.PriorityQueue[tuple[int, int, Envelope]] = asyncio.PriorityQueue()
        self._order = count()
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items = 0
        self._bytes = 0
        self._arrivals: deque[float] = deque()  # of the work, oldest first
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def depth(self) -> int:
        """How many work messages wait."""
        return self._items

    @property
    def depth_bytes(self) -> int:
        return self._bytes

    @property
    def is_empty(self) -> bool:
        """Whether neither lane holds anything."""
        return self._queue.empty()

    def oldest_age(self) -> float:
        """Return the age of the oldest waiting work in seconds, 0.0 when there is none."""
        return max(0.0, asyncio.get_running_loop().time() - self._arrivals[0]) if self._arrivals else 0.0

    def has_room(self, weight: int) -> bool:
        """Whether a message of this weight fits. An empty mailbox takes any one message, however large."""
        return self._items == 0 or (self._items < self._max_items and self._bytes + weight <= self._max_bytes)

    def offer(self, envelope: Envelope) -> bool:
        """Take the envelope if there is room and nobody waits before it."""
        if self._waiting or not self.has_room(envelope.weight):
            return False
        self._push(_WORK, envelope)
        return True

    async def put(self, envelope: Envelope) -> None:
        """Wait for room, first come first served. Raises TimeoutError at the envelope's deadline."""
        if self.offer(envelope):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(envelope.deadline.at if envelope.deadline else None):
                while True:
                    await turn
                    if self.has_room(envelope.weight):
                        break
                    turn = asyncio.get_running_loop().create_future()
                    self._waiting.appendleft(turn)
            self._push(_WORK, envelope)
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            self._wake()

    def put_control(self, message: object) -> None:
        """Take a control message; it overtakes all work."""
        self._push(_CONTROL, Envelope(message, is_control=True))

    def put_back(self, envelope: Envelope) -> None:
        """Take an envelope again, before all other work."""
        self._push(_AGAIN, envelope)

    async def get(self) -> Envelope:
        """Wait for the next envelope: control first, then work in order of arrival."""
        lane, _, envelope = await self._queue.get()
        if lane != _CONTROL:
            self._items -= 1
            self._bytes -= envelope.weight
            self._arrivals.popleft()
            self._wake()
        return envelope

    def drain(self) -> list[Envelope]:
        """Empty both lanes and return the work that waited."""
        left = []
        while not self._queue.empty():
            lane, _, envelope = self._queue.get_nowait()
            if lane != _CONTROL:
                left.append(envelope)
        self._items = self._bytes = 0
        self._arrivals.clear()
        self._wake()
        return left

    def drop_control(self, *kinds: type) -> None:
        """Throw away control messages of these kinds; everything else keeps its order."""
        kept = []
        while not self._queue.empty():
            kept.append(self._queue.get_nowait())
        for lane, place, envelope in kept:
            if lane != _CONTROL or not isinstance(envelope.message, kinds):
                self._queue.put_nowait((lane, place, envelope))

    def _push(self, lane: int, envelope: Envelope) -> None:
        if lane != _CONTROL:
            self._items += 1
            self._bytes += envelope.weight
            now = asyncio.get_running_loop().time()
            if lane == _AGAIN:
                self._arrivals.appendleft(now)
            else:
                self._arrivals.append(now)
        self._queue.put_nowait((lane, next(self._order), envelope))

    def _wake(self) -> None:
        if self._waiting and self.has_room(0):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
