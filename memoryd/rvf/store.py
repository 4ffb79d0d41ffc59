"""All users' memories on disk: one folder for each user, and in it `memory.rvf` and its branches."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from memoryd.files import Missing, replace_file
from memoryd.protocol.errors import Damaged, InvalidMessage, NotFound
from memoryd.protocol.ids import MAIN, BranchName, branch_name, user_id
from memoryd.protocol.interfaces import Batch, BranchStatus, Looked, Opened
from memoryd.protocol.records import microseconds
from memoryd.rvf import verify
from memoryd.rvf.branching import begun, difference, first_commit
from memoryd.rvf.file import RvfMemoryFile, require_model
from memoryd.rvf.format import Identity
from memoryd.rvf.history import read_history
from memoryd.rvf.lineage import pins_of, read_lineage
from memoryd.rvf.lock import Locks, WriterLock
from memoryd.rvf.places import FILE_NAME, HEAD_NAME, LOCK_SUFFIX, branch_names, branch_of, branch_path, lock_path
from memoryd.rvf.reader import find_state
from memoryd.rvf.records import UNREADABLE, decode_record, encode_record
from memoryd.rvf.rewriting import TEMPORARY_SUFFIX, Retention
from memoryd.rvf.sight import Sight
from memoryd.rvf.snapshot import read_snapshot
from memoryd.rvf.traces import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from memoryd.clock import Clock
    from memoryd.files import FileSystem
    from memoryd.protocol.ids import RecordId, Seq, UserId
    from memoryd.protocol.interfaces import (
        Contents,
        Difference,
        Encoder,
        Erasure,
        Finding,
        MemoryIndex,
        ModelInfo,
        Scan,
        Vectors,
    )
    from memoryd.protocol.records import MemoryRecord
    from memoryd.rvf.lineage import Lineage
    from memoryd.rvf.rewriting import Embed, Link


class RvfMemoryStore:
    """A `MemoryStore` below the folder `root`.

    `make_index` builds the searchable half from what a file holds; `encoder` makes the codes it reads there, and
    `link` the graph for other programs. What is deleted can be looked back at for `history_s` seconds. `random_bytes` makes
    the names of files and writers. `beside` are other files that may hold what a memory was made of.
    """

    def __init__(
        self,
        root: Path,
        model: ModelInfo,
        files: FileSystem,
        clock: Clock,
        make_index: Callable[[Contents], MemoryIndex],
        encoder: Encoder | None = None,
        link: Link | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        history_s: float = 0.0,
        beside: Sequence[Path] = (),
    ) -> None:
        self._root = root
        self._model = model
        self._files = files
        self._clock = clock
        self._make_index = make_index
        self._encoder = encoder
        self._link = link
        self._random_bytes = random_bytes
        self._history_s = history_s
        self._beside = beside

    def users(self) -> Iterator[UserId]:
        """Yield every user that has a file, by name."""
        for name in self._files.list(self._root):
            try:
                user = user_id(name)
            except InvalidMessage:
                continue
            if self.exists(user):
                yield user

    def exists(self, user: UserId) -> bool:
        return self._files.exists(self._folder(user) / FILE_NAME)

    def open(self, user: UserId) -> Opened:
        """Take the user's writer lock and open the file of the branch in use; a new user's is made by its first commit.

        Raises Locked, Damaged, ModelMismatch, ReadOnly or another StorageFault; then the lock is free again.
        """
        return self._open(user, None)

    def repair(self, user: UserId) -> Sequence[str]:
        """Make anew what follows from records and vectors, in those files of a closed user in which something is wrong.

        Return the files. What cannot be read stays as it is. Raises Locked or another StorageFault.
        """
        repaired = []
        for one in dict.fromkeys(finding.file for finding in self.verify(user)):
            branch = branch_of(self._folder(user) / one)[1]
            try:
                file, _, _ = self._open_file(user, BranchName(branch))
            except Damaged:
                continue
            try:
                file.compact()
                if (linking := file.linking()) is not None and linking.prepare():
                    file.finish(linking)
                repaired.append(one)
            except Damaged:
                continue
            finally:
                file.close()
        return repaired

    def _open(self, user: UserId, name: BranchName | None) -> Opened:
        file, contents, branch = self._open_file(user, name)
        try:
            index = self._make_index(contents)
        except BaseException:
            file.close()
            raise
        return Opened(file, index, contents.trajectories, contents.applied_seq, branch)

    def reembed(self, user: UserId, name: BranchName, model: ModelInfo, embed: Embed) -> None:
        """Give the rows in the file of a branch the vectors of another model.

        `embed` makes them, and the records that belong to them, of encoded records. The youngest branch must go first: a branch is read together with its
        ancestors. Raises what `embed` raises, and StorageFault.
        """
        file, _, _ = self._open_file(user, name)
        try:
            file.reembed(model, embed)
        finally:
            file.close()

    def models(self, user: UserId) -> dict[BranchName, ModelInfo]:
        """Return with which model the file of each branch was made, the youngest branch first. Raises StorageFault."""
        found = {}
        for name in branch_names(self._files, self._folder(user)):
            path = self._path(user, name)
            file = self._files.open(path, writable=False)
            try:
                found[BranchName(name)] = read_snapshot(file, path).history
            finally:
                file.close()
        depths = {name: len(history.origin.ancestors) if history.origin else 0 for name, history in found.items()}
        return {name: found[name].model for name in sorted(found, key=lambda name: -depths[name])}

    def _open_file(self, user: UserId, branch: BranchName | None) -> tuple[RvfMemoryFile, Contents, BranchName]:
        lock: WriterLock | Locks = (of_user := self._lock(self._folder(user) / FILE_NAME))
        try:
            if branch is None:
                branch = self.current(user)
            path = self._path(user, branch)
            if branch != MAIN:  # other programs know only the lock of the file they write to
                lock = Locks(of_user, self._lock(self._existing(user, branch)))
            retention = Retention(self._history_s, partial(self._pins, user, branch), self._now_us)
            file, contents = RvfMemoryFile.open(
                self._files, path, self._model, lock, self._random_bytes(16), self._encoder, self._link, retention
            )
        except BaseException:
            lock.abandon()
            raise
        return file, contents, branch

    def erase(self, user: UserId) -> None:
        """Remove everything of a user whose file is closed. Raises Locked while it is open.

        The memory file goes last: after a crash the user is either whole, or still there to be erased again.
        """
        folder = self._folder(user)
        if not self._files.exists(folder):
            return
        path = folder / FILE_NAME
        lock = self._lock(path)
        try:
            last = (FILE_NAME, lock_path(path).name)
            for name in self._files.list(folder):
                if name not in last:
                    self._files.remove_tree(folder / name)
            self._files.unlink(path)
            self._files.sync_folder(folder)
        finally:
            lock.release()
        self._files.remove_tree(folder)
        self._files.sync_folder(self._root)

    def verify(self, user: UserId) -> Sequence[Finding]:
        """Read every byte of the user's files and return what is wrong with them; takes no lock, writes nothing."""
        found: list[Finding] = []
        for branch in branch_names(self._files, self._folder(user)) or [MAIN]:
            path = self._path(user, branch)
            file = self._files.open(path, writable=False)
            try:
                wrong = list(verify.findings(file, path, self._model)) or list(verify.ancestry(self._files, path))
            finally:
                file.close()
            found += [replace(one, file=path.relative_to(self._folder(user)).as_posix()) for one in wrong]
        return found

    def encode(self, record: MemoryRecord) -> bytes:
        return encode_record(record)

    def decode(self, record: bytes) -> MemoryRecord:
        try:
            return decode_record(record)
        except UNREADABLE as error:
            raise Damaged(
                "a record cannot be decoded", hint="memoryd verify, and restore the file from a copy"
            ) from error

    # --- branches ---

    def current(self, user: UserId) -> BranchName:
        """Return the branch that is written to. Raises Damaged or another StorageFault."""
        try:
            file = self._files.open(self._folder(user) / HEAD_NAME, writable=False)
        except Missing:
            return MAIN
        try:
            return branch_name(file.read(0, file.size()).decode(errors="replace").strip())
        except InvalidMessage as error:
            raise Damaged(
                f"{user}/{HEAD_NAME} names no branch", hint="write the name of a branch into it, or remove it"
            ) from error
        finally:
            file.close()

    def has_branches(self, user: UserId) -> bool:
        """Whether there is more than the main line; quick."""
        return len(branch_names(self._files, self._folder(user))) > 1

    def branches(self, user: UserId) -> Sequence[BranchStatus]:
        """Return the branches of a user, the main line first. Raises Damaged or another StorageFault."""
        current, found = self.current(user), []
        if not self.exists(user):  # nothing was committed yet
            return [BranchStatus(MAIN, None, None, is_current=True, records=0, own_records=0, file_bytes=0)]
        for name in branch_names(self._files, self._folder(user)):
            lineage = read_lineage(self._files, self._path(user, name))
            origin, own = lineage.origin, lineage.own
            found.append(
                BranchStatus(
                    name=BranchName(name),
                    parent=BranchName(origin.ancestors[-1].name) if origin else None,
                    created_us=origin.created_us if origin else None,
                    is_current=name == current,
                    records=sum(snapshot.count(sight) for snapshot, sight in lineage.seen()),
                    own_records=own.count(own.sight),
                    file_bytes=own.state.end,
                )
            )
        return found

    def branch(self, user: UserId, name: BranchName, of: BranchName) -> None:
        """Begin a branch of what is committed to `of`. Raises InvalidMessage, NotFound or StorageFault."""
        path = self._path(user, name)
        if name == MAIN or self._files.exists(path):
            raise InvalidMessage("this branch is there already", field="branch", hint="choose another name")
        lineage = read_lineage(self._files, self._existing(user, of))
        ledger = begun(lineage, of, Identity(self._random_bytes(16)), self._now_us())
        self._files.make_folder(path.parent)
        self._replace(path, first_commit(ledger, lineage))
        self._files.sync_folder(self._folder(user))

    def switch(self, user: UserId, name: BranchName, applied_seq: Seq) -> None:
        """Write to the branch `name` from the next opening on; it has applied the events up to `applied_seq` then.

        Raises NotFound, Locked while the user is open, or another StorageFault.
        """
        file, _, _ = self._open_file(user, name)
        try:
            file.commit(Batch(applied_seq=applied_seq))
        finally:
            file.close()
        # Last, so that after a crash no event is applied to both.
        self._point(user, name)

    def drop(self, user: UserId, name: BranchName) -> None:
        """Remove a branch and what only it holds. Raises InvalidMessage, NotFound or StorageFault."""
        path = self._existing(user, name)
        if name in (MAIN, self.current(user)):
            raise InvalidMessage("this branch is in use", field="branch", hint="switch to another one first")
        heirs = [
            heir for heir, lineage in self._others(user, name) if any(one.name == name for one, _ in lineage.chain())
        ]
        if heirs:
            hint = f"drop or merge these first, which come from it: {', '.join(heirs)}"
            raise InvalidMessage("other branches come from this one", field="branch", hint=hint)
        self._files.unlink(path)
        self._files.sync_folder(path.parent)

    def look(self, user: UserId, name: BranchName, moment_us: int | None = None) -> Looked:
        """Read what a branch holds, or held at an earlier moment. Raises NotFound or StorageFault."""
        lineage = read_lineage(self._files, self._existing(user, name))
        require_model(lineage.own.history.model, self._model, user)
        contents = lineage.contents(moment_us)
        has_lost = moment_us is not None and lineage.has_lost(moment_us)
        return Looked(self._make_index(contents), contents.trajectories, has_lost=has_lost)

    def compare(self, user: UserId, name: BranchName, other: BranchName) -> Difference:
        """Return what `name` holds and `other` does not, and what happened on `name` since they parted.

        Raises NotFound or StorageFault.
        """
        mine, theirs = (read_lineage(self._files, self._existing(user, each)) for each in (name, other))
        return difference(mine, name, theirs, other)

    def erase_from(self, user: UserId, branches: Mapping[BranchName, Erasure], moment_us: int) -> None:
        """Delete from these branches, and rewrite their files without it. Raises Locked or another StorageFault.

        The youngest go first: what a branch has deleted is not kept for it in the files of its ancestors.
        """
        for name in sorted(branches, key=lambda name: self._depth(user, name), reverse=True):
            erasure = branches[name]
            opened = self._open(user, name)
            try:
                opened.file.commit(Batch(deleted=erasure.records, dropped=erasure.trajectories, moment_us=moment_us))
                opened.file.compact(erases=True)
            finally:
                opened.file.close()

    def scan(self, user: UserId, ids: Sequence[RecordId], records: Sequence[MemoryRecord], vectors: Vectors) -> Scan:
        """Look through all files that may hold something of these ids and records, and of their vectors, float32 [n, dim].

        Raises StorageFault.
        """
        folder = self._folder(user)
        places = [folder, branch_path(folder, "any").parent]
        paths = [place / name for place in places for name in self._files.list(place)]
        paths = [path for path in paths if path.suffix not in ("", LOCK_SUFFIX)]
        beside = [path for path in self._beside if self._files.exists(path)]
        return scan(self._files, self._root, [*paths, *beside], ids, records, vectors)

    def _depth(self, user: UserId, name: str) -> int:
        return sum(1 for _ in read_lineage(self._files, self._existing(user, name)).chain())

    def _pins(self, user: UserId, name: str, moment_us: int) -> list[Sight]:
        """Return what other branches have seen of the file of `name` since a moment; everything, if one is damaged."""
        pins = []
        try:
            for other in branch_names(self._files, self._folder(user)):
                if other in (MAIN, name):
                    continue
                path = self._path(user, other)
                file = self._files.open(path, writable=False)
                try:
                    history = read_history(file, path, find_state(file, path))
                finally:
                    file.close()
                pins += [pin for ancestor, pin in pins_of(history, moment_us) if ancestor == name]
        except Damaged:
            return [Sight()]
        return pins

    def _others(self, user: UserId, name: str) -> Iterator[tuple[str, Lineage]]:
        for other in branch_names(self._files, self._folder(user)):
            if other not in (MAIN, name):
                yield other, read_lineage(self._files, self._path(user, other))

    def _point(self, user: UserId, name: BranchName) -> None:
        """Let HEAD name this branch."""
        self._replace(self._folder(user) / HEAD_NAME, iter([f"{name}\n".encode()]))

    def _replace(self, path: Path, parts: Iterator[bytes]) -> None:
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        self._files.unlink(temporary)  # of one that was begun and not finished
        replace_file(self._files, path, temporary, parts).close()

    def _existing(self, user: UserId, name: str) -> Path:
        path = self._path(user, name)
        if not self._files.exists(path):
            raise NotFound(f"no branch {name}", field="branch", hint="memoryd branch list names them")
        return path

    def _now_us(self) -> int:
        return microseconds(self._clock.now())

    def _lock(self, path: Path) -> WriterLock:
        return WriterLock.acquire(self._files, lock_path(path), self._clock.now(), self._random_bytes(9))

    def _path(self, user: UserId, branch: str) -> Path:
        return branch_path(self._folder(user), branch_name(branch))

    def _folder(self, user: UserId) -> Path:
        # A UserId is safe as a part of a path; one that was not made by `user_id` is refused here.
        return self._root / user_id(user)
