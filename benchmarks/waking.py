"""Users who are at rest, woken: opened, asked once, and put to rest again, by a process that has done so before."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.given import BATCH, K
from benchmarks.systems.measured import settle_disk
from benchmarks.systems.ours import USER, Store
from benchmarks.systems.system import private_bytes
from memoryd.protocol.ids import UserId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.given import Given
    from memoryd.protocol.interfaces import Vectors

EACH: Final = 1_000
_WARM: Final = 20  # are woken before, so that what is loaded once is loaded


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
