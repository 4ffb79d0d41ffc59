"""The whole of a file at once: its newest state, its records, and the vectors that belong to them.

Other programs may have written to the file or compacted it. They keep our private segments and know nothing of them,
so a record whose vector is gone counts as deleted, and a vector without a record is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from memoryd.protocol.interfaces import Contents
from memoryd.rvf.reader import find_state, read_rows
from memoryd.rvf.records import read_history

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.files import File
    from memoryd.protocol.ids import RecordId
    from memoryd.rvf.format import Ids, Vectors
    from memoryd.rvf.reader import State
    from memoryd.rvf.records import History


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is committed.

    `held` uint64 [m], ascending: every row that has a vector, deleted or not. `rows` uint64 [n], ascending: the live
    ones among them, to which `records` and `vectors`, float32 [n, dim], belong one by one.
    """

    state: State
    history: History
    held: Ids
    rows: Ids
    ids: list[RecordId]
    records: list[bytes]
    vectors: Vectors

    def contents(self) -> Contents:
        history = self.history
        return Contents(self.vectors, self.records, list(history.trajectories.values()), history.applied_seq)


def read_snapshot(file: File, path: Path) -> Snapshot:
    """Read all that is committed, checking every hash on the way. Raises Damaged."""
    state = find_state(file, path)
    history = read_history(file, path, state)
    held, vectors = read_rows(file, path, state)
    recorded = np.array(history.rows, np.uint64)
    is_live = np.isin(recorded, held) & ~np.isin(recorded, state.manifest.deleted)
    rows = recorded[is_live]
    if not np.array_equal(rows, held):
        vectors = vectors[np.searchsorted(held, rows)]
    ids, records = list(compress(history.ids, is_live)), list(compress(history.records, is_live))
    return Snapshot(state, history, held, rows, ids, records, vectors)
