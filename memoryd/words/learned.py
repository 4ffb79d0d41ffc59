"""What was learned, joined with the candidates of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.words.fusion import BY_VECTORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import IndexView, Numbers, Vectors
    from memoryd.protocol.learning import Learned

_PREFIX: Final = "sona_"  # of its summands


def rows_for(view: IndexView, mask: NDArray[np.bool_], learned: Learned, *, is_filtered: bool) -> Numbers:
    """Return the rows, int64 [m], that are candidates because of what was learned, among those that `mask` marks. Raises Damaged."""
    helped = view.find(learned.helped) if learned.helped else np.empty(0, np.int64)
    helped = helped[mask[helped]]
    if learned.bent is None:
        return helped
    return np.concatenate([helped, view.nearest(learned.bent, mask, k=BY_VECTORS, is_filtered=is_filtered).rows])


def summands(view: IndexView, rows: Numbers, vector: Vectors, learned: Learned) -> Mapping[str, Vectors]:
    """Return what is added to the scores of these rows, int64 [m] ascending, float32 [m] by name. Raises Damaged."""
    moved = np.zeros(len(rows), np.float32)
    if learned.bent is not None:
        moved = view.cosines(learned.bent - vector, rows)
    return {_PREFIX + name: values for name, values in learned.parts(view.keys_at(rows), moved).items()}
