"""Rows of vectors in blocks that never move: growing copies nothing, and what a reader looks at stays where it is.

The first blocks may stand in a file; what is looked at in them is copied.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.vectors.exact import products, products_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memoryd.protocol.interfaces import SealedRows, Vectors
    from memoryd.vectors.exact import Rows, Scores

# A block is as large as all before it, within these bounds. From 4 MiB on numpy would ask for huge pages, and the kernel
# takes milliseconds to find and clear them.
_LEAST_ROWS: Final = 64
_MOST_BYTES: Final = 3 << 20

# Rows of a file are copied in pieces of so many bytes: they stay in the processor's cache, and the C library does not get
# memory for them from the kernel, whose pages would cost more than the copy.
_PIECE_BYTES: Final = 192 << 10


class Blocks:
    """float32 [rows, dim], added to behind the last row by one writer; readers look no further than rows they know of."""

    def __init__(self, vectors: Vectors, sealed: Sequence[SealedRows] = ()) -> None:
        """Begin with `sealed` rows and these behind them, which are taken over and not copied."""
        self.dim: Final[int] = vectors.shape[1]
        self._blocks: list[Vectors | SealedRows] = [*sealed, np.require(vectors, np.float32, "C")]
        self._first = [0]  # row of each block
        for part in sealed:
            self._first.append(self._first[-1] + part.slots)
        self._mapped = self._first[-1]
        self.rows = self._mapped + len(vectors)
        self.piece: Final = max(1, _PIECE_BYTES // self.bytes_of(1))

    def add(self, vectors: Vectors) -> None:
        """Append float32 [n, dim]."""
        while len(vectors):
            last, used = self._blocks[-1], self.rows - self._first[-1]
            if not isinstance(last, np.ndarray) or used == len(last):
                rows = min(max(_LEAST_ROWS, self.rows - self._mapped), _MOST_BYTES // self.bytes_of(1))
                last, used = np.empty((rows, self.dim), np.float32), 0
                self._blocks.append(last)
                self._first.append(self.rows)
            part = vectors[: len(last) - used]
            last[used : used + len(part)] = part
            self.rows += len(part)
            vectors = vectors[len(part) :]

    def parts(self, first: int, behind: int) -> Iterator[tuple[int, Vectors]]:
        """Yield the rows from `first` up to `behind` piece by piece, each with the number of its first row."""
        for start, block in zip(self._first, self._blocks, strict=False):  # the writer may append meanwhile
            lowest, highest = max(first, start), min(behind, start + _length(block))
            if isinstance(block, np.ndarray):
                if lowest < highest:
                    yield lowest, block[lowest - start : highest - start]
                continue
            for at in range(lowest, highest, self.piece):
                yield at, block.vectors(slice(at - start, min(at + self.piece, highest) - start))

    def take(self, rows: Rows) -> Vectors:
        """Return a copy of these rows, int64 [m] ascending, as float32 [m, dim]."""
        found = [
            block[chosen] if isinstance(block, np.ndarray) else block.vectors(chosen)
            for block, chosen in self._split(rows)
        ]
        return found[0] if len(found) == 1 else np.concatenate([*found, np.empty((0, self.dim), np.float32)])

    def products(self, query: Vectors, rows: Rows) -> Scores:
        """Return the inner product of `query`, float32 [dim], with each of these rows, int64 [m] ascending.

        They are looked at where they stand. Raises Damaged.
        """
        found = [self._products(query, block, chosen) for block, chosen in self._split(rows)]
        return found[0] if len(found) == 1 else np.concatenate([*found, np.empty(0, np.float32)])

    def _products(self, query: Vectors, block: Vectors | SealedRows, rows: Rows) -> Scores:
        """Return the inner product of `query` with these rows of a block."""
        if isinstance(block, np.ndarray):
            return products_of(query, block, rows)
        if (matrix := block.matrix) is not None:
            # What stands behind a vector in its row counts nothing.
            padded = np.concatenate([query, np.zeros(matrix.shape[1] - self.dim, np.float32)])
            return products_of(padded, matrix, rows)
        scores = np.empty(len(rows), np.float32)
        for at in range(0, len(rows), self.piece):
            scores[at : at + self.piece] = products(query, block.vectors(rows[at : at + self.piece]))
        return scores

    def _split(self, rows: Rows) -> Iterator[tuple[Vectors | SealedRows, Rows]]:
        """Yield each block that has some of these rows, which ascend, with their numbers in it."""
        first = self._first[:]  # the writer may append meanwhile
        bounds = [*np.searchsorted(rows, first).tolist(), len(rows)]
        for block, start, (lowest, behind) in zip(self._blocks, first, pairwise(bounds), strict=False):
            if lowest < behind:
                yield block, rows[lowest:behind] - start

    @property
    def resident_bytes(self) -> int:
        """Bytes of the rows in memory; the room behind them has no pages yet."""
        return self.bytes_of(self.rows - self._mapped)

    def bytes_of(self, rows: int) -> int:
        """Return how many bytes so many rows take."""
        return 4 * rows * self.dim


def _length(block: Vectors | SealedRows) -> int:
    return len(block) if isinstance(block, np.ndarray) else block.slots
