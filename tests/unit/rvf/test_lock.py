from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memoryd.files import File, NameTaken, RealFiles, host_name, process_id
from memoryd.protocol.errors import Locked
from memoryd.rvf.lock import LockOwner, WriterLock
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import NOON, USER, store

PATH = Path("/data/alice/memory.rvf.lock")
FOREIGN = b"someone else 1.0"


def acquire(files: FaultDisk | RealFiles, path: Path = PATH) -> WriterLock:
    return WriterLock.acquire(files, path, NOON, b"123456789")


def disk_with(lock: bytes | None) -> FaultDisk:
    disk = FaultDisk()
    if lock is None:
        disk.put(PATH.parent)
    else:
        disk.put(PATH, lock)
    return disk


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_lock_says_who_holds_it_in_the_layout_of_the_format() -> None:
    disk = disk_with(None)

    lock = acquire(disk)

    content = disk.content(PATH)
    assert len(content) == 104
    assert content[:8] == b"FLVR" + process_id().to_bytes(4, "little")
    assert content[8:72].rstrip(b"\0").decode() == host_name()
    assert int.from_bytes(content[72:80], "little") == int(NOON.timestamp()) * 10**9
    assert content[80:96] == b"memoryd123456789"
    assert content[96:100] == b"\x01\x00\x00\x00"
    assert not lock.was_abandoned


def test_a_lock_has_one_owner() -> None:
    disk = disk_with(None)
    acquire(disk)

    with pytest.raises(Locked, match="stop process") as refused:
        acquire(disk)

    assert refused.value.details["pid"] == process_id()
    assert refused.value.details["host"] == host_name()


def test_a_lock_that_was_released_leaves_no_file() -> None:
    disk = disk_with(None)
    lock = acquire(disk)

    lock.release()
    lock.release()

    assert not disk.exists(PATH)
    assert not acquire(disk).was_abandoned


def test_a_lock_that_was_abandoned_is_free_and_says_so() -> None:
    disk = disk_with(None)
    lock = acquire(disk)

    lock.abandon()
    lock.abandon()

    assert acquire(disk).was_abandoned


@pytest.mark.parametrize("content", [b"", b"FLVR", b"\xff" * 104])
def test_a_lock_that_is_not_whole_is_nobodys(content: bytes) -> None:
    assert acquire(disk_with(content)).was_abandoned


def test_a_lock_of_ours_is_stale_once_its_process_is_gone_whatever_its_number_says() -> None:
    ours = LockOwner(process_id(), host_name(), 1, b"memoryd987654321").pack()

    assert acquire(disk_with(ours)).was_abandoned


@pytest.mark.parametrize("pid", [0, 1 << 31, (1 << 32) - 1])
def test_a_foreign_lock_of_an_impossible_process_is_broken(pid: int) -> None:
    acquire(disk_with(LockOwner(pid, host_name(), 1, FOREIGN).pack()))


def test_a_foreign_lock_is_broken_when_its_process_is_dead() -> None:
    disk = disk_with(LockOwner(dead_pid(), host_name(), 1, FOREIGN).pack())

    acquire(disk)

    assert b"memoryd" in disk.content(PATH)


@pytest.mark.parametrize(("pid", "host"), [(os.getppid(), host_name()), (1, host_name()), (dead_pid(), "elsewhere")])
def test_a_foreign_lock_is_respected_while_its_process_may_live(pid: int, host: str) -> None:
    lock = LockOwner(pid, host, 1, FOREIGN).pack()
    disk = disk_with(lock)

    with pytest.raises(Locked, match=f"stop process {pid} on {host}"):
        acquire(disk)

    assert disk.content(PATH) == lock


def test_a_lock_that_somebody_else_broke_is_not_removed_on_release() -> None:
    disk = disk_with(None)
    lock = acquire(disk)
    disk.unlink(PATH)
    disk.put(PATH, b"theirs")

    lock.release()

    assert disk.content(PATH) == b"theirs"


def test_a_lock_makes_the_folder_it_stands_in() -> None:
    disk = FaultDisk()

    acquire(disk).release()

    assert disk.list(PATH.parent) == []
    assert disk.exists(PATH.parent)


def test_a_folder_that_goes_away_while_the_lock_is_taken_is_made_again() -> None:
    class OwnersLeave(FaultDisk):
        """Twice, somebody else removes the folder: before the lock is made in it, and while it is made again."""

        leaving = 2

        def create(self, path: Path) -> File:
            if self.leaving == 2:
                self.leaving = 1
                self.remove_folder(path.parent)
            return super().create(path)

        def make_folder(self, path: Path) -> None:
            if self.leaving == 1:
                self.leaving = 0
                raise NameTaken("it was there a moment ago")
            super().make_folder(path)

    disk = OwnersLeave()
    disk.put(PATH.parent)

    assert not acquire(disk).was_abandoned
    assert disk.exists(PATH)


def test_many_who_open_and_close_a_new_memory_at_once_are_in_nobodys_way(tmp_path: Path) -> None:
    """Each has it or is told that somebody else does, and the last one leaves nothing."""

    def use(_: int) -> bool:
        try:
            opened = store(RealFiles(), tmp_path).open(USER)
        except Locked:
            return False
        opened.file.close()
        return True

    with ThreadPoolExecutor(4) as pool:
        had = list(pool.map(use, range(2_000)))

    assert any(had)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_goes_away_while_it_is_taken_is_tried_again(tmp_path: Path) -> None:
    class OwnerLeaves(RealFiles):
        """The owner removes its lock between our opening it and our flock."""

        def open(self, path: Path, *, writable: bool) -> File:
            file = super().open(path, writable=writable)
            self.unlink(path)
            return file

    path = tmp_path / "memory.rvf.lock"
    path.write_bytes(b"left")

    lock = acquire(OwnerLeaves(), path)

    assert path.stat().st_size == 104
    lock.release()


def test_a_lock_file_that_goes_away_before_it_is_opened_is_tried_again(tmp_path: Path) -> None:
    class OwnerLeavesFirst(RealFiles):
        """The owner removes its lock between our finding it and our opening it."""

        def open(self, path: Path, *, writable: bool) -> File:
            self.unlink(path)
            return super().open(path, writable=writable)

    path = tmp_path / "memory.rvf.lock"
    path.touch()

    lock = acquire(OwnerLeavesFirst(), path)

    assert not lock.was_abandoned
    lock.release()


def test_a_lock_that_never_holds_still_counts_as_taken(tmp_path: Path) -> None:
    class Haunted(RealFiles):
        """Whatever is opened is removed and made anew by somebody."""

        def open(self, path: Path, *, writable: bool) -> File:
            file = super().open(path, writable=writable)
            self.unlink(path)
            path.touch()
            return file

    path = tmp_path / "memory.rvf.lock"
    path.touch()

    with pytest.raises(Locked, match="by another process"):
        acquire(Haunted(), path)


def test_two_processes_cannot_have_one_lock(tmp_path: Path) -> None:
    path = tmp_path / "memory.rvf.lock"
    lock = acquire(RealFiles(), path)
    other = (
        "import sys, pathlib, datetime\n"
        "from memoryd.files import RealFiles\n"
        "from memoryd.protocol.errors import Locked\n"
        "from memoryd.rvf.lock import WriterLock\n"
        "try: WriterLock.acquire(RealFiles(), pathlib.Path(sys.argv[1]), datetime.datetime.now(), bytes(9))\n"
        "except Locked as locked: print(locked.details['pid'])\n"
    )

    said = subprocess.run([sys.executable, "-c", other, str(path)], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == str(process_id())
    lock.release()
