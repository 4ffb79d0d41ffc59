"""What codes and graph have in common: a faiss index over the first rows of a table. Never changed once it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import faiss

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Vectors
    from memoryd.vectors.blocks import Blocks
    from memoryd.vectors.exact import Rows, Scores


class Sealed:
    """An index over the first `rows` rows."""

    def __init__(self, index: faiss.Index) -> None:
        """Take over an index that is not changed any more."""
        self._index = index

    @classmethod
    def filled(cls, index: faiss.Index, vectors: Blocks, rows: int) -> Self:
        """Add the rows that `index` does not hold yet, up to `rows` of them, and seal it."""
        for _, part in vectors.parts(index.ntotal, rows):
            index.add(part)
        return cls(index)

    def extended(self, vectors: Blocks, rows: int) -> Self:
        """Return an index over the first `rows` rows, of which this one has some; it stays as it is."""
        return self.filled(faiss.clone_index(self._index), vectors, rows)

    @property
    def rows(self) -> int:
        return int(self._index.ntotal)

    def nearest(self, query: Vectors, n: int) -> tuple[Scores, Rows]:
        """Return about the `n` best rows for `query`, float32 [dim], with the scores the index gives them, best first."""
        return self._search(query, n)

    def _search(self, query: Vectors, n: int, how: faiss.SearchParameters | None = None) -> tuple[Scores, Rows]:
        scores, rows = (found[0] for found in self._index.search(query[None], min(n, self.rows), params=how))
        is_row = rows >= 0
        return scores[is_row], rows[is_row]
