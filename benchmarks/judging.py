"""How good an answer is, and how sure a mean of many is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

K: Final = 10
SESSIONS: Final = 5
_FEW: Final = 5
_RESAMPLED: Final = 2_000
_SEED: Final = 20260101
_GAINS: Final = 1 / np.log2(np.arange(2, K + 2))


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Resample the values, which is resampling the questions; always the same way (percentile bootstrap).

        Of differences between two systems on the same questions this is the paired comparison.
        """
        random, given = np.random.default_rng(_SEED), np.array(values, float)
        means: NDArray[np.float64] = np.array(
            [given[random.integers(len(given), size=len(given))].mean() for _ in range(_RESAMPLED)]
        )
        low, high = np.percentile(means, (2.5, 97.5)).tolist()
        return cls(float(given.mean()), low, high)

    def shown(self) -> str:
        """Return the mean and half of the interval."""
        return f"{_short(self.mean)} ± {_short((self.high - self.low) / 2)}"

    def shown_as_difference(self) -> str:
        """Return the mean with its sign, and the interval."""
        return f"{_short(self.mean, '+')} ({_short(self.low, '+')} to {_short(self.high, '+')})"


def of_ranked(ranked: Sequence[str], gold: Collection[str]) -> dict[str, float]:
    """Return how much of `gold` is found, and how early. Of the reciprocal rank all that is ranked counts."""
    is_gold = np.array([each in gold for each in ranked[:K]], bool)
    first = next((place for place, each in enumerate(ranked, 1) if each in gold), None)
    return {
        f"recall@{_FEW}": float(is_gold[:_FEW].sum()) / len(gold),
        f"recall@{K}": float(is_gold.sum()) / len(gold),
        f"nDCG@{K}": float(_GAINS[: len(is_gold)][is_gold].sum() / _GAINS[: len(gold)].sum()),
        "MRR": 0.0 if first is None else 1 / first,
    }


def of_sessions(ranked: Sequence[str], gold: Collection[str]) -> dict[str, float]:
    """Return whether one, and whether each, of the sessions `gold` is among the first."""
    first = set(ranked[:SESSIONS])
    return {
        f"session any@{SESSIONS}": float(any(session in first for session in gold)),
        f"session all@{SESSIONS}": float(all(session in first for session in gold)),
    }


def _short(value: float, sign: str = "") -> str:
    """Return three decimals without the zero before them."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)
