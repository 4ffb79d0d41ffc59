"""All users' memories on disk: one folder for each user, and in it `memory.rvf`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from memoryd.protocol.errors import Damaged, InvalidMessage
from memoryd.protocol.ids import user_id
from memoryd.protocol.interfaces import Opened
from memoryd.rvf import verify
from memoryd.rvf.file import RvfMemoryFile
from memoryd.rvf.lock import WriterLock
from memoryd.rvf.records import UNREADABLE, decode_record, encode_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from memoryd.clock import Clock
    from memoryd.files import FileSystem
    from memoryd.protocol.ids import UserId
    from memoryd.protocol.interfaces import Contents, Encoder, Finding, MemoryIndex, ModelInfo
    from memoryd.protocol.records import MemoryRecord
    from memoryd.rvf.rewriting import Link

FILE_NAME: Final = "memory.rvf"
LOCK_NAME: Final = "memory.rvf.lock"


class RvfMemoryStore:
    """A `MemoryStore` below the folder `root`.

    `make_index` builds the searchable half from what a file holds; `encoder` makes the codes it reads there, and
    `link` the graph for other programs. `random_bytes` makes the names of files and
    writers.
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
    ) -> None:
        self._root = root
        self._model = model
        self._files = files
        self._clock = clock
        self._make_index = make_index
        self._encoder = encoder
        self._link = link
        self._random_bytes = random_bytes

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
        return self._files.exists(self._path(user))

    def open(self, user: UserId) -> Opened:
        """Take the user's writer lock and open the file, which is made by its first commit.

        Raises Locked, Damaged, ModelMismatch, ReadOnly or another StorageFault; then the lock is free again.
        """
        path = self._path(user)
        lock = self._lock(user)
        try:
            file, contents = RvfMemoryFile.open(
                self._files, path, self._model, lock, self._random_bytes(16), self._encoder, self._link
            )
        except BaseException:
            lock.abandon()
            raise
        try:
            index = self._make_index(contents)
        except BaseException:
            file.close()
            raise
        return Opened(file, index, contents.trajectories, contents.applied_seq)

    def erase(self, user: UserId) -> None:
        """Remove everything of a user whose file is closed. Raises Locked while it is open.

        The memory file goes last: after a crash the user is either whole, or still there to be erased again.
        """
        folder = self._path(user).parent
        if not self._files.exists(folder):
            return
        lock = self._lock(user)
        try:
            last = (FILE_NAME, LOCK_NAME)
            for name in self._files.list(folder):
                if name not in last:
                    self._files.remove_tree(folder / name)
            self._files.unlink(folder / FILE_NAME)
            self._files.sync_folder(folder)
        finally:
            lock.release()
        self._files.remove_tree(folder)
        self._files.sync_folder(self._root)

    def verify(self, user: UserId) -> Sequence[Finding]:
        """Read every byte of the user's file and return what is wrong with it; takes no lock, writes nothing."""
        path = self._path(user)
        file = self._files.open(path, writable=False)
        try:
            return list(verify.findings(file, path, self._model))
        finally:
            file.close()

    def encode(self, record: MemoryRecord) -> bytes:
        return encode_record(record)

    def decode(self, record: bytes) -> MemoryRecord:
        try:
            return decode_record(record)
        except UNREADABLE as error:
            raise Damaged(
                "a record cannot be decoded", hint="memoryd verify, and restore the file from a copy"
            ) from error

    def _lock(self, user: UserId) -> WriterLock:
        path = self._path(user).with_name(LOCK_NAME)
        return WriterLock.acquire(self._files, path, self._clock.now(), self._random_bytes(9))

    def _path(self, user: UserId) -> Path:
        # A UserId is safe as a part of a path; one that was not made by `user_id` is refused here.
        return self._root / user_id(user) / FILE_NAME
