"""Backups of small data directories, on any disk, and what comes back from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memoryd.backup.creating import Backups
from memoryd.backup.repository import Repository
from memoryd.backup.restoring import Restored, restore
from memoryd.backup.verifying import Verified, verify_backup
from memoryd.protocol.ids import Seq, UserId
from memoryd.stores.copies import faults
from tests.helpers.memories import MODEL, ROOT, USER, Expected, StillClock, store

if TYPE_CHECKING:
    from memoryd.backup.creating import EventLog
    from memoryd.files import FileSystem
    from memoryd.protocol.messages import SnapshotMade

REPOSITORY = Path("/backup")
RESTORED = Path("/restored")
SCRATCH = Path("/scratch")
LAST = Seq(1_000)


class PlainLog:
    """An event log of a few bytes, whose copy goes through the file system."""

    def __init__(self, files: FileSystem, content: bytes = b"events" * 20_000) -> None:
        self.holds = 0
        self.content = content
        self._files = files

    def hold(self) -> Mapping[str, Seq]:
        self.holds += 1
        return {"memory": Seq(1)}

    def release(self) -> None:
        self.holds -= 1

    def copy(self, path: Path, cursors: Mapping[str, Seq], goes_on: Callable[[], bool]) -> Seq:
        assert self.holds
        assert cursors == {"memory": 1}
        assert goes_on()
        file = self._files.open(path, writable=True)
        try:
            file.append(self.content)
        finally:
            file.close()
        return LAST


def backups(files: FileSystem, root: Path = ROOT, log: EventLog | None = None) -> Backups:
    return Backups(root, files, StillClock(), log or PlainLog(files), "1.2.3", MODEL)


def back_up(
    files: FileSystem, root: Path = ROOT, folder: Path = REPOSITORY, log: EventLog | None = None
) -> SnapshotMade:
    """Make a snapshot, in one go."""
    run = backups(files, root, log).begin(folder)
    try:
        while (made := run.step().made) is None:
            pass
    finally:
        run.abandon()
    return made


def verified(
    files: FileSystem, folder: Path = REPOSITORY, scratch: Path = SCRATCH, number: int | None = None
) -> Verified:
    """Check a backup whose event logs are of any content."""

    def no_faults(_: Path) -> tuple[Seq, Sequence[str]]:
        return LAST, []

    repository = Repository(folder, files)
    files.make_folder(scratch)
    try:
        check_log = no_faults if scratch == SCRATCH else faults
        return verify_backup(repository, number, scratch, files, lambda _done, _total: None, check_log)
    finally:
        repository.close()


def put_back(
    files: FileSystem,
    target: Path = RESTORED,
    folder: Path = REPOSITORY,
    number: int | None = None,
    user: UserId | None = None,
) -> Restored:
    repository = Repository(folder, files)
    try:
        snapshot = repository.load(repository.choose(number))
        repository.load_index()
        return restore(repository, snapshot, target, files, user, lambda _: None)
    finally:
        repository.close()


def held(files: FileSystem, root: Path = RESTORED, user: UserId = USER) -> Expected:
    """Return what a user's memory holds, read by a writer that opens it."""
    opened = store(files, root).open(user)
    try:
        return Expected.of(opened.file.load())
    finally:
        opened.file.close()
