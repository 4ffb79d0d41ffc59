"""Puts a snapshot back into a folder that is empty or not there: a data directory that a daemon may serve at once.

As long as it is not whole a file says so, and no daemon takes it. What fails removes what it has written.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from memoryd.protocol.errors import Damaged, InvalidMessage, NotFound, StorageFault
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.rvf.history import read_history
from memoryd.rvf.reader import find_state
from memoryd.stores import copies
from memoryd.stores.datadir import EVENTS, LOCK_NAME, RESTORING, DataDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from memoryd.backup.format import Omitted, Snapshot, StoredFile
    from memoryd.backup.repository import Repository
    from memoryd.files import FileSystem
    from memoryd.protocol.ids import Seq, UserId


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back; `omitted` is what the snapshot lacks of it."""

    files: int
    users: int
    bytes: int
    omitted: Sequence[Omitted]


def restore(
    repository: Repository,
    snapshot: Snapshot,
    target: Path,
    files: FileSystem,
    user: UserId | None,
    on_bytes: Callable[[int], None],
) -> Restored:
    """Write a snapshot, or what one user has in it, into `target`, and tell of every piece how long it is.

    Of the event log one user gets the own events only. Raises InvalidMessage when something is in `target`, NotFound for a
    user who is not in the snapshot, Damaged or another StorageFault.
    """
    chosen = [file for file in snapshot.files if user is None or file.folder in ("", user)]
    if user is not None and user not in snapshot.folders:
        raise NotFound("this user is not in the snapshot", field="user", hint="see memoryd backup verify")
    is_new = not files.exists(target)
    _require_empty(target, files)
    data = DataDir.take(target, files)
    try:
        _require_empty(target, files)  # nobody else has filled it before this had the lock
        try:
            _fill(repository, chosen, target, files, user, on_bytes)
            if is_new:
                files.sync_folder(target.parent)
        except BaseException:
            with suppress(StorageFault):
                _remove(target, files, is_new=is_new)
            raise
    finally:
        data.release()
    restored = msgspec.structs.replace(snapshot, files=chosen)
    omitted = [each for each in snapshot.omitted if user is None or each.name.partition("/")[0] in (user, EVENTS)]
    return Restored(len(chosen), restored.users, restored.live_bytes, omitted)


def _fill(
    repository: Repository,
    chosen: Sequence[StoredFile],
    target: Path,
    files: FileSystem,
    user: UserId | None,
    on_bytes: Callable[[int], None],
) -> None:
    """Write everything, under a sign that keeps daemons away until it is whole."""
    sign = target / RESTORING
    files.create(sign).close()
    files.sync_folder(target)
    write_files(repository, chosen, target, files, on_bytes)
    _mend_log(chosen, target, files, user)
    files.unlink(sign)
    files.sync_folder(target)


def write_files(
    repository: Repository,
    chosen: Iterable[StoredFile],
    target: Path,
    files: FileSystem,
    on_bytes: Callable[[int], None],
) -> None:
    """Write files into the folder `target`, each synced, and their folders. Raises Damaged or another StorageFault."""
    made = {target}
    for file in chosen:
        path = target / file.name
        for folder in reversed(path.relative_to(target).parents):
            if target / folder not in made:
                files.make_folder(target / folder)
                made.add(target / folder)
        for length in repository.write(file.pieces, file.size, path):
            on_bytes(length)
    for folder in made:
        files.sync_folder(folder)


def _require_empty(target: Path, files: FileSystem) -> None:
    """Raise InvalidMessage when there is more in the folder than a lock."""
    if files.exists(target) and (not files.is_folder(target) or {*files.list(target)} - {LOCK_NAME}):
        hint = "name a new or empty folder; what an earlier restore has left may be removed"
        raise InvalidMessage("something is in this folder", field="to", hint=hint)


def _mend_log(chosen: Sequence[StoredFile], target: Path, files: FileSystem, user: UserId | None) -> None:
    """Leave in the log what is the user's; without a log begin one behind everything that the memories have applied."""
    path = target / EVENTS
    if all(file.name != EVENTS for file in chosen):
        applied = (applied_seq(files, target / file.name) for file in chosen if file.name.endswith(".rvf"))
        copies.begin_behind(path, max(applied, default=BEFORE_ALL))
    elif user is not None:
        copies.keep_only(path, user)


def applied_seq(files: FileSystem, path: Path) -> Seq:
    """Return the last event that is in a memory file, BEFORE_ALL when another program wrote it. Raises StorageFault."""
    file = files.open(path, writable=False)
    try:
        return read_history(file, path, find_state(file, path)).applied_seq
    except Damaged:
        return BEFORE_ALL
    finally:
        file.close()


def _remove(target: Path, files: FileSystem, *, is_new: bool) -> None:
    for name in files.list(target):
        files.remove_tree(target / name)
    if is_new:
        files.remove_folder(target)
