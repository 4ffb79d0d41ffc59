"""The newest state of a file: what is sealed, mapped; what is not, read.

Other programs may have written to the file or compacted it. They keep our private segments and know nothing of them,
so a record whose vector is gone counts as deleted, and a vector without a record is left alone. Where they moved vectors
away from their sealed rows, everything is read instead of mapped, until the next compaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memoryd.protocol.interfaces import Contents
from memoryd.rvf import format as rvf
from memoryd.rvf.history import read_history
from memoryd.rvf.reader import damaged, find_state, read_rows
from memoryd.rvf.records import UNREADABLE, attributes_of
from memoryd.rvf.sight import Sight, dead_by

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from memoryd.files import File
    from memoryd.protocol.ids import RecordId
    from memoryd.rvf.format import Ids, Vectors
    from memoryd.rvf.history import History
    from memoryd.rvf.reader import Entry, State
    from memoryd.rvf.sealed import SealedPart
    from memoryd.rvf.sight import Moments


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is committed.

    `parts` are the sealed rows, by ascending row. `held` uint64 [m], ascending: every other row that has a vector. `rows`
    uint64 [n], ascending: those of them that have a record, deleted ones too, to which `ids`, `records`, `vectors`,
    float32 [n, dim], and `added_us`, int64 [n], belong one by one. `recorded` uint64 [r], ascending: every row that has a
    record and is not in `parts`. `is_moved` says that another program has moved vectors of sealed rows, which are in no
    part then.
    """

    state: State
    history: History
    parts: list[SealedPart]
    held: Ids
    rows: Ids
    ids: list[RecordId]
    records: list[bytes]
    vectors: Vectors
    added_us: Moments
    recorded: Ids
    is_moved: bool

    @property
    def sight(self) -> Sight:
        """Everything that is alive now."""
        return Sight(self.state.manifest.deleted)

    def sight_at(self, moment_us: int) -> Sight:
        """Return what was alive at a moment, as far as it still stands in the file."""
        return Sight(dead_by(self.state.manifest.deleted, self.history.deleted, moment_us), until_us=moment_us)

    def live(self, sight: Sight) -> NDArray[np.int64]:
        """Return the places in `rows` of what `sight` sees."""
        return np.flatnonzero(sight.sees(self.rows, lambda: self.added_us))

    def count(self, sight: Sight) -> int:
        """Return how many rows `sight` sees."""
        return len(self.live(sight)) + sum(int(np.count_nonzero(part.seen(sight).alive())) for part in self.parts)

    def contents(self, sight: Sight | None = None) -> Contents:
        """Return what `sight` sees; what is alive now if there is none."""
        history = self.history
        live = self.live(sight or self.sight)
        return Contents(
            self.parts if sight is None else [part.seen(sight) for part in self.parts],
            self.vectors if len(live) == len(self.rows) else self.vectors[live],
            [self.records[place] for place in live],
            list(history.trajectories.values()),
            history.applied_seq,
        )


def read_snapshot(file: File, path: Path, known: Sequence[SealedPart] = ()) -> Snapshot:
    """Read what is committed; of sealed rows only what they are. Checks every hash of what it reads. Raises Damaged.

    `known` are parts of the same file, which need not be mapped and checked anew.
    """
    state = find_state(file, path)
    history = read_history(file, path, state, known)
    by_offset = {entry.offset: entry for entry in state.of_type(rvf.VEC)}
    sight = Sight(state.manifest.deleted)
    lowest, is_moved = -1, False
    for part in history.parts:
        vec = by_offset.get(part.private.offset + part.private.size)
        if vec is None or not _holds(file, vec, part) or part.head.first_row <= lowest:
            is_moved = True
            break
        part.attach(vec, sight)
        lowest = part.head.last_row
    parts = [] if is_moved else history.parts
    claimed = {part.vec.offset for part in parts if part.vec is not None}
    held, vectors = read_rows(file, path, state, [entry for entry in by_offset.values() if entry.offset not in claimed])
    if parts and len(held) and int(held[0]) <= lowest:  # another program has written sealed rows again
        is_moved, parts = True, []
        held, vectors = read_rows(file, path, state, list(by_offset.values()))
    if len(held) + sum(part.count for part in parts) != state.manifest.held:
        raise damaged(path, state.segment.offset, "manifest counts other rows than there are")
    for part in parts:
        part.fetch()
    recorded = _recorded(history, path, is_moved=is_moved)
    has_vector = np.isin(recorded.rows, held)
    rows = recorded.rows[has_vector]
    if not np.array_equal(rows, held):
        vectors = vectors[np.searchsorted(held, rows)]
    return Snapshot(
        state,
        history,
        parts,
        held,
        rows,
        list(compress(recorded.ids, has_vector)),
        list(compress(recorded.records, has_vector)),
        vectors,
        recorded.added_us[has_vector],
        recorded.rows,
        is_moved,
    )


def _holds(file: File, vec: Entry, part: SealedPart) -> bool:
    """Whether the segment `vec` is the one that was written behind `part`."""
    try:
        header = rvf.unpack_header(file.read(vec.offset, rvf.HEADER_SIZE))
    except ValueError:
        return False
    return (header.type, header.length, header.hash) == (rvf.VEC, vec.length, part.head.vec_hash)


class _Recorded(NamedTuple):
    rows: Ids
    ids: list[RecordId]
    records: list[bytes]
    added_us: Moments


def _recorded(history: History, path: Path, *, is_moved: bool) -> _Recorded:
    """Return the rows that have a record and are not mapped, ascending, with their records. Raises Damaged."""
    rows, added_us = np.array(history.rows, np.uint64), np.array(history.added_us, np.int64)
    if not is_moved:
        return _Recorded(rows, history.ids, history.records, added_us)
    parts = history.parts
    moved = [(part, record) for part in parts for record in part.records()]
    return _Recorded(
        np.concatenate([*(part.rows[: part.count] for part in parts), rows]),
        [*(_id(part, record, path) for part, record in moved), *history.ids],
        [*(record for _, record in moved), *history.records],
        np.concatenate([*(part.added_us[: part.count] for part in parts), added_us]),
    )


def _id(part: SealedPart, record: bytes, path: Path) -> RecordId:
    try:
        return attributes_of(record).id
    except UNREADABLE as error:
        raise damaged(path, part.private.offset, "a record cannot be decoded") from error
