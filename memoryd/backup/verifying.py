"""Reads everything in a backup and tells everything that is wrong with it, not only the first thing.

Every object is read once. Then every file is put back into a folder for a while, a user at a time, and looked at as
`memoryd verify` looks at it where it came from; what several snapshots share is looked at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from memoryd.backup.restoring import write_files
from memoryd.protocol.errors import StorageFault
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.rvf import verify
from memoryd.rvf.history import read_history
from memoryd.rvf.reader import find_state
from memoryd.stores import copies
from memoryd.stores.datadir import EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from memoryd.backup.format import Snapshot, StoredFile
    from memoryd.backup.repository import Repository
    from memoryd.files import FileSystem
    from memoryd.protocol.ids import Seq

    CheckLog = Callable[[Path], tuple[Seq, Sequence[str]]]
    OnProgress = Callable[[int, int], None]  # bytes done, bytes in all

_NEW_FOLDER: Final = "back up into a new folder"
_MADE_SO: Final = "it was so when it was backed up"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `name` is a file of the backup, or in `snapshots` a file of the data directory."""

    name: str
    snapshots: Sequence[int]
    offset: int
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A snapshot that was looked at; its own pack has `new_bytes`, packed."""

    snapshot: int
    created_at: datetime
    version: str
    users: int
    files: int
    omitted: int
    bytes: int
    new_bytes: int
    last_seq: int | None


@dataclass(frozen=True, slots=True)
class Verified:
    """What is in a backup, and what is wrong with it."""

    snapshots: Sequence[Seen]
    findings: Sequence[Finding]


@dataclass(slots=True)
class _Group:
    """Files of one folder, or the event log, as they are in some snapshots; `reached` is the last event in them."""

    files: Sequence[StoredFile]
    snapshots: list[int] = field(default_factory=list)
    reached: Seq = BEFORE_ALL


def verify_backup(
    repository: Repository,
    number: int | None,
    scratch: Path,
    files: FileSystem,
    on_progress: OnProgress,
    check_log: CheckLog = copies.faults,
) -> Verified:
    """Check one snapshot, or everything. `scratch` is an empty folder with room for the largest user, or the log.

    Raises NotFound for a snapshot that is not there, and StorageFault when `scratch` cannot be used.
    """
    check = _Check(repository, scratch, files, on_progress, check_log)
    snapshots = check.load(number)
    groups = _groups(snapshots)
    check.expect(groups, is_everything=number is None)
    check.objects()
    for group in groups:
        check.group(group)
    for each, snapshot in snapshots.items():
        check.agreement(each, snapshot, [group for group in groups if each in group.snapshots])
    seen = [_seen(each, snapshot, check.new_bytes.get(each, 0)) for each, snapshot in snapshots.items()]
    return Verified(seen, check.findings)


class _Check:
    """What was found so far, and how far it is."""

    def __init__(
        self, repository: Repository, scratch: Path, files: FileSystem, on_progress: OnProgress, check_log: CheckLog
    ) -> None:
        self.findings: list[Finding] = []
        self.new_bytes: dict[int, int] = {}
        self._repository = repository
        self._scratch = scratch
        self._files = files
        self._on_progress = on_progress
        self._check_log = check_log
        self._wanted: list[bytes] = []
        self._broken: set[bytes] = set()
        self._done = self._total = 0

    def load(self, number: int | None) -> Mapping[int, Snapshot]:
        """Read what every pack and these snapshots say."""
        repository = self._repository
        for pack in repository.packs():
            try:
                repository.load_index([pack])
            except StorageFault as error:
                self._found(error)
        found: dict[int, Snapshot] = {}
        for each in repository.snapshots() if number is None else [repository.choose(number)]:
            try:
                found[each] = repository.load(each)
            except StorageFault as error:
                self._found(error)
        return found

    def expect(self, groups: Sequence[_Group], *, is_everything: bool) -> None:
        """Say what is to be read: every object there is, or those that are needed."""
        known = self._repository.objects
        needed = {piece.digest for group in groups for file in group.files for piece in file.pieces}
        # In the order of the packs, which is the order on the disk.
        self._wanted = [digest for digest in known if is_everything or digest in needed]
        self._broken = needed - known.keys()
        for pack, stored in known.values():
            self.new_bytes[pack] = self.new_bytes.get(pack, 0) + stored.packed
        self._total = sum(known[digest][1].packed for digest in self._wanted)
        self._total += sum(file.live_bytes for group in groups for file in group.files)

    def objects(self) -> None:
        """Read every object."""
        for digest in self._wanted:
            try:
                self._repository.read(digest)
            except StorageFault as error:
                self._found(error)
                self._broken.add(digest)
            self._advance(self._repository.objects[digest][1].packed)

    def group(self, group: _Group) -> None:
        """Put files back, look at them, and remove them."""
        if broken := [(file, piece) for file in group.files for piece in file.pieces if piece.digest in self._broken]:
            for file, piece in broken:
                self._tell(group, file.name, piece.offset, "an object of it is missing or damaged", _NEW_FOLDER)
            self._advance(sum(file.live_bytes for file in group.files))
            return
        folder = self._scratch / "restored"
        self._files.make_folder(folder)
        try:
            write_files(self._repository, group.files, folder, self._files, self._advance)
            for file in group.files:
                if file.name == EVENTS:
                    self._log(group, folder / EVENTS)
                elif file.name.endswith(".rvf"):
                    self._memory(group, file.name, folder / file.name)
        finally:
            self._files.remove_tree(folder)

    def agreement(self, number: int, snapshot: Snapshot, groups: Sequence[_Group]) -> None:
        """Check that the files of one snapshot belong together, and that none is missing."""
        path = self._repository.snapshot_path(number)
        name = "/".join(path.parts[-2:])
        for omitted in snapshot.omitted:
            what = f"left out, since it could not be read: {omitted.what}"
            self.findings.append(Finding(omitted.name, [number], omitted.offset, what, _MADE_SO))
        for group in groups:
            is_log = group.files[0].name == EVENTS
            if snapshot.last_seq is not None and (
                group.reached != snapshot.last_seq if is_log else group.reached > snapshot.last_seq
            ):
                what = f"{group.files[0].name} has come to event {group.reached}, the snapshot to {snapshot.last_seq}"
                self.findings.append(Finding(name, [number], 0, what, _NEW_FOLDER))

    def _log(self, group: _Group, path: Path) -> None:
        try:
            group.reached, faults = self._check_log(path)
        except StorageFault as error:
            self._tell(group, EVENTS, 0, error.message, _MADE_SO)
            return
        for what in faults:
            self._tell(group, EVENTS, 0, what, _MADE_SO)

    def _memory(self, group: _Group, name: str, path: Path) -> None:
        file = self._files.open(path, writable=False)
        try:
            history = read_history(file, path, find_state(file, path))
            # With the model that made it: what runs where it is restored, nobody knows.
            for each in verify.findings(file, path, history.model):
                self._tell(group, name, each.offset, each.what, each.hint)
        except StorageFault as error:
            self._tell(group, name, int(error.details.get("offset") or 0), error.message, _MADE_SO)
        else:
            group.reached = max(group.reached, history.applied_seq)
        finally:
            file.close()

    def _tell(self, group: _Group, name: str, offset: int, what: str, hint: str) -> None:
        self.findings.append(Finding(name, group.snapshots, offset, what, hint))

    def _found(self, error: StorageFault) -> None:
        name, offset = str(error.details.get("path") or ""), int(error.details.get("offset") or 0)
        self.findings.append(Finding(name, [], offset, str(error.details.get("what") or error.message), _NEW_FOLDER))

    def _advance(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done, self._total)


def _groups(snapshots: Mapping[int, Snapshot]) -> list[_Group]:
    """Return the files of every folder, and every event log, once for each state of it."""
    found: dict[object, _Group] = {}
    for number, snapshot in snapshots.items():
        folders: dict[str, list[StoredFile]] = {}
        for file in snapshot.files:
            folders.setdefault(file.folder, []).append(file)
        for files in folders.values():
            state = tuple((file.name, file.size, tuple(file.pieces)) for file in files)
            found.setdefault(state, _Group(files)).snapshots.append(number)
    return list(found.values())


def _seen(number: int, snapshot: Snapshot, new_bytes: int) -> Seen:
    return Seen(
        snapshot=number,
        created_at=snapshot.created_at,
        version=snapshot.version,
        users=snapshot.users,
        files=len(snapshot.files),
        omitted=len(snapshot.omitted),
        bytes=snapshot.live_bytes,
        new_bytes=new_bytes,
        last_seq=snapshot.last_seq,
    )
