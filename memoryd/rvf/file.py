"""One user's memory file, held open by its one writer.

A commit appends its segments, syncs, appends the manifest that makes them visible, syncs. A file is made and compacted
by writing the whole of it under another name and renaming. After any failure the writer is closed for good: what the
disk holds then is only known by reading it again.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from memoryd.files import replace_file
from memoryd.protocol.errors import ModelMismatch, StorageFault
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.interfaces import Contents, FileStatus
from memoryd.protocol.keys import keys_of
from memoryd.rvf.adjacency import unpack_adjacency
from memoryd.rvf.format import INDEX, MAX_ROW_ID, Identity
from memoryd.rvf.ledger import Addition, Ledger, Told
from memoryd.rvf.lineage import lineage_of
from memoryd.rvf.places import branch_of
from memoryd.rvf.reader import find_state, read_segment
from memoryd.rvf.records import encode_record, encode_trajectory
from memoryd.rvf.rewriting import TEMPORARY_SUFFIX, Compaction, Folding, Linking, Place, Retention, append
from memoryd.rvf.sealed import Rows
from memoryd.rvf.snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memoryd.files import File, FileSystem
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Adjacency, Batch, Encoder, Entry, ModelInfo, Rewriting
    from memoryd.rvf.format import Ids, Vectors
    from memoryd.rvf.lineage import Lineage
    from memoryd.rvf.lock import Locks, WriterLock
    from memoryd.rvf.reader import State
    from memoryd.rvf.rewriting import Embed, Link
    from memoryd.rvf.sealed import SealedPart

# Other programs compare by cosine and rank NaN first, so what is written is a direction and finite.
UNIT_TOLERANCE: Final = 1e-3

_LOOK_AGAIN_US: Final = 10_000_000

R = TypeVar("R", bound="Folding | Compaction | Linking | None")


class RvfMemoryFile:
    """A `MemoryFile`: one `.rvf` file, its lock, and which row every live record stands in."""

    def __init__(
        self,
        files: FileSystem,
        path: Path,
        lock: WriterLock | Locks,
        ledger: Ledger,
        place: Place,
        *,
        file: File | None,
        torn_bytes_cut: int,
    ) -> None:
        self._files = files
        self._path = path
        self._place = place
        self._lock = lock
        self._ledger = ledger
        self._file = file  # None until the first commit of a new user
        self._parts: list[SealedPart] = []
        self._inherited: list[SealedPart] = []  # of ancestors
        self._row_of: dict[RecordId, int] = {}  # of the live records that are not sealed, inherited ones too
        self._records = 0
        self._torn_bytes_cut = torn_bytes_cut
        self._erasable_seen = (0, 0, 0)  # when, of how many deleted rows, how many
        self._begun_last: Folding | Linking | Compaction | None = None
        self._is_closed = False
        self._status = self._measure()

    @classmethod
    def open(
        cls,
        files: FileSystem,
        path: Path,
        model: ModelInfo,
        lock: WriterLock | Locks,
        file_id: bytes,
        encoder: Encoder | None = None,
        link: Link | None = None,
        retention: Retention | None = None,
    ) -> tuple[RvfMemoryFile, Contents]:
        """Open the file at `path` and return it with what it holds; it may not be there yet.

        With a branch its ancestors are read too.

        Cuts what is torn behind the last commit, and syncs that commit again when its writer failed. `file_id`, 16
        random bytes, names a file that is new; `encoder` makes the codes of rows that are sealed, and `link` their
        graph. The lock belongs to the file once this returns. Raises Damaged, ModelMismatch or another StorageFault.
        """
        place = Place(files, path, encoder, link, retention or Retention())
        for name in files.list(path.parent):
            if name.startswith(path.name) and name.endswith(TEMPORARY_SUFFIX):
                files.unlink(path.with_name(name))
        if not files.exists(path):
            new = Ledger(model, Identity(file_id))
            return cls(files, path, lock, new, place, file=None, torn_bytes_cut=0), _nothing(model)
        file = files.open(path, writable=True)
        try:
            snapshot = read_snapshot(file, path)
            require_model(snapshot.history.model, model, branch_of(path)[0].name)
            torn = file.size() - snapshot.state.end
            if torn:
                file.truncate(snapshot.state.end)
                file.sync()
            if lock.was_abandoned:
                _sync_again(files, file, path, snapshot.state)
            ledger = Ledger.of(snapshot, Identity(file_id))
            memory = cls(files, path, lock, ledger, place, file=file, torn_bytes_cut=torn)
            lineage = lineage_of(files, path, snapshot)
            for _, ancestor in lineage.chain():
                require_model(ancestor.history.model, model, branch_of(path)[0].name)
            memory._take(lineage)
        except BaseException:
            file.close()
            raise
        return memory, memory._with_graph(lineage)

    def load(self) -> Contents:
        """Return everything that is committed and alive, as it stands in the file now."""
        self._require_open()
        if self._file is None:
            return _nothing(self._ledger.model)
        return self._with_graph(self._read(self._file, self._parts))

    def _with_graph(self, lineage: Lineage) -> Contents:
        contents = lineage.contents()
        # That of a branch's file knows nothing of the rows before it.
        return contents if lineage.parent is not None else replace(contents, graph=self.graph)

    def graph(self) -> tuple[Ids, Adjacency] | None:
        """Return the graph in the file and the ids of its rows, None when there is none that can be read."""
        # It is nothing that an index could not make itself.
        with suppress(StorageFault, ValueError), self._place.reading() as file:
            entries = find_state(file, self._path).of_type(INDEX)
            return unpack_adjacency(read_segment(file, self._path, entries[-1])) if entries else None
        return None

    def commit(self, batch: Batch) -> FileStatus:
        """Append segments, sync, append the manifest that makes them visible, sync.

        Raises ValueError, and does nothing, when a vector is not of this file's dimension, finite and of unit length.
        Raises StorageFault; afterwards this writer is closed for good and must be opened anew.
        """
        self._require_open()
        vectors = _stacked(batch.entries, self._ledger.model.dim)
        with self._closed_by_failure():
            ids, deleted = self._enter(batch)
            records = [encode_record(entry.record) for entry in batch.entries]
            added_us = np.array([entry.added_us for entry in batch.entries], np.int64)
            trajectories = {each.id: Told(encode_trajectory(each), batch.moment_us) for each in batch.trajectories}
            rows = Rows(np.array(ids, np.uint64), records, vectors, added_us)
            addition = Addition(rows, trajectories, batch.dropped, deleted)
            self._ledger.applied_seq = max(self._ledger.applied_seq, batch.applied_seq)
            if self._file is None:
                parts = (*self._ledger.commit(addition), self._ledger.manifest())
                self._file = replace_file(self._files, self._path, self._place.temporary, iter(parts))
                # The folder itself may be as new as the file in it.
                self._files.sync_folder(self._path.parent.parent)
            else:
                append(self._file, self._ledger, self._ledger.commit(addition))
            self._status = self._measure()
        return self._status

    def fold(self, *, is_quiet: bool = False) -> Folding | None:
        found = self._ledger.foldable(is_quiet=is_quiet)
        return self._begun(None if self._file is None or found is None else Folding(self._place, *found))

    def compaction(self, *, erases: bool = False) -> Compaction | None:
        """Return how the live rows come into a new file; None when there is none yet.

        Row ids stay, and those of deleted rows are not used again. Who `erases` keeps nothing for looking back.
        """
        return self._begun(self._compaction(self._ledger.model, erases=erases))

    def linking(self) -> Linking | None:
        """Return how the sealed rows get their graph; None when they have one, or are too few."""
        link = self._place.link
        return self._begun(
            None if link is None or self._file is None or not self._ledger.is_linkable() else Linking(self._place, link)
        )

    def compact(self, *, erases: bool = False) -> FileStatus:
        """Do all of a compaction at once. Raises StorageFault; afterwards this writer is closed for good."""
        return self._rewrite(self.compaction(erases=erases))

    def reembed(self, model: ModelInfo, embed: Embed) -> FileStatus:
        """Compact into a file of another model, with what `embed` makes of the encoded records: such records, and float32 [n, dim].

        Raises what `embed` raises, and StorageFault; the file is then as it was, and this writer closed for good.
        """
        return self._rewrite(self._begun(self._compaction(model, embed)))

    def awaits(self, rewriting: Rewriting) -> bool:
        """Whether this is what was begun last: what was begun before knows a file that may not be there any more."""
        return rewriting is self._begun_last

    def finish(self, rewriting: Rewriting) -> FileStatus:
        """Put what was prepared in its place, with what was committed meanwhile. No commit may be under way.

        Raises ValueError, and does nothing, when it is not prepared or not awaited. Raises StorageFault; afterwards
        this writer is closed for good and must be opened anew.
        """
        self._require_open()
        if self._file is None or not isinstance(rewriting, Folding | Linking | Compaction):
            raise TypeError(f"nothing of this file: {type(rewriting).__name__}")
        if not self.awaits(rewriting) or not rewriting.is_prepared:
            raise ValueError("not prepared, or the file was rewritten since")
        self._begun_last = None
        with self._closed_by_failure():
            before = self._file
            self._file, self._ledger = rewriting.finish(self._file, self._ledger)
            known = self._parts if self._file is before else ()
            self._take(self._read(self._file, known))
        return self._status

    def status(self) -> FileStatus:
        """Return the figures of the last commit; also when closed."""
        return self._status

    def close(self) -> None:
        """Release the file and its lock, and leave nothing of a user who never committed.

        Does nothing the second time.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._file is not None:
                self._file.close()
        except BaseException:
            self._lock.abandon()
            raise
        self._lock.release()
        if self._file is None:
            # Only when it is empty: whoever takes the lock from now on has put a file there.
            with suppress(StorageFault):
                self._files.remove_folder(self._path.parent)

    # --- writing ---

    def _enter(self, batch: Batch) -> tuple[range, dict[int, int]]:
        """Mark the rows of what is deleted or replaced, give the new records theirs, and return these and those."""
        ledger, entries = self._ledger, batch.entries
        ids = range(ledger.next_row, ledger.next_row + len(entries))
        if ids.stop > MAX_ROW_ID:
            raise StorageFault("row ids are used up", hint="another program wrote a row with an extreme id")
        ledger.next_row = ids.stop
        deleted = self._rows_of([*batch.deleted, *(entry.record.id for entry in entries)])
        for row, entry in zip(ids, entries, strict=True):
            earlier = self._row_of.get(entry.record.id)  # twice in one batch
            if earlier is not None:
                deleted.add(earlier)
            self._row_of[entry.record.id] = row
        moments = dict.fromkeys(sorted(deleted), batch.moment_us)
        ledger.deleted |= moments
        self._records += len(entries) - len(moments)
        return ids, moments

    def _rows_of(self, records: Sequence[RecordId]) -> set[int]:
        """Return the rows of those of these records that are alive; those in memory are not known any more."""
        rest = [record for record in records if record not in self._row_of]
        rows = {self._row_of.pop(record) for record in {*records} - {*rest}}
        wanted = keys_of(rest)
        for part in (*self._inherited, *self._parts) if len(wanted) else ():
            rows.update(row for row in part.rows_of(wanted) if row not in self._ledger.deleted)
        return rows

    def _read(self, file: File, known: Sequence[SealedPart]) -> Lineage:
        return lineage_of(self._files, self._path, read_snapshot(file, self._path, known))

    def _take(self, lineage: Lineage) -> None:
        """Know what stands where."""
        self._parts, self._inherited, self._row_of = lineage.own.parts, [], {}
        for snapshot, sight in (*lineage.inherited(), (lineage.own, lineage.own.sight)):
            live = snapshot.live(sight)
            self._row_of |= {
                snapshot.ids[place]: row for place, row in zip(live, snapshot.rows[live].tolist(), strict=True)
            }
            if snapshot is not lineage.own:
                self._inherited += [part.seen(sight) for part in snapshot.parts]
        sealed = (*self._inherited, *self._parts)
        self._records = len(self._row_of) + sum(int(part.alive().sum()) for part in sealed)
        self._status = self._measure()

    def _compaction(self, model: ModelInfo, embed: Embed | None = None, *, erases: bool = False) -> Compaction | None:
        self._place = replace(self._place, number=self._place.number + 1)
        return None if self._file is None else Compaction(self._place, self._ledger, model, embed, erases=erases)

    def _begun(self, rewriting: R) -> R:
        """Remember what was begun last."""
        if rewriting is not None:
            self._begun_last = rewriting
        return rewriting

    def _rewrite(self, rewriting: Compaction | None) -> FileStatus:
        self._require_open()
        if rewriting is None:
            return self._status
        try:
            with self._closed_by_failure():
                rewriting.prepare()
            return self.finish(rewriting)
        finally:
            rewriting.abandon()

    def _measure(self) -> FileStatus:
        ledger = self._ledger
        return FileStatus(
            records=self._records,
            deleted=len(ledger.deleted),
            file_bytes=ledger.size,
            erasable=(erasable := self._erasable()),
            dead_bytes=ledger.dead_bytes(ledger.held - erasable),
            segments=ledger.segments,
            commits=ledger.epoch,
            applied_seq=ledger.applied_seq,
            torn_bytes_cut=self._torn_bytes_cut,
        )

    def _erasable(self) -> int:
        """Return how many deleted rows a compaction would erase; looks again now and then, since some only grow old."""
        retention, ledger = self._place.retention, self._ledger
        seen, count, erasable = self._erasable_seen if ledger.deleted else (0, 0, 0)
        now = retention.now_us()
        if ledger.deleted and (count != len(ledger.deleted) or now - seen > _LOOK_AGAIN_US):
            dead = ledger.dead()
            kept = [
                sight.sees(dead, lambda: np.zeros(len(dead), np.int64)) for sight in retention.of(dead, ledger.deleted)
            ]
            erasable = int(np.count_nonzero(~np.logical_or.reduce(kept)))
            self._erasable_seen = (now, len(ledger.deleted), erasable)
        return erasable

    def _require_open(self) -> None:
        if self._is_closed:
            raise StorageFault(f"the memory of {branch_of(self._path)[0].name} is closed", hint="open it anew")

    @contextmanager
    def _closed_by_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._is_closed = True
            # What went wrong first is what the caller must see.
            with suppress(StorageFault):
                if self._file is not None:
                    self._file.close()
            self._lock.abandon()
            raise


def _sync_again(files: FileSystem, file: File, path: Path, state: State) -> None:
    """Make durable what a writer that failed may have left in memory only.

    After a failed fsync the kernel shows what it could not write, and counts it as written: the bytes have to be written
    again to be synced. That can be the last commit only, since a commit is synced before the next one begins; a whole
    new file was synced before it got its name, but the name itself may be lost.
    """
    start = state.segment.offset
    for entry in sorted(state.entries, key=lambda entry: entry.offset, reverse=True):
        if entry.offset + entry.size != start:
            break
        start = entry.offset
    if start > 0:
        file.rewrite(start, file.read(start, state.end - start))
        file.sync()
    files.sync_folder(path.parent)
    files.sync_folder(path.parent.parent)


def require_model(stored: ModelInfo, running: ModelInfo, user: str) -> None:
    """Raise ModelMismatch unless vectors of `stored` and of `running` can be compared."""
    if (stored.name, stored.dim, stored.sha256) == (running.name, running.dim, running.sha256):
        return
    raise ModelMismatch(
        f"the memory of {user} was made with {_described(stored)}, not with {_described(running)}",
        hint=f"memoryd reembed --user {user}",
        user=user,
        stored_name=stored.name,
        stored_dim=stored.dim,
        stored_sha256=stored.sha256,
    )


def _described(model: ModelInfo) -> str:
    return f"{model.name} ({model.dim} dimensions, {model.sha256[:12]})"


def _nothing(model: ModelInfo) -> Contents:
    return Contents((), np.empty((0, model.dim), np.float32), [], [], BEFORE_ALL)


def _stacked(entries: Sequence[Entry], dim: int) -> Vectors:
    """Return the vectors of `entries`, float32 [n, dim]. Raises ValueError unless finite and of unit length."""
    if any(entry.vector.shape != (dim,) for entry in entries):
        raise ValueError(f"a vector is not of {dim} dimensions")
    vectors = np.array([entry.vector for entry in entries], np.float32).reshape(len(entries), dim)
    if not (np.abs(np.linalg.norm(vectors, axis=1) - 1.0) <= UNIT_TOLERANCE).all():
        raise ValueError("a vector is not of unit length")
    return vectors
