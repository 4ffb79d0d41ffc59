"""Crashes, failing calls and full disks while a backup is added to: what was in it before stays whole."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import pytest

from memoryd.backup.format import PACKS, SNAPSHOTS
from memoryd.backup.repository import Repository
from memoryd.protocol.errors import DiskFull, MemorydError, NotFound, StorageFault
from memoryd.protocol.ids import Seq
from memoryd.protocol.interfaces import Batch
from tests.helpers.backups import REPOSITORY, RESTORED, PlainLog, back_up, held, put_back, verified
from tests.helpers.faultfs import Crash, FaultDisk
from tests.helpers.memories import ROOT, USER, entries, history, record_id, store, trajectory

if TYPE_CHECKING:
    from memoryd.protocol.messages import SnapshotMade
    from tests.helpers.memories import Expected

BEFORE = (
    Batch(entries=entries(range(1, 6)), applied_seq=Seq(5)),
    Batch(deleted=[record_id(2)], trajectories=[trajectory(1)], applied_seq=Seq(6)),
)
AFTER = (
    Batch(entries=entries([6, 7]), applied_seq=Seq(8)),
    Batch(deleted=[record_id(1)], applied_seq=Seq(9)),
)
STATES = history([*BEFORE, *AFTER])
FIRST, SECOND = STATES[len(BEFORE)], STATES[-1]


def commit(disk: FaultDisk, batches: tuple[Batch, ...]) -> None:
    memory = store(disk).open(USER).file
    for batch in batches:
        memory.commit(batch)
    memory.close()


def prepare(disk: FaultDisk) -> None:
    """Lay down a data directory whose backup has one snapshot, and which has gone on since."""
    disk.put(ROOT)
    commit(disk, BEFORE)
    back_up(disk)
    commit(disk, AFTER)


def add(disk: FaultDisk) -> SnapshotMade:
    """Make the second snapshot."""
    log = PlainLog(disk, b"events" * 30_000)
    try:
        return back_up(disk, log=log)
    finally:
        assert log.holds == 0


@cache
def operations() -> range:
    """Return the numbers of all operations of the second snapshot."""
    disk = FaultDisk()
    prepare(disk)
    begin = len(disk.operations)
    add(disk)
    return range(begin + 1, len(disk.operations) + 1)


def snapshots(disk: FaultDisk) -> list[int]:
    repository = Repository(REPOSITORY, disk)
    repository.close()
    return repository.snapshots()


def restored(disk: FaultDisk, number: int) -> Expected:
    put_back(disk, number=number)
    found = held(disk)
    disk.remove_tree(RESTORED)
    return found


def assert_whole(disk: FaultDisk) -> None:
    """Check that every snapshot is sound and gives back what was there, and that the first one is."""
    assert verified(disk).findings == []
    numbers = snapshots(disk)
    assert numbers in ([1], [1, 2])
    assert [restored(disk, number) for number in numbers] == [FIRST, SECOND][: len(numbers)]


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", operations())
def test_a_crash_at_any_operation_leaves_earlier_snapshots_whole_and_the_new_one_whole_or_absent(
    n: int, survives: float
) -> None:
    disk = FaultDisk(crash_at=n, seed=n)
    prepare(disk)
    with pytest.raises(Crash):
        add(disk)
    disk = disk.after_crash(survives)

    assert_whole(disk)

    made = add(disk)
    assert verified(disk).findings == []
    assert restored(disk, made.snapshot) == SECOND
    left = [name for folder in (PACKS, SNAPSHOTS, "") for name in disk.list(REPOSITORY / folder)]
    assert not [name for name in left if name.endswith(".tmp")]


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("n", operations())
def test_any_operation_that_fails_is_a_typed_error_or_told_and_harms_no_snapshot(n: int, *, for_good: bool) -> None:
    disk = FaultDisk(fail_at=n, for_good=for_good)
    prepare(disk)
    made = raised = None
    try:
        made = add(disk)
    except StorageFault as error:
        raised = error
    disk.heal()

    assert disk.trusted_again == 0
    if made is not None and made.omitted_files:  # the source failed, not the backup
        left_out = [omitted.name for omitted in made.omitted]
        assert left_out in (["alice/memory.rvf"], ["alice"])
        assert snapshots(disk) == [1, 2]
        assert [finding.name for finding in verified(disk).findings] == left_out
        assert restored(disk, 1) == FIRST
    else:
        assert (made is None) == (raised is not None)
        assert_whole(disk)
    assert restored(disk, add(disk).snapshot) == SECOND


@pytest.mark.parametrize("room", [0, 10, 100, 1_000, 5_000])
def test_a_full_disk_is_told_by_name_and_gives_back_what_it_had_taken(room: int) -> None:
    disk = FaultDisk()
    prepare(disk)
    used = sum(map(len, contents(disk)))
    disk.capacity = used + room

    with pytest.raises(DiskFull):
        add(disk)

    assert sum(map(len, contents(disk))) == used
    disk.heal()
    assert_whole(disk)
    add(disk)
    assert restored(disk, 2) == SECOND


def contents(disk: FaultDisk) -> list[bytes]:
    return [bytes(inode.content) for inode in disk._names.values() if inode is not None]


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
def test_a_crash_while_the_first_snapshot_is_made_leaves_a_folder_that_can_be_used(survives: float) -> None:
    n = 0
    while True:
        n += 1
        disk = FaultDisk()
        disk.put(ROOT)
        commit(disk, BEFORE)
        disk = FaultDisk(crash_at=len(disk.operations) + n, seed=n)
        disk.put(ROOT)
        commit(disk, BEFORE)
        try:
            back_up(disk)
        except Crash:
            pass
        else:
            break
        disk = disk.after_crash(survives)
        with suppress(NotFound):  # nothing may say yet that it is a backup
            assert verified(disk).findings == []

        assert restored(disk, back_up(disk).snapshot) == FIRST
    assert n > 30


@cache
def operations_of_restoring() -> int:
    disk = FaultDisk()
    prepare(disk)
    begin = len(disk.operations)
    put_back(disk)
    return len(disk.operations) - begin


@pytest.mark.parametrize("n", range(1, operations_of_restoring() + 1))
def test_a_restoring_that_fails_leaves_nothing_and_one_that_crashes_is_not_served(n: int) -> None:
    for crash in (False, True):
        disk = FaultDisk()
        prepare(disk)
        at = len(disk.operations) + n
        disk = FaultDisk(crash_at=at) if crash else FaultDisk(fail_at=at)
        prepare(disk)
        try:
            put_back(disk)
        except Crash:
            disk = disk.after_crash(1.0)
            is_served = may_be_served(disk)
            assert not is_served or held(disk) == FIRST
        except StorageFault:
            assert {*disk.list(RESTORED)} <= {"memoryd.lock"}


def may_be_served(disk: FaultDisk) -> bool:
    from memoryd.stores.datadir import DataDir

    if not disk.exists(RESTORED / "events.sqlite"):
        return False
    try:
        DataDir.take(RESTORED, disk).release()
    except MemorydError:
        return False
    return True
