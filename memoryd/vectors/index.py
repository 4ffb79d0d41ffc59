"""A `MemoryIndex`: the rows themselves searched exactly, and above a border a graph over the sealed ones.

A graph may not be searched while it is added to, so it never is: sealing builds a new one, or extends a copy, and puts
it in place by one assignment. Rows behind the sealed ones are the tail, always searched exactly. The graph answers only
where it is as good as the exact search: without a filter, for not too many rows, and unless hidden rows crowd it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.interfaces import Hit, Hits
from memoryd.protocol.records import ANY
from memoryd.vectors.exact import best, nearest_alive, nearest_of
from memoryd.vectors.graph import MOST_WANTED, Graph
from memoryd.vectors.table import HIDDEN, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Contents, Vectors
    from memoryd.protocol.records import MemoryFilter
    from memoryd.vectors.blocks import Blocks
    from memoryd.vectors.exact import Mask, Rows, Scores

# The graph is as quick as the exact scan at 5,000 rows and twice as quick at 20,000 (0.61 ms against 1.29 at recall 0.999;
# `python -m benchmarks.index`). It also doubles the memory of a user and takes seconds to build, which is not worth it
# while the exact scan needs about a millisecond.
HNSW_ABOVE: Final = 20_000

# A tail is sealed when it is longer than this many rows and this share of the sealed ones.
_TAIL_ROWS: Final = 2_000
_TAIL_SHARE: Final = 0.1


class VectorIndex:
    """One user's rows, searchable. One writer, and any number of readers through views."""

    def __init__(self, contents: Contents, *, hnsw_above: int = HNSW_ABOVE) -> None:
        self._table = Table(contents.records, contents.vectors)
        self._hnsw_above = hnsw_above
        self._graph: Graph | None = None

    def add(self, records: Sequence[bytes], vectors: Vectors) -> None:
        self._table.add(records, vectors)

    def discard(self, ids: Sequence[RecordId]) -> None:
        self._table.discard(ids)

    def __contains__(self, record: RecordId) -> bool:
        return record in self._table.row_of

    def __len__(self) -> int:
        return len(self._table.row_of)

    def get(self, record: RecordId) -> tuple[bytes, Vectors] | None:
        row = self._table.row_of.get(record)
        return None if row is None else (self._table.records[row], self._table.vectors.row(row))

    def select(self, where: MemoryFilter, before: datetime | None = None) -> Sequence[RecordId]:
        mask = self._table.passing(where, self._table.rows, before)
        return [self._table.ids[row] for row in np.flatnonzero(mask)]

    def page(self, after: int, limit: int) -> tuple[Sequence[bytes], Vectors, int | None]:
        table = self._table
        rows = after + np.flatnonzero(table.alive(table.rows)[after:])
        chosen = rows[:limit]
        following = int(rows[limit]) if len(rows) > limit else None
        return [table.records[row] for row in chosen], table.vectors.take(chosen), following

    def view(self) -> View:
        return View(self._table, self._table.rows, self._graph)

    @property
    def resident_bytes(self) -> int:
        return self._table.resident_bytes + (self._graph.resident_bytes if self._graph else 0)

    def wants_sealing(self) -> bool:
        sealed = self._graph.rows if self._graph else 0
        tail = self._table.rows - sealed
        return self._table.rows > self._hnsw_above and tail > max(_TAIL_ROWS, _TAIL_SHARE * sealed)

    def seal(self) -> Callable[[], None]:
        rows, vectors = self._table.rows, self._table.vectors
        graph = self._graph.extended(vectors, rows) if self._graph else Graph.over(vectors, rows)

        def swap() -> None:
            self._graph = graph

        return swap


class View:
    """The rows there were at one moment, and the graph over the first of them."""

    def __init__(self, table: Table, rows: int, graph: Graph | None) -> None:
        self._table = table
        self._rows = rows
        self._graph = graph

    @property
    def rows(self) -> int:
        return self._rows

    def search(self, vector: Vectors, *, k: int, where: MemoryFilter) -> Hits:
        query = np.ascontiguousarray(vector, np.float32)
        vectors = self._table.vectors
        if where != ANY:
            passing = np.flatnonzero(self._table.passing(where, self._rows))
            return self._hits(nearest_of(query, vectors, passing, k), "exact")
        alive = self._table.alive(self._rows)
        if self._graph is not None and (found := _by_graph(self._graph, query, vectors, alive, k)):
            return self._hits(found, "hnsw")
        return self._hits(nearest_alive(query, vectors, 0, alive, k), "exact")

    def _hits(self, found: tuple[Scores, Rows], path: str) -> Hits:
        """Return hits with cosines; a row that was hidden since it was found is left out."""
        scores, rows = found
        records = self._table.records
        cosines = np.clip(scores, -1.0, 1.0).tolist()
        hits = ((records[row], score) for row, score in zip(rows.tolist(), cosines, strict=True))
        return Hits([Hit(record, score) for record, score in hits if record != HIDDEN], path)


def _by_graph(graph: Graph, query: Vectors, vectors: Blocks, alive: Mask, k: int) -> tuple[Scores, Rows] | None:
    """Return the `k` best by graph and exact tail; None when hidden rows take so much room that too few are left."""
    hidden = len(alive) - int(np.count_nonzero(alive))
    scores, rows = graph.nearest(query, min(k + hidden, MOST_WANTED))
    keep = alive[rows]
    if np.count_nonzero(keep) < k:
        return None
    tail_scores, tail_rows = nearest_alive(query, vectors, graph.rows, alive[graph.rows :], k)
    both = np.concatenate((scores[keep], tail_scores)), np.concatenate((rows[keep], tail_rows))
    return best(*both, k)
