"""The nearest rows by their codes: the best of a scan are scored on the rows themselves, until few others can be better."""

from __future__ import annotations

from math import inf, log, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.vectors.exact import best

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Vectors
    from memoryd.vectors.blocks import Blocks
    from memoryd.vectors.codes import Scanned
    from memoryd.vectors.exact import Mask, Rows, Scores

# So many of the best by their codes are scored first, and twice as many each time they are not enough.
_CANDIDATES: Final = 100
_CANDIDATES_PER_HIT: Final = 8

# The first list of candidates is so many times as long as what is scored first: more of it tells what is behind.
_REACH: Final = 4

# They are enough when the answers come from the first half of them, and no more than this share of the answers must be
# expected among the other rows. Either rule alone fails somewhere: the first where nothing is near (0.90 of the answers are
# found on uniform vectors), the second where the errors of neighbours are alike (0.997 on real ones).
_MISSED: Final = 0.05

# A list of all that may be better reaches so many deviations further than it must: what comes out may ask for more.
_SLACK: Final = 0.25

# No list is longer than this share of what passes: to look at everything is quicker.
_WORTH_IT: Final = 0.5

_TINY: Final = 1e-6  # there is nothing to divide by where all codes are off by the same


def nearest_by_codes(
    codes: Scanned, query: Vectors, vectors: Blocks, passes: Mask, k: int
) -> tuple[Scores, Rows] | None:
    """Return the `k` best of the rows that `passes`, bool [rows of the codes], marks; otherwise as `exact.nearest_of`.

    None when the codes tell so little that to look at every row that passes is quicker.
    """
    most = int(_WORTH_IT * np.count_nonzero(passes))
    size = max(_CANDIDATES, _CANDIDATES_PER_HIT * k)
    if 2 * size > most:
        return None
    rough, rows = codes.nearest_of(query, passes, min(_REACH * size, most))
    scores = np.empty(0, np.float32)
    while 2 * size <= len(rows):  # otherwise the list says too little about what is not in it
        scores = np.concatenate([scores, _scored(query, vectors, rows[len(scores) : size])])
        if _is_enough(scores, rough, k):
            return best(scores, rows[:size], k)
        size *= 2
    return _nearest_above(codes, query, vectors, passes, k, scores, rough) if len(scores) else None


def _nearest_above(
    codes: Scanned, query: Vectors, vectors: Blocks, passes: Mask, k: int, scores: Scores, rough: Scores
) -> tuple[Scores, Rows] | None:
    """Return what `nearest_by_codes` does where much is about as near, by all rows that may be better than what is known.

    `scores` are those of the first candidates, and `rough` those by their codes: they tell how far codes are off.
    """
    most = int(_WORTH_IT * np.count_nonzero(passes))
    # So many deviations below what is looked for, all rows of the store together count less than what may be missed.
    reach = sqrt(2 * log(codes.rows / (_MISSED * k)))
    size, lowest = len(scores), inf
    rows = np.empty(0, np.int64)
    while True:
        mean, deviation = _errors(scores, rough)
        least = _least(scores, k) - mean
        if least - reach * deviation < lowest:
            lowest = least - (reach + _SLACK) * deviation
            rough, rows = codes.above(query, passes, lowest)
            if not size <= len(rows) <= most:
                return None
            order = np.argsort(-rough)
            rough, rows = rough[order], rows[order]
            scores = _scored(query, vectors, rows[:size])
        expected = np.cumsum(_chances(rough, least, deviation)[::-1])[::-1]
        size = max(size, int(np.count_nonzero(expected > _MISSED * k)))
        if _last(scores, k) >= len(scores) // 2:
            size = max(size, 2 * len(scores))
        if size <= len(scores):
            return best(scores, rows[:size], k)
        if size > len(rows):
            return None
        scores = np.concatenate([scores, _scored(query, vectors, rows[len(scores) : size])])


def _scored(query: Vectors, vectors: Blocks, rows: Rows) -> Scores:
    """Return the score of each of these rows."""
    ascending = np.argsort(rows)
    scores = np.empty(len(rows), np.float32)
    scores[ascending] = vectors.products(query, rows[ascending])
    return scores


def _is_enough(scores: Scores, rough: Scores, k: int) -> bool:
    """Whether the `k` best of the first candidates, with these `scores`, are believed to be the best of all.

    `rough` are the scores of all candidates by their codes, best first.
    """
    seen = len(scores)
    last = _last(scores, k)
    # A row with the code of the last answer may be equal to it and earlier.
    if last >= seen // 2 or rough[last] == rough[seen - 1]:
        return False
    mean, deviation = _errors(scores, rough)
    chances = _chances(rough[seen:], _least(scores, k) - mean, deviation)
    behind_the_list = float(chances[-1]) * len(chances)
    return float(chances.sum()) + behind_the_list <= _MISSED * k


def _least(scores: Scores, k: int) -> float:
    """Return the score of the last of the `k` best."""
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _last(scores: Scores, k: int) -> int:
    """Return the place of the last of the `k` best."""
    return int(np.flatnonzero(scores >= _least(scores, k))[-1])


def _errors(scores: Scores, rough: Scores) -> tuple[float, float]:
    """Return mean and deviation of what codes are off by, which is taken for a normal distribution."""
    errors = scores - rough[: len(scores)]
    mean = float(errors.sum()) / len(errors)
    errors -= mean
    return mean, sqrt(float(errors @ errors) / len(errors)) + _TINY


def _chances(rough: Scores, least: float, deviation: float) -> Scores:
    """Return the chance that each of these rows has a score above `least`, at most: Chernoff's bound."""
    distances = np.maximum((least - rough) / deviation, 0)
    return np.asarray(np.exp(-0.5 * distances * distances) / 2, np.float32)
