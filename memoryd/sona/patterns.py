"""What a user asks again and again: the questions of the runs that are known, in clusters.

k-means, begun by k-means++ (Arthur and Vassilvitskii, SODA 2007), on unit vectors. Clusters whose centres are nearly the same become
one. They are made anew each time, never appended to, and they are for reading: the bank answers by single runs, since clusters
tell returning questions apart too badly (docs/research/learning.md).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.learning import Pattern
from memoryd.sona.lora import unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.learning import Lesson
    from memoryd.sona.lora import Floats

_ROUNDS: Final = 25
_SAME: Final = 0.95
_TOGETHER: Final = 4  # runs that one cluster stands for, at least, in the mean


def patterns(lessons: Sequence[Lesson], most: int, rng: np.random.Generator) -> list[Pattern]:
    """Return at most so many patterns, the largest first."""
    if not lessons:
        return []
    vectors = np.stack([lesson.intent.vector for lesson in lessons])
    centres = _seeded(vectors, min(most, max(1, len(lessons) // _TOGETHER)), rng)
    nearest = np.empty(0, np.int64)
    for _ in range(_ROUNDS):
        before, nearest = nearest, np.argmax(vectors @ centres.T, axis=1)
        if np.array_equal(before, nearest):
            break
        centres = _centres(vectors, nearest, centres)
    nearest = _merged(centres)[nearest]
    found = [
        _pattern([lessons[row] for row in np.flatnonzero(nearest == number).tolist()]) for number in np.unique(nearest)
    ]
    return sorted(found, key=lambda pattern: (-len(pattern.runs), pattern.example))


def _seeded(vectors: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return rows far from each other, each chosen with a chance that grows with the square of its distance."""
    chosen = [int(rng.integers(len(vectors)))]
    distances = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        distances = np.minimum(distances, np.maximum(0, 2 - 2 * (vectors @ vectors[chosen[-1]])))
        total = float(distances.sum())
        if total <= 0:  # all that is left is where something was chosen
            break
        chosen.append(int(np.searchsorted(np.cumsum(distances), rng.uniform(0, total))))
    return vectors[chosen]


def _centres(vectors: Floats, nearest: NDArray[np.int64], before: Floats) -> Floats:
    """Return the mean direction of each cluster; that of an empty one stays."""
    sums = np.zeros_like(before)
    np.add.at(sums, nearest, vectors)
    is_empty = np.linalg.norm(sums, axis=1) == 0
    sums[is_empty] = before[is_empty]
    return unit(sums)


def _merged(centres: Floats) -> NDArray[np.int64]:
    """Return for each centre the first one that is nearly the same."""
    first: NDArray[np.int64] = np.argmax(centres @ centres.T > _SAME, axis=1)
    return first


def _pattern(lessons: Sequence[Lesson]) -> Pattern:
    vectors = np.stack([lesson.intent.vector for lesson in lessons])
    centre = unit(vectors.sum(axis=0))
    return Pattern(
        centre=centre,
        example=lessons[int(np.argmax(vectors @ centre))].id,
        runs=tuple(lesson.id for lesson in lessons),
        quality=float(np.mean([lesson.quality for lesson in lessons])),
        values=_values(lessons),
        last_us=max(lesson.ended_us for lesson in lessons),
    )


def _values(lessons: Iterable[Lesson]) -> dict[RecordId, tuple[int, float]]:
    """Return of each memory that helped or did harm in some of these runs to how many it was shown, and its mean value."""
    shown: Counter[RecordId] = Counter()
    sums: dict[RecordId, float] = {}
    for lesson in lessons:
        if not lesson.is_coarse:
            for record, credit, harmed in zip(
                lesson.shown, lesson.credit.tolist(), lesson.harmed.tolist(), strict=False
            ):
                shown[record] += 1
                if credit or harmed:
                    sums[record] = sums.get(record, 0.0) + credit - harmed
    order = sorted(sums, key=lambda record: (-sums[record], record))
    return {record: (shown[record], sums[record] / shown[record]) for record in order}
