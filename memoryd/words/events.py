"""The memory that tells when an event was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memoryd.words.terms import terms_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memoryd.words.matching import Match


def told_in(match: Match, are_questions: NDArray[np.bool_], name: str) -> int | None:
    """Return the row that tells of the event `name`: it holds all words of it, and most of the query; None if none does.

    A question about an event does not tell of it. Of rows that are as good it is the one that came last.
    """
    rows_of = {one.term: one.rows for one in match.matched}
    terms = terms_of(name)
    if not terms or not rows_of.keys() >= set(terms):
        return None
    told = np.zeros(len(match.scores), np.int64)
    for term in terms:
        told[rows_of[term]] += 1
    rows = np.flatnonzero((told == len(terms)) & ~are_questions)
    if not len(rows):
        return None
    best = rows[match.scores[rows] == match.scores[rows].max()]
    return int(best[-1])
