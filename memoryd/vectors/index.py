"""A `MemoryIndex`: few rows are searched exactly, many by codes, very many by a graph.

What codes or a graph find is scored again on the rows themselves. Neither may be searched while it is added to, so it
never is: sealing makes new ones, or extends a copy, and puts them in place by one assignment. Rows behind the sealed ones
are the tail, always searched exactly. Codes see every row, so a filter costs them nothing but a longer list of candidates;
the graph answers only without a filter, for not too many rows, and unless hidden rows crowd it.
"""

from __future__ import annotations

import secrets
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import numpy as np

from memoryd import relevance
from memoryd.protocol.errors import Damaged
from memoryd.protocol.interfaces import Hit, Hits, Nearest
from memoryd.protocol.records import ANY
from memoryd.vectors.codes import Codes, MappedCodes
from memoryd.vectors.exact import best_of, nearest_alive
from memoryd.vectors.graph import MOST_WANTED, Graph
from memoryd.vectors.remembered import Remembered
from memoryd.vectors.scoring import nearest_by_codes
from memoryd.vectors.table import HIDDEN, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Contents, SealedRows, Swap, Vectors
    from memoryd.protocol.records import MemoryFilter
    from memoryd.vectors.blocks import Blocks
    from memoryd.vectors.codes import Codebook
    from memoryd.vectors.exact import Mask, Rows, Scores

# Up to here rows are searched exactly: the codes would save less than it takes to score their candidates.
EXACT_ROWS: Final = 2_000

# A filter that fewer rows pass than this share of all is answered by looking at those rows only.
_EXACT_SHARE: Final = 0.01

# Above this many rows a graph is quicker than the codes; it doubles the memory of a user and takes minutes to build.
GRAPH_ABOVE: Final = 200_000

# The same for a model without a codebook, where the graph competes with the exact scan: at 20,000 rows it is twice as
# quick (0.61 ms against 1.29 at recall 0.999; `python -m benchmarks.index`).
GRAPH_WITHOUT_CODES_ABOVE: Final = 20_000

# A graph's tail is sealed when it is longer than this many rows and this share of the sealed ones; that of codes, which
# are quick to extend, when it is longer than what is searched exactly anyway.
_TAIL_ROWS: Final = 2_000
_TAIL_SHARE: Final = 0.1


# A page is followed by the number of rebases and of the row; that many rebases are remembered, each with a byte a row.
_ROWS_AT_MOST: Final = 1 << 40
_MOVES: Final = 8


class VectorIndex:
    """One user's rows, searchable. One writer, and any number of readers through views."""

    def __init__(self, contents: Contents, codebook: Codebook | None = None, *, graph_above: int = GRAPH_ABOVE) -> None:
        """Begin with `contents`. Without a codebook of the model there are no codes, and a graph is built earlier."""
        self._codebook = codebook
        self._graph_above = graph_above if codebook else min(graph_above, GRAPH_WITHOUT_CODES_ABOVE)
        self._retired: WeakSet[Table] = WeakSet()  # tables that a view may still look at
        self._rebases = 1 + secrets.randbelow(1 << 20)  # a number of an earlier index means nothing to this one
        self._moves: deque[tuple[Mask, Mask]] = deque(maxlen=_MOVES)  # who was alive before and after the last ones
        self._begin(Table(contents))

    def add(self, records: Sequence[bytes], vectors: Vectors) -> None:
        self._table.add(records, vectors)

    def discard(self, ids: Sequence[RecordId]) -> None:
        for table in (self._table, *self._retired):
            table.discard(ids)

    def __len__(self) -> int:
        return self._table.live

    def known(self, ids: Sequence[RecordId]) -> set[RecordId]:
        table = self._table
        return set(table.ids(table.find(ids)))

    def records(self, ids: Sequence[RecordId]) -> Sequence[bytes]:
        table = self._table
        return [record for record in table.records(table.find(ids)) if record != HIDDEN]  # hidden since it was found

    def vectors(self, ids: Sequence[RecordId]) -> Vectors:
        table = self._table
        return table.vectors.take(table.find(ids))

    def select(self, where: MemoryFilter, before: datetime | None = None) -> Sequence[RecordId]:
        table = self._table
        return table.ids(np.flatnonzero(table.passing(where, table.rows, before)))

    def page(self, after: int, limit: int) -> tuple[Sequence[bytes], Vectors, int | None]:
        table = self._table
        first = self._row_now(*divmod(after, _ROWS_AT_MOST))
        rows = first + np.flatnonzero(table.alive(table.rows)[first:])
        chosen = rows[:limit]
        following = self._rebases * _ROWS_AT_MOST + int(rows[limit]) if len(rows) > limit else None
        return table.records(chosen), table.vectors.take(chosen), following

    def view(self) -> View:
        return View(self._table, self._table.rows, self._codes, self._graph)

    @property
    def resident_bytes(self) -> int:
        sealed = (part.resident_bytes for part in (self._codes, self._graph) if part is not None)
        return self._table.resident_bytes + sum(sealed)

    def check(self) -> Callable[[], None]:
        for part in self._table.sealed:
            try:
                part.check()
            except Damaged as error:
                return partial(self._tell, part, error)
        return lambda: None

    def _tell(self, part: SealedRows, error: Damaged) -> None:
        if part in self._table.sealed:  # and not replaced meanwhile, when nobody reads it any more
            raise error

    def rebased(self, contents: Contents) -> Swap:
        table = Table(contents)

        def swap(
            deleted: Sequence[RecordId] = (), records: Sequence[bytes] = (), vectors: Vectors | None = None
        ) -> None:
            before, after = self._table.alive(self._table.rows), table.alive(table.rows)
            table.discard(deleted)
            if vectors is not None:
                table.add(records, vectors)
            self._moves.append((before, after))
            self._rebases += 1
            self._retired.add(self._table)
            self._begin(table, self._graph_for(table))

        return swap

    def _row_now(self, rebases: int, row: int) -> int:
        """Return where the row that had this number after so many rebases stands now; the first row if nobody knows."""
        since = self._rebases - rebases
        if not 0 <= since <= len(self._moves):
            return 0
        for before, after in list(self._moves)[len(self._moves) - since :]:
            place = int(np.count_nonzero(before[:row]))  # among the live ones, whose order stays
            live = np.flatnonzero(after)
            # What was not committed came again behind what stands in the file.
            row = int(live[place]) if place < len(live) else len(after) + place - len(live)
        return row

    def wants_sealing(self) -> bool:
        return self._codes_want_sealing() or self._graph_wants_sealing()

    def seal(self) -> Callable[[], None]:
        if self._codebook is not None and self._codes_want_sealing():
            return self._seal_codes(self._codebook)
        return self._seal_graph()

    def _graph_for(self, table: Table) -> Graph | None:
        """Return the graph if the rows it is over stand in the same places of `table`."""
        stayed = 0
        for ours, theirs in zip(self._table.sealed, table.sealed, strict=False):
            if ours is not theirs:
                break
            stayed += ours.slots
        return self._graph if self._graph is not None and self._graph.rows <= stayed else None

    def _begin(self, table: Table, graph: Graph | None = None) -> None:
        has_codes = self._codebook is not None and all(part.codebook == self._codebook.sha256 for part in table.sealed)
        is_mapped = has_codes and table.mapped > EXACT_ROWS
        # The table goes last: who begins to seal at this moment must not take the codes of its rows for those of others.
        self._graph = graph
        self._codes: Codes | MappedCodes | None = (
            MappedCodes(self._codebook, table.sealed) if is_mapped and self._codebook is not None else None
        )
        self._table = table

    def _codes_want_sealing(self) -> bool:
        sealed = self._codes.rows if self._codes else 0
        is_mapped = isinstance(self._codes, MappedCodes)
        return self._codebook is not None and (is_mapped or self._table.rows - sealed > EXACT_ROWS)

    def _graph_wants_sealing(self) -> bool:
        sealed = self._graph.rows if self._graph else 0
        tail = _linkable(self._table) - sealed
        return self._table.rows > self._graph_above and tail > max(_TAIL_ROWS, _TAIL_SHARE * sealed)

    def _seal_codes(self, codebook: Codebook) -> Callable[[], None]:
        table, known = self._table, self._codes
        rows, vectors = table.rows, table.vectors
        if isinstance(known, MappedCodes):
            known = Codes.loaded(codebook, table.sealed) if table.sealed else None
        if known is None or rows - known.rows > EXACT_ROWS:
            known = known.extended(vectors, rows) if known else Codes.over(codebook, vectors, rows)
        codes = known

        def swap() -> None:
            if self._table is table:  # otherwise its rows have other numbers now
                self._codes = codes

        return swap

    def _seal_graph(self) -> Callable[[], None]:
        table, known = self._table, self._graph
        rows, vectors = _linkable(table), table.vectors
        graph = known.extended(vectors, rows) if known else _stored_graph(table, rows) or Graph.over(vectors, rows)

        def swap() -> None:
            if self._table is table:
                self._graph = graph

        return swap


class View:
    """The rows there were at one moment, and the codes and the graph of the first of them."""

    def __init__(self, table: Table, rows: int, codes: Codes | MappedCodes | None, graph: Graph | None) -> None:
        self._table = table
        self._rows = rows
        self._codes = codes
        self._graph = graph

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def numbering(self) -> object:
        return self._table

    def search(self, vector: Vectors, *, k: int, where: MemoryFilter) -> Hits:
        return self._hits(self.nearest(vector, self.passing(where), k=k, is_filtered=where != ANY))

    def passing(self, where: MemoryFilter) -> Mask:
        return self._table.passing(where, self._rows)

    def nearest(self, vector: Vectors, mask: Mask, *, k: int, is_filtered: bool) -> Nearest:
        query = np.ascontiguousarray(vector, np.float32)
        vectors = self._table.vectors
        if self._graph is not None and not is_filtered and self._is_quicker(self._graph):
            found = _by_graph(self._graph, query, vectors, mask, k)
            if found is not None:
                return Nearest(*found, "hnsw")
        if self._codes is not None and np.count_nonzero(mask) > max(EXACT_ROWS, _EXACT_SHARE * self._rows):
            found = _by_codes(self._codes, query, vectors, mask, k)
            if found is not None:
                return Nearest(*found, "mapped" if isinstance(self._codes, MappedCodes) else "codes")
        return Nearest(*nearest_alive(query, vectors, 0, mask, k), "exact")

    def cosines(self, vector: Vectors, rows: Rows) -> Scores:
        return self._table.vectors.products(np.ascontiguousarray(vector, np.float32), rows)

    def keys(self, first: int, behind: int) -> NDArray[np.uint64]:
        return self._table.keys(first, min(behind, self._rows))

    def keys_at(self, rows: Rows) -> NDArray[np.uint64]:
        return self._table.keys_at(rows)

    def find(self, records: Sequence[RecordId]) -> Rows:
        rows = self._table.find(records)
        return rows[rows < self._rows]

    def memories(self) -> Remembered:
        rows = np.flatnonzero(self._table.alive(self._rows))
        return Remembered(self._table.vectors, rows, self._table.keys(0, self._rows)[rows])

    def sessions(self, rows: Rows) -> NDArray[np.int64]:
        return self._table.sessions(rows)

    def records(self, rows: Rows) -> Sequence[bytes]:
        return self._table.records(rows)

    def _is_quicker(self, graph: Graph) -> bool:
        """Whether a graph is quicker than the codes: they see the rows behind it too."""
        return self._codes is None or self._rows - graph.rows <= EXACT_ROWS

    def _hits(self, found: Nearest) -> Hits:
        """Return hits with cosines; a row that was hidden since it was found is left out."""
        scores, rows = found.scores, found.rows
        ascending = np.argsort(rows)
        records = dict(zip(ascending.tolist(), self._table.records(rows[ascending]), strict=True))
        cosines = [max(-1.0, min(1.0, score)) for score in scores.tolist()]
        chances = relevance.relevance(
            relevance.features(scores, np.zeros_like(scores), scores, 0), relevance.BY_VECTORS
        ).tolist()
        hits = (
            Hit(records[place], cosine, cosine, cosine, chance)
            for place, (cosine, chance) in enumerate(zip(cosines, chances, strict=True))
        )
        return Hits([hit for hit in hits if hit.record != HIDDEN], found.path)


def _linkable(table: Table) -> int:
    """Return how many of the first rows a graph is made of: those that stand in a file, since the others will move there."""
    return table.mapped or table.rows


def _stored_graph(table: Table, rows: int) -> Graph | None:
    """Return the graph that the file holds, with what it lacks of the first `rows` rows; None when there is none of use."""
    found = table.linked()
    if found is not None:
        with suppress(ValueError):  # another program's, with lists longer than ours
            return Graph.continued(found[0], table.vectors, found[1], rows)
    return None


def _by_codes(
    codes: Codes | MappedCodes, query: Vectors, vectors: Blocks, mask: Mask, k: int
) -> tuple[Scores, Rows] | None:
    """Return the `k` best by codes and exact tail; None when the codes tell too little."""
    found = nearest_by_codes(codes, query, vectors, mask[: codes.rows], k)
    if found is None or codes.rows == len(mask):
        return found
    return best_of((found, nearest_alive(query, vectors, codes.rows, mask[codes.rows :], k)), k)


def _by_graph(graph: Graph, query: Vectors, vectors: Blocks, alive: Mask, k: int) -> tuple[Scores, Rows] | None:
    """Return the `k` best by graph and exact tail; None when hidden rows take so much room that too few are left."""
    hidden = len(alive) - int(np.count_nonzero(alive))
    scores, rows = graph.nearest(query, min(k + hidden, MOST_WANTED))
    keep = alive[rows]
    if np.count_nonzero(keep) < k:
        return None
    tail = nearest_alive(query, vectors, graph.rows, alive[graph.rows :], k)
    return best_of(((scores[keep], rows[keep]), tail), k)
