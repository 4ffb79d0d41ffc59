"""What one connection may hold, and what happens to the one that asks for more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from memoryd.protocol import wire
from memoryd.protocol.errors import BadFrame, Expired, Forbidden, InvalidMessage, MemorydError, Overloaded, Unsupported
from memoryd.relay import connection
from tests.helpers.daemon import HeldEmbedder, Raw, event, events, exported, running, texts, until


async def answers(raw: Raw, count: int) -> list[wire.Frame]:
    found = [await raw.answer() for _ in range(count)]
    return [frame for frame in found if frame is not None]


# --- hello ---


async def test_hello_is_answered_with_who_serves_and_whom_a_request_without_a_user_means(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house, await house.raw() as raw:
        frame = await raw.hello()

        assert frame.kind == "ok"
        assert (frame.body["version"], frame.body["user"], frame.body["model"]) == (1, "default", "hashing-test")


async def test_who_says_something_else_first_is_told_so_and_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house, await house.raw() as raw:
        frame = await raw.ask("status", 1, {})

        error = wire.error_of(frame.body)
        assert (type(error), error.field) == (BadFrame, "kind")
        assert await raw.answer() is None


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        ({"version": 2}, Unsupported, "version"),
        ({"version": "1"}, InvalidMessage, "version"),
        ({}, InvalidMessage, "version"),
        ({"version": 1, "admin": True}, Unsupported, "admin"),
        ({"version": 1, "token": "wrong"}, Forbidden, "token"),
        ({"version": 1, "token": 7}, InvalidMessage, "token"),
    ],
)
async def test_a_wrong_hello_is_told_its_fault_and_cut_off(
    tmp_path: Path, body: dict[str, object], error: type[MemorydError], field: str
) -> None:
    async with running(tmp_path, listen=True) as house, await house.raw() as raw:
        frame = await raw.ask("hello", 1, body)

        refused = wire.error_of(frame.body)
        assert (type(refused), refused.field) == (error, field)
        assert refused.hint
        assert await raw.answer() is None


async def test_who_says_nothing_or_too_slowly_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HELLO_WITHIN_S", 0.1)
    async with running(tmp_path, listen=True) as house, await house.raw() as mute, await house.raw() as slow:

        async def trickle() -> None:
            for byte in wire.encode_frame("hello", 1, 0, {"version": 1}):
                await slow.send(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())

        assert await mute.answer() is None
        assert await slow.answer() is None
        await trickling
        await house.memory.status()


# --- requests under way ---


async def test_sixty_four_requests_are_under_way_and_the_next_waits_its_turn(tmp_path: Path) -> None:
    held = HeldEmbedder()
    async with running(tmp_path, listen=True, embedder=held) as house, await house.raw() as raw:
        await raw.hello()
        for number in range(connection.REQUESTS_IN_FLIGHT):
            await raw.send(wire.encode_frame("recall", 10 + number, 0, {"query": f"slow {number}"}))
        await raw.send(wire.encode_frame("status", 5, 0, {}))
        other = await house.connect()
        await other.status()  # the others go on

        held.go.set()
        found = await answers(raw, connection.REQUESTS_IN_FLIGHT + 1)

        assert {frame.kind for frame in found} == {"ok"}
        assert {frame.correlation for frame in found} == {5, *range(10, 74)}
        assert found[0].correlation != 5


async def test_a_correlation_that_is_in_use_is_a_fault_of_the_connection(tmp_path: Path) -> None:
    held = HeldEmbedder()
    async with running(tmp_path, listen=True, embedder=held) as house, await house.raw() as raw:
        await raw.hello()
        await raw.send(wire.encode_frame("recall", 7, 0, {"query": "slow"}))
        await raw.send(wire.encode_frame("status", 7, 0, {}))

        error = await raw.error()

        assert (type(error), error.field) == (BadFrame, "correlation")
        assert await raw.answer() is None
        held.go.set()
        await house.memory.status()


async def test_a_request_that_is_cancelled_is_not_answered_and_frees_its_number(tmp_path: Path) -> None:
    held = HeldEmbedder()
    async with running(tmp_path, listen=True, embedder=held) as house, await house.raw() as raw:
        await raw.hello()
        await raw.send(wire.encode_frame("recall", 7, 0, {"query": "slow"}))
        await raw.send(wire.encode_frame("cancel", 7, 0, {}))
        await raw.send(wire.encode_frame("cancel", 99, 0, {}))  # of nothing
        assert (await raw.ask("status", 8, {})).correlation == 8
        held.go.set()

        frame = await raw.ask("status", 7, {})

        assert (frame.kind, frame.correlation) == ("ok", 7)
        assert "version" in frame.body


async def test_subscriptions_are_bounded_and_do_not_hold_up_the_requests_of_their_connection(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house, await house.raw() as raw:
        await raw.hello()
        for number in range(connection.STREAMS):
            await raw.send(wire.encode_frame("subscribe", 10 + number, 0, {}))
        await answers(raw, connection.STREAMS)

        refused = await raw.ask("subscribe", 5, {})

        assert type(wire.error_of(refused.body)) is Overloaded
        assert (await raw.ask("status", 6, {})).kind == "ok"
        await raw.send(wire.encode_frame("cancel", 10, 0, {}))
        await until(lambda: len(house.slot("bus").actor._feeds) < connection.STREAMS)
        assert (await raw.ask("subscribe", 7, {})).kind == "ok"


async def test_a_subscriber_that_leaves_without_a_word_is_noticed(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        raw = await house.raw()
        await raw.hello()
        for number in range(connection.STREAMS + 10):
            await raw.send(wire.encode_frame("subscribe", 10 + number, 0, {}))

        await raw.close()

        await until(lambda: len(house.slot("gateway").actor._reception.connections) == 1)
        await until(lambda: not house.slot("bus").actor._feeds)


async def test_a_deadline_that_passes_is_answered_with_expired(tmp_path: Path) -> None:
    held = HeldEmbedder()
    async with running(tmp_path, listen=True, embedder=held) as house, await house.raw() as raw:
        await raw.hello()

        frame = await raw.ask("remember", 7, {"drafts": [{"text": "slow"}]}, deadline_ms=20)

        error = wire.error_of(frame.body)
        assert type(error) is Expired
        assert error.hint
        held.go.set()


async def test_who_asks_in_a_hurry_is_answered_by_words_alone_and_the_connection_goes_on(tmp_path: Path) -> None:
    held = HeldEmbedder()
    async with running(tmp_path, listen=True, embedder=held) as house:
        found = await house.memory.recall("slow", user="alice", deadline=1.0)
        assert (found.tier, found.partial) == ("lexical", ("vectors",))
        held.go.set()

        await house.memory.remember("added a mutex", user="alice")
        assert texts(await house.memory.recall("mutex", user="alice")) == ["added a mutex"]


async def test_a_client_that_leaves_with_requests_under_way_leaves_nothing_behind(tmp_path: Path) -> None:
    held = HeldEmbedder()
    async with running(tmp_path, listen=True, embedder=held) as house:
        raw = await house.raw()
        await raw.hello()
        for number in range(20):
            await raw.send(wire.encode_frame("recall", 10 + number, 0, {"query": f"slow {number}"}))
        await raw.close()
        held.go.set()

        await house.memory.remember("added a mutex", user="alice")
        await until(lambda: sum(task.get_name().startswith("request/") for task in asyncio.all_tasks()) == 0)


async def test_what_was_published_by_a_client_that_left_before_the_answer_is_not_half_there(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        raw = await house.raw()
        await raw.hello()
        body = {"events": [wire.to_body(each) for each in events(50)], "user": "alice"}
        await raw.send(wire.encode_frame("publish", 2, 0, body))
        await raw.close()

        receipts = await house.memory.publish(events(50), user="alice", ack="committed")

        assert len({receipt.status for receipt in receipts}) == 1
        assert len(await exported(house.memory, "alice")) == 50


# --- how many ---


async def test_a_connection_too_many_is_told_so_and_the_others_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        crowd = [await house.raw() for _ in range(connection.CONNECTIONS - 1)]
        for raw in crowd:
            assert (await raw.hello()).kind == "ok"

        async with await house.raw() as late:
            error = await late.error()
            assert type(error) is Overloaded
            assert error.hint
            assert await late.answer() is None
        with pytest.raises(Overloaded):
            await house.connect()

        assert (await crowd[-1].ask("status", 2, {})).kind == "ok"
        await asyncio.gather(*(raw.close() for raw in crowd))
        await until(lambda: len(house.slot("gateway").actor._reception.connections) == 1)
        await (await house.connect()).status()


# --- a client that does not read ---


async def test_a_client_that_never_reads_holds_up_nobody_and_is_let_go_when_it_leaves(tmp_path: Path) -> None:
    long = "x" * 50_000
    async with running(tmp_path, listen=True) as house:
        for number in range(5):
            await house.memory.remember(f"{number} {long}", user="alice")
        raw = await house.raw()
        raw.reader._limit = 1  # its window closes at once
        await raw.hello()
        for number in range(200):
            frame = wire.encode_frame("recall", 10 + number, 0, {"query": "x", "user": "alice"})
            raw.writer.write(frame)

        for _ in range(20):
            assert len((await house.memory.recall("x", user="alice")).memories) == 5
        served = next(iter(task for task in asyncio.all_tasks() if task.get_name().startswith("request/")), None)
        assert served is None or sum(task.get_name().startswith("request/") for task in asyncio.all_tasks()) <= 64

        raw.writer.transport.abort()
        await until(lambda: len(house.slot("gateway").actor._reception.connections) == 1)


async def test_replies_longer_than_a_frame_are_cut_and_say_so(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        for number in range(25):
            await house.memory.remember(f"{number} " + "x" * 60_000, user="alice")

        cut = await house.memory.recall("x", user="alice", top_k=25)

        assert 0 < len(cut.memories) < 25
        assert cut.partial == ("size",)
        assert len((await house.memory.recall("x", user="alice", top_k=5)).memories) == 5
        assert len(await exported(house.memory, "alice")) == 25


async def test_a_publisher_that_makes_up_types_cannot_make_the_status_too_long(tmp_path: Path) -> None:
    made_up = [event(f"e{n}", "x", f"made.up.{'x' * 100}.{n}") for n in range(9_000)]
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(made_up, user="alice")
        await house.settled()

        unmapped = (await house.memory.status()).unmapped

        assert sum(unmapped.values()) == len(made_up)
        assert len(unmapped) < 1_000


async def test_the_socket_is_served_again_after_the_gateway_failed(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember("added a mutex", user="alice")

        await house.kill(house.slot("gateway"))

        again = await house.connect()
        assert texts(await again.recall("mutex", user="alice")) == ["added a mutex"]
