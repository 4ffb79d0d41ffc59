"""The threads that run what is slow, so that the event loop never does.

When processors are short, the kernel gives them to the event loop first, then to threads somebody waits for, then to those
nobody waits for (setpriority(2); on Linux each thread has a nice value of its own).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

DISK_THREADS: Final = 4
BACKGROUND_DISK_THREADS: Final = 2
SEARCH_THREADS: Final = 2
# Added to the nice value of threads that somebody waits for, and of the others: half and a tenth of the event loop's weight.
AWAITED: Final = 3
PATIENT: Final = 10


class Pools:
    """One pool for each sort of work; nothing else in the daemon creates threads.

    What somebody waits for never stands behind what nobody waits for: embedding and disk have threads for either.
    """

    def __init__(self, *, embed_threads: int, prepare: Callable[[], object] = lambda: None) -> None:
        """Start the threads, each of which calls `prepare` first."""
        self.embed_threads = embed_threads

        def pool(threads: int, name: str, yielding: int) -> ThreadPoolExecutor:
            return _pool(threads, name, partial(_prepared, prepare, yielding))

        self._embed = pool(embed_threads, "embed", AWAITED)
        self._embed_patiently = pool(embed_threads, "embed-patiently", PATIENT)
        self._search = pool(SEARCH_THREADS, "search", AWAITED)
        self._disk = pool(DISK_THREADS, "disk", AWAITED)
        self._background = pool(BACKGROUND_DISK_THREADS, "background", PATIENT)
        self._link = pool(1, "link", PATIENT)
        # A write and a read of the log may go on at the same time; two writes never.
        self._log_write = pool(1, "log-write", AWAITED)
        self._log_read = pool(1, "log-read", AWAITED)

    async def embed(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Embed what somebody waits for."""
        return await _run(self._embed, call, *args, **kwargs)

    async def embed_patiently(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Embed what nobody waits for."""
        return await _run(self._embed_patiently, call, *args, **kwargs)

    async def search(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _run(self._search, call, *args, **kwargs)

    def search_soon(self, call: Callable[[], None]) -> None:
        """Run `call`, which raises nothing, on a thread of the searches; may be called from any thread."""
        self._search.submit(call)

    async def disk(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run disk work that somebody waits for."""
        return await _run(self._disk, call, *args, **kwargs)

    async def disk_in_background(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run disk work that nobody waits for."""
        return await _run(self._background, call, *args, **kwargs)

    async def link(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a graph: a minute of a processor, one user after the other."""
        return await _run(self._link, call, *args, **kwargs)

    async def log_write(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _run(self._log_write, call, *args, **kwargs)

    async def log_read(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _run(self._log_read, call, *args, **kwargs)

    def close(self) -> None:
        """Wait for what runs and end the threads."""
        pools = (self._embed, self._embed_patiently, self._search, self._disk, self._background, self._link)
        for pool in (*pools, self._log_write, self._log_read):
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(threads: int, name: str, prepared: Callable[[], None]) -> ThreadPoolExecutor:
    """Return a pool whose threads are there: who starts one waits for it, and later that would be the event loop."""
    pool = ThreadPoolExecutor(threads, name, prepared)
    all_there = threading.Barrier(threads)
    for _ in range(threads):
        pool.submit(all_there.wait)
    return pool


def _prepared(prepare: Callable[[], object], yielding: int) -> None:
    prepare()
    _yield_to_others(yielding)


def _yield_to_others(yielding: int) -> None:
    """Lower the priority of this thread; where the system does not let us, it runs like the others."""
    with contextlib.suppress(OSError):
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + yielding)


async def _run(pool: ThreadPoolExecutor, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `call` in `pool`. A cancelled caller still waits until the call has returned: nobody else may have its files."""
    future = asyncio.get_running_loop().run_in_executor(pool, partial(call, *args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
