"""Exact nearest rows by inner product; ties go to the earlier row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import faiss
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import Vectors

    Scores = NDArray[np.float32]  # [m], descending
    Rows = NDArray[np.int64]  # [m]
    Mask = NDArray[np.bool_]  # [n]

# Rows of a subset are gathered this many at a time: 6 MB at 384 dimensions, so that a large subset costs no large copy.
_GATHER: Final = 4096

# So many hidden rows are found and thrown away again; above, it costs less to look at the others only.
_MAX_HIDDEN: Final = 500


def nearest(query: Vectors, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of `vectors`, float32 [n, dim] in one piece, for `query`, float32 [dim], without copying.

    Scores descend; where they are equal, rows ascend. Fewer than `k` when there are fewer rows.
    """
    n = len(vectors)
    k = min(k, n)
    if k == 0:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    # faiss keeps any of several equal scores at the border, so it is asked for more until the border is passed.
    take = min(k + 1, n)
    while True:
        scores, rows = (found[0] for found in faiss.knn(query[None], vectors, take, metric=faiss.METRIC_INNER_PRODUCT))
        if take == n or scores[take - 1] < scores[k - 1]:
            return best(scores, rows, k)
        take = min(2 * take, n)


def nearest_of(query: Vectors, vectors: Vectors, subset: Rows, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best among the rows `subset`, int64 [m] ascending; otherwise as `nearest`."""
    found = [
        (scores, chosen[rows])
        for chosen in (subset[at : at + _GATHER] for at in range(0, len(subset), _GATHER))
        for scores, rows in [nearest(query, vectors[chosen], k)]
    ]
    if not found:
        return nearest(query, vectors[:0], k)
    scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return best(scores, rows, k)


def nearest_alive(query: Vectors, vectors: Vectors, alive: Mask, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of the rows that `alive`, bool [n], marks; otherwise as `nearest`."""
    hidden = len(alive) - int(np.count_nonzero(alive))
    if hidden > _MAX_HIDDEN:
        return nearest_of(query, vectors, np.flatnonzero(alive), k)
    scores, rows = nearest(query, vectors, k + hidden)
    keep = alive[rows]
    return scores[keep][:k], rows[keep][:k]


def best(scores: Scores, rows: Rows, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of what was found, in order."""
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]
