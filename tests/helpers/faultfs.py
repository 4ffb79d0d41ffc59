"""A disk in memory that counts what is asked of it, fails when told to, and forgets what was not synced.

A full `FileSystem`. What was written is seen at once; it is durable after `sync` of the file, and its name after
`sync_folder` of its folder. `after_crash` gives the disk that a restarted machine would find.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from memoryd.files import storage_fault
from memoryd.protocol.errors import StorageFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from memoryd.files import File, Mapping


class Crash(BaseException):
    """The machine stopped; nothing that is asked after this has an effect."""


@dataclass(slots=True, eq=False)
class _Inode:
    """Bytes as they are read, bytes as they are on the platter, and the writes in between."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # write at, or cut to (None)
    locked_by: object = None

    def write_out(self) -> None:
        """Bring to the platter what is pending, and nothing that an fsync has lost before."""
        self.durable = self._platter(self.pending)
        self.pending.clear()

    def after_crash(self, survives: float, seed: np.random.Generator) -> _Inode:
        """Return what is left: each write by this chance, and as likely whole as only the beginning of it."""
        writes = [
            (at, data if data is None or seed.random() < max(survives, 0.5) else data[: seed.integers(len(data) + 1)])
            for at, data in self.pending
            if seed.random() < survives
        ]
        content = self._platter(writes)
        return _Inode(bytearray(content), content)

    def _platter(self, writes: Sequence[tuple[int, bytes | None]]) -> bytes:
        content = bytearray(self.durable)
        for at, data in writes:
            if data is None:
                del content[at:]
            content.extend(bytes(max(0, at - len(content))))  # a hole, where an earlier write was lost
            content[at : at + len(data or b"")] = data or b""
        return bytes(content)


class FaultDisk:
    """A disk with a fault: crashes at operation `crash_at`, fails at `fail_at` (also `for_good`), or is too small.

    Operations count from 1, if they are such as `only` wants; `operations` lists their names. `open_files` are the
    descriptors that nobody has closed, and `trusted_again` counts what was written and synced through one after an fsync
    of it had failed, which no careful program does. `used` are the bytes that all files take.
    """

    def __init__(
        self,
        *,
        crash_at: int = 0,
        fail_at: int = 0,
        for_good: bool = False,
        error: int = errno.EIO,
        only: Callable[[str, Path], bool] = lambda _operation, _path: True,
        capacity: int | None = None,
        seed: int = 0,
    ) -> None:
        self.operations: list[str] = []
        self.open_files = 0
        self.trusted_again = 0
        self.capacity = capacity
        self._crash_at = crash_at
        self._fail_at = fail_at
        self._for_good = for_good
        self._error = error
        self.only = only
        self._seed = seed
        self._is_dead = False
        self._is_unnoticed = False
        self._names: dict[Path, _Inode | None] = {}  # None is a folder
        self._durable: dict[Path, _Inode | None] = {}

    def heal(self) -> None:
        """From now on nothing fails."""
        self._fail_at = self._crash_at = 0
        self.capacity = None

    def crash_in(self, operations: int) -> None:
        """Crash at the operation that comes after so many others, and take back what else was to happen."""
        self._fail_at, self._crash_at = 0, len(self.operations) + 1 + operations

    def fail_in(self, operations: int, error: int = errno.EIO, *, for_good: bool = False) -> None:
        """Fail at the operation that comes after so many others, and take back what else was to happen."""
        self._fail_at, self._crash_at = len(self.operations) + 1 + operations, 0
        self._error, self._for_good = error, for_good

    @contextmanager
    def unnoticed(self) -> Iterator[None]:
        """What is asked meanwhile neither counts nor fails."""
        self._is_unnoticed = True
        try:
            yield
        finally:
            self._is_unnoticed = False

    @property
    def used(self) -> int:
        return sum(len(inode.content) for inode in self._names.values() if inode)

    def put(self, path: Path, content: bytes | None = None) -> None:
        """Lay down a durable file, or a folder, uncounted."""
        for folder in path.parents:
            self._names[folder] = self._durable[folder] = None
        self._names[path] = self._durable[path] = None if content is None else _Inode(bytearray(content), content)

    def content(self, path: Path) -> bytes:
        """Return what a file holds, uncounted."""
        inode = self._names[path]
        assert inode is not None
        return bytes(inode.content)

    def after_crash(self, survives: float, seed: int | None = None) -> FaultDisk:
        """Return a sound disk with what was synced; of the rest each write and each folder's names by this chance."""
        source = np.random.default_rng(self._seed if seed is None else seed)
        folders = sorted({path.parent for path in self._names | self._durable})
        newest = {folder for folder in folders if source.random() < survives}
        names = {path: inode for path, inode in self._durable.items() if path.parent not in newest}
        names |= {path: inode for path, inode in self._names.items() if path.parent in newest}
        disk = FaultDisk()
        for path in sorted(names):
            if path.parent in disk._names or path == path.parent:
                inode = names[path]
                disk._names[path] = None if inode is None else inode.after_crash(survives, source)
        disk._durable = dict(disk._names)
        return disk

    # FileSystem

    def open(self, path: Path, *, writable: bool) -> File:
        self.count("open", path)
        return _FaultFile(self, self._inode("open", path), path, writable=writable)

    def create(self, path: Path) -> File:
        self.count("create", path)
        if path.parent not in self._names:
            raise _fault(errno.ENOENT, "create", path)
        if path in self._names:
            raise _fault(errno.EEXIST, "create", path)
        inode = _Inode()
        self._names[path] = inode
        return _FaultFile(self, inode, path, writable=True)

    def exists(self, path: Path) -> bool:
        self.count("exists", path)
        return path in self._names

    def is_folder(self, path: Path) -> bool:
        self.count("is folder", path)
        return path in self._names and self._names[path] is None

    def list(self, folder: Path) -> Sequence[str]:
        self.count("list", folder)
        return sorted(path.name for path in self._names if path.parent == folder and path != folder)

    def rename(self, old: Path, new: Path) -> None:
        self.count("rename", old)
        self._names[new] = self._inode("rename", old)
        del self._names[old]

    def unlink(self, path: Path) -> None:
        self.count("unlink", path)
        self._names.pop(path, None)

    def make_folder(self, path: Path) -> None:
        self.count("make folder", path)
        for folder in (path, *path.parents):
            self._names.setdefault(folder, None)

    def remove_folder(self, path: Path) -> None:
        self.count("remove folder", path)
        if path not in self._names:
            raise _fault(errno.ENOENT, "remove folder", path)
        if any(name.parent == path for name in self._names):
            raise _fault(errno.ENOTEMPTY, "remove folder", path)
        del self._names[path]

    def sync_folder(self, path: Path) -> None:
        self.count("sync folder", path)
        self._durable = {name: inode for name, inode in self._durable.items() if name.parent != path}
        self._durable |= {name: inode for name, inode in self._names.items() if name.parent == path}

    def remove_tree(self, path: Path) -> None:
        self.count("remove tree", path)
        gone = [name for name in self._names if name == path or path in name.parents]
        if not gone:
            raise _fault(errno.ENOENT, "remove", path)
        for name in gone:
            del self._names[name]

    # what the files below share

    def count(self, operation: str, path: Path, *, torn: Callable[[], None] = lambda: None) -> None:
        """Count one operation; crash or fail if it is its turn, `torn` being what is done of it all the same."""
        if self._is_dead:
            raise Crash
        if self._is_unnoticed or not self.only(operation, path):
            return
        self.operations.append(operation)
        at = len(self.operations)
        if at == self._crash_at:
            torn()
            self._is_dead = True
            raise Crash
        if self._fail_at and (at == self._fail_at or (self._for_good and at > self._fail_at)):
            torn()
            raise _fault(self._error, operation, path)

    def room(self) -> int:
        """Return how many bytes still fit."""
        if self.capacity is None:
            return 1 << 40
        return max(0, self.capacity - self.used)

    def named(self, path: Path) -> _Inode | None:
        return self._names.get(path)

    def _inode(self, operation: str, path: Path) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise _fault(errno.ENOENT, operation, path)
        return inode


class _FaultFile:
    """An open file of a `FaultDisk`."""

    def __init__(self, disk: FaultDisk, inode: _Inode, path: Path, *, writable: bool) -> None:
        self._disk = disk
        self._inode = inode
        self._path = path
        self._writable = writable
        self._is_open = True
        self._has_failed = False  # an fsync of this descriptor, so that another one would lie
        disk.open_files += 1

    def size(self) -> int:
        self._count("size")
        return len(self._inode.content)

    def read(self, offset: int, length: int) -> bytes:
        self._count("read")
        return bytes(self._inode.content[offset : offset + length])

    def map(self) -> Mapping:
        self._count("map")
        return _FaultMapping(memoryview(bytes(self._inode.content)))

    def append(self, data: bytes) -> None:
        assert self._writable
        self._trust()
        self._count("append", torn=lambda: self._write(data[: len(data) // 2]))
        room = self._disk.room()
        self._write(data[:room])
        if room < len(data):
            raise _fault(errno.ENOSPC, "write", self._path)

    def rewrite(self, offset: int, data: bytes) -> None:
        assert self._writable
        assert offset + len(data) <= len(self._inode.content)
        self._trust()
        self._count("rewrite", torn=lambda: self._write(data[: len(data) // 2], offset))
        self._write(data, offset)

    def truncate(self, size: int) -> None:
        assert self._writable
        self._trust()
        self._count("truncate")
        del self._inode.content[size:]
        self._inode.content.extend(bytes(size - len(self._inode.content)))
        self._inode.pending.append((size, None))

    def sync(self) -> None:
        self._trust()
        try:
            self._count("sync")
        except StorageFault:
            # The kernel counts the pages as clean now; they never reach the platter.
            self._has_failed = True
            self._inode.pending.clear()
            raise
        self._inode.write_out()

    def try_lock(self) -> bool:
        self._count("lock")
        if self._inode.locked_by in (None, self):
            self._inode.locked_by = self
            return True
        return False

    def is_at(self, path: Path) -> bool:
        self._count("is at")
        return self._disk.named(path) is self._inode

    def close(self) -> None:
        self._disk.open_files -= self._is_open
        self._is_open = False
        if self._inode.locked_by is self:
            self._inode.locked_by = None

    def _trust(self) -> None:
        self._disk.trusted_again += self._has_failed

    def _count(self, operation: str, *, torn: Callable[[], None] = lambda: None) -> None:
        assert self._is_open, f"{operation} on a closed file"
        self._disk.count(operation, self._path, torn=torn)

    def _write(self, data: bytes, offset: int | None = None) -> None:
        at = len(self._inode.content) if offset is None else offset
        self._inode.pending.append((at, data))
        self._inode.content[at : at + len(data)] = data


@dataclass(slots=True)
class _FaultMapping:
    """What the file held when it was mapped; its writer never changes what is there, it appends."""

    data: memoryview

    def will_need(self, places: Sequence[tuple[int, int]]) -> None:
        assert all(0 <= offset <= offset + length <= len(self.data) for offset, length in places)

    def copy(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        return [bytes(self.data[offset : offset + length]) for offset, length in places]

    def let_go(self, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= len(self.data)


def _fault(number: int, operation: str, path: Path) -> StorageFault:
    return storage_fault(OSError(number, ""), operation, path)
