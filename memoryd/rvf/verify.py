"""Reads every byte of a memory file and tells everything that is wrong with it, not only the first thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.errors import Damaged, ModelMismatch, StorageFault
from memoryd.protocol.interfaces import Finding
from memoryd.rvf import format as rvf
from memoryd.rvf.adjacency import unpack_adjacency
from memoryd.rvf.file import UNIT_TOLERANCE, require_model
from memoryd.rvf.lineage import read_lineage
from memoryd.rvf.reader import find_state, mend_of, read_segment
from memoryd.rvf.records import UNREADABLE, decode_record
from memoryd.rvf.sealed import agrees
from memoryd.rvf.snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from memoryd.files import File, FileSystem
    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.rvf.format import Vectors
    from memoryd.rvf.reader import State
    from memoryd.rvf.sealed import SealedPart
    from memoryd.rvf.snapshot import Snapshot

_RESTORE: Final = "restore the file from a copy"
_NEW_GRAPH: Final = "other programs make their own; compaction removes it"


def findings(file: File, path: Path, model: ModelInfo) -> Iterator[Finding]:
    """Yield what is wrong with the file; nothing when it is sound."""
    try:
        state = find_state(file, path)
    except StorageFault as error:
        yield _finding(error)
        return
    yield from _around(file, state)
    broken = list(_segments(file, path, state))
    yield from broken
    if not broken:
        yield from _agreement(file, path, state, model)


def ancestry(files: FileSystem, path: Path) -> Iterator[Finding]:
    """Yield what is wrong between a branch and its ancestors; nothing for the main line."""
    try:
        lineage = read_lineage(files, path)
        removed, first_row = lineage.removed(), 0
        for (ancestor, _), (snapshot, sight) in zip(lineage.chain(), lineage.inherited(), strict=True):
            erased = np.count_nonzero((removed >= first_row) & (removed < ancestor.below))
            if lost := ancestor.rows - int(erased) - snapshot.count(sight):
                yield Finding(f"{lost} memories that {ancestor.name} should still hold are not there", 0, _RESTORE)
            first_row = ancestor.below
    except StorageFault as error:
        yield _finding(error)


def _around(file: File, state: State) -> Iterator[Finding]:
    """Look at what does not stand in a segment."""
    manifest = state.manifest
    if behind := file.size() - state.end:
        yield Finding(
            f"{behind} bytes behind the newest commit",
            state.end,
            "a commit under way, or torn: the next opening cuts it",
            may_pass=True,
        )
    if manifest.metric != rvf.COSINE:
        yield Finding("metric is not cosine", state.segment.offset, "compaction writes it anew")
    if manifest.identity is None:
        yield Finding("file has no identity", state.segment.offset, "the next commit gives it one")


def _segments(file: File, path: Path, state: State) -> Iterator[Finding]:
    """Check every listed segment for itself, those of other programs included."""
    for entry in state.entries:
        try:
            read_segment(file, path, entry)
        except StorageFault as error:
            yield _finding(error)


def _agreement(file: File, path: Path, state: State, model: ModelInfo) -> Iterator[Finding]:
    """Check that segments which are sound each for itself also agree."""
    try:
        found = read_snapshot(file, path)
    except Damaged as error:
        yield _finding(error)
        return
    history, at = found.history, state.segment.offset
    try:
        require_model(history.model, model, path.parent.name)
    except ModelMismatch as error:
        yield _finding(error)
    for offset in history.stale:
        yield Finding("private segment that another one stands for", offset, "compaction removes it")
    yield from _foreign(found)
    yield from _crooked(found.vectors, at)
    yield from _readable(zip(found.rows.tolist(), found.records, strict=True), at)
    try:
        yield from _graph(file, path, found)
        for part in found.parts:
            yield from _sealed(part)
    except Damaged as error:
        yield _finding(error)


def _crooked(vectors: Vectors, at: int) -> Iterator[Finding]:
    with np.errstate(over="ignore"):  # another program may write what it likes
        lengths = np.linalg.norm(vectors, axis=1)
    if crooked := int((np.abs(lengths - 1.0) > UNIT_TOLERANCE).sum()):
        yield Finding(f"{crooked} vectors that are not of unit length", at, "another program wrote them")


def _graph(file: File, path: Path, found: Snapshot) -> Iterator[Finding]:
    """Check that the graph is one, over rows that have a vector."""
    for entry in found.state.of_type(rvf.INDEX):
        try:
            ids, _ = unpack_adjacency(read_segment(file, path, entry))
        except ValueError as error:
            yield Finding(f"graph cannot be read: {error}", entry.offset, _NEW_GRAPH)
            continue
        held = [*(part.rows[: part.count] for part in found.parts), found.held]
        if gone := len(ids) - sum(int(np.isin(rows, ids).sum()) for rows in held):
            yield Finding(f"graph over {gone} rows without a vector", entry.offset, _NEW_GRAPH)


def _foreign(found: Snapshot) -> Iterator[Finding]:
    """Tell what another program did to the file."""
    at, recorded = found.state.segment.offset, found.recorded
    if found.is_moved:
        yield Finding("vectors were moved away from their rows", at, "another program did; compaction puts them back")
    if unknown := int(np.isin(found.held, recorded, invert=True).sum()):
        yield Finding(f"{unknown} vectors without a record", at, "another program wrote them; compaction removes them")
    if lost := int(np.isin(recorded, found.held, invert=True).sum()):
        yield Finding(f"{lost} records without a vector", at, "another program deleted them; compaction removes them")


def _sealed(part: SealedPart) -> Iterator[Finding]:
    """Read and check all of these rows, and that their columns say what the records say."""
    part.check()
    at = part.private.offset
    yield from _crooked(part.vectors(slice(0, part.count)), at)
    records = part.records()
    broken = list(_readable(zip(part.rows[: part.count].tolist(), records, strict=True), at))
    yield from broken
    if not broken and not agrees(part, records):
        yield Finding("columns of sealed rows differ from their records", at, "compaction writes them anew")


def _readable(records: Iterable[tuple[int, bytes]], at: int) -> Iterator[Finding]:
    for row, record in records:
        try:
            decode_record(record)
        except UNREADABLE:
            yield Finding(f"record of row {row} cannot be decoded", at, _RESTORE)


def _finding(error: StorageFault) -> Finding:
    return Finding(error.message, int(error.details.get("offset") or 0), mend_of(error, _RESTORE))
