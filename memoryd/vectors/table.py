"""The rows of one user: vectors, encoded records, and the columns that filters look at.

Rows are only ever added behind the last one or hidden. The vectors stand in blocks that never move; columns that are full
are copied to a larger array and replaced, never changed where a reader may look. So a reader that knows a number of rows
needs no lock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from memoryd.protocol.ids import RecordId
from memoryd.protocol.records import MemoryKind, MemorySource
from memoryd.vectors.blocks import Blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import Vectors
    from memoryd.protocol.records import MemoryFilter

    Mask = NDArray[np.bool_]  # [n]
    Rows = NDArray[np.int64]  # [m], ascending

HIDDEN: Final = b""  # stands in the place of a record that was discarded

_KINDS: Final = {kind: code for code, kind in enumerate(MemoryKind)}
_SOURCES: Final = {source: code for code, source in enumerate(MemorySource)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_COLUMNS: Final = np.dtype(
    [("time_us", np.int64), ("session", np.int32), ("kind", np.uint8), ("source", np.uint8), ("is_alive", np.bool_)],
    align=True,
)

# What CPython 3.11 spends on a row besides vector, columns and text: the id as str (75), the bytes object around the
# record (33), two list slots, and a dict entry with its share of empty slots (about 100).
_ROW_OVERHEAD: Final = 224


class _Columns(msgspec.Struct, frozen=True):
    """The fields of a record that are filtered by."""

    id: RecordId
    kind: MemoryKind
    source: MemorySource
    timestamp: datetime
    session_id: str = ""


_decoder: Final = msgspec.msgpack.Decoder(_Columns)


class Table:
    """Growing columns. One writer; any number of readers that look no further than the `rows` they once saw.

    `vectors` are of unit length.
    """

    def __init__(self, records: Sequence[bytes], vectors: Vectors) -> None:
        """Begin with these rows. The array is taken over, not copied."""
        self.vectors = Blocks(vectors)
        self.columns = np.zeros(len(vectors), _COLUMNS)
        self.records: list[bytes] = []
        self.ids: list[RecordId] = []
        self.row_of: dict[RecordId, int] = {}
        self.rows = 0
        self._sessions: dict[str, int] = {}
        self._text_bytes = 0
        self._enter(records, [_decoder.decode(record) for record in records])

    def add(self, records: Sequence[bytes], vectors: Vectors) -> None:
        """Append rows. One whose id is there already takes the place of the earlier one, which is hidden."""
        decoded = [_decoder.decode(record) for record in records]
        self._make_room(self.rows + len(records))
        self.vectors.add(vectors)
        self._enter(records, decoded)

    def discard(self, ids: Iterable[RecordId]) -> None:
        """Hide rows from every reader and drop their texts; unknown ids do nothing."""
        for record in ids:
            row = self.row_of.pop(record, None)
            if row is not None:
                self._hide(row)

    def alive(self, rows: int) -> Mask:
        """Return which of the first `rows` are not hidden, as of now."""
        return self.columns["is_alive"][:rows].copy()

    def passing(self, where: MemoryFilter, rows: int, before: datetime | None = None) -> Mask:
        """Return which of the first `rows` are alive, pass `where`, and are older than `before`."""
        columns = self.columns[:rows]
        mask = columns["is_alive"].copy()
        if where.kinds:
            mask &= np.isin(columns["kind"], [_KINDS[kind] for kind in where.kinds])
        if where.sources:
            mask &= np.isin(columns["source"], [_SOURCES[source] for source in where.sources])
        if where.since is not None:
            mask &= columns["time_us"] >= _microseconds(where.since)
        if before is not None:
            mask &= columns["time_us"] < _microseconds(before)
        if where.session_id is not None:
            mask &= columns["session"] == self._sessions.get(where.session_id, -1)
        return mask

    @property
    def resident_bytes(self) -> int:
        sessions = sum(len(session) + 150 for session in self._sessions)
        held = self.vectors.resident_bytes + self.columns.nbytes + self._text_bytes
        return held + self.rows * _ROW_OVERHEAD + sessions

    def _enter(self, records: Sequence[bytes], decoded: Sequence[_Columns]) -> None:
        """Fill the columns of rows whose vectors stand in place already, then let readers see them."""
        first, behind = self.rows, self.rows + len(records)
        columns = self.columns[first:behind]
        columns["time_us"] = [_microseconds(one.timestamp) for one in decoded]
        columns["session"] = [self._sessions.setdefault(one.session_id, len(self._sessions)) for one in decoded]
        columns["kind"] = [_KINDS[one.kind] for one in decoded]
        columns["source"] = [_SOURCES[one.source] for one in decoded]
        columns["is_alive"] = True
        self.records += records
        self.ids += [one.id for one in decoded]
        self._text_bytes += sum(map(len, records))
        for row in range(first, behind):
            earlier = self.row_of.get(self.ids[row])
            if earlier is not None:
                self._hide(earlier)
            self.row_of[self.ids[row]] = row
        self.rows = behind

    def _hide(self, row: int) -> None:
        self.columns["is_alive"][row] = False
        self._text_bytes -= len(self.records[row])
        self.records[row] = HIDDEN

    def _make_room(self, rows: int) -> None:
        capacity = len(self.columns)
        if rows <= capacity:
            return
        # Half as much again: each row is copied three times at most on average, and a third of the room is spare.
        columns = np.zeros(max(rows, capacity + capacity // 2), _COLUMNS)
        columns[: self.rows] = self.columns[: self.rows]
        self.columns = columns


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
