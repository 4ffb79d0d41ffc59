"""The threads that run what is slow, so that the event loop never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

DISK_THREADS: Final = 4
BACKGROUND_DISK_THREADS: Final = 2
SEARCH_THREADS: Final = 2


class Pools:
    """One pool for each sort of work; nothing else in the daemon creates threads.

    `disk` keeps threads free of background work, so that opening a user for a waiting request never stands behind
    the commits of others.
    """

    def __init__(self, *, embed_threads: int) -> None:
        self.embed_threads = embed_threads
        self._embed = ThreadPoolExecutor(embed_threads, "embed")
        self._search = ThreadPoolExecutor(SEARCH_THREADS, "search")
        self._disk = ThreadPoolExecutor(DISK_THREADS, "disk")
        # A write and a read of the log may go on at the same time; two writes never.
        self._log_write = ThreadPoolExecutor(1, "log-write")
        self._log_read = ThreadPoolExecutor(1, "log-read")
        self._background = asyncio.Semaphore(BACKGROUND_DISK_THREADS)

    async def embed(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _run(self._embed, call, *args, **kwargs)

    async def search(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _run(self._search, call, *args, **kwargs)

    async def disk(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run disk work that somebody waits for."""
        return await _run(self._disk, call, *args, **kwargs)

    async def disk_in_background(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run disk work that nobody waits for."""
        async with self._background:
            return await _run(self._disk, call, *args, **kwargs)

    async def log_write(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _run(self._log_write, call, *args, **kwargs)

    async def log_read(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _run(self._log_read, call, *args, **kwargs)

    def close(self) -> None:
        """Wait for what runs and end the threads."""
        for pool in (self._embed, self._search, self._disk, self._log_write, self._log_read):
            pool.shutdown(wait=True, cancel_futures=True)


async def _run(pool: ThreadPoolExecutor, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `call` in `pool`. A cancelled caller still waits until the call has returned: nobody else may have its files."""
    future = asyncio.get_running_loop().run_in_executor(pool, lambda: call(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
