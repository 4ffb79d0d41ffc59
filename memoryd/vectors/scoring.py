"""The nearest rows by their codes: the best of a scan are scored on the rows themselves, until few others can be better."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.vectors.exact import best, scores_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memoryd.protocol.interfaces import Vectors
    from memoryd.vectors.blocks import Blocks
    from memoryd.vectors.codes import Codes, MappedCodes
    from memoryd.vectors.exact import Mask, Rows, Scores

# So many of the best by their codes are scored first, and twice as many each time they are not enough.
_CANDIDATES: Final = 100
_CANDIDATES_PER_HIT: Final = 8

# They are enough when the answers come from the first half of them, and no more than this share of the answers must be
# expected among the other rows. Either rule alone fails somewhere: the first where nothing is near (0.90 of the answers are
# found on uniform vectors), the second where the errors of neighbours are alike (0.997 on real ones).
_MISSED: Final = 0.05

# A list of candidates is so many times as long as what is scored first, or this share of the rows, and so many times as long
# each time it does not suffice: to scan again costs as much as 1,500 more of them.
_REACH: Final = 4
_REACH_SHARE: Final = 1 / 256

# No list is longer than this share of what passes: to look at everything is quicker.
_WORTH_IT: Final = 0.5

_TINY: Final = 1e-6  # there is nothing to divide by where all codes are off by the same


def nearest_by_codes(
    codes: Codes | MappedCodes, query: Vectors, vectors: Blocks, passes: Mask, k: int
) -> tuple[Scores, Rows] | None:
    """Return the `k` best of the rows that `passes`, bool [rows of the codes], marks; otherwise as `exact.nearest`.

    None when the codes tell so little that to look at every row that passes is quicker.
    """
    longest = int(_WORTH_IT * np.count_nonzero(passes))
    size = max(_CANDIDATES, _CANDIDATES_PER_HIT * k)
    if 2 * size > longest:
        return None
    for length in _lengths(max(_REACH * size, int(_REACH_SHARE * codes.rows)), longest):
        rough, rows = codes.nearest_of(query, passes, length)
        scores = np.empty(0, np.float32)
        while 2 * size <= len(rows):  # otherwise the list says too little about what is not in it
            scores = np.concatenate([scores, _scored(query, vectors, rows[len(scores) : size])])
            if _is_enough(scores, rough, k):
                return best(scores, rows[:size], k)
            size *= 2
    return None


def _lengths(first: int, longest: int) -> Iterator[int]:
    length = first
    while length < longest:
        yield length
        length *= _REACH
    yield longest


def _scored(query: Vectors, vectors: Blocks, rows: Rows) -> Scores:
    """Return the score of each of these rows."""
    ascending = np.argsort(rows)
    scores = np.empty(len(rows), np.float32)
    scores[ascending] = scores_of(query, vectors, rows[ascending])
    return scores


def _is_enough(scores: Scores, rough: Scores, k: int) -> bool:
    """Whether the `k` best of the first candidates, with these `scores`, are believed to be the best of all.

    `rough` are the scores of all candidates by their codes, best first. What codes are off by is taken for a normal
    distribution, which is known from the rows that were scored.
    """
    seen = len(scores)
    least = np.partition(scores, seen - k)[seen - k]
    last = int(np.flatnonzero(scores >= least)[-1])
    # A row with the code of the last answer may be equal to it and earlier.
    if last >= seen // 2 or rough[last] == rough[seen - 1]:
        return False
    errors = scores - rough[:seen]
    mean = float(errors.sum()) / seen
    errors -= mean
    deviation = sqrt(float(errors @ errors) / seen) + _TINY
    distances = np.maximum((least - mean - rough[seen:]) / deviation, 0)
    chances = np.exp(-0.5 * distances * distances) / 2  # at most: Chernoff's bound
    behind_the_list = float(chances[-1]) * len(chances)
    return float(chances.sum()) + behind_the_list <= _MISSED * k
