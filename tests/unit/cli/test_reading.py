"""Reading beside the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from memoryd.cli.reading import READ_AHEAD, Reading, reading
from memoryd.protocol.errors import Damaged, NotFound


def lines(stream: BinaryIO) -> Iterator[bytes]:
    return iter(stream)


async def test_a_file_is_read_to_its_end_in_portions_of_the_size_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(READ_AHEAD * 3)))

    async with reading(str(path), lines) as source:
        portions = [portion async for portion in source.portions(100)]

    assert max(map(len, portions)) <= 100
    assert [line for portion in portions for line in portion] == [b"%d\n" % n for n in range(READ_AHEAD * 3)]


async def test_what_a_pipe_holds_is_handed_over_before_the_pipe_ends(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    os.write(writer, b"first\n")

    async with reading(str(path), lines) as source:
        first = await anext(source.portions(100))

    os.close(writer)
    assert first == [b"first\n"]


async def test_leaving_ends_the_thread_although_the_pipe_stays_silent(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)

    async with asyncio.timeout(5), reading(str(path), lines):
        pass

    os.close(writer)
    assert not any(thread.name == "reading" for thread in threading.enumerate())


async def test_leaving_ends_the_thread_although_nobody_takes_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x\n" * (READ_AHEAD + 10))

    async with asyncio.timeout(5), reading(str(path), lines):
        pass

    assert not any(thread.name == "reading" for thread in threading.enumerate())


async def collect(source: Reading[bytes], into: list[bytes]) -> None:
    async for portion in source.portions(10):
        into += portion


async def test_an_error_of_the_reader_comes_after_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"good\n")
    taken: list[bytes] = []

    def breaks(stream: BinaryIO) -> Iterator[bytes]:
        yield from stream
        raise Damaged("broken off")

    async with reading(str(path), breaks) as source:
        with pytest.raises(Damaged):
            await collect(source, taken)

    assert taken == [b"good\n"]


async def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(NotFound):
        async with reading("no-such-file", lines):
            pass
