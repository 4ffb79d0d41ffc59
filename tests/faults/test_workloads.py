"""Crashes, failing calls and full disks: a memory file is a prefix of what was committed, whatever went on beside."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.errors import DiskFull, StorageFault
from tests.faults.workloads import COMMITS, REWRITINGS, WORKLOADS, Work, Workload
from tests.helpers.faultfs import Crash, FaultDisk
from tests.helpers.memories import FILE, ROOT, USER, Expected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memoryd.protocol.interfaces import MemoryFile, Rewriting

LOOKS = frozenset({"open", "read", "size", "map", "exists", "list", "is at", "lock"})
SYNCS = frozenset({"sync", "sync folder"})


@pytest.fixture(autouse=True)
def _setting(request: pytest.FixtureRequest) -> Iterator[None]:
    with request.getfixturevalue("workload").setting():
        yield


def reopened(workload: Workload, disk: FaultDisk) -> Expected:
    """Return what the file on `disk` holds, read by a writer that opens it."""
    opened = workload.make_store(disk).open(USER)
    try:
        contents = opened.file.load()
        found = Expected.of(contents)
        assert len(opened.index) == opened.file.status().records == len(found.rows)
        assert opened.applied_seq == opened.file.status().applied_seq == found.applied_seq
        assert {(one.id, one.quality) for one in opened.trajectories} == found.trajectories
        return found
    finally:
        opened.file.close()


def assert_goes_on(workload: Workload, disk: FaultDisk) -> None:
    """Do what is left to be done, and find everything and nothing wrong."""
    Work(workload, disk, done=workload.states.index(reopened(workload, disk))).run()

    assert reopened(workload, disk) == workload.states[-1]
    assert workload.make_store(disk).verify(USER) == []
    assert reopened(workload, disk.after_crash(0.0)) == workload.states[-1]
    assert (disk.open_files, disk.trusted_again) == (0, 0)


def crashed(workload: Workload, n: int) -> tuple[FaultDisk, list[Expected]]:
    """Return a disk that crashed at operation `n`, and the states of which one must be found on it."""
    disk = FaultDisk(crash_at=n, seed=n)
    work = Work(workload, disk)
    with pytest.raises(Crash):
        work.run()
    # The commit under way may have reached the disk whole; it is there whole or not at all.
    return disk, workload.states[work.acknowledged : work.acknowledged + 2]


@cache
def operations(workload: Workload, only: Callable[[str], bool] = bool) -> tuple[str, ...]:
    """Return what a sound disk is asked to do."""
    disk = FaultDisk(only=lambda operation, _path: only(operation))
    with workload.setting():
        Work(workload, disk).run()
    return tuple(disk.operations)


@cache
def crash_points(workload: Workload) -> tuple[int, ...]:
    """Return the operations that change the disk, and those behind them: in and after; to look changes nothing."""
    changes = [operation not in LOOKS for operation in operations(workload)]
    return tuple(
        n for n, (change, before) in enumerate(zip(changes, [False, *changes], strict=False), 1) if change or before
    )


def is_sync(operation: str) -> bool:
    return operation in SYNCS


def each(points: Callable[[Workload], range | tuple[int, ...]], every: int = 1) -> list[object]:
    """Return parameters: every workload with its points."""
    return [
        pytest.param(workload, n, id=f"{workload}-{n}") for workload in WORKLOADS for n in points(workload)[::every]
    ]


def every_operation(workload: Workload) -> range:
    return range(1, len(operations(workload)) + 1)


def every_sync(workload: Workload) -> range:
    return range(1, len(operations(workload, is_sync)) + 1)


@pytest.mark.parametrize("workload", [REWRITINGS], ids=str)
def test_the_workload_seals_folds_links_and_compacts(workload: Workload) -> None:
    disk = FaultDisk()
    begun = []

    def beside(memory: MemoryFile, number: int) -> Rewriting | None:
        begun.append(workload.beside(memory, number))
        return begun[-1]

    Work(replace(workload, beside=beside), disk).run()

    begun_in_order = [type(one).__name__ for one in begun if one is not None]
    assert begun_in_order == ["Folding"] * 4 + ["Linking", "Compaction", "Linking"] + ["Folding"] * 2
    opened = workload.make_store(disk).open(USER)
    assert len(opened.file.load().sealed) >= 2
    assert disk.operations.count("rename") == 2  # the first commit and the compaction
    opened.file.close()


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_without_a_fault_everything_is_there_and_every_descriptor_given_back(workload: Workload) -> None:
    disk = FaultDisk()

    Work(workload, disk).run()

    assert disk.open_files == 0
    assert reopened(workload, disk) == workload.states[-1]
    assert workload.make_store(disk).verify(USER) == []


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("workload", "n"), each(crash_points))
def test_a_crash_at_any_operation_keeps_all_that_was_committed(workload: Workload, n: int, survives: float) -> None:
    disk, possible = crashed(workload, n)

    assert reopened(workload, disk.after_crash(survives)) in possible


@pytest.mark.parametrize(("workload", "n"), each(crash_points, every=5))
def test_a_crash_of_who_opens_after_a_crash_loses_nothing(workload: Workload, n: int) -> None:
    disk, possible = crashed(workload, n)
    again = disk.after_crash(0.5)
    found = reopened(workload, again)
    assert found in possible

    for at in range(len(again.operations)):
        for survives in (0.0, 1.0):
            again = disk.after_crash(0.5)
            again.crash_in(at)
            with pytest.raises(Crash):
                reopened(workload, again)
            assert reopened(workload, again.after_crash(survives)) == found


@pytest.mark.parametrize(("workload", "n"), each(crash_points, every=5))
def test_work_goes_on_after_a_crash_as_if_nothing_had_been(workload: Workload, n: int) -> None:
    disk, _ = crashed(workload, n)

    assert_goes_on(workload, disk.after_crash(0.5))


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize(("workload", "n"), each(every_operation))
def test_any_operation_that_fails_is_a_typed_error_and_loses_nothing(
    workload: Workload, n: int, *, for_good: bool
) -> None:
    disk = FaultDisk(fail_at=n, for_good=for_good)
    work = Work(workload, disk)
    raised = None
    try:
        work.run()
    except StorageFault as error:
        raised = error
    disk.heal()

    assert disk.open_files == 0
    found = reopened(workload, disk)
    assert found in workload.states[work.acknowledged : work.acknowledged + 2]
    # Only what tidies up may fail in silence: a lock file that stays is free without its owner.
    assert raised is not None or found == workload.states[-1]
    assert disk.trusted_again == 0


@pytest.mark.parametrize(("workload", "n"), each(crash_points, every=5))
def test_any_operation_that_fails_while_a_memory_is_opened_loses_nothing(workload: Workload, n: int) -> None:
    disk, possible = crashed(workload, n)
    again = disk.after_crash(0.5)
    reopened(workload, again)

    for at in range(len(again.operations)):
        again = disk.after_crash(0.5)
        again.fail_in(at)
        try:
            reopened(workload, again)
        except StorageFault:
            assert again.open_files == 0
        again.heal()
        assert reopened(workload, again) in possible
        assert (again.open_files, again.trusted_again) == (0, 0)


@pytest.mark.parametrize(("workload", "n"), each(every_sync))
def test_what_a_failed_fsync_has_dropped_is_written_again_by_the_next_writer(workload: Workload, n: int) -> None:
    disk = FaultDisk(fail_at=n, only=lambda operation, _path: is_sync(operation))
    with pytest.raises(StorageFault, match="cannot sync"):
        Work(workload, disk).run()

    assert disk.open_files == 0
    assert_goes_on(workload, disk)


@cache
def capacities(workload: Workload) -> tuple[int, ...]:
    """Return how large a disk is that has room for all writes but the last byte of one: of each in turn."""
    used = []

    def note(_operation: str, _path: Path) -> bool:
        used.append(disk.used)
        return True

    disk = FaultDisk(only=note)
    with workload.setting():
        Work(workload, disk).run()
    return tuple(sorted({size - 1 for size in used if size}))


@pytest.mark.parametrize(("workload", "capacity"), each(capacities))
def test_a_disk_that_is_full_at_any_write_keeps_what_is_there_and_goes_on_when_there_is_room(
    workload: Workload, capacity: int
) -> None:
    disk = FaultDisk(capacity=capacity)
    work = Work(workload, disk)
    with pytest.raises(DiskFull, match="no space left"):
        work.run()

    assert disk.open_files == 0
    assert reopened(workload, disk) == workload.states[work.acknowledged]  # also while the disk is full

    disk.heal()
    assert_goes_on(workload, disk)


@pytest.mark.parametrize("workload", [COMMITS], ids=str)
def test_a_read_only_disk_is_said_to_be_one(workload: Workload) -> None:
    disk = FaultDisk(fail_at=1, for_good=True, error=errno.EROFS, only=lambda operation, _: operation == "append")

    with pytest.raises(StorageFault, match="read-only") as refused:
        Work(workload, disk).run()

    assert type(refused.value).__name__ == "ReadOnly"
    assert refused.value.hint == "mount the file system for writing"


@pytest.mark.parametrize("workload", [COMMITS], ids=str)
def test_a_writer_that_failed_stays_closed(workload: Workload) -> None:
    disk = FaultDisk(fail_at=2, only=lambda operation, _: operation == "sync")
    disk.put(ROOT)
    memory = workload.make_store(disk).open(USER).file
    memory.commit(workload.batches[0])
    with pytest.raises(StorageFault, match="cannot sync"):
        memory.commit(workload.batches[1])

    for use in (lambda: memory.commit(workload.batches[1]), memory.compact, memory.load):
        with pytest.raises(StorageFault, match="the memory of alice is closed"):
            use()

    assert memory.status().records == 1
    assert reopened(workload, disk) == workload.states[1]


@cache
def every_operation_of_asking() -> int:
    disk = FaultDisk()
    disk.put(ROOT)
    COMMITS.make_store(disk).open(USER).file.close()
    return len(disk.operations)


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", range(1, every_operation_of_asking() + 1))
@pytest.mark.parametrize("workload", [COMMITS], ids=str)
def test_a_crash_while_somebody_only_asks_leaves_nothing_that_the_next_one_does_not_remove(
    workload: Workload, n: int, survives: float
) -> None:
    disk = FaultDisk(crash_at=n, seed=n)
    disk.put(ROOT)
    with pytest.raises(Crash):
        workload.make_store(disk).open(USER).file.close()
    disk = disk.after_crash(survives)

    assert reopened(workload, disk) == Expected()

    assert disk.list(ROOT) == []


@pytest.mark.parametrize("workload", [COMMITS], ids=str)
def test_a_file_left_over_from_a_compaction_is_removed(workload: Workload) -> None:
    disk = FaultDisk()
    Work(workload, disk).run()
    left_over = FILE.with_name("memory.rvf.compact.tmp")
    disk.put(left_over, disk.content(FILE)[:100])

    reopened(workload, disk)

    assert not disk.exists(left_over)
