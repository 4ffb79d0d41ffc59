"""A backup of a data directory that no daemon serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from memoryd.backup.creating import Backups
from memoryd.clock import SystemClock
from memoryd.files import RealFiles
from memoryd.protocol.errors import Damaged, NotFound
from memoryd.stores.datadir import EVENTS, DataDir
from memoryd.stores.events import SqliteEventStore
from memoryd.version import VERSION

if TYPE_CHECKING:
    from memoryd.protocol.ids import Seq
    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.protocol.messages import BackupProgress, SnapshotMade


class _DamagedLog:
    """A log that cannot be opened, and so is left out."""

    def __init__(self, error: Damaged) -> None:
        self._error = error

    def hold(self) -> Mapping[str, Seq]:
        return {}

    def release(self) -> None:
        """Hold nothing."""

    def copy(self, path: Path, cursors: Mapping[str, Seq], goes_on: Callable[[], bool]) -> NoReturn:
        raise self._error

    def close(self) -> None:
        """Nothing is open."""


def back_up(
    root: Path, folder: Path, model: ModelInfo | None, on_progress: Callable[[BackupProgress], None]
) -> SnapshotMade:
    """Add a snapshot of the data directory `root` to the backup in `folder`.

    Raises NotFound when there is no data directory, Locked while a daemon serves it, and what a daemon would.
    """
    files, clock = RealFiles(), SystemClock()
    if not files.exists(root):
        raise NotFound("no such data directory", field="--data-dir", hint="see memoryd doctor")
    data = DataDir.take(root, files)
    try:
        log = _log(root, clock) if files.exists(root / EVENTS) else None
        backup = Backups(root, files, clock, log, VERSION, model).begin(folder)
        try:
            while (progress := backup.step()).made is None:
                on_progress(progress)
            return progress.made
        finally:
            backup.abandon()
            if log is not None:
                log.close()
    finally:
        data.release()


def _log(root: Path, clock: SystemClock) -> SqliteEventStore | _DamagedLog:
    try:
        return SqliteEventStore(root / EVENTS, clock.now)
    except Damaged as error:
        return _DamagedLog(error)
