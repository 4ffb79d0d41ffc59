"""Which rows of a file somebody sees: who looks now, who looks back in time, and a branch that began here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.rvf.format import NO_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from memoryd.rvf.format import Ids

    Mask = NDArray[np.bool_]  # [n]
    Moments = NDArray[np.int64]  # [n], microseconds since 1970


END_OF_TIME: Final = (1 << 63) - 1  # microseconds since 1970


@dataclass(frozen=True, slots=True)
class Sight:
    """Every row but those in `dead`, uint64 [d], those from the row `below` on, and those added after `until_us`."""

    dead: Ids = field(default_factory=lambda: NO_ROWS)
    below: int | None = None
    until_us: int | None = None

    def sees_all(self, first: int, last: int) -> bool:
        """Whether every row from `first` to `last` is seen, whenever it was added."""
        is_hidden = (self.dead >= first) & (self.dead <= last)
        return self.until_us is None and (self.below is None or last < self.below) and not is_hidden.any()

    def sees(self, rows: Ids, added_us: Callable[[], Moments]) -> Mask:
        """Return which of these rows, uint64 [n], are seen; `added_us` is asked for only where it matters."""
        mask = np.ones(len(rows), bool)
        if len(self.dead):
            mask &= ~np.isin(rows, self.dead)
        if self.below is not None:
            mask &= rows < self.below
        if self.until_us is not None:
            mask &= added_us() <= self.until_us
        return mask


def dead_by(deleted: Ids, times: Mapping[int, int], moment_us: int) -> Ids:
    """Return those of the rows `deleted`, uint64 [d], that were so at a moment; `times` says since when, if it is known.

    A row that another program deleted has no time and was never there for who looks back.
    """
    return np.array([row for row in deleted.tolist() if times.get(row, 0) <= moment_us], np.uint64)
