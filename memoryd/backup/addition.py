"""One more snapshot on its way into a backup: a pack with the objects that are not there yet, and at last the snapshot.

Both are written under other names, synced, renamed, and their folders synced, the pack first. What a crash leaves behind
has an unfinished name, and the next addition removes it; a whole pack without its snapshot is kept, and used.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import zstandard

from memoryd.backup import format as layout
from memoryd.backup.repository import UNFINISHED, Repository
from memoryd.files import NameTaken, replace_file
from memoryd.protocol.errors import InvalidMessage, Locked, StorageFault

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.backup.format import Snapshot, Stored
    from memoryd.files import File, FileSystem

LOCK_NAME: Final = "lock"
WORK: Final = f"work{UNFINISHED}"  # a folder for what is made on the way
_LEVEL: Final = 1  # texts in sealed rows are packed already, and vectors hardly shrink


class Addition:
    """The right to add to a backup, and what is added; given back by `commit` or `abandon`."""

    def __init__(self, folder: Path, files: FileSystem) -> None:
        """Make the folder if need be, take its lock, and remove what an earlier addition has left unfinished.

        Raises InvalidMessage when something else is in the folder, Locked, Damaged or another StorageFault.
        """
        self._files = files
        self._pack: File | None = None
        self._written = 0
        self._stored: list[Stored] = []
        self._known: set[bytes] = set()
        self._packer = zstandard.ZstdCompressor(level=_LEVEL)
        _make_folder(files, folder)
        self._lock = _locked(files, folder)
        try:
            _mark(files, folder)
            self.repository = repository = Repository(folder, files)
            _remove_unfinished(files, folder)
            try:
                for number in repository.packs():
                    self._known.update(each.digest for each in repository.index_of(number))
            finally:
                repository.close()
            self.number = max([0, *repository.snapshots(), *repository.packs()]) + 1
        except BaseException:
            self._lock.close()
            raise

    @property
    def work(self) -> Path:
        """A place for a folder that the next addition removes if it is left there."""
        return self.repository.folder / WORK

    @property
    def bytes_written(self) -> int:
        """How many bytes this adds to the backup, so far, without the snapshot."""
        return self._written

    def add(self, data: bytes) -> bytes:
        """Keep an object of at most MAX_OBJECT bytes, unless it is there already; return its name."""
        digest = layout.digest_of(data)
        if digest not in self._known:
            pack, packed = self._begun(), self._packer.compress(data)
            self._stored.append(layout.Stored(digest, self._written, len(packed), len(data)))
            self._append(pack, packed)
            self._known.add(digest)
        return digest

    def commit(self, snapshot: Snapshot) -> None:
        """Make the objects durable, then the snapshot that needs them. Raises DiskFull or another StorageFault."""
        files, repository = self._files, self.repository
        if self._pack is not None:
            self._append(self._pack, layout.pack_end(self._stored, self._written))
            self._pack.sync()
            files.rename(self._pack_path, repository.pack_path(self.number))
            files.sync_folder(repository.folder / layout.PACKS)
        path = repository.snapshot_path(self.number)
        content = layout.pack_snapshot(snapshot)
        replace_file(files, path, path.with_name(path.name + UNFINISHED), iter([content])).close()
        self._written += len(content)
        self._close()

    def abandon(self) -> None:
        """Add nothing after all. Does nothing after `commit`, or the second time."""
        if self._pack is not None:
            with suppress(StorageFault):  # the next addition removes it too
                self._files.unlink(self._pack_path)
        self._close()

    @property
    def _pack_path(self) -> Path:
        path = self.repository.pack_path(self.number)
        return path.with_name(path.name + UNFINISHED)

    def _begun(self) -> File:
        """Return the pack, which the first object makes."""
        if self._pack is None:
            self._pack = self._files.create(self._pack_path)
            self._append(self._pack, layout.PACK_HEAD.pack(layout.PACK_MAGIC, layout.VERSION))
        return self._pack

    def _append(self, pack: File, data: bytes) -> None:
        pack.append(data)
        self._written += len(data)

    def _close(self) -> None:
        file, self._pack = self._pack, None
        with suppress(StorageFault):
            if file is not None:
                file.close()
            self._lock.close()


def _make_folder(files: FileSystem, folder: Path) -> None:
    """Make the folder, or see that nothing foreign is in it."""
    if not files.exists(folder):
        files.make_folder(folder)
        files.sync_folder(folder.parent)
        return
    if not files.is_folder(folder):
        raise InvalidMessage("not a folder", field="folder", hint="name a folder that is new, empty or a backup")
    names = files.list(folder)
    if layout.MARK not in names and not {*names} <= {LOCK_NAME, layout.MARK + UNFINISHED}:
        raise InvalidMessage(
            "something else is in this folder", field="folder", hint="name one that is new, empty or a backup"
        )


def _locked(files: FileSystem, folder: Path) -> File:
    path = folder / LOCK_NAME
    try:
        lock = files.create(path)
    except NameTaken:
        lock = files.open(path, writable=True)
    if not lock.try_lock():
        lock.close()
        raise Locked("another backup into this folder is under way", hint="wait until it is done")
    return lock


def _mark(files: FileSystem, folder: Path) -> None:
    """Say what this folder is, if nothing says so yet, and make the folders in it."""
    mark = folder / layout.MARK
    if not files.exists(mark):
        temporary = mark.with_name(mark.name + UNFINISHED)
        files.unlink(temporary)
        replace_file(files, mark, temporary, iter([layout.MARKED])).close()
    for name in (layout.PACKS, layout.SNAPSHOTS):
        files.make_folder(folder / name)
    files.sync_folder(folder)


def _remove_unfinished(files: FileSystem, folder: Path) -> None:
    for name in (layout.PACKS, layout.SNAPSHOTS):
        for left in files.list(folder / name):
            if left.endswith(UNFINISHED):
                files.unlink(folder / name / left)
    if files.exists(folder / WORK):
        files.remove_tree(folder / WORK)
