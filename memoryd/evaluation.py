"""How good an order of answers is, and how sure a difference between two of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.messages import Interval

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.messages import Verdict

DEPTH: Final = 10  # answers that count
_WORTH: Final = 1 / np.log2(np.arange(2, DEPTH + 2))  # of each place
_RESAMPLES: Final = 1_000
_OUTSIDE: Final = (2.5, 97.5)  # per cent
_SEED: Final = 20260101


def ndcg(answers: Sequence[Collection[RecordId]], helped: Collection[RecordId], harmful: Collection[RecordId]) -> float:
    """Return nDCG@10 from 0 to 1: what helped is worth 1, what was harmful -1, all else nothing.

    An answer is one memory, or several that say the same. The scale goes from the worst order to the best (Gienapp et al., The Impact
    of Negative Relevance Judgments on nDCG, CIKM 2020); without anything harmful this is the usual nDCG. One of both must not be empty.
    """
    worth = [(not each.isdisjoint(helped)) - (not each.isdisjoint(harmful)) for each in map(frozenset, answers[:DEPTH])]
    best, worst = _WORTH[: len(helped)].sum(), -_WORTH[: len(harmful)].sum()
    reached = float(np.dot(worth, _WORTH[: len(worth)]))
    return float((reached - worst) / (best - worst))


def interval(values: Sequence[float]) -> Interval:
    """Return the mean and where it lies with a chance of 95 %, by the percentile bootstrap (Efron and Tibshirani, 1993)."""
    given = np.array(values, np.float64)
    rng = np.random.default_rng(_SEED)
    means: NDArray[np.float64] = given[rng.integers(0, len(given), (_RESAMPLES, len(given)), np.int32)].mean(axis=1)
    low, high = np.percentile(means, _OUTSIDE).tolist()
    return Interval(mean=float(given.mean()), low=low, high=high)


def verdict(change: Interval) -> Verdict:
    """Return what a change of quality means."""
    if change.low > 0:
        return "helps"
    return "harms" if change.high < 0 else "no sure difference"
