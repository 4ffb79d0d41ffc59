"""The file system as storage sees it: the only module that opens, writes, syncs, renames and locks.

`OSError` is translated here, once: no space is `DiskFull`, no right to write is `ReadOnly`, the rest is
`StorageFault`. A file is opened below a descriptor of its folder, and neither may be a symbolic link. Nothing here
retries: what a failed fsync has dropped, a second one would only claim to have written.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import socket
import stat
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from memoryd.protocol.errors import DiskFull, ReadOnly, StorageFault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | _OPEN
_ASKED_ABOUT: Final = 4  # of many places in a file: whether they are in memory

_mincore: Final[Any] = getattr(ctypes.CDLL(None), "mincore", None)  # not every system has it
if _mincore is not None:
    _mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


class Missing(StorageFault):
    """No file has this name."""


class NameTaken(StorageFault):
    """A file of this name is there already."""


class Mapping(Protocol):
    """The bytes of a file as memory: read when they are looked at, and given back by the kernel as it likes.

    They stay readable after the file was closed, renamed over or removed. A file that somebody cuts meanwhile ends the
    process, so only its writer may cut one, and never where others look.
    """

    data: memoryview

    def will_need(self, places: Sequence[tuple[int, int]]) -> None:
        """Have the disk read these places, offset and length of each, all together and without waiting for them."""
        ...

    def copy(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return copies of these places; quicker than to look at many for the first time. Raises StorageFault."""
        ...

    def let_go(self, offset: int, length: int) -> None:
        """Do not count these bytes as memory of this process until they are looked at again."""
        ...


class File(Protocol):
    """An open file. Every call raises StorageFault when the system refuses."""

    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer only where the file ends."""
        ...

    def map(self) -> Mapping:
        """Return the bytes that are there now; the file is not empty."""
        ...

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end; after a failure a part of it may be there."""
        ...

    def rewrite(self, offset: int, data: bytes) -> None:
        """Write `data` over the bytes at `offset`, which are there."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes, or let it end in zeros up to there, which take no room."""
        ...

    def sync(self) -> None:
        """Make everything written so far durable. After a failure the file must be closed and never synced again."""
        ...

    def try_lock(self) -> bool:
        """Take the file's advisory lock if nobody has it; closing gives it back, and so does the end of the process."""
        ...

    def is_at(self, path: Path) -> bool:
        """Whether this file is still the one that `path` names."""
        ...

    def close(self) -> None:
        """Give the descriptor back. Does nothing the second time."""
        ...


class FileSystem(Protocol):
    """What the stores ask of a disk. Every call raises StorageFault when the system refuses."""

    def open(self, path: Path, *, writable: bool) -> File:
        """Open a file that is there. Raises Missing."""
        ...

    def create(self, path: Path) -> File:
        """Make an empty file that only its owner may read, and open it for writing. Raises NameTaken."""
        ...

    def exists(self, path: Path) -> bool: ...

    def is_folder(self, path: Path) -> bool:
        """Whether `path` names a folder itself, not a link to one."""
        ...

    def list(self, folder: Path) -> Sequence[str]:
        """Return the names in `folder`, sorted; none when it is not there."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Put `old` in the place of `new`, in the same folder; durable after `sync_folder`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file; does nothing when it is not there."""
        ...

    def make_folder(self, path: Path) -> None:
        """Make a folder that only its owner may enter; does nothing when it is there."""
        ...

    def remove_folder(self, path: Path) -> None:
        """Remove a folder that holds nothing; one that holds something stays, and StorageFault is raised."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a file, or a folder with everything in it."""
        ...


class RealFiles:
    """The file system of the machine."""

    def open(self, path: Path, *, writable: bool) -> File:
        return self._open("open", path, os.O_RDWR if writable else os.O_RDONLY)

    def create(self, path: Path) -> File:
        return self._open("create", path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def exists(self, path: Path) -> bool:
        with _translated("look up", path):
            return os.path.lexists(path)

    def is_folder(self, path: Path) -> bool:
        try:
            with _translated("look up", path):
                return stat.S_ISDIR(path.lstat().st_mode)
        except Missing:
            return False

    def list(self, folder: Path) -> Sequence[str]:
        with _translated("list", folder):
            return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def rename(self, old: Path, new: Path) -> None:
        with _translated("rename", old), _descriptor(new.parent) as folder:
            os.rename(old.name, new.name, src_dir_fd=folder, dst_dir_fd=folder)

    def unlink(self, path: Path) -> None:
        try:
            with _translated("remove", path), _descriptor(path.parent) as folder:
                os.unlink(path.name, dir_fd=folder)
        except Missing:
            return

    def make_folder(self, path: Path) -> None:
        with _translated("make folder", path):
            path.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        with _translated("remove folder", path), _descriptor(path.parent) as folder:
            os.rmdir(path.name, dir_fd=folder)

    def sync_folder(self, path: Path) -> None:
        with _translated("sync folder", path), _descriptor(path) as folder:
            os.fsync(folder)

    def remove_tree(self, path: Path) -> None:
        with _translated("remove", path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _open(self, operation: str, path: Path, flags: int) -> File:
        with _translated(operation, path), _descriptor(path.parent) as folder:
            descriptor = os.open(path.name, flags | _OPEN, _FILE_MODE, dir_fd=folder)
        # A read of a few bytes would otherwise fetch up to megabytes behind them.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return _RealFile(descriptor, path)


class _RealFile:
    """A descriptor. Without O_APPEND, under which Linux would let `pwrite` write at the end only."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    def size(self) -> int:
        with _translated("look up", self._path):
            return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        with _translated("read", self._path):
            data = os.pread(self._descriptor, length, offset)
            if len(data) == length or not data:
                return data
            parts = [data]
            # The kernel gives at most 2 GiB in one call, and less when a signal comes.
            while data and (length := length - len(data)):
                offset += len(data)
                data = os.pread(self._descriptor, length, offset)
                parts.append(data)
            return b"".join(parts)

    def map(self) -> Mapping:
        with _translated("map", self._path):
            return _RealMapping(self._descriptor, self._path)

    def append(self, data: bytes) -> None:
        self.rewrite(self.size(), data)

    def rewrite(self, offset: int, data: bytes) -> None:
        with _translated("write", self._path):
            rest = memoryview(data)
            while rest:
                written = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[written:], offset + written

    def truncate(self, size: int) -> None:
        with _translated("truncate", self._path):
            os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        with _translated("fsync", self._path):
            os.fsync(self._descriptor)

    def try_lock(self) -> bool:
        with _translated("lock", self._path):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def is_at(self, path: Path) -> bool:
        with _translated("look up", path):
            try:
                named = path.lstat()
            except FileNotFoundError:
                return False
            return os.path.samestat(os.fstat(self._descriptor), named)

    def close(self) -> None:
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        with _translated("close", self._path):
            os.close(descriptor)


class _RealMapping:
    """Pages of the kernel's cache, of which no more is read than what is looked at or asked for."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._path = path
        self._pages = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        self._pages.madvise(mmap.MADV_RANDOM)
        self.data = memoryview(self._pages)
        self._address = np.frombuffer(self._pages, np.uint8).ctypes.data
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)

    def will_need(self, places: Sequence[tuple[int, int]]) -> None:
        # Each call into the kernel takes as long as to look at two rows, so some are asked about before all are asked for.
        if all(self._is_read(*place) for place in places[:: len(places) // _ASKED_ABOUT + 1]):
            return
        for offset, length in places:
            start = offset - offset % mmap.PAGESIZE
            self._pages.madvise(mmap.MADV_WILLNEED, start, offset + length - start)

    def copy(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        with _translated("read", self._path):
            return [os.pread(self._descriptor, length, offset) for offset, length in places]

    def let_go(self, offset: int, length: int) -> None:
        start = offset - offset % mmap.PAGESIZE
        self._pages.madvise(mmap.MADV_DONTNEED, start, offset + length - start)

    def _is_read(self, offset: int, length: int) -> bool:
        """Whether these bytes are in memory already (mincore(2)); not when the system does not tell."""
        start = offset - offset % mmap.PAGESIZE
        pages = ctypes.create_string_buffer(-(-(offset + length - start) // mmap.PAGESIZE))
        if _mincore is None or _mincore(self._address + start, offset + length - start, pages) != 0:
            return False
        return 0 not in pages.raw


def replace_file(files: FileSystem, path: Path, temporary: Path, parts: Iterator[bytes]) -> File:
    """Make `parts` the whole content of `path`, all or nothing, and return the open file.

    Written under the name `temporary`, synced, renamed, and the folder synced. Raises StorageFault.
    """
    file = files.create(temporary)
    try:
        for part in parts:
            file.append(part)
        file.sync()
        files.rename(temporary, path)
        files.sync_folder(path.parent)
    except BaseException:
        file.close()
        raise
    return file


def host_name() -> str:
    """Return the name of this machine, as lock files carry it."""
    return socket.gethostname()


def process_id() -> int:
    """Return the number of this process."""
    return os.getpid()


def is_running(pid: int) -> bool:
    """Whether a process of this machine has the number `pid`, whoever owns it."""
    if not 0 < pid < 1 << 31:  # what a pid_t holds; zero and less would ask about groups
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _descriptor(folder: Path) -> Iterator[int]:
    """Hold a descriptor of `folder` itself, never of what a link in its place points to."""
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _translated(operation: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_fault(error, operation, path) from error


def storage_fault(error: OSError, operation: str, path: Path) -> StorageFault:
    """Return the error of ours that says what `error` means for the caller."""
    kind, hint = _MEANING.get(error.errno or 0, (StorageFault, "look at the kernel log for this disk"))
    reason = os.strerror(error.errno or 0).lower()
    # The last two parts name the user and the file; the rest of the path is the operator's own.
    name = "/".join(path.parts[-2:])
    return kind(f"cannot {operation} {name}: {reason}", hint=hint, operation=operation, path=name, errno=error.errno)


_MEANING: Final[dict[int, tuple[type[StorageFault], str]]] = {
    errno.ENOSPC: (DiskFull, "free some space, or move the data directory"),
    errno.EDQUOT: (DiskFull, "raise the quota of the daemon's account"),
    errno.EROFS: (ReadOnly, "mount the file system for writing"),
    errno.EACCES: (ReadOnly, "give the daemon's account the data directory"),
    errno.EPERM: (ReadOnly, "give the daemon's account the data directory"),
    errno.ENOENT: (Missing, "it was moved or removed from outside"),
    errno.EEXIST: (NameTaken, "another process made it"),
    errno.ELOOP: (StorageFault, "a symbolic link stands where a file or folder should be"),
    errno.ENOTDIR: (StorageFault, "a symbolic link or a file stands where a folder should be"),
    errno.EMFILE: (StorageFault, "raise the limit of open files"),
}
