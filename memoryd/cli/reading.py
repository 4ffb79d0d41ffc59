"""A file or stdin, read in a thread beside the event loop, so that a pipe may be slow and Ctrl-C is still heard."""

from __future__ import annotations

import asyncio
import io
import os
import select
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Generic, TypeVar, cast

from memoryd.protocol.errors import MemorydError, NotFound, StorageFault

T = TypeVar("T")

STDIN: Final = "-"
READ_AHEAD: Final = 1_024  # items between the thread and who takes them


@dataclass(frozen=True, slots=True)
class _End:
    """Nothing more comes, for a reason or because all was read."""

    error: MemorydError | None = None


class Reading(Generic[T]):
    """What a thread reads, handed over in portions."""

    def __init__(self, source: _Source, parse: Callable[[BinaryIO], Iterable[T]]) -> None:
        self._source = source
        self._stream = io.BufferedReader(source)
        self._parse = parse
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()
        self._room = threading.Semaphore(READ_AHEAD)
        self._is_stopped = False
        self._thread = threading.Thread(target=self._read, name="reading", daemon=True)
        self._thread.start()

    async def portions(self, most: int) -> AsyncIterator[list[T]]:
        """Yield what is there, at least one item and at most `most`, until the end. Raises what reading raised."""
        portion: list[T] = []
        while not isinstance(item := await self._items.get(), _End):
            self._room.release()
            portion.append(item)
            if len(portion) == most or self._items.empty():
                yield portion
                portion = []
        if portion:
            yield portion
        if item.error is not None:
            raise item.error

    async def stop(self) -> None:
        """End the thread, wherever it waits."""
        self._is_stopped = True
        self._room.release()
        self._source.wake()
        await asyncio.to_thread(self._thread.join)
        self._stream.close()

    def _read(self) -> None:
        end = _End()
        try:
            for item in self._parse(cast("BinaryIO", self._stream)):
                self._room.acquire()
                if self._is_stopped:
                    return
                self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except MemorydError as error:
            end = _End(error)
        except OSError as error:
            end = _End(StorageFault("the input cannot be read", hint=error.strerror))
        if not self._is_stopped:
            self._loop.call_soon_threadsafe(self._items.put_nowait, end)


@asynccontextmanager
async def reading(path: str, parse: Callable[[BinaryIO], Iterable[T]]) -> AsyncIterator[Reading[T]]:
    """Read what `parse` makes of a file, or of stdin for `-`. Raises NotFound or StorageFault."""
    got = Reading(_Source(path), parse)
    try:
        yield got
    finally:
        await got.stop()


class _Source(io.RawIOBase):
    """A file or stdin whose reader can be woken while it waits; it then sees the end."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._descriptor = sys.stdin.fileno() if path == STDIN else _open(path)
        self._is_own = path != STDIN
        self._awake, self._waker = os.pipe()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's buffers are memoryviews
        ready, _, _ = select.select([self._descriptor, self._awake], [], [])
        return 0 if self._awake in ready else os.readv(self._descriptor, [buffer])

    def wake(self) -> None:
        os.write(self._waker, b"\0")

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        for descriptor in (self._awake, self._waker, *([self._descriptor] if self._is_own else [])):
            os.close(descriptor)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound("no such file", field="FILE", hint="give a path, or - for stdin") from error
    except OSError as error:
        raise StorageFault("the file cannot be read", field="FILE", hint=error.strerror) from error


def lines_in(file: str) -> int | None:
    """Return how many lines a plain file has; None for a pipe or a compressed file, whose end nobody knows."""
    path = Path(file)
    with suppress(OSError):  # who reads it says what is wrong
        if path.is_file() and path.suffix != ".gz":
            with path.open("rb") as stream:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))
    return None
