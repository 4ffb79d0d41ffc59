"""Ten thousand malformed frames against a real socket: nobody falls, nobody else notices, nothing grows."""

from __future__ import annotations

import asyncio
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import msgpack

from memoryd.protocol import wire
from memoryd.protocol.messages import REQUESTS
from tests.helpers.daemon import House, Raw, running, texts, until

FRAMES = 10_000
ON_ONE_CONNECTION = 4  # a bad frame ends it, a bad request does not
GROWTH = 20 << 20  # bytes

KINDS = [*REQUESTS, "hello", "cancel", "dream", "", "ok", "error", "event"]


def rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a file of the kernel
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def length(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def truncated(rng: random.Random) -> bytes:
    payload = msgpack.packb(["recall", 5, 0, {"query": "x" * rng.randrange(50)}])
    return length(payload[: rng.randrange(len(payload))])


def oversized(rng: random.Random) -> bytes:
    return struct.pack(">I", rng.randrange(wire.MAX_FRAME + 1, 1 << 32)) + rng.randbytes(20)


def nested(rng: random.Random) -> bytes:
    depth = rng.choice([17, 100, 600, 2_000])
    return length(rng.choice([b"\x91", b"\x81\xa1a"]) * depth + b"\x00")


def crowded(rng: random.Random) -> bytes:
    count = rng.choice([1 << 16, 1 << 20, (1 << 32) - 1])
    return length(b"\x94\xa6recall\x05\x00\x81\xa5query\xdd" + struct.pack(">I", count) + rng.randbytes(30))


def extended(rng: random.Random) -> bytes:
    value = msgpack.ExtType(rng.randrange(127), rng.randbytes(rng.randrange(20)))
    return length(msgpack.packb(["recall", 5, 0, {"query": value}]))


def not_text(rng: random.Random) -> bytes:
    return length(
        b"\x94\xa6recall\x05\x00\x81\xa5query\xa4"
        + rng.choice([b"\xff\xfe\xfd\xfc", b"\xed\xa0\x80a", b"\xc0\x80\xc0\x80"])
    )


def noise(rng: random.Random) -> bytes:
    return length(rng.randbytes(rng.randrange(200)))


def changed(rng: random.Random) -> bytes:
    payload = bytearray(msgpack.packb([rng.choice(KINDS), 5, 0, {"query": "mutex", "user": "alice"}]))
    payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    return length(bytes(payload))


def mistyped(rng: random.Random) -> bytes:
    def value(depth: int = 0) -> object:
        kinds: list[Callable[[], object]] = [
            lambda: rng.randrange(-(1 << 63), 1 << 64),
            rng.random,
            lambda: None,
            lambda: rng.choice(["", "../x", "*", "x" * 1_000, "a\x00b", "2026-03-01T12:00:00Z"]),
            lambda: rng.randbytes(rng.randrange(10)),
        ]
        if depth < 3:
            kinds += [
                lambda: [value(depth + 1) for _ in range(rng.randrange(4))],
                lambda: {rng.choice(["text", "id", "kinds", "x"]): value(depth + 1) for _ in range(rng.randrange(4))},
            ]
        return rng.choice(kinds)()

    kind = rng.choice(KINDS)
    fields = REQUESTS[kind].__struct_fields__ if kind in REQUESTS else ("version", "token")
    body = {name: value() for name in (*fields, "user", "mood") if rng.random() < 0.7}
    return length(msgpack.packb([kind, rng.randrange(1 << 16), rng.choice([0, 1, 1_000]), body]))


SORTS = (truncated, oversized, nested, crowded, extended, not_text, noise, changed, mistyped, mistyped, mistyped)


async def attack(house: House, rng: random.Random, frames: int) -> int:
    """Send bad frames until the daemon hangs up; return how many it took. Everything it says must be a frame."""
    async with await house.raw() as raw:
        if rng.random() < 0.9:
            assert (await raw.hello()).kind == "ok"
        listening = asyncio.create_task(everything_said(raw))
        sent = 0
        while sent < frames and not listening.done():
            await raw.send(rng.choice(SORTS)(rng))
            sent += 1
            await asyncio.sleep(0)
        if not listening.done():
            raw.writer.write_eof() if rng.random() < 0.5 else raw.writer.transport.abort()
        await listening
        return sent


async def everything_said(raw: Raw) -> None:
    while (frame := await raw.answer()) is not None:
        assert frame.kind in {"ok", "error", "event"}
        if frame.kind == "error":
            assert wire.error_of(frame.body).message


async def test_ten_thousand_malformed_frames_harm_neither_the_daemon_nor_a_healthy_peer(tmp_path: Path) -> None:
    rng = random.Random(8)
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember("added a mutex", user="healthy")
        for _ in range(20):
            await attack(house, rng, ON_ONE_CONNECTION)
        before = rss()
        restarts = (await house.memory.status()).restarts

        sent = 0
        while sent < FRAMES:
            tries = await asyncio.gather(
                *(attack(house, rng, min(ON_ONE_CONNECTION, FRAMES - sent)) for _ in range(4)),
                house.memory.recall("mutex", user="healthy"),
            )
            assert texts(tries.pop()) == ["added a mutex"]
            sent += sum(tries)

        status = await house.memory.status()
        assert status.restarts == restarts == 0
        assert status.users_quarantined == 0
        assert rss() - before < GROWTH
        await until(lambda: len(house.slot("gateway").actor._reception.connections) == 1)


async def test_a_thousand_peers_that_say_nothing_and_leave_are_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        for _ in range(10):
            crowd = [await house.raw() for _ in range(100)]
            for raw in crowd[::2]:
                await raw.send(b"\x00\x00")
            await asyncio.gather(*(raw.close() for raw in crowd))
        await until(lambda: len(house.slot("gateway").actor._reception.connections) == 1)

        await house.memory.remember("added a mutex", user="alice")
