"""Rows of vectors in blocks that never move: growing copies nothing, and what a reader looks at stays where it is."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memoryd.protocol.interfaces import Vectors
    from memoryd.vectors.exact import Rows

# A block is as large as all before it, within these bounds. From 4 MiB on numpy would ask for huge pages, and the kernel
# takes milliseconds to find and clear them.
_LEAST_ROWS: Final = 64
_MOST_BYTES: Final = 3 << 20


class Blocks:
    """float32 [rows, dim], added to behind the last row by one writer; readers look no further than rows they know of."""

    def __init__(self, vectors: Vectors) -> None:
        """Begin with these rows, which are taken over and not copied."""
        self.rows = len(vectors)
        self.dim: Final[int] = vectors.shape[1]
        self._blocks = [np.require(vectors, np.float32, "C")]
        self._first = [0]  # row of each block

    def add(self, vectors: Vectors) -> None:
        """Append float32 [n, dim]."""
        while len(vectors):
            used = self.rows - self._first[-1]
            if used == len(self._blocks[-1]):
                rows = min(max(_LEAST_ROWS, self.rows), _MOST_BYTES // self.bytes_of(1))
                self._blocks.append(np.empty((rows, self.dim), np.float32))
                self._first.append(self.rows)
                used = 0
            part = vectors[: len(self._blocks[-1]) - used]
            self._blocks[-1][used : used + len(part)] = part
            self.rows += len(part)
            vectors = vectors[len(part) :]

    def parts(self, first: int, behind: int) -> Iterator[tuple[int, Vectors]]:
        """Yield the rows from `first` up to `behind` piece by piece, each with the number of its first row."""
        for start, block in zip(self._first, self._blocks, strict=False):  # the writer may append meanwhile
            lowest, highest = max(first, start), min(behind, start + len(block))
            if lowest < highest:
                yield lowest, block[lowest - start : highest - start]

    def row(self, row: int) -> Vectors:
        """Return one row, float32 [dim]."""
        place = bisect_right(self._first, row) - 1
        found: Vectors = self._blocks[place][row - self._first[place]]
        return found

    def take(self, rows: Rows) -> Vectors:
        """Return a copy of these rows, int64 [m] ascending, as float32 [m, dim]."""
        taken = np.empty((len(rows), self.dim), np.float32)
        done = 0
        for start, block in zip(self._first, self._blocks, strict=False):
            behind = int(np.searchsorted(rows, start + len(block)))
            taken[done:behind] = block[rows[done:behind] - start]
            done = behind
        return taken

    @property
    def resident_bytes(self) -> int:
        """Bytes of the rows that are there; the room behind them has no pages yet."""
        return self.bytes_of(self.rows)

    def bytes_of(self, rows: int) -> int:
        """Return how many bytes so many rows take."""
        return 4 * rows * self.dim
