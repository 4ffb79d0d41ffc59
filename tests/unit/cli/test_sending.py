"""Batches that are refused for one of their items."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from memoryd.cli.sending import require_sendable, send_or_halve
from memoryd.protocol.errors import InvalidMessage, MemorydError, ShuttingDown, TooLarge
from memoryd.protocol.events import Event
from memoryd.protocol.ids import EventId
from memoryd.protocol.messages import Publish


async def outcome_of(items: Sequence[int], bad: set[int]) -> tuple[list[int], list[int]]:
    sent: list[int] = []
    rejected: list[int] = []

    async def send(batch: Sequence[tuple[int, int]]) -> None:
        if bad & {item for _, item in batch}:
            raise InvalidMessage("bad")
        sent.extend(item for _, item in batch)

    def reject(number: int, error: MemorydError) -> None:
        rejected.append(number)

    await send_or_halve([(item, item) for item in items], send, reject)
    return sent, rejected


@pytest.mark.parametrize("bad", [set(), {0}, {99}, {3, 4, 50}, set(range(100))])
async def test_only_the_culprits_are_left_out_and_the_order_is_kept(bad: set[int]) -> None:
    sent, rejected = await outcome_of(range(100), bad)

    assert rejected == sorted(bad)
    assert sent == [each for each in range(100) if each not in bad]


async def test_what_would_befall_every_item_ends_the_sending() -> None:
    async def send(batch: Sequence[tuple[int, int]]) -> None:
        raise ShuttingDown("stopping")

    with pytest.raises(ShuttingDown):
        await send_or_halve([(1, 1), (2, 2)], send, lambda number, error: None)


def test_what_the_daemon_would_close_the_connection_for_is_refused_before() -> None:
    event = Event(
        id=EventId("e"), type="chat.user_msg", timestamp=datetime.now(UTC), payload={"numbers": [0] * (1 << 16)}
    )

    with pytest.raises(TooLarge):
        require_sendable("publish", Publish(events=(event,)))
