"""What one finished run says: a question, what was shown for it, and what of that helped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from memoryd.protocol.ids import TrajectoryId

    Vector = NDArray[np.float32]  # [dim], unit length
    Scores = NDArray[np.float32]  # [m]
    Keys = NDArray[np.uint64]  # [m], see keys.folded


@dataclass(frozen=True, slots=True)
class Intent:
    """A question as it was embedded, float32 [dim], and its words: hashes, uint64 [t] ascending, and their rarity, float32 [t]."""

    vector: Vector
    terms: Keys
    rarity: Scores


@dataclass(frozen=True, slots=True)
class Lesson:
    """A finished run. The first `shown` of `keys` [m] were shown, the others were its next candidates.

    `base` is the score of each without anything learned, `credit`, from 0 to 1, how much each helped; `harmed` marks what did
    harm. `is_coarse` when nobody said which of them helped, so that credit is the quality of the whole run.
    """

    id: TrajectoryId
    intent: Intent
    keys: Keys
    base: Scores
    credit: Scores
    harmed: NDArray[np.bool_]
    shown: int
    quality: float
    is_coarse: bool
    ended_us: int

    @property
    def is_positive(self) -> bool:
        """Whether something helped, and it is known what."""
        return not self.is_coarse and bool(self.credit.any())
