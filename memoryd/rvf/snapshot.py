"""The newest state of a file: what is sealed, mapped; what is not, read.

Other programs may have written to the file or compacted it. They keep our private segments and know nothing of them,
so a record whose vector is gone counts as deleted, and a vector without a record is left alone. Where they moved vectors
away from their sealed rows, everything is read instead of mapped, until the next compaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from memoryd.protocol.interfaces import Contents
from memoryd.rvf import format as rvf
from memoryd.rvf.history import read_history
from memoryd.rvf.reader import damaged, find_state, read_rows
from memoryd.rvf.records import UNREADABLE, attributes_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memoryd.files import File
    from memoryd.protocol.ids import RecordId
    from memoryd.rvf.format import Ids, Vectors
    from memoryd.rvf.history import History
    from memoryd.rvf.reader import Entry, State
    from memoryd.rvf.sealed import SealedPart


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is committed.

    `parts` are the sealed rows, by ascending row. `held` uint64 [m], ascending: every other row that has a vector,
    deleted or not. `rows` uint64 [n], ascending: the live ones among those, to which `ids`, `records` and `vectors`,
    float32 [n, dim], belong one by one. `recorded` uint64 [r], ascending: every row that has a record and is not in
    `parts`. `is_moved` says that another program has moved vectors of sealed rows, which are in no part then.
    """

    state: State
    history: History
    parts: list[SealedPart]
    held: Ids
    rows: Ids
    ids: list[RecordId]
    records: list[bytes]
    vectors: Vectors
    recorded: Ids
    is_moved: bool

    def contents(self) -> Contents:
        history = self.history
        return Contents(
            self.parts, self.vectors, self.records, list(history.trajectories.values()), history.applied_seq
        )


def read_snapshot(file: File, path: Path, known: Sequence[SealedPart] = ()) -> Snapshot:
    """Read what is committed; of sealed rows only what they are. Checks every hash of what it reads. Raises Damaged.

    `known` are parts of the same file, which need not be mapped and checked anew.
    """
    state = find_state(file, path)
    history = read_history(file, path, state, known)
    by_offset = {entry.offset: entry for entry in state.of_type(rvf.VEC)}
    dead = state.manifest.deleted
    lowest, is_moved = -1, False
    for part in history.parts:
        vec = by_offset.get(part.private.offset + part.private.size)
        if vec is None or not _holds(file, vec, part) or part.head.first_row <= lowest:
            is_moved = True
            break
        part.attach(vec, dead)
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
    rows, ids, records = _recorded(history, path, is_moved=is_moved)
    is_live = np.isin(rows, held) & ~np.isin(rows, dead)
    live = rows[is_live]
    if not np.array_equal(live, held):
        vectors = vectors[np.searchsorted(held, live)]
    return Snapshot(
        state,
        history,
        parts,
        held,
        live,
        list(compress(ids, is_live)),
        list(compress(records, is_live)),
        vectors,
        rows,
        is_moved,
    )


def _holds(file: File, vec: Entry, part: SealedPart) -> bool:
    """Whether the segment `vec` is the one that was written behind `part`."""
    try:
        header = rvf.unpack_header(file.read(vec.offset, rvf.HEADER_SIZE))
    except ValueError:
        return False
    return (header.type, header.length, header.hash) == (rvf.VEC, vec.length, part.head.vec_hash)


def _recorded(history: History, path: Path, *, is_moved: bool) -> tuple[Ids, list[RecordId], list[bytes]]:
    """Return the rows that have a record and are not mapped, ascending, with their records. Raises Damaged."""
    rows, ids, records = [np.array(history.rows, np.uint64)], history.ids, history.records
    if is_moved:
        rows = [*(part.rows[: part.count] for part in history.parts), *rows]
        moved = [(part, record) for part in history.parts for record in part.records()]
        ids = [*(_id(part, record, path) for part, record in moved), *ids]
        records = [*(record for _, record in moved), *records]
    return np.concatenate(rows), ids, records


def _id(part: SealedPart, record: bytes, path: Path) -> RecordId:
    try:
        return attributes_of(record).id
    except UNREADABLE as error:
        raise damaged(path, part.private.offset, "a record cannot be decoded") from error
