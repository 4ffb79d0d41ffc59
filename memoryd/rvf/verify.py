"""Reads every byte of a memory file and tells everything that is wrong with it, not only the first thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from memoryd.protocol.errors import Damaged, ModelMismatch, StorageFault
from memoryd.protocol.interfaces import Finding
from memoryd.rvf import format as rvf
from memoryd.rvf.file import UNIT_TOLERANCE, require_model
from memoryd.rvf.reader import find_state, read_rows, read_segment
from memoryd.rvf.records import decode_record, read_history

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memoryd.files import File
    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.rvf.reader import State

_RESTORE: Final = "restore the file from a copy"


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


def _around(file: File, state: State) -> Iterator[Finding]:
    """Look at what does not stand in a segment."""
    manifest = state.manifest
    if behind := file.size() - state.end:
        yield Finding(
            f"{behind} bytes behind the newest commit",
            state.end,
            "a commit under way, or torn: the next opening cuts it",
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
        history = read_history(file, path, state)
        held, vectors = read_rows(file, path, state)
    except Damaged as error:
        yield _finding(error)
        return
    try:
        require_model(history.model, model, path.parent.name)
    except ModelMismatch as error:
        yield _finding(error)
    for offset in history.stale:
        yield Finding("private segment of an older generation", offset, "compaction removes it")
    at = state.segment.offset
    recorded = np.array(history.rows, np.uint64)
    if unknown := int(np.isin(held, recorded, invert=True).sum()):
        yield Finding(f"{unknown} vectors without a record", at, "another program wrote them; compaction removes them")
    if lost := int(np.isin(recorded, held, invert=True).sum()):
        yield Finding(f"{lost} records without a vector", at, "another program deleted them; compaction removes them")
    if crooked := int((np.abs(np.linalg.norm(vectors, axis=1) - 1.0) > UNIT_TOLERANCE).sum()):
        yield Finding(f"{crooked} vectors that are not of unit length", at, "another program wrote them")
    for row, record in zip(history.rows, history.records, strict=True):
        try:
            decode_record(record)
        except msgspec.MsgspecError:
            yield Finding(f"record of row {row} cannot be decoded", at, _RESTORE)


def _finding(error: StorageFault) -> Finding:
    return Finding(error.message, int(error.details.get("offset") or 0), error.hint or _RESTORE)
