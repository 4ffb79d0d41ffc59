"""What stands before and after each memory in its session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOWHERE: Final = -1


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The row before and the row after each row in its session, int32 [rows + 1], NOWHERE where there is none.

    The last place is that of NOWHERE itself: a neighbour of nothing is nothing.
    """

    before: NDArray[np.int32]
    after: NDArray[np.int32]


def neighbours(sessions: NDArray[np.int32], alive: NDArray[np.bool_]) -> Neighbours:
    """Return the neighbours of all rows that live; `sessions`, int32 [rows], is 0 where a row has none."""
    before = np.full(len(sessions) + 1, NOWHERE, np.int32)
    after = before.copy()
    rows = np.flatnonzero(alive & (sessions != 0))
    rows = rows[np.argsort(sessions[rows], kind="stable")]
    is_same = sessions[rows[1:]] == sessions[rows[:-1]]
    earlier, later = rows[:-1][is_same], rows[1:][is_same]
    before[later] = earlier
    after[earlier] = later
    return Neighbours(before, after)
