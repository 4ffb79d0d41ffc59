"""The writer's lock: the file `memory.rvf.lock` in the layout of the format, and flock on it.

    0x00  "FLVR"               0x08  host name, 64        0x50  writer id, 16
    0x04  process id u32       0x48  time ns u64          0x60  version u32 = 1, CRC-32 of 0x00..0x63 u32

Between daemons of ours flock alone decides, so a lock of a dead process is free at once. The content is for programs
that know the format but not flock: they respect it, and a lock of theirs is respected here while its process runs.
A lock is never removed by another than its owner: who gets flock on a lock that is free writes its own content into it.
So a lock that is found lying there says that the last writer failed or died.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from memoryd.files import Missing, NameTaken, host_name, is_running, process_id
from memoryd.protocol.errors import DiskFull, Locked, StorageFault
from memoryd.rvf.places import LOCK_SUFFIX, branch_of

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from memoryd.files import File, FileSystem

_LAYOUT: Final = struct.Struct("<4sI64sQ16sI")  # part of the file format; a CRC-32 follows
_CRC: Final = struct.Struct("<I")  # part of the file format
_MAGIC: Final = b"FLVR"  # part of the file format
_VERSION: Final = 1  # part of the file format
_OURS: Final = b"memoryd"  # what the writer ids of all our locks begin with
_SIZE: Final = _LAYOUT.size + _CRC.size

# Each turn that fails, another process took or gave back the lock meanwhile; after so many it counts as taken.
_TURNS: Final = 10


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who holds a lock, as its content says."""

    pid: int
    host: str
    time_ns: int
    writer: bytes

    def pack(self) -> bytes:
        host = self.host.encode()[:63]
        body = _LAYOUT.pack(_MAGIC, self.pid, host, self.time_ns, self.writer, _VERSION)
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes) -> LockOwner | None:
        """Return the owner, None when the content is not whole."""
        if len(data) < _SIZE:
            return None
        magic, pid, host, time_ns, writer, version = _LAYOUT.unpack_from(data)
        (crc,) = _CRC.unpack_from(data, _LAYOUT.size)
        if (magic, version, crc) != (_MAGIC, _VERSION, zlib.crc32(data[: _LAYOUT.size])):
            return None
        return cls(pid, host.split(b"\0", 1)[0].decode(errors="replace"), time_ns, writer)

    def is_gone(self) -> bool:
        """Whether the owner cannot be alive, given that nobody has flock on its lock."""
        return self.writer.startswith(_OURS) or (self.host == host_name() and not is_running(self.pid))


class WriterLock:
    """The right to write one memory file. Given back by `release` or `abandon`, or by the end of the process.

    `was_abandoned` tells that the last writer ended in another way than by `release`.
    """

    def __init__(self, files: FileSystem, path: Path, file: File, *, was_abandoned: bool) -> None:
        self._files = files
        self._path = path
        self._file: File | None = file
        self.was_abandoned = was_abandoned

    @classmethod
    def acquire(cls, files: FileSystem, path: Path, now: datetime, writer: bytes) -> WriterLock:
        """Take the lock at `path`, in a folder that is made if need be; `writer` is 9 random bytes.

        Raises Locked or another StorageFault.
        """
        mine = LockOwner(process_id(), host_name(), int(now.timestamp() * 1e9), _OURS + writer)
        for _ in range(_TURNS):
            try:
                file, was_there = _open(files, path)
            except Missing:
                # The user is new, or who had the lock took it away just now, and perhaps the empty folder with it.
                with suppress(NameTaken):  # another process makes and removes the folder at the same time
                    files.make_folder(path.parent)
                continue
            try:
                if _take(file, path, mine):
                    return cls(files, path, file, was_abandoned=was_there)
            except BaseException:
                file.close()
                raise
            file.close()
        raise _locked(path, None)

    def release(self) -> None:
        """Give the lock back after everything went well. Does nothing the second time."""
        if self._file is None:
            return
        # A lock file that cannot be removed is no harm: nobody has flock on it.
        with suppress(StorageFault):
            if self._file.is_at(self._path):  # a program that does not know flock may have broken it
                self._files.unlink(self._path)
        self.abandon()

    def abandon(self) -> None:
        """Give the lock back after a failure, and leave the file as a sign of it. Does nothing the second time."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class Locks:
    """Two locks that are held together: that of a user, and that of the branch that is written to."""

    def __init__(self, user: WriterLock, branch: WriterLock) -> None:
        self._locks = (branch, user)
        self.was_abandoned = user.was_abandoned or branch.was_abandoned

    def release(self) -> None:
        for lock in self._locks:
            lock.release()

    def abandon(self) -> None:
        for lock in self._locks:
            lock.abandon()


def _open(files: FileSystem, path: Path) -> tuple[File, bool]:
    """Return the open lock file, made if need be, and whether it was there.

    Raises Missing when there is no folder for it, or when it just went away.
    """
    try:
        return files.create(path), False
    except NameTaken:
        return files.open(path, writable=True), True


def _take(file: File, path: Path, mine: LockOwner) -> bool:
    """Make the open lock file ours. Return whether it still is the one at `path`; raise Locked when it has an owner."""
    is_free = file.try_lock()
    owner = LockOwner.unpack(file.read(0, _SIZE))
    if not is_free or (owner is not None and not owner.is_gone()):
        raise _locked(path, owner)
    # The owner before may have removed the file after it was opened here: a lock without a name locks nothing.
    if not file.is_at(path):
        return False
    # On a full disk flock holds all the same, and reading goes on.
    with suppress(DiskFull):
        file.truncate(0)
        file.append(mine.pack())
    return True


def _locked(path: Path, owner: LockOwner | None) -> Locked:
    user = branch_of(path.with_name(path.name.removesuffix(LOCK_SUFFIX)))[0].name
    if owner is None:
        return Locked(
            f"the memory of {user} is locked by another process", hint="stop the other process", path=path.name
        )
    hint = f"stop process {owner.pid} on {owner.host}, or remove {user}/{path.name} if it is not running"
    return Locked(f"the memory of {user} is locked", hint=hint, path=path.name, pid=owner.pid, host=owner.host)
