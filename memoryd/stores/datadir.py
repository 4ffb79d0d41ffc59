"""The data directory as a whole: one daemon at a time may have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memoryd.files import NameTaken
from memoryd.protocol.errors import Locked, StorageFault

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.files import File, FileSystem

GLOBAL: Final = "_global"  # no user id begins with '_', so no user's folder can be in its place
LOCK_NAME: Final = "memoryd.lock"  # no user id has a dot, so no user's folder can be in its place
EVENTS: Final = "events.sqlite"
WORDS: Final = "words.sqlite"  # in the folder of each user who was asked
RESTORING: Final = "restoring.tmp"  # there while a backup is being restored, and after one that did not come to its end


class DataDir:
    """The right to use a data directory; given back by `release`, or by the end of the process."""

    def __init__(self, root: Path, lock: File) -> None:
        self.root = root
        self._lock = lock

    @classmethod
    def take(cls, root: Path, files: FileSystem) -> DataDir:
        """Make the directory if need be and lock it.

        Raises Locked, ReadOnly or another StorageFault, which also who restored only a part of it is told.
        """
        files.make_folder(root)
        path = root / LOCK_NAME
        try:
            lock = files.create(path)
        except NameTaken:
            lock = files.open(path, writable=True)
        try:
            _require_usable(root, files, lock)
        except BaseException:
            lock.close()
            raise
        return cls(root, lock)

    def release(self) -> None:
        """Let another daemon have it. The file stays: removing it could take the lock from under somebody."""
        self._lock.close()


def _require_usable(root: Path, files: FileSystem, lock: File) -> None:
    if not lock.try_lock():
        raise Locked("another memoryd serves this data directory", hint="stop it, or choose another --data-dir")
    if files.exists(root / RESTORING):
        raise StorageFault(
            "restoring this data directory did not come to its end",
            hint="remove what is in it, and restore the backup again",
            path=RESTORING,
        )
