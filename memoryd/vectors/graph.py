"""A graph over sealed rows (HNSW): nearly exact, and sub-linear. Never changed once it answers.

faiss keeps its own copy of the vectors, so a graph doubles what a user's rows cost in memory. Its links can be taken out as
plain arrays and put back, which spares inserting the rows anew.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import faiss
import numpy as np

from memoryd.protocol.interfaces import Adjacency
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.sealed import Sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import Vectors

    Numbers = NDArray[np.int64]

# The usual ones; recall@10 is 0.99 and more on sentence embeddings.
_M: Final = 16
_EF_CONSTRUCTION: Final = 200

# Candidates of a search, and the most rows it may be asked for: recall@10 0.999 and recall@100 0.994 over 40,000 sentences
# at 0.45 to 0.6 ms. faiss stops after so many candidates whatever it is asked for, so recall falls steeply beyond.
_EF_SEARCH: Final = 192
MOST_WANTED: Final = 100

# Neighbours per row: 2 M on the ground, and M on each floor above, where one row in M of the floor below stands.
_LINKS_PER_ROW: Final = 2 * _M + _M / (_M - 1)

_STEP: Final = 64  # rows that are inserted without asking whether that is still wanted: at most 60 ms

_NOBODY: Final = -1  # faiss: a place in a list that is free, and the entry and top layer of an empty graph


class Graph(Sealed):
    """An HNSW graph over the first `rows` rows of a table; nearly exact for at most MOST_WANTED rows."""

    @classmethod
    def over(cls, vectors: Blocks, rows: int) -> Graph:
        """Build the graph over the first `rows` rows. Slow: 0.3 to 1 ms a row."""
        return cls.filled(_empty(vectors.dim), vectors, rows)

    @classmethod
    def restored(cls, links: Adjacency, vectors: Blocks, places: Numbers | None = None) -> Graph:
        """Put the graph together that `links` describes over some of `vectors`; a few microseconds a row.

        `places`, int64 [n] ascending, says which these are, the first ones if it is None; those before the last of them
        that it leaves out stand alone. Raises ValueError when it is no graph over rows that are there, or has longer lists
        or more layers than ours.
        """
        return cls(_restored(links, vectors, places))

    @classmethod
    def continued(cls, links: Adjacency, vectors: Blocks, places: Numbers, rows: int) -> Graph:
        """Return the graph over the first `rows` rows that `links` is the beginning of, see `restored`."""
        return cls.filled(_restored(links, vectors, places), vectors, rows)

    def adjacency(self) -> Adjacency:
        """Return a copy of the links between the rows."""
        hnsw = _hnsw(self._index)
        layers = faiss.vector_to_array(hnsw.levels).astype(np.int64)
        rooms = _rooms(_levels(layers))
        places = faiss.vector_to_array(hnsw.neighbors)
        is_taken = places != _NOBODY
        lists = np.repeat(np.arange(len(rooms)), rooms)[is_taken]
        stride = max(1, self.rows)
        links = _distinct(lists * stride + places[is_taken])
        return Adjacency(
            layers=layers,
            counts=np.bincount(links // stride, minlength=len(rooms)),
            neighbours=links % stride,
            m=_M,
            m0=2 * _M,
            ef_construction=_EF_CONSTRUCTION,
            entry=int(hnsw.entry_point) if self.rows else None,
        )

    @property
    def resident_bytes(self) -> int:
        """Bytes of the vectors faiss keeps, of the links, and of each row's level and place in the links."""
        return int(self.rows * (4 * self._index.d + 4 * _LINKS_PER_ROW + 12))


def link(vectors: Vectors, known: Adjacency | None, is_wanted: Callable[[], bool]) -> Adjacency | None:
    """Return the graph over float32 [n, dim]; `known` is one over the first of them, which is extended.

    None when it is no longer wanted, which is asked every few rows.
    """
    rows = Blocks(vectors)
    index = _empty(rows.dim)
    if known is not None:
        with suppress(ValueError):  # another program's, with lists longer than ours: it is made anew
            index = _restored(known, rows)
    for _, part in rows.parts(index.ntotal, len(vectors)):
        for at in range(0, len(part), _STEP):
            if not is_wanted():
                return None
            index.add(part[at : at + _STEP])
    return Graph(index).adjacency()


def _empty(dim: int) -> faiss.IndexHNSWFlat:
    index = faiss.IndexHNSWFlat(dim, _M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    index.hnsw.efSearch = _EF_SEARCH
    return index


def _restored(links: Adjacency, vectors: Blocks, places: Numbers | None = None) -> faiss.IndexHNSWFlat:
    index = _empty(vectors.dim)
    most_layers = _hnsw(index).cum_nneighbor_per_level.size() - 1
    _check(links, vectors.rows if places is None else len(places), most_layers)
    if places is not None and len(places):
        links = _spread(links, places)
    rows = len(links.layers)
    storage = faiss.downcast_index(index.storage)
    for _, part in vectors.parts(0, rows):
        storage.add(part)
    _put(links, _hnsw(index))
    index.ntotal = rows
    return index


def _spread(links: Adjacency, places: Numbers) -> Adjacency:
    """Return the same graph with its rows in these places, and rows without a neighbour between them."""
    layers = np.ones(int(places[-1]) + 1, np.int64)
    layers[places] = links.layers
    firsts = np.cumsum(layers) - layers  # which list is the first of each row
    counts = np.zeros(int(layers.sum()), np.int64)
    counts[np.repeat(firsts[places], links.layers) + _levels(links.layers)] = links.counts
    entry = None if links.entry is None else int(places[links.entry])
    return replace(links, layers=layers, counts=counts, neighbours=places[links.neighbours], entry=entry)


def _hnsw(index: faiss.Index) -> Any:
    """Return the part of an index that holds the links; the types that faiss publishes leave out most of it."""
    return cast("Any", index).hnsw


def _distinct(links: Numbers) -> Numbers:
    """Return `links` ascending, each once: two threads that insert neighbours at the same time may each link both."""
    links = np.sort(links)
    is_new = np.ones(len(links), bool)
    is_new[1:] = links[1:] != links[:-1]
    return links[is_new]


def _levels(layers: Numbers) -> Numbers:
    """Return the layer of each list, int64 [sum(layers)], the ground being 0."""
    return np.arange(int(layers.sum())) - np.repeat(np.cumsum(layers) - layers, layers)


def _rooms(levels: Numbers) -> Numbers:
    """Return how many places faiss keeps for each list, int64 like `levels`; the lists lie one behind the other."""
    return np.where(levels == 0, 2 * _M, _M)


def _check(links: Adjacency, rows: int, most_layers: int) -> None:
    """Refuse what would make faiss read or write outside of its arrays: it looks at nothing itself."""
    layers, counts, neighbours = links.layers, links.counts, links.neighbours
    if len(layers) > rows:
        raise ValueError("graph over more rows than there are")
    if (layers < 1).any() or (layers > most_layers).any():
        raise ValueError("row of a graph without a layer, or with too many")
    if len(counts) != int(layers.sum()) or (counts < 0).any() or len(neighbours) != int(counts.sum()):
        raise ValueError("lists of a graph that do not belong to its rows")
    levels = _levels(layers)
    if (counts > _rooms(levels)).any():
        raise ValueError("list of a graph longer than ours are")
    if (neighbours < 0).any() or (neighbours >= len(layers)).any():
        raise ValueError("graph names a row that it does not hold")
    if (layers[neighbours] <= np.repeat(levels, counts)).any():
        raise ValueError("neighbour that does not stand in the layer of its list")
    if links.entry is None:
        if len(layers):
            raise ValueError("graph without an entry")
    elif not 0 <= links.entry < len(layers) or layers[links.entry] != layers.max():
        raise ValueError("entry of a graph not in its top layer")


def _put(links: Adjacency, hnsw: Any) -> None:
    """Write checked links into an empty graph."""
    rooms = _rooms(_levels(links.layers))
    lists = np.append(0, np.cumsum(rooms))  # where each begins, and the end
    rows = np.append(0, np.cumsum(links.layers))  # which list is the first of each row, and the end
    before = np.cumsum(links.counts) - links.counts
    places = np.full(int(lists[-1]), _NOBODY, np.int32)
    places[np.repeat(lists[:-1] - before, links.counts) + np.arange(len(links.neighbours))] = links.neighbours
    faiss.copy_array_to_vector(links.layers.astype(np.int32), hnsw.levels)
    faiss.copy_array_to_vector(lists[rows].astype(np.uint64), hnsw.offsets)
    faiss.copy_array_to_vector(places, hnsw.neighbors)
    hnsw.entry_point = _NOBODY if links.entry is None else links.entry
    hnsw.max_level = int(links.layers.max(initial=0)) - 1
