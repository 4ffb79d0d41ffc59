"""How long one waits for the client's import, for the daemon's start, and for the first recall after it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from benchmarks import corpus
from benchmarks.command import Settings, command
from benchmarks.daemon import Daemon, compiled_environment
from benchmarks.filling import fill
from benchmarks.results import Result, Spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.corpus import Corpus

TIMES: Final = 15
IMPORT_MS: Final = 100.0
READY_S: Final = 1.5
FIRST_MS: Final = 150.0
# `connect` with an address does nothing but load what a client needs.
_IMPORT: Final = """
import time
began = time.perf_counter()
import memoryd
memoryd.connect
named = time.perf_counter()
memoryd.connect("/nowhere")
print(named - began, time.perf_counter() - began)
"""


def measure(settings: Settings) -> Iterator[Result]:
    """Yield the results of the import, the start and the first recall."""
    times = 3 if settings.quick else TIMES
    yield _import(times)
    given = corpus.corpus(settings.logs, 2_000 if settings.quick else corpus.RECORDS, times + 1)
    daemon = Daemon(settings.home("startup"))
    daemon.start()
    asyncio.run(_fill(daemon, given))
    daemon.stop()
    ready, first, second = [], [], []
    for query in given.queries[: times + 1]:
        ready.append(daemon.start())
        once, again = asyncio.run(_recall(daemon, query))
        first.append(once)
        second.append(again)
        daemon.stop()
    # The first start after the filling is a warm-up.
    starts, firsts, seconds = Spread.of(ready[1:]), Spread.of(first[1:]), Spread.of(second[1:])
    yield Result(
        what=f"start of the process to ready, {len(given.records):,} records, bytecode compiled",
        bound=f"{READY_S:g} s",
        measured=f"{starts.text()} s, {times} times",
        is_met=starts.median <= READY_S,
        values={"ready_s": ready[1:]},
    )
    yield Result(
        what=f"first recall after the start, {len(given.records):,} records, page cache warm",
        bound=f"{FIRST_MS:g} ms",
        measured=f"{firsts.text('.0f')} ms; the same question again {seconds.text('.1f')} ms",
        is_met=firsts.median <= FIRST_MS,
        values={"first_ms": first[1:], "second_ms": second[1:]},
    )


def _import(times: int) -> Result:
    """Measure in a new interpreter each time, the interpreter's own start not counted."""
    named, took = [], []
    for _ in range(times + 1):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT], env=compiled_environment(), capture_output=True, check=True, text=True
        )
        first, whole = (float(each) * 1e3 for each in done.stdout.split())
        named.append(first)
        took.append(whole)
    spread = Spread.of(took[1:])
    return Result(
        what="import of the client with all it needs to connect, new interpreter, bytecode compiled",
        bound=f"{IMPORT_MS:g} ms",
        measured=f"{spread.text('.0f')} ms, of which the name alone {Spread.of(named[1:]).median:.0f} ms; {times} times",
        is_met=spread.median <= IMPORT_MS,
        values={"import_ms": took[1:], "name_ms": named[1:]},
    )


async def _fill(daemon: Daemon, given: Corpus) -> None:
    async with daemon.client() as memory:
        await fill(memory, "asker", given.records, given.model_sha256)


async def _recall(daemon: Daemon, query: str) -> tuple[float, float]:
    """Return the milliseconds of the first recall, its connection included, and of the same one again."""
    began = time.perf_counter()
    async with daemon.client() as memory:
        await memory.recall(query, user="asker")
        first = time.perf_counter()
        await memory.recall(query, user="asker")
        return (first - began) * 1e3, (time.perf_counter() - first) * 1e3


main = command([("startup", measure)], "Import, start and first recall, with 10,000 records of the sample and LOGS.")

if __name__ == "__main__":
    main()
