"""A graph over sealed rows (HNSW): nearly exact, and sub-linear. Never changed once it answers.

faiss keeps its own copy of the vectors, so a graph doubles what a user's rows cost in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import faiss

from memoryd.vectors.sealed import Sealed

if TYPE_CHECKING:
    from memoryd.vectors.blocks import Blocks

# The usual ones; recall@10 is 0.99 and more on sentence embeddings.
_M: Final = 16
_EF_CONSTRUCTION: Final = 200

# Candidates of a search, and the most rows it may be asked for: recall@10 0.999 and recall@100 0.994 over 40,000 sentences
# at 0.45 to 0.6 ms. faiss stops after so many candidates whatever it is asked for, so recall falls steeply beyond.
_EF_SEARCH: Final = 192
MOST_WANTED: Final = 100

# Neighbours per row: 2 M on the ground, and M on each floor above, where one row in M of the floor below stands.
_LINKS_PER_ROW: Final = 2 * _M + _M / (_M - 1)


class Graph(Sealed):
    """An HNSW graph over the first `rows` rows of a table; nearly exact for at most MOST_WANTED rows."""

    @classmethod
    def over(cls, vectors: Blocks, rows: int) -> Graph:
        """Build the graph over the first `rows` rows. Slow: 0.3 to 1 ms a row."""
        index = faiss.IndexHNSWFlat(vectors.dim, _M, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _EF_CONSTRUCTION
        index.hnsw.efSearch = _EF_SEARCH
        return cls.filled(index, vectors, rows)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the vectors faiss keeps, of the links, and of each row's level and place in the links."""
        return int(self.rows * (4 * self._index.d + 4 * _LINKS_PER_ROW + 12))
