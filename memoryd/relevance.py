"""How relevant an answer is: a number between 0 and 1 that means the same for every query.

A score is scaled to the best of its query, and something is always best. What tells a right answer from the best of wrong
ones is how much of the query is found at all, in words or in meaning. A logistic regression makes a chance of that: of the
answers with a relevance of .3, three in ten were right, where every second question had an answer at all.
`benchmarks.relevance` fits it, on vectors of the shipped encoder. What learning knows of an answer is other evidence: it is added to the
logarithm of the odds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Scores = NDArray[np.float32]  # [m]

CONSTANT: Final = "constant"
_NO_EVIDENCE: Final = np.float32(0)

BY_BOTH: Final[Mapping[str, float]] = {
    CONSTANT: -14.96,
    "relative": 9.87,
    "own": 1.18,
    "covered": 2.56,
    "matched": 0.68,
}
BY_WORDS: Final[Mapping[str, float]] = {
    CONSTANT: -14.28,
    "relative": 9.94,
    "own": 1.32,
    "covered": 0.64,
    "matched": 1.38,
}
BY_VECTORS: Final[Mapping[str, float]] = {
    CONSTANT: -7.77,
    "relative": 1.85,
    "own": 6.56,
}


def features(scores: Scores, shares: Scores, cosines: Scores, terms: int) -> dict[str, Scores]:
    """Return what relevance is made of, float32 [m] by name, for answers with these scores, float32 [m].

    `shares` say how much of the query's `terms` each holds, by their rarity, and `cosines` how near it is, float32 [m] both; 0
    where words, or vectors, were not looked at. Both cover the query, its score over the best one's is `relative`, and
    `matched` counts the terms of the answer that has most of them.
    """
    ones = np.ones(len(scores), np.float32)
    shares, cosines = np.clip(shares, 0, 1), np.clip(cosines, 0, 1)
    most, nearest = shares.max(initial=0), cosines.max(initial=0)
    return {
        CONSTANT: ones,
        "relative": np.maximum(scores, 0) / max(float(scores.max(initial=0)), 1e-6),
        "own": 1 - (1 - shares) * (1 - cosines),
        "covered": ones * (1 - (1 - most) * (1 - nearest)),
        "matched": ones * np.float32(np.log1p(most * terms)),
    }


def relevance(
    given: Mapping[str, Scores], weights: Mapping[str, float], evidence: Scores | np.float32 = _NO_EVIDENCE
) -> Scores:
    """Return the relevance of each answer, float32 [m], from its features, and from other `evidence` for it, float32 [m], in nats."""
    total = sum((np.float32(weight) * given[name] for name, weight in weights.items()), evidence)
    return np.asarray(1 / (1 + np.exp(-total)), np.float32)
