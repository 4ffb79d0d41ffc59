"""Searching what passes a filter, when that is one topic: the topic that is asked about, or the one furthest from it.

Vectors are cut into cells of equal size, each of neighbours, and each cell is a session. Random filters are easy: the
candidates thin out evenly. Here they all pass, or hardly any of them.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.given import BATCH, EQUAL, K
from benchmarks.systems.ours import Store
from benchmarks.systems.system import ROUNDS
from memoryd.protocol.records import MemoryFilter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.given import Given
    from memoryd.protocol.interfaces import Vectors

    Numbers = NDArray[np.int64]

SHARES: Final = (0.5, 0.1, 0.01, 0.001)


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a share of the rows passing costs: the median of the milliseconds, recall@K, and which plans answered."""

    share: float
    is_near: bool
    p50_ms: float
    recall: float
    plans: Sequence[str]


def measure(made: Given, folder: Path) -> Iterator[Filtered]:
    """Yield what each share costs, with the query's topic passing and not; `folder` must not be there."""
    folder.mkdir()
    order = by_topic(made.rows)
    scores = made.queries @ made.rows.T
    for share in SHARES:
        cells = np.empty(len(order), np.int64)
        cells[order] = np.arange(len(order)) * round(1 / share) // len(order)
        store = Store(folder / f"{share:g}", made.about(appends=0))
        store.open(new=True)
        names = [f"topic {cell}" for cell in cells.tolist()]
        for first in range(0, len(cells), BATCH):
            part = slice(first, first + BATCH)
            store.add(first, made.rows[part], made.texts[part], names[part])
        store.settle()
        means = np.stack([scores[:, cells == cell].mean(axis=1) for cell in range(round(1 / share))], axis=1)
        nearest, furthest = cells[scores.argmax(axis=1)], means.argmin(axis=1)
        for is_near, asked in ((True, nearest), (False, furthest)):
            yield _measured(store, made.queries, scores, cells, asked, share, is_near=is_near)
        store.close()


def by_topic(rows: Vectors) -> Numbers:
    """Return the rows in an order in which equal pieces are neighbours: halves of halves, each between two rows."""
    chance = np.random.default_rng(3)
    pieces = [np.arange(len(rows))]
    while len(pieces[0]) > K:
        halves = []
        for piece in pieces:
            one, other = rows[chance.choice(piece, 2, replace=False)]
            ranked = piece[np.argsort(rows[piece] @ (one - other), kind="stable")]
            halves += np.array_split(ranked, 2)
        pieces = halves
    return np.concatenate(pieces)


def _measured(
    store: Store, queries: Vectors, scores: Vectors, cells: Numbers, asked: Numbers, share: float, *, is_near: bool
) -> Filtered:
    times = np.full((ROUNDS, len(queries)), np.inf)
    recalls, plans = [], Counter[str]()
    for place in np.ndindex(times.shape):
        query, given, cell = queries[place[1]], scores[place[1]], int(asked[place[1]])
        where = MemoryFilter(session_id=f"topic {cell}")
        began = time.perf_counter()
        found, plan = store.find(query, K, where)
        times[place] = (time.perf_counter() - began) * 1e3
        if place[0] == 0:
            plans[plan] += 1
            passing = given[cells == cell]
            least = np.sort(passing)[-min(K, len(passing))]
            good = [cells[row] == cell and given[row] >= least - EQUAL for row, _ in found]
            recalls.append(sum(good) / min(K, len(passing)))
    named = [plan if len(plans) == 1 else f"{plan} {count}" for plan, count in plans.most_common()]
    return Filtered(share, is_near, float(np.median(times.min(axis=0))), float(np.mean(recalls)), named)
