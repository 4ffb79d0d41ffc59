"""Makes a snapshot, a little at a time, of a data directory that goes on being written.

First the files, then the event log. Every event that a file has applied is so in the log that is copied after it; and what was
not applied yet when a file was read is in that log too, since nothing is forgotten by age meanwhile, and is carried again,
since the readers of the copy stand where they stood before the first file was read.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol

from memoryd.backup.addition import Addition
from memoryd.backup.format import Omitted, Piece, Snapshot, StoredFile
from memoryd.backup.source import cut, fault_of, folders, opened
from memoryd.protocol import messages as m
from memoryd.protocol.errors import Damaged, InvalidMessage, Locked, StorageFault
from memoryd.stores.datadir import EVENTS, GLOBAL

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path

    from memoryd.backup.source import Bytes
    from memoryd.clock import Clock
    from memoryd.files import FileSystem
    from memoryd.protocol.ids import Seq
    from memoryd.protocol.interfaces import ModelInfo

_LOG_PIECE: Final = 64 << 10  # 16 pages of SQLite: an append changes a few of them
_STEP_BYTES: Final = 16 << 20  # read in one step: some 100 ms
_STEP_PIECES: Final = 256
_TOLD: Final = 100  # omitted files that an answer names; the snapshot names all
_END: Final = object()


class EventLog(Protocol):
    """What a backup needs of the event log; see `SqliteEventStore`."""

    def hold(self) -> Mapping[str, Seq]: ...

    def release(self) -> None: ...

    def copy(self, path: Path, cursors: Mapping[str, Seq], goes_on: Callable[[], bool]) -> Seq: ...


@dataclass(frozen=True, slots=True)
class Backups:
    """Backs up the data directory `root`, into one folder at a time.

    `log` is None when there is none; `version` and `model` are what runs there.
    """

    root: Path
    files: FileSystem
    clock: Clock
    log: EventLog | None
    version: str
    model: ModelInfo | None
    is_running: Lock = field(default_factory=Lock)

    def begin(self, folder: Path) -> Creation:
        """Return a snapshot to be made in the backup at `folder`; nothing is touched before its first step.

        Raises InvalidMessage when the folder is a part of the data directory, or the other way round.
        """
        here, there = self.root.resolve(), folder.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise InvalidMessage("backup and data directory in each other", field="folder", hint="name another folder")
        return Creation(self, folder)


class Creation:
    """A snapshot on its way: `step` until something is made, or `abandon`; safe to call from any thread."""

    def __init__(self, backups: Backups, folder: Path) -> None:
        self._backups = backups
        self._is_wanted = True
        self._files: list[StoredFile] = []
        self._omitted: list[Omitted] = []
        self._users = self._users_done = 0
        self._read = 0
        self._addition: Addition | None = None
        self._made: m.SnapshotMade | None = None
        self._work = self._run(folder)
        self._turn = Lock()

    def step(self) -> m.BackupProgress:
        """Do some more; return how far it is. The first step only looks at the folder, which it makes if need be.

        Raises InvalidMessage when the folder holds something else, Locked while another backup runs, Damaged or another
        StorageFault; then nothing was added to the backup.
        """
        with self._turn:
            until = self._read + _STEP_BYTES
            for _ in range(1 if self._addition is None else _STEP_PIECES):
                if next(self._work, _END) is _END or self._read >= until:
                    break
            return self._progress()

    def stop(self) -> None:
        """Have `step` return soon; does not wait for it."""
        self._is_wanted = False

    def abandon(self) -> None:
        """Add nothing to the backup, unless something is made already. Does nothing the second time."""
        with self._turn:
            self._work.close()

    def _progress(self) -> m.BackupProgress:
        return m.BackupProgress(
            users=self._users,
            users_done=self._users_done,
            bytes_read=self._read,
            bytes_written=0 if self._addition is None else self._addition.bytes_written,
            made=self._made,
        )

    def _run(self, folder: Path) -> Generator[None, None, None]:
        """Make the snapshot; yields after every piece."""
        backups = self._backups
        if not backups.is_running.acquire(blocking=False):
            raise Locked("another backup is under way", hint="wait until it is done")
        try:
            addition = self._addition = Addition(folder, backups.files)
            try:
                cursors = {} if backups.log is None else backups.log.hold()
                try:
                    yield
                    yield from self._all_folders(addition)
                    last_seq = yield from self._event_log(addition, cursors)
                finally:
                    if backups.log is not None:
                        backups.log.release()
                self._made = self._commit(addition, last_seq)
            finally:
                addition.abandon()
        finally:
            backups.is_running.release()

    def _all_folders(self, addition: Addition) -> Iterator[None]:
        backups = self._backups
        names = folders(backups.files, backups.root)
        self._users = len(set(names) - {GLOBAL})
        for name in names:
            with opened(backups.files, backups.root, name) as (sources, omitted):
                self._omitted += omitted
                for source in sources:
                    yield from self._file(addition, source.name, source.size, source.pieces())
            self._users_done += name != GLOBAL
            yield

    def _file(self, addition: Addition, name: str, size: int, pieces: Iterator[Bytes]) -> Iterator[None]:
        """Add a file, or say why it is left out: what is wrong with one harms no other."""
        taken: list[Piece] = []
        while True:
            try:
                piece = next(pieces, None)
            except StorageFault as error:
                self._omitted.append(fault_of(name, error))
                return
            if piece is None:
                self._files.append(StoredFile(name, size, taken))
                return
            taken.append(self._take(addition, *piece))
            yield

    def _take(self, addition: Addition, offset: int, data: bytes) -> Piece:
        self._read += len(data)
        return Piece(addition.add(data), offset, len(data))

    def _event_log(self, addition: Addition, cursors: Mapping[str, Seq]) -> Generator[None, None, Seq | None]:
        """Add the log as it is now; return the last number in it."""
        log, files = self._backups.log, self._backups.files
        if log is None:
            return None
        path = addition.work / EVENTS
        files.make_folder(addition.work)
        files.create(path).close()  # for its owner only, whoever fills it
        try:
            last_seq = log.copy(path, cursors, lambda: self._is_wanted)
            yield
            copied = files.open(path, writable=False)
            try:
                size, pieces = copied.size(), []
                for offset, data in cut(copied, size, length=_LOG_PIECE):
                    pieces.append(self._take(addition, offset, data))
                    yield
            finally:
                copied.close()
        except Damaged as error:
            self._omitted.append(fault_of(EVENTS, error))
            return None
        finally:
            with suppress(StorageFault):  # the next backup removes it too
                files.remove_tree(addition.work)
        self._files.append(StoredFile(EVENTS, size, pieces))
        return last_seq

    def _commit(self, addition: Addition, last_seq: Seq | None) -> m.SnapshotMade:
        backups = self._backups
        snapshot = Snapshot(
            created_at=backups.clock.now(),
            version=backups.version,
            model=backups.model,
            last_seq=last_seq,
            files=self._files,
            omitted=self._omitted,
        )
        addition.commit(snapshot)
        return m.SnapshotMade(
            snapshot=addition.number,
            users=snapshot.users,
            files=len(snapshot.files),
            bytes=snapshot.live_bytes,
            bytes_written=addition.bytes_written,
            last_seq=last_seq,
            omitted_files=len(self._omitted),
            omitted=tuple(m.OmittedFile(name=o.name, offset=o.offset, what=o.what) for o in self._omitted[:_TOLD]),
        )
