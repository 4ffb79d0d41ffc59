"""What the private segments of a file say together.

A segment counts when it is of the newest generation and no sealed one stands in its place. The newest commit knows how
many others there must be, and the XOR of their hashes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import xor
from typing import TYPE_CHECKING, Final

from memoryd.rvf import format as rvf
from memoryd.rvf.origin import Origin, unpack_origin
from memoryd.rvf.reader import damaged, read_segment
from memoryd.rvf.records import (
    HEAD,
    ORIGIN,
    SEALED,
    UNREADABLE,
    Body,
    attributes_of,
    decode_trajectory,
    is_of,
    is_ours,
    unpack_body,
)
from memoryd.rvf.sealed import Changes, Head, SealedPart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Mapping as Dict
    from pathlib import Path

    from memoryd.files import File, Mapping
    from memoryd.protocol.ids import RecordId, Seq, TrajectoryId
    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.protocol.records import Trajectory
    from memoryd.rvf.reader import Entry, State

_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Piece:
    """One private segment that counts: a commit, or sealed rows in the place of several."""

    entry: Entry
    crc: int
    content: Body | SealedPart

    @property
    def generation(self) -> int:
        return self._says.generation

    @property
    def first(self) -> int:
        return self._says.first

    @property
    def number(self) -> int:
        return self._says.number

    @property
    def _says(self) -> Body | Head:
        return self.content if isinstance(self.content, Body) else self.content.head

    def changes(self) -> Changes:
        """Return what became of trajectories. Raises Damaged."""
        if isinstance(self.content, Body):
            body = self.content
            return Changes(body.dropped, body.trajectories, body.told_us, body.deleted, body.deleted_us)
        return self.content.changes()


@dataclass(slots=True)
class History:
    """What all pieces say together; `pieces` in their order, `stale` the offsets of segments that do not count.

    `rows`, `ids`, `records` and `added_us` are those of commits, by ascending row id. `told_us` says when
    `trajectories` became what they are, `trajectory_sizes` are the encoded bytes of those that are kept, `trajectory_bytes` those of all that are in the pieces. `deleted` says since when rows
    are gone, in microseconds since 1970; rows that were deleted up to `erased_us` may not stand in the file any more.
    """

    pieces: list[Piece]
    stale: list[int]
    model: ModelInfo
    generation: int
    number: int
    applied_seq: Seq
    next_row: int
    linked_to: int
    erased_us: int
    origin: Origin | None = None
    root: Entry | None = None  # the segment of the origin
    rows: list[int] = field(default_factory=list)
    ids: list[RecordId] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    added_us: list[int] = field(default_factory=list)
    deleted: dict[int, int] = field(default_factory=dict)
    trajectories: dict[TrajectoryId, Trajectory] = field(default_factory=dict)
    told_us: dict[TrajectoryId, int] = field(default_factory=dict)
    trajectory_sizes: dict[TrajectoryId, int] = field(default_factory=dict)
    trajectory_bytes: int = 0

    @property
    def parts(self) -> list[SealedPart]:
        """The pieces that are sealed rows."""
        return [piece.content for piece in self.pieces if isinstance(piece.content, SealedPart)]


def read_history(file: File, path: Path, state: State, known: Sequence[SealedPart] = ()) -> History:
    """Read the private segments that the state lists; those of sealed rows are mapped. Raises Damaged.

    `known` are parts of the same file, which are taken as they are when they still stand there.
    """
    mapping = cache(file.map)  # most files are small, and have nothing to be mapped
    by_offset = {part.private.offset: part for part in known}
    entries = state.of_type(rvf.PRIVATE)
    read = [_piece(file, mapping, path, entry, by_offset) for entry in entries]
    found = [piece for piece in read if isinstance(piece, Piece)]
    origins = [(each, entry) for each, entry in zip(read, entries, strict=True) if isinstance(each, Origin)]
    origin, root = origins[-1] if origins else (None, None)
    _require_depth(origin, path, state)
    generation = max((piece.generation for piece in found), default=0)
    pieces = _counting([piece for piece in found if piece.generation == generation])
    if not pieces or not isinstance(last := pieces[-1].content, Body):
        raise damaged(path, state.segment.offset, "no records of memoryd")
    if last.model.dim != state.manifest.dim:
        raise damaged(path, pieces[-1].entry.offset, "a model of another dimension than the vectors")
    _count(pieces, last, path)
    counted = {piece.entry.offset for piece in pieces}
    history = History(
        pieces=pieces,
        stale=[piece.entry.offset for piece in found if piece.entry.offset not in counted],
        model=last.model,
        generation=generation,
        number=last.number,
        applied_seq=last.applied_seq,
        next_row=last.next_row,
        linked_to=last.linked_to,
        erased_us=last.erased_us,
        origin=origin,
        root=root,
    )
    for piece in pieces:
        _add(history, piece, path)
    return history


def _piece(
    file: File, mapping: Callable[[], Mapping], path: Path, entry: Entry, known: Dict[int, SealedPart]
) -> Piece | Origin | None:
    """Read one private segment, None when it is another program's. Raises Damaged."""
    try:
        start = file.read(entry.offset, rvf.HEADER_SIZE + HEAD.size)
        header = rvf.unpack_header(start)
        (crc,) = _CRC.unpack_from(header.hash)
        if not is_of(SEALED, start[rvf.HEADER_SIZE :]):
            payload = read_segment(file, path, entry)
            if is_of(ORIGIN, payload):
                return unpack_origin(payload)
            return Piece(entry, crc, unpack_body(payload)) if is_ours(payload) else None
    except ValueError as error:
        raise damaged(path, entry.offset, error) from error
    if (header.type, header.length) != (entry.type, entry.length):
        raise damaged(path, entry.offset, "segment differs from its directory entry")
    part = known.get(entry.offset)
    if part is None or part.private != entry:
        part = SealedPart(path, mapping(), entry)
    return Piece(entry, crc, part)


def _require_depth(origin: Origin | None, path: Path, state: State) -> None:
    """Raise Damaged unless a branch says where it came from, and no other file does."""
    identity = state.manifest.identity
    if identity is not None and identity.depth != (len(origin.ancestors) if origin else 0):
        raise damaged(path, state.segment.offset, "the origin of this branch is missing, or not of this file")


def _counting(pieces: list[Piece]) -> list[Piece]:
    """Return, in order, the pieces in whose place no other stands; some program may have brought the others back."""
    kept: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.first, -piece.number)):
        last = kept[-1] if kept else None
        if last is None or piece.number > last.number or (piece.first, piece.number) == (last.first, last.number):
            kept.append(piece)
    return kept


def _count(pieces: list[Piece], last: Body, path: Path) -> None:
    """Raise Damaged unless the other pieces are those that the newest commit knew."""
    others = pieces[:-1]
    census = reduce(xor, (piece.crc for piece in others), 0)
    if (len(others), census) != (last.others, last.census):
        raise damaged(path, pieces[-1].entry.offset, "private segments are missing, or not of this file")


def _add(history: History, piece: Piece, path: Path) -> None:
    offset = piece.entry.offset
    body = piece.content
    if isinstance(body, Body):
        if body.rows and (body.rows[0] <= (history.rows or [-1])[-1] or body.rows[-1] >= body.next_row):
            raise damaged(path, offset, "row ids out of order")
        history.rows += body.rows
        history.records += body.records
        history.added_us += body.added_us
    changes = piece.changes()
    history.deleted.update(zip(changes.deleted, changes.deleted_us, strict=True))
    try:
        if isinstance(body, Body):
            history.ids += [attributes_of(record).id for record in body.records]
        trajectories = [decode_trajectory(trajectory) for trajectory in changes.trajectories]
    except UNREADABLE as error:
        raise damaged(path, offset, "a record or trajectory cannot be decoded") from error
    for trajectory in changes.dropped:
        history.trajectories.pop(trajectory, None)
        history.trajectory_sizes.pop(trajectory, None)
    for kept, encoded, moment in zip(trajectories, changes.trajectories, changes.told_us, strict=True):
        history.trajectories[kept.id] = kept
        history.told_us[kept.id] = moment
        history.trajectory_sizes[kept.id] = len(encoded)
        history.trajectory_bytes += len(encoded)
