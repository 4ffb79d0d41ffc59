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
from memoryd.rvf.format import MAX_ROW_ID, Identity
from memoryd.rvf.ledger import Addition, Ledger
from memoryd.rvf.records import encode_record, encode_trajectory
from memoryd.rvf.rewriting import TEMPORARY_SUFFIX, Compaction, Folding, Linking, Place, append
from memoryd.rvf.snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from memoryd.files import File, FileSystem
    from memoryd.protocol.ids import RecordId, TrajectoryId
    from memoryd.protocol.interfaces import Batch, Encoder, Entry, ModelInfo, Rewriting
    from memoryd.protocol.records import Trajectory
    from memoryd.rvf.format import Vectors
    from memoryd.rvf.lock import WriterLock
    from memoryd.rvf.reader import State
    from memoryd.rvf.rewriting import Link
    from memoryd.rvf.sealed import SealedPart
    from memoryd.rvf.snapshot import Snapshot

# Other programs compare by cosine and rank NaN first, so what is written is a direction and finite.
UNIT_TOLERANCE: Final = 1e-3

R = TypeVar("R", bound="Folding | Compaction | Linking | None")


class RvfMemoryFile:
    """A `MemoryFile`: one `.rvf` file, its lock, and which row every live record stands in."""

    def __init__(
        self,
        files: FileSystem,
        path: Path,
        lock: WriterLock,
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
        self._row_of: dict[RecordId, int] = {}  # of the live records that are not sealed
        self._records = 0
        self._torn_bytes_cut = torn_bytes_cut
        self._begun_last: Folding | Linking | Compaction | None = None
        self._is_closed = False
        self._status = self._measure()

    @classmethod
    def open(
        cls,
        files: FileSystem,
        path: Path,
        model: ModelInfo,
        lock: WriterLock,
        file_id: bytes,
        encoder: Encoder | None = None,
        link: Link | None = None,
    ) -> tuple[RvfMemoryFile, Contents]:
        """Open the file at `path` and return it with what it holds; it may not be there yet.

        Cuts what is torn behind the last commit, and syncs that commit again when its writer failed. `file_id`, 16
        random bytes, names a file that is new; `encoder` makes the codes of rows that are sealed, and `link` their
        graph. The lock belongs to the file once this returns. Raises Damaged, ModelMismatch or another StorageFault.
        """
        place = Place(files, path, encoder, link)
        for name in files.list(path.parent):
            if name.endswith(TEMPORARY_SUFFIX):
                files.unlink(path.with_name(name))
        if not files.exists(path):
            new = Ledger(model, Identity(file_id))
            return cls(files, path, lock, new, place, file=None, torn_bytes_cut=0), _nothing(model)
        file = files.open(path, writable=True)
        try:
            snapshot = read_snapshot(file, path)
            require_model(snapshot.history.model, model, path.parent.name)
            torn = file.size() - snapshot.state.end
            if torn:
                file.truncate(snapshot.state.end)
                file.sync()
            if lock.was_abandoned:
                _sync_again(files, file, path, snapshot.state)
            ledger = Ledger.of(snapshot, Identity(file_id))
            memory = cls(files, path, lock, ledger, place, file=file, torn_bytes_cut=torn)
            memory._take(snapshot)
        except BaseException:
            file.close()
            raise
        return memory, snapshot.contents()

    def load(self) -> Contents:
        """Return everything that is committed and alive, as it stands in the file now."""
        self._require_open()
        if self._file is None:
            return _nothing(self._ledger.model)
        return read_snapshot(self._file, self._path, self._parts).contents()

    def commit(self, batch: Batch) -> FileStatus:
        """Append segments, sync, append the manifest that makes them visible, sync.

        Raises ValueError, and does nothing, when a vector is not of this file's dimension, finite and of unit length.
        Raises StorageFault; afterwards this writer is closed for good and must be opened anew.
        """
        self._require_open()
        vectors = _stacked(batch.entries, self._ledger.model.dim)
        with self._closed_by_failure():
            addition = Addition(
                ids=self._enter(batch.deleted, batch.entries),
                records=[encode_record(entry.record) for entry in batch.entries],
                vectors=vectors,
                trajectories=_encoded(batch.trajectories),
                dropped=batch.dropped,
            )
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

    def compaction(self) -> Compaction | None:
        """Return how the live rows come into a new file; None when there is none yet.

        Row ids stay, and those of deleted rows are not used again.
        """
        return self._begun(self._compaction(self._ledger.model))

    def linking(self) -> Linking | None:
        """Return how the sealed rows get their graph; None when they have one, or are too few."""
        link = self._place.link
        return self._begun(
            None if link is None or self._file is None or not self._ledger.is_linkable() else Linking(self._place, link)
        )

    def compact(self) -> FileStatus:
        """Do all of a compaction at once. Raises StorageFault; afterwards this writer is closed for good."""
        return self._rewrite(self.compaction())

    def reembed(self, model: ModelInfo, embed: Callable[[Sequence[bytes]], Vectors]) -> FileStatus:
        """Compact into a file of another model, with what `embed` makes of the encoded records, float32 [n, dim].

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
            self._take(read_snapshot(self._file, self._path, known))
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

    def _enter(self, deleted: Sequence[RecordId], entries: Sequence[Entry]) -> range:
        """Mark the rows of what is deleted or replaced, give the new records theirs, and return these."""
        ledger = self._ledger
        ids = range(ledger.next_row, ledger.next_row + len(entries))
        if ids.stop > MAX_ROW_ID:
            raise StorageFault("row ids are used up", hint="another program wrote a row with an extreme id")
        ledger.next_row = ids.stop
        self._forget_rows(deleted)
        self._forget_rows([entry.record.id for entry in entries])
        for row, entry in zip(ids, entries, strict=True):
            earlier = self._row_of.get(entry.record.id)  # twice in one batch
            if earlier is not None:
                ledger.deleted.add(earlier)
                self._records -= 1
            self._row_of[entry.record.id] = row
            self._records += 1
        return ids

    def _forget_rows(self, records: Sequence[RecordId]) -> None:
        """Mark the rows of these records as deleted, if they have one."""
        deleted = self._ledger.deleted
        before = len(deleted)
        rest = [record for record in records if record not in self._row_of]
        deleted.update(self._row_of.pop(record) for record in {*records} - {*rest})
        for part in self._parts if rest else ():
            deleted.update(part.rows_of(rest))
        self._records -= len(deleted) - before

    def _take(self, snapshot: Snapshot) -> None:
        """Know what stands where."""
        self._parts = snapshot.parts
        self._row_of = dict(zip(snapshot.ids, snapshot.rows.tolist(), strict=True))
        self._records = len(snapshot.ids) + sum(int(part.alive().sum()) for part in snapshot.parts)
        self._status = self._measure()

    def _compaction(
        self, model: ModelInfo, embed: Callable[[Sequence[bytes]], Vectors] | None = None
    ) -> Compaction | None:
        self._place = replace(self._place, number=self._place.number + 1)
        return None if self._file is None else Compaction(self._place, self._ledger, model, embed)

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
            dead_bytes=ledger.dead_bytes(self._records),
            segments=ledger.segments,
            commits=ledger.epoch,
            applied_seq=ledger.applied_seq,
            torn_bytes_cut=self._torn_bytes_cut,
        )

    def _require_open(self) -> None:
        if self._is_closed:
            raise StorageFault(f"the memory of {self._path.parent.name} is closed", hint="open it anew")

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


def _encoded(trajectories: Iterable[Trajectory]) -> dict[TrajectoryId, bytes]:
    return {trajectory.id: encode_trajectory(trajectory) for trajectory in trajectories}


def _stacked(entries: Sequence[Entry], dim: int) -> Vectors:
    """Return the vectors of `entries`, float32 [n, dim]. Raises ValueError unless finite and of unit length."""
    if any(entry.vector.shape != (dim,) for entry in entries):
        raise ValueError(f"a vector is not of {dim} dimensions")
    vectors = np.array([entry.vector for entry in entries], np.float32).reshape(len(entries), dim)
    if not (np.abs(np.linalg.norm(vectors, axis=1) - 1.0) <= UNIT_TOLERANCE).all():
        raise ValueError("a vector is not of unit length")
    return vectors
