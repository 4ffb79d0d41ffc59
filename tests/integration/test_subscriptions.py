"""Watching events: what is asked for, from where it was left, and no faster than the watcher reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memoryd.actors import supervisor
from memoryd.protocol.errors import CursorTooOld, MemorydError, SlowConsumer
from memoryd.protocol.events import StoredEvent
from memoryd.relay import memory_relay
from tests.helpers.daemon import House, event, events, running, until


async def taken(stream: AsyncIterator[StoredEvent], count: int) -> list[StoredEvent]:
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)]


async def all_of(stream: AsyncIterator[StoredEvent], seen: list[int]) -> None:
    """Read until the stream raises."""
    async for each in stream:
        seen.append(each.seq)  # noqa: PERF401 - what was read stays when it raises


async def joined(house: House, listeners: int = 1) -> None:
    """Wait until so many subscriptions are live."""
    await until(lambda: len(house.slot("bus").actor._feeds) >= listeners)


async def live(house: House, topic: str, count: int) -> asyncio.Task[list[StoredEvent]]:
    """Begin to watch from now on; the task ends with so many events."""
    before = len(house.slot("bus").actor._feeds)
    task = asyncio.create_task(taken(house.memory.subscribe(topic), count))
    await joined(house, before + 1)
    return task


@pytest.mark.parametrize("listen", [False, True])
async def test_a_topic_is_everything_a_prefix_or_one_type(tmp_path: Path, listen: bool) -> None:  # noqa: FBT001
    types = ["chat.user_msg", "chat.assistant_msg", "chat", "chatter.x", "conductor.run.started"]
    async with running(tmp_path, listen=listen) as house:
        watching = [await live(house, "*", 5), await live(house, "chat.*", 2), await live(house, "chat", 1)]

        await house.memory.publish([event(f"e{n}", "x", type_) for n, type_ in enumerate(types)], user="alice")

        seen = [[each.type for each in await task] for task in watching]
        assert seen == [types, ["chat.user_msg", "chat.assistant_msg"], ["chat"]]


@pytest.mark.parametrize("listen", [False, True])
async def test_a_subscription_without_a_cursor_begins_with_what_comes(tmp_path: Path, listen: bool) -> None:  # noqa: FBT001
    async with running(tmp_path, listen=listen) as house:
        await house.memory.publish(events(10), user="alice", ack="committed")
        watching = await live(house, "*", 1)

        await house.memory.publish([event("new", "x")], user="alice")

        assert [each.id for each in await watching] == ["new"]


@pytest.mark.parametrize("listen", [False, True])
@pytest.mark.parametrize("after", [0, 1, 299, 600])
async def test_a_subscription_from_a_cursor_has_neither_gap_nor_double_while_events_stream_in(
    tmp_path: Path,
    listen: bool,  # noqa: FBT001
    after: int,
) -> None:
    async with running(tmp_path, listen=listen) as house:
        await house.memory.publish(events(600), user="alice")

        async def publish_on() -> None:
            for first in range(600, 1_200, 20):
                await house.memory.publish(events(20, first=first), user="alice")

        publishing = asyncio.create_task(publish_on())
        seen = await taken(house.memory.subscribe(after=after), 1_200 - after)
        await publishing

        assert [each.seq for each in seen] == list(range(after + 1, 1_201))


async def test_a_watcher_that_comes_and_goes_misses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:

        async def publish_on() -> None:
            for first in range(0, 500, 10):
                await house.memory.publish(events(10, first=first), user="alice")

        publishing = asyncio.create_task(publish_on())
        seen: list[int] = []
        while len(seen) < 500:
            stream = house.memory.subscribe(after=seen[-1] if seen else 0)
            seen += [each.seq for each in await taken(stream, min(37, 500 - len(seen)))]
            await stream.aclose()
        await publishing

        assert seen == list(range(1, 501))


@pytest.mark.parametrize("listen", [False, True])
async def test_a_slow_watcher_is_cut_off_with_its_cursor_and_can_go_on(tmp_path: Path, listen: bool) -> None:  # noqa: FBT001
    long = [event(f"e{n}", f"{n}", "made.up", payload={"more": "x" * 2_000}) for n in range(4_000)]
    async with running(tmp_path, listen=listen) as house:
        stream = house.memory.subscribe()
        first = asyncio.create_task(taken(stream, 1))
        await joined(house)
        await house.memory.publish(long[:1], user="alice")
        seen = [each.seq for each in await first]

        await house.memory.publish(long[1:], user="alice", ack="committed")
        with pytest.raises(SlowConsumer) as cut_off:
            await all_of(stream, seen)

        assert cut_off.value.after == seen[-1]
        assert cut_off.value.hint
        assert len(seen) < 4_000
        seen += [each.seq for each in await taken(house.memory.subscribe(after=cut_off.value.after), 4_000 - len(seen))]
        assert seen == list(range(1, 4_001))
        await house.settled()


async def test_a_watcher_that_does_not_read_holds_up_neither_memories_nor_other_watchers(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        lazy = await house.raw()
        await lazy.hello()
        await lazy.ask("subscribe", 2, {})
        lazy.reader._limit = 1
        other = await house.connect()
        watching = asyncio.create_task(taken(other.subscribe(after=0), 3_000))

        for first in range(0, 3_000, 500):
            some = [event(f"e{n}", f"{n}", payload={"more": "x" * 2_000}) for n in range(first, first + 500)]
            await house.memory.publish(some, user="alice")

        assert [each.seq for each in await watching] == list(range(1, 3_001))
        await house.settled()
        lazy.writer.transport.abort()


async def test_when_the_bus_falls_a_watcher_is_told_where_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACK_OFF_S", (0.001, 0.01))
    async with running(tmp_path) as house:
        await house.memory.publish(events(10), user="alice", ack="committed")
        watching = asyncio.create_task(taken(house.memory.subscribe(after=4), 100))
        idle = asyncio.create_task(taken(house.memory.subscribe("nothing.such"), 1))
        await joined(house, 2)

        await house.kill(house.slot("bus"))
        await until(lambda: house.slot("memory_relay").phase == "running")

        for task, cursor in ((watching, 10), (idle, 10)):
            with pytest.raises(SlowConsumer) as cut_off:
                await task
            assert cut_off.value.after == cursor
        await house.memory.publish(events(3, first=10), user="alice")
        assert [each.seq for each in await taken(house.memory.subscribe(after=10), 3)] == [11, 12, 13]


async def test_a_cursor_older_than_what_is_kept_is_refused_with_the_first_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_relay, "CURSOR_EVERY_S", 0.01)
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(10), user="alice", ack="committed")
        await until(lambda: house.daemon._events.cursor("memory") == 10)
        house.daemon._events.truncate(datetime.now(UTC).replace(year=9000))
        await house.memory.publish(events(5, first=10), user="alice", ack="committed")

        with pytest.raises(CursorTooOld) as refused:
            await taken(house.memory.subscribe(after=0), 1)

        assert refused.value.field == "after"
        assert refused.value.details["first"] == 11
        assert [each.seq for each in await taken(house.memory.subscribe(after=10), 5)] == [11, 12, 13, 14, 15]


async def test_what_was_forgotten_is_not_shown_to_a_watcher_that_comes_later(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(10), user="alice", ack="committed")
        await house.memory.publish(events(1), user="bob", ack="committed")

        await house.memory.forget(everything=True, user="alice")

        assert [each.user for each in await taken(house.memory.subscribe(after=0), 1)] == ["bob"]


async def test_a_stopping_daemon_ends_its_subscriptions(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        client = await house.connect()
        watching = asyncio.create_task(taken(client.subscribe(), 1))
        await joined(house)
        await house.daemon.stop()

        with pytest.raises(MemorydError) as ended:
            await watching

        assert ended.value.hint
