"""Exact nearest rows by inner product; ties go to the earlier row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

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

_faiss: Final[Any] = faiss  # the types that it publishes leave out what is used here


def nearest_of(query: Vectors, rows: Blocks, subset: Rows, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best among the rows `subset`, int64 [m] ascending, for `query`, float32 [dim], without copying them.

    Scores descend; where they are equal, rows ascend. Fewer than `k` when there are fewer rows. Raises Damaged.
    """
    return best(rows.products(query, subset), subset, k)


def nearest_alive(query: Vectors, rows: Blocks, first: int, alive: Mask, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of those rows that `alive`, bool [n] for the rows from `first` on, marks."""
    return nearest_of(query, rows, first + np.flatnonzero(alive), k)


def products(query: Vectors, vectors: Vectors) -> Scores:
    """Return the inner product of `query` with each of `vectors`, float32 [n, dim] in one piece."""
    scores = np.empty(len(vectors), np.float32)
    n, dim = vectors.shape
    _faiss.fvec_inner_products_ny(faiss.swig_ptr(scores), faiss.swig_ptr(query), faiss.swig_ptr(vectors), dim, n)
    return scores


def products_of(query: Vectors, vectors: Vectors, subset: Rows) -> Scores:
    """Return the inner product of `query` with these of `vectors`, float32 [n, dim] in one piece, where they stand."""
    scores = np.empty(len(subset), np.float32)
    numbers = (faiss.swig_ptr(each) for each in (scores, query, vectors, np.ascontiguousarray(subset)))
    _faiss.fvec_inner_products_by_idx(*numbers, vectors.shape[1], 1, len(subset))
    return scores


def best_of(found: Sequence[tuple[Scores, Rows]], k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of what was found in several places."""
    scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return best(scores, rows, k)


def best(scores: Scores, rows: Rows, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of what was found, in order."""
    if 0 < k < len(scores):
        among = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        scores, rows = scores[among], rows[among]
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]
