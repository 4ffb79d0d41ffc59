"""Events on their way to the daemon: batches, a few of them in flight, and what became of every line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from memoryd.client import BATCH_BYTES, BATCH_ITEMS
from memoryd.protocol import wire
from memoryd.protocol.errors import InvalidMessage, MemorydError, TooLarge, Unsupported
from memoryd.protocol.events import weight_of
from memoryd.protocol.messages import Publish

if TYPE_CHECKING:
    from memoryd.cli.connection import Connection
    from memoryd.protocol.events import Ack, Event
    from memoryd.protocol.messages import Ask
    from memoryd.sources.parsed import Parsed

T = TypeVar("T")

# The encoder is the limit: one, two and four batches in flight end alike. More than one hides the way there and back.
IN_FLIGHT: Final = 4
LINES_AT_ONCE: Final = 256

# What is wrong with the input itself; anything else would befall every other event too.
OWN_FAULT: Final = (InvalidMessage, TooLarge, Unsupported)


@dataclass(slots=True)
class Tally:
    """What became of the input so far. `position` is the last line or row that was looked at."""

    read: int = 0
    position: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0


@dataclass(slots=True)
class Sending:
    """Sends what was read; a line or event that is refused is told and never stops the others."""

    connection: Connection
    user: str | None
    ack: Ack
    on_reject: Callable[[int, MemorydError], None]
    on_progress: Callable[[Tally], None]
    tally: Tally = field(default_factory=Tally)

    async def send_all(self, portions: AsyncIterable[Sequence[Parsed]]) -> None:
        """Send everything. Raises the MemorydError that would befall every event."""
        room = asyncio.Semaphore(IN_FLIGHT)
        async with asyncio.TaskGroup() as group:
            async for portion in portions:
                for batch in _batches(self._usable(portion)):
                    await room.acquire()
                    group.create_task(send_or_halve(batch, self._send, self._reject)).add_done_callback(
                        lambda _: room.release()
                    )
                self.tally.position = portion[-1].position
                self.on_progress(self.tally)

    def _usable(self, portion: Iterable[Parsed]) -> Iterator[tuple[int, Event]]:
        for parsed in portion:
            self.tally.read += 1
            if parsed.error is not None:
                self._reject(parsed.position, parsed.error)
            for event in parsed.events:
                yield parsed.position, event

    async def _send(self, batch: Sequence[tuple[int, Event]]) -> None:
        events = tuple(event for _, event in batch)
        require_sendable("publish", Publish(events=events, ack=self.ack))
        receipts = await self.connection.memory.publish(events, user=self.user, ack=self.ack)
        duplicates = sum(receipt.status == "duplicate" for receipt in receipts)
        self.tally.duplicates += duplicates
        self.tally.accepted += len(receipts) - duplicates
        self.on_progress(self.tally)

    def _reject(self, position: int, error: MemorydError) -> None:
        self.tally.rejected += 1
        self.on_reject(position, error)


async def send_or_halve(
    batch: Sequence[tuple[int, T]],
    send: Callable[[Sequence[tuple[int, T]]], Awaitable[None]],
    reject: Callable[[int, MemorydError], None],
) -> None:
    """Send numbered items; when they are refused for what is in them, send the halves, until the culprit is alone."""
    try:
        await send(batch)
    except OWN_FAULT as error:
        if len(batch) == 1:
            reject(batch[0][0], error)
            return
        middle = len(batch) // 2
        await send_or_halve(batch[:middle], send, reject)
        await send_or_halve(batch[middle:], send, reject)


def require_sendable(kind: str, message: Ask[object]) -> None:
    """Raise TooLarge for what does not fit a frame."""
    wire.encode_frame(kind, 1, 0, wire.to_body(message))


def _batches(items: Iterable[tuple[int, Event]]) -> Iterator[list[tuple[int, Event]]]:
    """Cut events into batches that fit a frame, as the client would, but with their lines."""
    batch: list[tuple[int, Event]] = []
    weight = 0
    for item in items:
        more = weight_of((item[1],)) * 2
        if batch and (len(batch) == BATCH_ITEMS or weight + more > BATCH_BYTES):
            yield batch
            batch, weight = [], 0
        batch.append(item)
        weight += more
    if batch:
        yield batch
