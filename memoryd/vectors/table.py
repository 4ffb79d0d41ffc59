"""The rows of one user: vectors, encoded records, and the columns that filters look at.

The first rows may stand in a file, sealed; then come those in memory. Rows are only ever added behind the last one or
hidden. The vectors stand in blocks that never move; columns that are full are copied to a larger array and replaced, never
changed where a reader may look. So a reader that knows a number of rows needs no lock.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from memoryd.protocol.keys import folded, keys_of
from memoryd.protocol.records import Attributes, MemoryKind, MemorySource, microseconds
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Adjacency, Contents, SealedRows, Vectors
    from memoryd.protocol.records import MemoryFilter

    Mask = NDArray[np.bool_]  # [n]
    Rows = NDArray[np.int64]  # [m], ascending

_NO_ROWS: Final = np.empty(0, np.int64)

HIDDEN: Final = b""  # stands in the place of a record that was discarded

_KINDS: Final = {kind: code for code, kind in enumerate(MemoryKind)}
_SOURCES: Final = {source: code for code, source in enumerate(MemorySource)}

_COLUMNS: Final = np.dtype(
    [
        ("key", np.uint64, (2,)),
        ("time_us", np.int64),
        ("text", np.uint32, (3,)),  # its place, see `Texts`
        ("session", np.int32),
        ("kind", np.uint8),
        ("source", np.uint8),
    ],
    align=True,
)

# What CPython 3.11 spends on a row besides vector, columns and text: the id as str (75), a list slot, and a dict entry with its
# share of empty slots (about 100).
_ROW_OVERHEAD: Final = 183

_decoder: Final = msgspec.msgpack.Decoder(Attributes)


class Table:
    """Growing columns. One writer; any number of readers that look no further than the `rows` they once saw.

    `vectors` are of unit length.
    """

    def __init__(self, contents: Contents) -> None:
        """Begin with these rows. The array is taken over, not copied. Raises Damaged."""
        self.sealed: Final = tuple(contents.sealed)
        self._graph = contents.graph
        self.vectors = Blocks(contents.vectors, self.sealed)
        self._first = [0]  # row of each sealed part, and of the first row in memory
        for part in self.sealed:
            self._first.append(self._first[-1] + part.slots)
        self.mapped: Final = self._first[-1]
        self._columns = np.zeros(len(contents.vectors), _COLUMNS)
        self._alive = np.concatenate([*(part.alive() for part in self.sealed), np.zeros(len(contents.vectors), bool)])
        self._texts = Texts()
        self._ids: list[RecordId] = []
        self._row_of: dict[RecordId, int] = {}  # of the live rows in memory
        self.rows = self.mapped
        self.live = int(np.count_nonzero(self._alive))
        self._sessions: dict[str, int] = {}
        self._enter(contents.records, [_decoder.decode(record) for record in contents.records])

    def add(self, records: Sequence[bytes], vectors: Vectors) -> None:
        """Append rows. One whose id is there already takes the place of the earlier one, which is hidden."""
        decoded = [_decoder.decode(record) for record in records]
        self._make_room(self.rows + len(records))
        self._hide_sealed([one.id for one in decoded])
        self.vectors.add(vectors)
        self._enter(records, decoded)

    def discard(self, ids: Sequence[RecordId]) -> None:
        """Hide rows from every reader and drop their texts; unknown ids do nothing."""
        for record in ids:
            row = self._row_of.pop(record, None)
            if row is not None:
                self._hide(row)
        self._hide_sealed(ids)

    def find(self, ids: Sequence[RecordId]) -> Rows:
        """Return the rows, ascending, of those of these records that are alive."""
        in_memory = {row for each in ids if (row := self._row_of.get(each)) is not None}
        sealed = (row for row in self._sealed_rows(ids) if self._alive[row])
        return np.array([*sealed, *sorted(in_memory)], np.int64)

    def records(self, rows: Rows) -> list[bytes]:
        """Return the encoded records in these rows, int64 [m] ascending; HIDDEN for those that were discarded."""
        sealed, in_memory = self._split(rows)
        found = [record for part, slots in sealed for record in part.records(slots)]
        found += self._texts.take(self._columns["text"][in_memory])
        return [record if alive else HIDDEN for record, alive in zip(found, self._alive[rows].tolist(), strict=True)]

    def ids(self, rows: Rows) -> list[RecordId]:
        """Return the ids of the records in these rows, int64 [m] ascending."""
        sealed, in_memory = self._split(rows)
        found = [each for part, slots in sealed for each in part.ids(slots)]
        return found + [self._ids[row] for row in in_memory]

    def keys(self, first: int, behind: int) -> NDArray[np.uint64]:
        """Return the ids of the records in the rows from `first` up to `behind` as numbers, see `folded`."""
        found = []
        for part, start, end in self._parts():
            lowest, highest = max(first, start), min(behind, end)
            if lowest < highest:
                found.append(part.keys[lowest - start : highest - start])
        in_memory = self._columns["key"][max(0, first - self.mapped) : max(0, min(behind, self.rows) - self.mapped)]
        return folded(np.concatenate([*found, in_memory]))

    def keys_at(self, rows: Rows) -> NDArray[np.uint64]:
        """Return the ids of the records in these rows, int64 [m] ascending, as numbers, see `folded`."""
        sealed, in_memory = self._split(rows)
        found = [part.keys[slots] for part, slots in sealed]
        return folded(np.concatenate([*found, self._columns["key"][in_memory]]))

    def sessions(self, rows: Rows) -> NDArray[np.int64]:
        """Return a number for the session of each of these rows, int64 [m] ascending: 0 where there is none."""
        sealed, in_memory = self._split(rows)
        found = [_hashes(part.sessions)[part.session[slots]] for part, slots in sealed]
        found.append(_hashes(list(self._sessions))[self._columns["session"][in_memory]] if in_memory else _NO_ROWS)
        return np.concatenate(found)

    def linked(self) -> tuple[Adjacency, Rows] | None:
        """Return the graph that the file holds, and the rows it is over; None when it holds none of use (slow)."""
        found = self._graph()
        if found is None:
            return None
        ids, links = found
        known = np.concatenate([*(part.rows[: part.count] for part in self.sealed), ids[:0]])
        rows = np.concatenate(
            [*(start + np.arange(part.count) for part, start, _ in self._parts()), np.empty(0, np.int64)]
        )
        return (links, rows[: len(ids)]) if np.array_equal(ids, known[: len(ids)]) else None

    def alive(self, rows: int) -> Mask:
        """Return which of the first `rows` are not hidden, as of now."""
        return self._alive[:rows].copy()

    def passing(self, where: MemoryFilter, rows: int, before: datetime | None = None) -> Mask:
        """Return which of the first `rows` are alive, pass `where`, and are older than `before`."""
        mask = self.alive(rows)
        since = None if where.since is None else microseconds(where.since)
        until = min((microseconds(each) for each in (where.until, before) if each is not None), default=None)
        for part, start, behind in self._parts():
            if start < rows:
                _narrow_sealed(mask[start:behind], part, where, since, until)
        columns, rest = self._columns[: rows - self.mapped], mask[self.mapped :]
        if where.kinds:
            rest &= _is_among(columns["kind"], [_KINDS[kind] for kind in where.kinds])
        if where.sources:
            rest &= _is_among(columns["source"], [_SOURCES[source] for source in where.sources])
        if since is not None:
            rest &= columns["time_us"] >= since
        if until is not None:
            rest &= columns["time_us"] < until
        if where.session_id is not None:
            rest &= columns["session"] == self._sessions.get(where.session_id, -1)
        return mask

    @property
    def resident_bytes(self) -> int:
        sessions = sum(len(session) + 150 for session in self._sessions)
        held = self.vectors.resident_bytes + self._columns.nbytes + self._alive.nbytes + self._texts.resident_bytes
        return held + len(self._ids) * _ROW_OVERHEAD + sessions

    def _enter(self, records: Sequence[bytes], decoded: Sequence[Attributes]) -> None:
        """Fill the columns of rows whose vectors stand in place already, then let readers see them."""
        first, behind = self.rows, self.rows + len(records)
        columns = self._columns[first - self.mapped : behind - self.mapped]
        columns["key"] = keys_of(one.id for one in decoded)
        columns["time_us"] = [microseconds(one.timestamp) for one in decoded]
        columns["session"] = [self._sessions.setdefault(one.session_id, len(self._sessions)) for one in decoded]
        columns["kind"] = [_KINDS[one.kind] for one in decoded]
        columns["source"] = [_SOURCES[one.source] for one in decoded]
        columns["text"] = self._texts.add(records)
        self._alive[first:behind] = True
        self._ids += [one.id for one in decoded]
        self.live += len(records)
        for row, one in enumerate(decoded, first):
            earlier = self._row_of.get(one.id)
            if earlier is not None:
                self._hide(earlier)
            self._row_of[one.id] = row
        self.rows = behind

    def _hide(self, row: int) -> None:
        self._alive[row] = False
        self.live -= 1
        if row >= self.mapped:  # a reader who takes it half overwritten sees behind it that it is hidden
            self._texts.erase(self._columns["text"][row - self.mapped])

    def _hide_sealed(self, ids: Sequence[RecordId]) -> None:
        for row in self._sealed_rows(ids):
            if self._alive[row]:
                self._hide(row)

    def _sealed_rows(self, ids: Sequence[RecordId]) -> Iterator[int]:
        """Yield the sealed rows of these records, hidden ones too."""
        if self.sealed and len(wanted := keys_of(ids)):
            for part, start, _ in self._parts():
                yield from (start + part.find(wanted)).tolist()

    def _parts(self) -> Iterator[tuple[SealedRows, int, int]]:
        """Yield each sealed part with its first row and the row behind its last."""
        for part, (start, behind) in zip(self.sealed, pairwise(self._first), strict=True):
            yield part, start, behind

    def _split(self, rows: Rows) -> tuple[list[tuple[SealedRows, Rows]], list[int]]:
        """Return each sealed part that has some of these rows, which ascend, with their slots; and the rows in memory."""
        bounds = np.searchsorted(rows, self._first).tolist()
        sealed = [
            (part, rows[lowest:behind] - start)
            for (part, start, _), (lowest, behind) in zip(self._parts(), pairwise(bounds), strict=True)
            if lowest < behind
        ]
        return sealed, (rows[bounds[-1] :] - self.mapped).tolist()

    def _make_room(self, rows: int) -> None:
        capacity = self.mapped + len(self._columns)
        if rows <= capacity:
            return
        # Half as much again: each row is copied three times at most on average, and a third of the room is spare.
        more = max(rows - self.mapped, len(self._columns) + len(self._columns) // 2)
        columns, alive = np.zeros(more, _COLUMNS), np.zeros(self.mapped + more, bool)
        columns[: self.rows - self.mapped] = self._columns[: self.rows - self.mapped]
        alive[: self.rows] = self._alive[: self.rows]
        self._columns, self._alive = columns, alive


def _narrow_sealed(mask: Mask, part: SealedRows, where: MemoryFilter, since: int | None, until: int | None) -> None:
    """Leave in `mask` what passes; looks at those columns only that the filter names."""
    if where.kinds:
        mask &= _is_among(part.kind, _numbers(part.kinds, where.kinds))
    if where.sources:
        mask &= _is_among(part.source, _numbers(part.sources, where.sources))
    if since is not None:
        mask &= part.time_us >= since
    if until is not None:
        mask &= part.time_us < until
    if where.session_id is not None:
        mask &= _is_among(part.session, _numbers(part.sessions, (where.session_id,)))


def _hashes(names: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each name, in this process the same for the same name; 0 for the empty one."""
    return np.fromiter(map(hash, names), np.int64, len(names))


def _numbers(names: Sequence[str], wanted: Iterable[str]) -> list[int]:
    return [names.index(name) for name in wanted if name in names]


def _is_among(column: NDArray[np.integer[Any]], numbers: Sequence[int]) -> Mask:
    """Return which rows have one of a few numbers; `np.isin` takes five times as long for one."""
    found = np.zeros(len(column), bool)
    for number in numbers:
        found |= column == number
    return found
