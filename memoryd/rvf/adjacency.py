"""The INDEX payload: a layered graph over the rows of a file (docs/rvf-format.md, section 8).

      0  type u8 = 0 (HNSW) | layer level u8 | M u16 | ef_construction u32 | rows n u64 | zeros to 64
     64  restart interval u32 | restarts u32 = ceil(n / interval) | offsets u32 into the adjacency data | zeros to a 64th
         adjacency data: for each row its number of layers; for each layer, the ground first, the number of neighbours
         and these, ascending: every 64th row as they are, the other rows as the first one and differences | zeros to a 64th
         trailer: version u16 = 1 | M0 u16 | top layer u32 | entry u64, all ones for none | n u64 | row ids, ascending, as
         the first one and differences
    end  trailer length u32 | "RVIX"

Numbers of the adjacency data and of the row ids are unsigned LEB128. A neighbour is named by its ordinal: the i-th smallest
row id is i. Decoding raises ValueError with the reason, and allocates in proportion to the payload alone. It does not ask
whether the graph makes sense, only whether it is one: other programs may link as they like.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from memoryd.protocol.interfaces import Adjacency
from memoryd.rvf.format import MAX_ROW_ID
from memoryd.rvf.leb128 import pack_numbers, unpack_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memoryd.rvf.format import Ids
    from memoryd.rvf.leb128 import Numbers

_HNSW: Final = 0  # part of the file format
_ALL_LAYERS: Final = 2  # part of the file format: the whole graph, and no excerpt of it
_INTERVAL: Final = 64  # part of the file format: the reference runtime writes no other
_VERSION: Final = 1  # part of the file format
_HEAD: Final = struct.Struct("<BBHIQ48x")  # part of the file format
_RESTARTS: Final = struct.Struct("<II")  # part of the file format
_TRAILER: Final = struct.Struct("<HHIQQ")  # part of the file format
_END: Final = struct.Struct("<I4s")  # part of the file format
_MAGIC: Final = b"RVIX"  # part of the file format
_NONE: Final = (1 << 64) - 1  # part of the file format
_ALIGNMENT: Final = 64  # part of the file format
_MAX_LAYERS: Final = 64


def pack_adjacency(ids: Ids, graph: Adjacency) -> bytes:
    """Return the INDEX payload of `graph`, whose row `i` has the `i`-th of `ids`, uint64 [n] ascending.

    Raises ValueError when the two are not what they promise; what is returned reads back the same.
    """
    _check_sizes(ids, graph)
    _check_rows(ids, graph)
    _check_lists(graph)
    data, restarts = _pack_lists(graph)
    head = _HEAD.pack(_HNSW, _ALL_LAYERS, graph.m, graph.ef_construction, len(ids))
    table = _RESTARTS.pack(_INTERVAL, len(restarts)) + restarts.astype("<u4").tobytes()
    top = int(graph.layers.max(initial=1)) - 1
    entry = _NONE if graph.entry is None else graph.entry
    known, _ = pack_numbers(_steps(ids.astype(np.int64)))
    trailer = _TRAILER.pack(_VERSION, graph.m0, top, entry, len(ids)) + known
    return b"".join((_padded(head + table), _padded(data), trailer, _END.pack(len(trailer), _MAGIC)))


def _check_sizes(ids: Ids, graph: Adjacency) -> None:
    """Refuse arrays that do not belong together, and numbers that have no room in the payload."""
    if len(graph.layers) != len(ids):
        raise ValueError("graph over other rows than there are ids")
    if (graph.layers < 1).any() or (graph.layers > _MAX_LAYERS).any():
        raise ValueError("row without a layer, or with too many")
    if int(graph.layers.sum()) != len(graph.counts):
        raise ValueError("graph with more or fewer lists than its rows have layers")
    if (graph.counts < 0).any() or int(graph.counts.sum()) != len(graph.neighbours):
        raise ValueError("graph with more or fewer neighbours than its lists count")
    if not (0 <= graph.m < 1 << 16 and 0 <= graph.m0 < 1 << 16 and 0 <= graph.ef_construction < 1 << 32):
        raise ValueError("parameter of a graph out of range")


def _check_rows(ids: Ids, graph: Adjacency) -> None:
    """Refuse ids that do not ascend or are too large, and an entry that is not in the top layer."""
    if (ids[1:] <= ids[:-1]).any() or (ids[-1:] > MAX_ROW_ID).any():
        raise ValueError("row ids of a graph not ascending, or too large")
    if graph.entry is None:
        return
    if not 0 <= graph.entry < len(ids) or graph.layers[graph.entry] != graph.layers.max():
        raise ValueError("entry of a graph not in its top layer")


def _check_lists(graph: Adjacency) -> None:
    """Refuse lists that are too long or do not ascend, and neighbours that do not stand in the layer of the list."""
    levels = np.arange(len(graph.counts)) - np.repeat(np.cumsum(graph.layers) - graph.layers, graph.layers)
    if (graph.counts > np.where(levels == 0, graph.m0, graph.m)).any():
        raise ValueError("list of a graph longer than its bound")
    if (graph.neighbours < 0).any() or (graph.neighbours >= len(graph.layers)).any():
        raise ValueError("graph names a row that it does not hold")
    if (graph.layers[graph.neighbours] <= np.repeat(levels, graph.counts)).any():
        raise ValueError("neighbour that does not stand in the layer of its list")
    if (_steps(graph.neighbours)[~_firsts(graph.counts)] <= 0).any():
        raise ValueError("list of a graph not ascending")


def _pack_lists(graph: Adjacency) -> tuple[bytes, Numbers]:
    """Return the adjacency data, and where in it the row of each restart begins."""
    rows = np.arange(len(graph.layers))
    row_of_list = np.repeat(rows, graph.layers)
    # Behind the neighbours of all lists before it, a list has the heads of these lists and of the rows up to its own.
    heads = np.cumsum(graph.counts) - graph.counts + np.arange(len(graph.counts)) + row_of_list + 1
    row_heads = heads[np.cumsum(graph.layers) - graph.layers] - 1
    numbers = np.empty(len(rows) + len(heads) + len(graph.neighbours), np.int64)
    is_neighbour = np.ones(len(numbers), bool)
    is_neighbour[heads] = is_neighbour[row_heads] = False
    numbers[row_heads] = graph.layers
    numbers[heads] = graph.counts
    is_whole = _firsts(graph.counts) | np.repeat(row_of_list % _INTERVAL == 0, graph.counts)
    numbers[is_neighbour] = np.where(is_whole, graph.neighbours, _steps(graph.neighbours))
    data, starts = pack_numbers(numbers)
    return data, starts[row_heads[::_INTERVAL]]


def _firsts(counts: Numbers) -> NDArray[np.bool_]:
    """Return which of all neighbours is the first of its list, bool [sum(counts)]."""
    is_first = np.zeros(int(counts.sum()), bool)
    is_first[(np.cumsum(counts) - counts)[counts > 0]] = True
    return is_first


def _steps(numbers: Numbers) -> Numbers:
    """Return the first of `numbers` and then the differences."""
    steps = numbers.copy()
    steps[1:] -= numbers[:-1]
    return steps


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")


def unpack_adjacency(payload: bytes) -> tuple[Ids, Adjacency]:
    """Return the row ids of an INDEX payload, uint64 [n] ascending, and the graph over them. Raises ValueError."""
    kind, _, m, ef_construction, n = _head(payload, 0, _HEAD)
    if kind != _HNSW:
        raise ValueError("index of an unknown type")
    interval, restarts = _head(payload, _HEAD.size, _RESTARTS)
    length, magic = _head(payload, len(payload) - _END.size, _END)
    trailer = len(payload) - _END.size - length
    table = _HEAD.size + _RESTARTS.size
    data = _aligned(table + 4 * restarts)
    if magic != _MAGIC or trailer < data:
        raise ValueError("index without its trailer")
    if n > len(payload) or interval == 0 or restarts != -(-n // interval):
        raise ValueError("index counts more rows than it holds")
    version, m0, _, entry, known = _head(payload, trailer, _TRAILER)
    if version != _VERSION or known != n or (n > 0 and not (entry < n or entry == _NONE)):
        raise ValueError("trailer of an index does not belong to it")
    ids = _ids(payload[trailer + _TRAILER.size : -_END.size], n)
    offsets = np.frombuffer(payload, "<u4", restarts, table)
    layers, counts, neighbours = _lists(payload[data:trailer], offsets.astype(np.int64), n, interval)
    known_entry = int(entry) if entry < n else None
    return ids, Adjacency(layers, counts, neighbours, m, m0, ef_construction, known_entry)


def _head(payload: bytes, at: int, layout: struct.Struct) -> tuple[Any, ...]:
    if at < 0 or at + layout.size > len(payload):
        raise ValueError("index cut short")
    return layout.unpack_from(payload, at)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _ids(data: bytes, n: int) -> Ids:
    """Return the row ids that stand in `data` as the first one and differences."""
    steps, _ = unpack_numbers(data)
    if len(steps) != n or (steps[1:] == 0).any():
        raise ValueError("row ids of an index are not as many or not ascending")
    ids = np.cumsum(steps.astype(np.uint64))
    if n and float(steps.sum(dtype=np.float64)) >= float(1 << 63):
        raise ValueError("row ids of an index are too large")
    return ids


def _lists(data: bytes, offsets: Numbers, n: int, interval: int) -> tuple[Numbers, Numbers, Numbers]:
    """Return the layers of each row, the length of each list, and all neighbours.

    Where a list begins is known from those before it alone; but the rows at the restarts are found by their offsets, so all
    groups between two restarts are walked side by side.
    """
    numbers, starts = unpack_numbers(data)
    cursors = np.searchsorted(starts, offsets)
    if len(offsets) and (cursors[0] != 0 or (starts[np.minimum(cursors, len(starts) - 1)] != offsets).any()):
        raise ValueError("restart of an index that is not at a row")
    ends = np.append(cursors[1:], len(numbers))
    firsts = np.arange(len(offsets)) * interval
    layers = np.zeros(n, np.int64)
    found: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []
    for step in range(min(interval, n)):  # a forged interval says nothing of how long this takes
        groups = np.flatnonzero(firsts + step < n)
        deep = _at(numbers, cursors[groups], ends[groups])
        if len(deep) and (int(deep.min()) < 1 or int(deep.max()) > _MAX_LAYERS):
            raise ValueError("row of an index without a layer, or with too many")
        layers[firsts[groups] + step] = deep
        cursors[groups] += 1
        for layer in range(int(deep.max(initial=0))):
            inside = groups[deep > layer]
            lengths = _at(numbers, cursors[inside], ends[inside])
            found.append((firsts[inside] + step, np.full(len(inside), layer), lengths, cursors[inside] + 1))
            cursors[inside] += 1 + np.minimum(lengths, len(numbers))
    if (cursors[:-1] != ends[:-1]).any() or (cursors[-1:] > ends[-1:]).any():
        raise ValueError("lists of an index overlap")
    if not found:
        return layers, np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows, level, lengths, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((level, rows))
    return layers, lengths[order], _neighbours(numbers, rows[order], lengths[order], places[order], n, interval)


def _at(numbers: Numbers, cursors: Numbers, ends: Numbers) -> Numbers:
    if (cursors >= ends).any():
        raise ValueError("lists of an index run out of their group")
    return numbers[cursors]


def _neighbours(numbers: Numbers, rows: Numbers, lengths: Numbers, places: Numbers, n: int, interval: int) -> Numbers:
    """Return the ordinals of all lists, one after the other; in rows between two restarts they stand as differences."""
    before = np.cumsum(lengths) - lengths
    within = np.repeat(places - before, lengths) + np.arange(int(lengths.sum()))
    steps = numbers[within]
    if (steps >= n).any():
        raise ValueError("index names a row that it does not hold")
    sums = np.cumsum(steps)
    nonempty = lengths > 0
    base = np.zeros(len(lengths), np.int64)
    base[nonempty] = sums[before[nonempty]] - steps[before[nonempty]]
    ordinals = np.where(np.repeat(rows % interval == 0, lengths), steps, sums - np.repeat(base, lengths))
    if (ordinals >= n).any():
        raise ValueError("index names a row that it does not hold")
    return ordinals
