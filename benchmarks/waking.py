"""Users who are at rest, woken: opened, asked once, and put to rest again, by a process that has done so before.

    python -m benchmarks.waking [LOGS]

Ten thousand users, each with a file of a thousand records: 20 GB of disk. `python -m benchmarks.store` wakes fewer.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.progress import Progress

from benchmarks import given
from benchmarks.command import Settings, command
from benchmarks.given import BATCH, K
from benchmarks.results import Result, percentiles
from benchmarks.systems.measured import settle_disk
from benchmarks.systems.ours import USER, Store
from benchmarks.systems.system import private_bytes
from memoryd.protocol.ids import UserId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.given import Given
    from memoryd.protocol.interfaces import Vectors

EACH: Final = 1_000
_WARM: Final = 20  # are woken before, so that what is loaded once is loaded


USERS: Final = 10_000
WAKE_MS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Woken:
    """Milliseconds from the call that opens to the answer, of each user; bytes that stay in memory of each at rest."""

    took_ms: Sequence[float]
    file_bytes: int
    bytes_at_rest: float


def measure(made: Given, users: int, home: Path, advance: Callable[[], None]) -> Woken:
    """Make so many users of EACH records, real files of their own, and wake every one once, the page cache warm."""
    store = Store(home, made.about(appends=0))
    names = [UserId(f"user-{number}") for number in range(users)]
    store.open(new=True, user=names[0])
    store.add(0, made.rows[:EACH], made.texts[:EACH])
    store.settle()
    store.close()
    for name in names[1:]:
        shutil.copytree(home / names[0], home / name)
        advance()
    os.sync()  # or writing back would compete with the waking
    order = np.random.default_rng(4).permutation(users).tolist()
    for number in order[:_WARM]:
        _wake(store, names[number], made.queries[number % len(made.queries)])
    before = private_bytes()
    took = [_wake(store, names[number], made.queries[number % len(made.queries)]) for number in order]
    return Woken(took, (home / names[0] / "memory.rvf").stat().st_size, (private_bytes() - before) / users)


def openings(made: Given, times: int, home: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Make one user of all rows; return the milliseconds of so many openings, the page cache warm, and dropped each time."""
    store = Store(home, made.about(appends=0))
    store.open(new=True)
    for first in range(0, len(made.rows), BATCH):
        store.add(first, made.rows[first : first + BATCH], made.texts[first : first + BATCH])
    store.settle()
    store.close()
    taken: list[list[float]] = []
    for drop in (False, True):
        settle_disk(home, drop=drop)
        _wake(store, USER, made.queries[-1])
        taken.append([])
        for query in made.queries[:times]:
            settle_disk(home, drop=drop)
            taken[-1].append(_wake(store, USER, query))
    return taken[0], taken[1]


def _wake(store: Store, user: UserId, query: Vectors) -> float:
    began = time.perf_counter()
    store.open(new=False, user=user)
    store.search(query, K)
    took = (time.perf_counter() - began) * 1e3
    store.close()
    return took


def result(settings: Settings, users: int) -> Result:
    """Wake so many users, and say how long that took."""
    made = given.real(settings.logs, 2 * EACH, appends=0)
    with Progress(console=settings.console, transient=True) as progress:
        bar = progress.add_task("users", total=users - 1)
        woken = measure(made, users, settings.home("users"), partial(progress.advance, bar))
    times = percentiles(woken.took_ms)
    return Result(
        what=f"a passivated user of {EACH:,} records woken, to the answer, page cache warm; {users:,} users at random, "
        f"files of {woken.file_bytes / 1e6:.1f} MB",
        bound=f"{WAKE_MS:g} ms",
        measured=f"p50 {times['p50']:.2f} ms, p99 {times['p99']:.2f} ms; {woken.bytes_at_rest:.0f} bytes of memory stay for each",
        is_met=times["p50"] <= WAKE_MS,
        values={"wake_ms": times, "bytes_at_rest": woken.bytes_at_rest},
    )


def _results(settings: Settings) -> Iterator[Result]:
    yield result(settings, 50 if settings.quick else USERS)


main = command([("waking", _results)], "Users who are at rest, woken at random.")

if __name__ == "__main__":
    main()
