"""The INDEX payload: a layered graph over the rows of a file (docs/rvf-format.md, section 8).

      0  type u8 = 0 (HNSW) | layer level u8 | M u16 | ef_construction u32 | rows n u64 | zeros to 64
     64  restart interval u32 | restarts u32 = ceil(n / interval) | offsets u32 into the adjacency data | zeros to a 64th
         adjacency data: for each row its number of layers; for each layer, the ground first, the number of neighbours
         and these, ascending: every 64th row as they are, the other rows as the first one and differences | zeros to a 64th
         trailer: version u16 = 1 | M0 u16 | top layer u32 | entry u64, all ones for none | n u64 | row ids, ascending, as
         the first one and differences
    end  trailer length u32 | "RVIX"

Numbers of the adjacency data and of the row ids are unsigned LEB128. A neighbour is named by its ordinal: the i-th smallest
row id is i. Decoding raises ValueError with the reason, and allocates in proportion to the payload alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memoryd.rvf.format import Ids

    Numbers = NDArray[np.int64]

_HNSW: Final = 0
_HEAD: Final = struct.Struct("<BBHIQ48x")
_RESTARTS: Final = struct.Struct("<II")
_TRAILER: Final = struct.Struct("<HHIQQ")
_END: Final = struct.Struct("<I4s")
_MAGIC: Final = b"RVIX"
_NONE: Final = (1 << 64) - 1
_ALIGNMENT: Final = 64
_MORE: Final = 0x80  # set in every byte of a number but the last
_LONGEST: Final = 9  # bytes of a number below 2^63
_MAX_LAYERS: Final = 64


@dataclass(frozen=True, slots=True)
class Adjacency:
    """A graph over `n` rows, row `i` being the `i`-th smallest of `ids`, uint64 [n].

    `layers` int64 [n]: in how many layers each row stands, at least one. `counts` int64 [sum(layers)]: the neighbours of each
    row in each of its layers, row by row, the ground first. `neighbours` int64 [sum(counts)]: their ordinals, list by list,
    ascending within a list. `m` and `m0` bound a list above the ground and on it. `entry` is where a search begins.
    """

    ids: Ids
    layers: Numbers
    counts: Numbers
    neighbours: Numbers
    m: int
    m0: int
    ef_construction: int
    entry: int | None


def unpack_adjacency(payload: bytes) -> Adjacency:
    """Return the graph of an INDEX payload. Raises ValueError."""
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
    if version != 1 or known != n or (n > 0 and not (entry < n or entry == _NONE)):
        raise ValueError("trailer of an index does not belong to it")
    ids = _ids(payload[trailer + _TRAILER.size : -_END.size], n)
    offsets = np.frombuffer(payload, "<u4", restarts, table)
    layers, counts, neighbours = _lists(payload[data:trailer], offsets.astype(np.int64), n, interval)
    return Adjacency(ids, layers, counts, neighbours, m, m0, ef_construction, None if entry == _NONE else int(entry))


def _head(payload: bytes, at: int, layout: struct.Struct) -> tuple[Any, ...]:
    if at < 0 or at + layout.size > len(payload):
        raise ValueError("index cut short")
    return layout.unpack_from(payload, at)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _ids(data: bytes, n: int) -> Ids:
    """Return the row ids that stand in `data` as the first one and differences."""
    steps, _ = _numbers(data)
    if len(steps) != n or (steps[1:] == 0).any():
        raise ValueError("row ids of an index are not as many or not ascending")
    ids = np.cumsum(steps.astype(np.uint64))
    if n and float(steps.sum(dtype=np.float64)) >= float(1 << 63):
        raise ValueError("row ids of an index are too large")
    return ids


def _numbers(data: bytes) -> tuple[Numbers, Numbers]:
    """Return all LEB128 numbers in `data`, each below 2^63, and where each begins."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < _MORE)
    if len(octets) and (not len(ends) or ends[-1] != len(octets) - 1):
        raise ValueError("number cut short in an index")
    starts = np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1))
    lengths = ends - starts + 1
    if len(lengths) and int(lengths.max()) > _LONGEST:
        raise ValueError("number too long in an index")
    numbers = np.zeros(len(ends), np.int64)
    for place in range(int(lengths.max(initial=0))):
        longer = lengths > place
        numbers[longer] |= (octets[starts[longer] + place] & 0x7F).astype(np.int64) << (7 * place)
    return numbers, starts


def _lists(data: bytes, offsets: Numbers, n: int, interval: int) -> tuple[Numbers, Numbers, Numbers]:
    """Return the layers of each row, the length of each list, and all neighbours.

    Where a list begins is known from those before it alone; but the rows at the restarts are found by their offsets, so all
    groups between two restarts are walked side by side.
    """
    numbers, starts = _numbers(data)
    cursors = np.searchsorted(starts, offsets)
    if len(offsets) and (cursors[0] != 0 or (starts[np.minimum(cursors, len(starts) - 1)] != offsets).any()):
        raise ValueError("restart of an index that is not at a row")
    ends = np.append(cursors[1:], len(numbers))
    firsts = np.arange(len(offsets)) * interval
    layers = np.zeros(n, np.int64)
    found: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []
    for step in range(interval if n else 0):
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
