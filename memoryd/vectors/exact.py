"""Exact nearest rows by inner product; ties go to the earlier row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import faiss
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import Vectors
    from memoryd.vectors.blocks import Blocks

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


def nearest_of(query: Vectors, rows: Blocks, subset: Rows, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best among the rows `subset`, int64 [m] ascending; otherwise as `nearest`."""
    found = []
    for at in range(0, len(subset), _GATHER):
        chosen = subset[at : at + _GATHER]
        scores, near = nearest(query, rows.take(chosen), k)
        found.append((scores, chosen[near]))
    return best_of(found, k)


def nearest_alive(query: Vectors, rows: Blocks, first: int, alive: Mask, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of those rows that `alive`, bool [n] for the rows from `first` on, marks."""
    hidden = len(alive) - int(np.count_nonzero(alive))
    if hidden > _MAX_HIDDEN:
        return nearest_of(query, rows, first + np.flatnonzero(alive), k)
    found = []
    for start, part in rows.parts(first, first + len(alive)):
        scores, near = nearest(query, part, k + hidden)
        keep = alive[start - first + near]
        found.append((scores[keep][:k], start + near[keep][:k]))
    return best_of(found, k)


def best_of(found: Sequence[tuple[Scores, Rows]], k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of what was found in several places."""
    if not found:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return best(scores, rows, k)


def best(scores: Scores, rows: Rows, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of what was found, in order."""
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]
