"""How rows move to another place of a file, or into a new one, while commits go on.

`prepare` takes long, reads through a descriptor of its own, and may run beside commits; it returns whether there is
something to finish. `finish` is quick, and runs between two commits. What was committed meanwhile is added then.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.errors import StorageFault
from memoryd.rvf import format as rvf
from memoryd.rvf.adjacency import pack_adjacency, unpack_adjacency
from memoryd.rvf.ledger import SEALED_ROWS, Addition, Ledger, Told
from memoryd.rvf.reader import read_segment
from memoryd.rvf.records import Body, encode_trajectory, trajectory_id
from memoryd.rvf.sealed import Changes, Rows, SealedPart
from memoryd.rvf.sight import Sight, dead_by
from memoryd.rvf.snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from memoryd.files import File, FileSystem
    from memoryd.protocol.ids import TrajectoryId
    from memoryd.protocol.interfaces import Adjacency, Encoder, ModelInfo, Vectors
    from memoryd.rvf.format import Ids
    from memoryd.rvf.history import Piece
    from memoryd.rvf.sight import Mask, Moments
    from memoryd.rvf.snapshot import Snapshot

    Link = Callable[[Vectors, Adjacency | None, Callable[[], bool]], Adjacency | None]
    Embed = Callable[[Sequence[bytes]], tuple[Sequence[bytes], Vectors]]


def time_us() -> int:
    """Return the moment, in microseconds since 1970."""
    return time.time_ns() // 1000


TEMPORARY_SUFFIX: Final = ".compact.tmp"


@dataclass(frozen=True, slots=True)
class Retention:
    """Which deleted rows stay: those that went less than `history_s` ago, and those that branches have seen since (`pins`)."""

    history_s: float = 0.0
    pins: Callable[[int], Sequence[Sight]] = lambda _moment_us: ()
    now_us: Callable[[], int] = time_us

    def of(self, dead: Ids, times: Mapping[int, int], *, erases: bool = False) -> tuple[Sight, ...]:
        """Return what must stay when the rows `dead` are deleted; who `erases` keeps nothing for looking back."""
        last = self.now_us() if erases else self.now_us() - int(self.history_s * 1e6)
        return (Sight(dead_by(dead, times, last)), *self.pins(last))


@dataclass(frozen=True, slots=True)
class Place:
    """A file and what its rows are written with."""

    files: FileSystem
    path: Path
    encoder: Encoder | None
    link: Link | None = None
    retention: Retention = field(default_factory=Retention)
    number: int = 0  # of the compaction, so that none writes to the file of another

    @property
    def temporary(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{self.number}{TEMPORARY_SUFFIX}")

    @contextmanager
    def reading(self) -> Iterator[File]:
        """Open the file once more, for reading."""
        file = self.files.open(self.path, writable=False)
        try:
            yield file
        finally:
            file.close()


class Folding:
    """The units `first` to `number` become one, at the end of the same file."""

    def __init__(self, place: Place, first: int, number: int) -> None:
        self._place = place
        self._first = first
        self._number = number
        self.is_prepared = False

    def prepare(self) -> bool:
        with self._place.reading() as file:
            found = read_snapshot(file, self._place.path)
        pieces = [p for p in found.history.pieces if self._first <= p.first and p.number <= self._number]
        self._rows = _joined([*_sources(found, pieces, _kept(found, self._place))], found.history.model.dim)
        held = np.concatenate([_ids(piece) for piece in pieces])
        self._gone = set(held.tolist()) - set(self._rows.ids.tolist())
        self._changes = _changes(pieces, self._gone)
        self.is_prepared = True
        return True

    def finish(self, file: File, ledger: Ledger) -> tuple[File, Ledger]:
        ledger.erase(self._gone)
        ledger.unlink(self._gone)
        segments = [*ledger.fold(self._first, self._number, self._rows, self._changes, self._place.encoder)]
        segments += ledger.commit(Addition(Rows.none(ledger.model.dim)))
        append(file, ledger, segments)
        return file, ledger

    def stop(self) -> None:
        """Do nothing: it does not take long."""

    def abandon(self) -> None:
        """Nothing was written."""
        self.is_prepared = False


class Linking:
    """The graph of the sealed rows, as other programs use it: that of before and the rows since, or a new one."""

    def __init__(self, place: Place, link: Link) -> None:
        self._place = place
        self._link = link
        self._is_wanted = True
        self.is_prepared = False

    def prepare(self) -> bool:
        with self._place.reading() as file:
            found = read_snapshot(file, self._place.path)
            ids = np.concatenate([rvf.NO_ROWS, *(part.rows[: part.count] for part in found.parts)])
            if not len(ids):  # another program has removed or moved the vectors
                return False
            known = _known_graph(file, self._place.path, found, ids)
        vectors = np.empty((len(ids), found.history.model.dim), np.float32)
        done = 0
        for part in found.parts:
            vectors[done : done + part.count] = part.vectors(slice(0, part.count))
            done += part.count
        graph = self._link(vectors, known, lambda: self._is_wanted)
        if graph is None:
            return False
        self._payload = pack_adjacency(ids, graph)
        self._last_row = int(ids[-1])
        self.is_prepared = True
        return True

    def finish(self, file: File, ledger: Ledger) -> tuple[File, Ledger]:
        segments = [ledger.link(self._payload, self._last_row), *ledger.commit(Addition(Rows.none(ledger.model.dim)))]
        append(file, ledger, segments)
        return file, ledger

    def stop(self) -> None:
        """Have `prepare` return soon, with nothing to finish."""
        self._is_wanted = False

    def abandon(self) -> None:
        """Nothing was written."""
        self.is_prepared = False


class Compaction:
    """The live rows go into a new file, next generation of the same identity, which takes the place of the old one."""

    def __init__(
        self, place: Place, ledger: Ledger, model: ModelInfo, embed: Embed | None = None, *, erases: bool = False
    ) -> None:
        """Begin the successor of `ledger`, with the vectors of another `model` if `embed` makes records and vectors of records.

        Who `erases` keeps nothing of what was deleted but what branches still see.
        """
        self._place = place
        self._ledger = ledger.successor(model)
        self._embed = embed
        self._erases = erases
        self._file: File | None = None
        self._written: list[Ids] = []

    def prepare(self) -> bool:
        with self._place.reading() as file:
            found = self._found = read_snapshot(file, self._place.path)
        # What was committed since this was asked for counts too.
        self._ledger.next_row = max(self._ledger.next_row, found.history.next_row)
        self._ledger.applied_seq = found.history.applied_seq
        new = self._file = self._place.files.create(self._place.temporary)
        kept = _kept(found, self._place, erases=self._erases)
        for rows in _grouped(_sources(found, found.history.pieces, kept), self._ledger):
            for segment in self._segments(rows if self._embed is None else _embedded(rows, self._embed)):
                new.append(segment)
            self._written.append(rows.ids)
        history = found.history
        told = {
            each.id: Told(encode_trajectory(each), history.told_us[each.id]) for each in history.trajectories.values()
        }
        deleted = self._staying(history.deleted)
        self._ledger.erased_us = max(history.erased_us, _latest(history.deleted, deleted))
        for segment in self._ledger.commit(Addition(Rows.none(self._ledger.model.dim), told, deleted=deleted)):
            new.append(segment)
        new.sync()
        return True

    @property
    def is_prepared(self) -> bool:
        return self._file is not None

    def finish(self, file: File, ledger: Ledger) -> tuple[File, Ledger]:
        place, successor, new = self._place, self._ledger, self._file
        if new is None or not new.is_at(place.temporary):
            raise StorageFault(f"the new file of {place.path.name} is not there")
        successor.next_row, successor.applied_seq, successor.epoch = ledger.next_row, ledger.applied_seq, ledger.epoch
        self._catch_up(file, new)
        successor.deleted = self._staying(ledger.deleted)
        erased_us = _latest(ledger.deleted, successor.deleted)
        if erased_us > successor.erased_us:  # added, deleted and erased since
            successor.erased_us = erased_us
            for segment in successor.commit(Addition(Rows.none(successor.model.dim))):
                new.append(segment)
        new.append(successor.manifest())
        new.sync()
        place.files.rename(place.temporary, place.path)
        place.files.sync_folder(place.path.parent)
        self._file = None
        file.close()
        return new, successor

    def stop(self) -> None:
        """Do nothing: it takes about two seconds for 100,000 rows."""

    def abandon(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        with suppress(StorageFault):  # whoever opens the memory removes it too
            if file.is_at(self._place.temporary):
                self._place.files.unlink(self._place.temporary)
        file.close()

    def _segments(self, rows: Rows) -> Iterator[bytes]:
        if len(rows.ids) >= SEALED_ROWS:
            return self._ledger.seal(rows, Changes(), self._place.encoder)
        return self._ledger.commit(Addition(rows))

    def _staying(self, deleted: Mapping[int, int]) -> dict[int, int]:
        """Return those deleted rows that stand in the new file all the same, or in the file of an ancestor."""
        written = np.concatenate([*self._written, rvf.NO_ROWS])
        rows = np.fromiter(deleted, np.uint64, len(deleted))
        stays = np.isin(rows, written) | (rows < self._ledger.first_row)
        return {row: deleted[row] for row in rows[stays].tolist()}

    def _catch_up(self, old: File, new: File) -> None:
        """Write once more what was committed since; the last commit also says how far the events were applied."""
        seen = self._found.history.number
        since = read_snapshot(old, self._place.path)
        dim = self._ledger.model.dim
        for piece in since.history.pieces:
            if piece.number > seen:
                changes = _changes([piece])
                rows = _joined([*_sources(since, [piece], _kept(since, self._place, erases=self._erases))], dim)
                told = zip(changes.trajectories, changes.told_us, strict=True)
                addition = Addition(
                    rows,
                    {trajectory_id(encoded): Told(encoded, moment) for encoded, moment in told},
                    changes.dropped,
                    dict(zip(changes.deleted, changes.deleted_us, strict=True)),
                )
                for segment in self._ledger.commit(addition):
                    new.append(segment)
                self._written.append(rows.ids)


def append(file: File, ledger: Ledger, segments: Iterable[bytes]) -> None:
    """Append segments, sync, append the manifest that makes them visible, sync."""
    file.append(b"".join(segments))
    file.sync()
    file.append(ledger.manifest())
    file.sync()


def _known_graph(file: File, path: Path, found: Snapshot, ids: Ids) -> Adjacency | None:
    """Return the graph in the file if its rows are the first of `ids`."""
    entries = found.state.of_type(rvf.INDEX)
    if not entries:
        return None
    try:
        linked, graph = unpack_adjacency(read_segment(file, path, entries[-1]))
    except ValueError:
        return None
    return graph if np.array_equal(linked, ids[: len(linked)]) else None


def _kept(found: Snapshot, place: Place, *, erases: bool = False) -> tuple[Sight, ...]:
    return place.retention.of(found.state.manifest.deleted, found.history.deleted, erases=erases)


def _sources(found: Snapshot, pieces: Sequence[Piece], kept: Sequence[Sight]) -> Iterator[Rows]:
    """Yield the rows of these pieces, in order, that one of `kept` sees."""
    mapped = {id(part) for part in found.parts}
    for piece in pieces:
        if isinstance(piece.content, SealedPart) and id(piece.content) in mapped:
            yield _of_part(piece.content, kept)
            continue
        mine = np.isin(found.rows, _ids(piece)) & _seen(kept, found.rows, lambda: found.added_us)
        chosen = np.flatnonzero(mine)
        if len(chosen):
            records = [found.records[row] for row in chosen]
            yield Rows(found.rows[chosen], records, found.vectors[chosen], found.added_us[chosen])


def _of_part(part: SealedPart, kept: Sequence[Sight]) -> Rows:
    rows, added_us = part.rows[: part.count], part.added_us[: part.count]
    slots = np.flatnonzero(_seen(kept, rows, lambda: added_us))
    records = part.records()
    return Rows(rows[slots], [records[slot] for slot in slots], part.vectors(slots), added_us[slots])


def _seen(kept: Sequence[Sight], rows: Ids, added_us: Callable[[], Moments]) -> Mask:
    seen: Mask = np.logical_or.reduce([sight.sees(rows, added_us) for sight in kept])
    return seen


def _ids(piece: Piece) -> Ids:
    """Return the row ids of a piece, deleted ones too."""
    if isinstance(piece.content, Body):
        return np.array(piece.content.rows, np.uint64)
    return piece.content.rows[: piece.content.count]


def _grouped(sources: Iterable[Rows], ledger: Ledger) -> Iterator[Rows]:
    """Join sources as long as they do not become more than one piece holds."""
    group: list[Rows] = []
    rows = size = 0
    for source in sources:
        more, bytes_more = len(source.ids), sum(map(len, source.records))
        # Too few to be sealed would be a commit, and none stands before sealed rows.
        if rows >= SEALED_ROWS and not ledger.fits(rows + more, size + bytes_more):
            yield _joined(group, ledger.model.dim)
            group, rows, size = [], 0, 0
        group.append(source)
        rows, size = rows + more, size + bytes_more
    if group:
        yield _joined(group, ledger.model.dim)


def _joined(sources: Sequence[Rows], dim: int) -> Rows:
    if not sources:
        return Rows.none(dim)
    if len(sources) == 1:
        return sources[0]
    return Rows(
        np.concatenate([rows.ids for rows in sources]),
        [record for rows in sources for record in rows.records],
        np.concatenate([rows.vectors for rows in sources]),
        np.concatenate([rows.added_us for rows in sources]),
    )


def _latest(deleted: Mapping[int, int], staying: Container[int]) -> int:
    """Return when the last of the deleted rows went that do not stay, 0 when there is none."""
    return max((moment for row, moment in deleted.items() if row not in staying), default=0)


def _embedded(rows: Rows, embed: Embed) -> Rows:
    records, vectors = embed(rows.records)
    return replace(rows, records=records, vectors=vectors)


def _changes(pieces: Sequence[Piece], gone: Container[int] = ()) -> Changes:
    """Return what these pieces say of trajectories and of deleted rows, one after the other, but for the rows `gone`."""
    dropped: dict[TrajectoryId, None] = {}
    kept: dict[TrajectoryId, Told] = {}
    deleted: dict[int, int] = {}
    for piece in pieces:
        changes = piece.changes()
        for trajectory in changes.dropped:
            kept.pop(trajectory, None)
            dropped[trajectory] = None
        for encoded, moment in zip(changes.trajectories, changes.told_us, strict=True):
            kept[trajectory_id(encoded)] = Told(encoded, moment)
        deleted.update(zip(changes.deleted, changes.deleted_us, strict=True))
    deleted = {row: moment for row, moment in deleted.items() if row not in gone}
    told = list(kept.values())
    return Changes(
        dropped=list(dropped),
        trajectories=[one.encoded for one in told],
        told_us=[one.moment_us for one in told],
        deleted=list(deleted),
        deleted_us=list(deleted.values()),
    )
