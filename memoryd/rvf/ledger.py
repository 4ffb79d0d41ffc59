"""What a writer knows of its file: where the next segment goes, and what the next manifest will say.

Makes bytes and touches no disk. A ledger that has given out bytes which were not written is worthless; its file is
then closed and read again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from itertools import zip_longest
from operator import xor
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from memoryd.protocol.ids import BEFORE_ALL, Seq, TrajectoryId
from memoryd.rvf import format as rvf
from memoryd.rvf.origin import pack_origin
from memoryd.rvf.records import Body, pack_body
from memoryd.rvf.sealed import Changes, Rows, SealedPart, Span, pack_sealed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from memoryd.protocol.interfaces import Encoder, ModelInfo
    from memoryd.rvf.format import Identity, Ids
    from memoryd.rvf.history import Piece
    from memoryd.rvf.origin import Origin
    from memoryd.rvf.reader import Entry
    from memoryd.rvf.snapshot import Snapshot

# A segment is begun anew behind this much, far below what readers accept (section 9 of the format advises 64 MiB).
MAX_ROWS: Final = 32_768
_MAX_VEC_BYTES: Final = 64 << 20
_MAX_RECORD_BYTES: Final = 16 << 20

# What one piece holds at most, before packing.
_PIECES_OF_BYTES: Final = 4  # of the longest commit

# So many commits, or rows in them, are folded into one piece; it is sealed when it has so many rows.
_FOLD_COMMITS: Final = 64
_FOLD_ROWS: Final = 1_024
SEALED_ROWS: Final = 256

# So many sealed pieces of about the same size are folded into a larger one: eight below the first bound, four between it and
# the second. So a row is written a few times, and a million rows stand in some forty pieces.
_MERGES: Final = ((4_096, 8), (16_384, 4))

# A graph is worth its time from so many sealed rows on (the reference runtime uses none for fewer), and again when so many
# and this share of them are not in it.
_LINKED_ROWS: Final = 1_024
_UNLINKED_SHARE: Final = 0.2

# Columns and codes of sealed rows stand at multiples of this; see sealed.py.
_ALIGNMENT: Final = 64

_Line = tuple[int, int, int, int]  # of the directory: segment id, offset, payload length, type


class Told(NamedTuple):
    """An encoded trajectory, and when it became so, in microseconds since 1970."""

    encoded: bytes
    moment_us: int


@dataclass(frozen=True, slots=True)
class Addition:
    """What is to be written: rows, and what becomes of trajectories, which are dropped before others are added.

    `deleted` says since when which rows are gone, in microseconds since 1970.
    """

    rows: Rows
    trajectories: Mapping[TrajectoryId, Told] = field(default_factory=dict)
    dropped: Sequence[TrajectoryId] = ()
    deleted: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """A private segment and the vectors that belong to it, which stand behind it; `last_row` is -1 unless it is sealed."""

    first: int
    number: int
    crc: int
    is_sealed: bool
    rows: int
    record_bytes: int
    trajectory_bytes: int
    last_row: int
    lines: tuple[_Line, ...]


@dataclass(slots=True)
class Ledger:
    """The state of a file between two commits.

    `others` are VEC segments that other programs wrote or moved. `held` counts the rows that have a vector, deleted ones
    included; `deleted` are those of them that are no longer alive, and since when, in microseconds since 1970 (0: nobody
    knows). The `origin` of a branch stands in the segment `root`; what it deleted of its ancestors is in `deleted` too, and
    not in a manifest. What was deleted up to `erased_us` may be gone. `next_row` and `number`, of the next private segment, are never given back, so that no id comes
    to mean another row. `trajectory_sizes` are the encoded bytes of those that are kept. `graph` is the INDEX segment, and
    `linked_to` the last row in it, -1 without one.
    """

    model: ModelInfo
    identity: Identity
    generation: int = 1
    epoch: int = 0
    size: int = 0
    next_segment: int = 1
    next_row: int = 0
    number: int = 0
    applied_seq: Seq = BEFORE_ALL
    units: list[Unit] = field(default_factory=list)
    others: list[_Line] = field(default_factory=list)
    graph: _Line | None = None
    linked_to: int = -1
    origin: Origin | None = None
    root: _Line | None = None
    erased_us: int = 0
    held: int = 0
    trajectory_sizes: dict[TrajectoryId, int] = field(default_factory=dict)
    deleted: dict[int, int] = field(default_factory=dict)
    manifest_size: int = 0

    @classmethod
    def of(cls, snapshot: Snapshot, identity: Identity) -> Ledger:
        """Return the ledger of a file as it was read. `identity` serves when the file names none of its own."""
        state, history = snapshot.state, snapshot.history
        manifest = state.manifest
        by_offset = {entry.offset: entry for entry in state.of_type(rvf.VEC)}
        units = [_unit(piece, by_offset) for piece in history.pieces]
        listed = {line[1] for unit in units for line in unit.lines}
        # An id that holds no vector may not be listed: the reference runtime would count it as one row less.
        dead = [_dead(snapshot.held, manifest.deleted)]
        dead += [_dead(part.rows[: part.count], manifest.deleted) for part in snapshot.parts if len(manifest.deleted)]
        highest = max((int(rows[-1]) for rows in (snapshot.held, manifest.deleted) if len(rows)), default=-1)
        highest = max([highest, *(part.head.last_row for part in snapshot.parts)])
        graphs = [_line(entry) for entry in state.of_type(rvf.INDEX)]
        first_row = history.origin.first_row if history.origin else 0
        deleted = {row: moment for row, moment in history.deleted.items() if row < first_row}
        deleted |= {row: history.deleted.get(row, 0) for rows in dead for row in rows.tolist()}
        # Old manifests and journals of other programs stay behind.
        return cls(
            model=history.model,
            identity=manifest.identity or identity,
            generation=history.generation,
            epoch=manifest.epoch,
            size=state.end,
            next_segment=max(entry.id for entry in (*state.entries, state.segment)) + 1,
            # Another program may have written an extreme id; then nothing can be added any more, and all is still read.
            next_row=min(max(history.next_row, highest + 1, first_row), rvf.MAX_ROW_ID),
            number=history.number + 1,
            applied_seq=history.applied_seq,
            units=units,
            others=[_line(entry) for entry in by_offset.values() if entry.offset not in listed],
            graph=graphs[-1] if graphs else None,
            linked_to=history.linked_to if graphs else -1,
            origin=history.origin,
            root=_line(history.root) if history.root else None,
            erased_us=history.erased_us,
            held=manifest.held,
            trajectory_sizes=history.trajectory_sizes,
            deleted=deleted,
            manifest_size=state.segment.size,
        )

    def successor(self, model: ModelInfo) -> Ledger:
        """Return the ledger of the file that will take the place of this one: same identity, next generation."""
        return Ledger(
            model=model,
            identity=self.identity,
            generation=self.generation + 1,
            epoch=self.epoch,
            next_row=self.next_row,
            applied_seq=self.applied_seq,
            origin=self.origin,
            erased_us=self.erased_us,
        )

    @property
    def first_row(self) -> int:
        """The first row that can stand in this file; those before are the ancestors' of a branch."""
        return self.origin.first_row if self.origin else 0

    def dead(self) -> Ids:
        """Return the rows of this file that are not alive, uint64 [d], ascending."""
        return np.array(sorted(row for row in self.deleted if row >= self.first_row), np.uint64)

    def erase(self, rows: Iterable[int]) -> None:
        """Take note that these deleted rows do not stand in the file any more."""
        for row in rows:
            self.erased_us = max(self.erased_us, self.deleted.pop(row, 0))

    @property
    def segments(self) -> int:
        """How many segments the next manifest lists."""
        return len(self._lines())

    def commit(self, addition: Addition) -> Iterator[bytes]:
        """Yield the segments that hold all this, and enter them."""
        rows, told = addition.rows, list(addition.trajectories.values())
        parts = zip_longest(
            cuts(rows.records, self.max_rows), cuts([one.encoded for one in told], len(told)), fillvalue=slice(0)
        )
        changes = Changes(
            dropped=list(addition.dropped),
            deleted=list(addition.deleted),
            deleted_us=list(addition.deleted.values()),
        )
        for of_rows, of_told in parts:
            changes = msgspec.structs.replace(
                changes,
                trajectories=[one.encoded for one in told[of_told]],
                told_us=[one.moment_us for one in told[of_told]],
            )
            yield from self._log(self.number, self.number, rows[of_rows], changes)
            self.number += 1
            changes = Changes()
        if self.origin is not None and self.root is None:
            yield self._begin(self.origin)
        for gone in addition.dropped:
            self.trajectory_sizes.pop(gone, None)
        self.trajectory_sizes.update({each: len(one.encoded) for each, one in addition.trajectories.items()})

    def seal(self, rows: Rows, changes: Changes, encoder: Encoder | None) -> Iterator[bytes]:
        """Yield the segments that hold these rows for good, and enter them."""
        yield from self._sealed(self.number, self.number, rows, changes, encoder)
        self.number += 1

    def foldable(self, *, is_quiet: bool) -> tuple[int, int] | None:
        """Return the numbers of the first and the last unit that should be folded into one, None when none should.

        When nothing else is to be done, fewer rows are worth it: as many as can be sealed.
        """
        if self.others:  # vectors that stand elsewhere would be written twice
            return None
        tail = [unit for unit in self.units if not unit.is_sealed]
        if len(tail) > _FOLD_COMMITS or sum(unit.rows for unit in tail) >= (SEALED_ROWS if is_quiet else _FOLD_ROWS):
            first = self._fitting(tail)
            if len(first) > 1 or first[0].rows >= SEALED_ROWS:
                return first[0].first, first[-1].number
        sealed = [unit for unit in self.units if unit.is_sealed]
        lowest = 0
        for below, several in _MERGES:
            last = sealed[-several:]
            is_alike = len(last) == several and all(lowest <= unit.rows < below for unit in last)
            if is_alike and len(self._fitting(last)) == several:
                return last[0].first, last[-1].number
            lowest = below
        return None

    def fits(self, rows: int, size: int) -> bool:
        """Whether one piece holds so many rows, and records and trajectories of so many bytes."""
        return rows <= self.max_rows and size <= _PIECES_OF_BYTES * _MAX_RECORD_BYTES

    @property
    def max_rows(self) -> int:
        """How many rows one piece holds at most."""
        return min(MAX_ROWS, _MAX_VEC_BYTES // rvf.row_dtype(self.model.dim).itemsize)

    def _fitting(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Return as many of the first units as one piece holds, and at least one."""
        rows = size = 0
        for place, unit in enumerate(units):
            rows, size = rows + unit.rows, size + unit.record_bytes + unit.trajectory_bytes
            if place and not self.fits(rows, size):
                return units[:place]
        return units

    def fold(self, first: int, number: int, rows: Rows, changes: Changes, encoder: Encoder | None) -> Iterator[bytes]:
        """Yield the segments that stand in the place of the units `first` to `number`, and enter them.

        `rows` are those of them that were alive, and `changes` what they said together. What the last commit says must
        be said again behind it.
        """
        at = next(place for place, unit in enumerate(self.units) if unit.first == first)
        behind = next(place for place, unit in enumerate(self.units) if unit.number == number) + 1
        later = self.units[behind:]
        self.held -= sum(unit.rows for unit in self.units[at:behind] if len(unit.lines) > 1)
        del self.units[at:]
        if len(rows.ids) >= SEALED_ROWS:
            yield from self._sealed(first, number, rows, changes, encoder)
        else:
            yield from self._log(first, number, rows, changes)
        self.units += later

    def manifest(self) -> bytes:
        """Return the manifest that commits everything entered so far, and go on to the next epoch."""
        self.epoch += 1
        manifest = rvf.Manifest(
            epoch=self.epoch,
            dim=self.model.dim,
            held=self.held,
            directory=np.array(self._lines(), rvf.ENTRY),
            deleted=self.dead(),
            identity=self.identity,
        )
        payload = rvf.pack_manifest(manifest)
        payload += bytes(-(self.size + rvf.HEADER_SIZE + len(payload)) % _ALIGNMENT)
        segment = rvf.pack_segment(rvf.MANIFEST, self.next_segment, payload)
        self.next_segment += 1
        self.size += len(segment)
        self.manifest_size = len(segment)
        return segment

    def dead_bytes(self, live: int) -> int:
        """Return how many bytes the newest state does not need when `live` rows are alive.

        Old manifests and foreign segments count in full; rows by the mean size of a row, and what private segments
        hold by its size before compression.
        """
        sizes = {rvf.VEC: 0, rvf.PRIVATE: 0}
        for _, _, length, kind in self._lines():
            sizes[kind] = sizes.get(kind, 0) + rvf.HEADER_SIZE + length
        record_bytes = sum(unit.record_bytes for unit in self.units)
        trajectory_bytes = sum(unit.trajectory_bytes for unit in self.units)
        texts = _share(record_bytes, live, sum(unit.rows for unit in self.units)) + sum(self.trajectory_sizes.values())
        needed = _share(sizes[rvf.VEC], live, self.held)
        needed += _share(sizes[rvf.PRIVATE], texts, record_bytes + trajectory_bytes)
        return max(0, self.size - self.manifest_size - needed - sizes.get(rvf.INDEX, 0))

    def is_linkable(self) -> bool:
        """Whether a graph should be made, or made anew."""
        sealed = [unit for unit in self.units if unit.is_sealed]
        rows = sum(unit.rows for unit in sealed)
        unlinked = sum(unit.rows for unit in sealed if unit.last_row > self.linked_to)
        return not self.others and unlinked >= max(_LINKED_ROWS, _UNLINKED_SHARE * rows)

    def link(self, payload: bytes, last_row: int) -> bytes:
        """Return the INDEX segment whose last row this is, and enter it in the place of an earlier one."""
        segment = rvf.pack_segment(rvf.INDEX, self.next_segment, payload)
        self.graph = (self.next_segment, self.size, len(payload), rvf.INDEX)
        self.linked_to = last_row
        self.next_segment += 1
        self.size += len(segment)
        return segment

    def unlink(self, gone: Iterable[int]) -> None:
        """Give up the graph if one of these rows, which have no vector any more, is in it: no reader would take it."""
        if any(row <= self.linked_to for row in gone) or self.linked_to < 0:
            self.graph, self.linked_to = None, -1

    def _lines(self) -> list[_Line]:
        alone = [line for line in (self.root, self.graph) if line is not None]
        return [*self.others, *(line for unit in self.units for line in unit.lines), *alone]

    def _begin(self, origin: Origin) -> bytes:
        """Return the segment that says where a branch came from, and enter it."""
        payload = pack_origin(origin)
        self.root = (self.next_segment, self.size, len(payload), rvf.PRIVATE)
        segment = rvf.pack_segment(rvf.PRIVATE, self.next_segment, payload)
        self.next_segment += 1
        self.size += len(segment)
        return segment

    def _log(self, first: int, number: int, rows: Rows, changes: Changes) -> Iterator[bytes]:
        body = Body(
            generation=self.generation,
            first=first,
            number=number,
            others=len(self.units),
            census=reduce(xor, (unit.crc for unit in self.units), 0),
            model=self.model,
            applied_seq=self.applied_seq,
            next_row=self.next_row,
            linked_to=self.linked_to,
            erased_us=self.erased_us,
            rows=rows.ids.tolist(),
            records=list(rows.records),
            added_us=rows.added_us.tolist(),
            dropped=changes.dropped,
            trajectories=changes.trajectories,
            told_us=changes.told_us,
            deleted=changes.deleted,
            deleted_us=changes.deleted_us,
        )
        payload = pack_body(body)
        vec = rvf.pack_vec(rows.ids, rows.vectors) if len(rows.ids) else b""
        yield from self._enter(first, number, payload, vec, body, sum(map(len, changes.trajectories)))

    def _sealed(
        self, first: int, number: int, rows: Rows, changes: Changes, encoder: Encoder | None
    ) -> Iterator[bytes]:
        vec = rvf.pack_vec(rows.ids, rows.vectors)
        # The segment stands two bytes behind a multiple of 64, and what comes next at one.
        vec += bytes(-(2 + rvf.HEADER_SIZE + len(vec)) % _ALIGNMENT)
        span = Span(self.generation, first, number, self.model)
        payload = pack_sealed(span, rows, vec, changes, encoder)
        yield from self._enter(first, number, payload, vec, rows, sum(map(len, changes.trajectories)))

    def _enter(
        self, first: int, number: int, payload: bytes, vec: bytes, rows: Body | Rows, trajectory_bytes: int
    ) -> Iterator[bytes]:
        lines = []
        for kind, each in ((rvf.PRIVATE, payload), (rvf.VEC, vec)):
            if each:
                segment = rvf.pack_segment(kind, self.next_segment, each)
                lines.append((self.next_segment, self.size, len(each), kind))
                self.next_segment += 1
                self.size += len(segment)
                yield segment
        count, size = len(rows.records), sum(map(len, rows.records))
        self.held += count
        is_sealed = isinstance(rows, Rows)
        last_row = int(rows.ids[-1]) if isinstance(rows, Rows) else -1
        crc = crc32(payload)
        self.units.append(Unit(first, number, crc, is_sealed, count, size, trajectory_bytes, last_row, tuple(lines)))


def _unit(piece: Piece, by_offset: Mapping[int, Entry]) -> Unit:
    """Return what the ledger keeps of a piece; without the vectors behind it when they were moved."""
    content, entry = piece.content, piece.entry
    lines = [_line(entry)]
    vec = by_offset.get(entry.offset + entry.size)
    if isinstance(content, SealedPart):
        head = content.head
        rows, record_bytes, trajectory_bytes = content.count, head.text_bytes, head.trajectory_bytes
        last_row, is_there = head.last_row, content.vec is not None
    else:
        rows, record_bytes = len(content.rows), sum(map(len, content.records))
        trajectory_bytes = sum(map(len, content.trajectories))
        # Another program may have put vectors of its own behind a commit.
        last_row, is_there = -1, rows > 0 and vec is not None and vec.id == entry.id + 1
    if is_there and vec is not None:
        lines.append(_line(vec))
    is_sealed = isinstance(content, SealedPart)
    return Unit(
        piece.first,
        piece.number,
        piece.crc,
        is_sealed,
        rows,
        record_bytes,
        trajectory_bytes,
        last_row,
        tuple(lines),
    )


def _line(entry: Entry) -> _Line:
    return entry.id, entry.offset, entry.length, entry.type


def _dead(held: rvf.Ids, deleted: rvf.Ids) -> rvf.Ids:
    return held[np.isin(held, deleted)]


def cuts(items: Sequence[bytes], most: int) -> Iterator[slice]:
    """Yield slices that cover `items`, each with at most `most` of them and not too many bytes; at least one slice."""
    start = size = 0
    for at, item in enumerate(items):
        if at > start and (size + len(item) > _MAX_RECORD_BYTES or at - start >= most):
            yield slice(start, at)
            start, size = at, 0
        size += len(item)
    yield slice(start, len(items))


def _share(size: int, part: int, whole: int) -> int:
    return size * part // whole if whole else size
