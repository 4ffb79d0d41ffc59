"""Crashes, failing calls, full disks and damaged bytes: a memory file is a prefix of what was committed, or says so."""

from __future__ import annotations

import errno
from functools import cache
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.errors import Damaged, DiskFull, StorageFault
from memoryd.protocol.ids import Seq, TrajectoryId
from memoryd.protocol.interfaces import Batch
from memoryd.rvf.format import HEADER_SIZE, MAGIC, MANIFEST, unpack_header
from tests.helpers.faultfs import Crash, FaultDisk
from tests.helpers.memories import FILE, ROOT, USER, Expected, entries, history, record_id, store, trajectory

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.protocol.interfaces import FileStatus

BATCHES = (
    Batch(entries=entries([1]), applied_seq=Seq(1)),
    Batch(entries=entries([2, 3, 4]), applied_seq=Seq(4), trajectories=[trajectory(1)]),
    Batch(deleted=[record_id(2)], applied_seq=Seq(4)),
    Batch(entries=entries([5, 6]), deleted=[record_id(1)], applied_seq=Seq(6)),
    Batch(trajectories=[trajectory(1, quality=0.5), trajectory(2)], applied_seq=Seq(7)),
    Batch(entries=entries([7]), applied_seq=Seq(8)),
    Batch(entries=entries([6]), applied_seq=Seq(9)),
    Batch(entries=entries([5, 8, 9]), deleted=[record_id(5)], applied_seq=Seq(11)),
    Batch(deleted=[record_id(8), record_id(3)], applied_seq=Seq(11)),
    Batch(
        entries=entries([10]),
        trajectories=[trajectory(2, quality=0.0), trajectory(3, quality=1.0)],
        dropped=[TrajectoryId("run 1"), TrajectoryId("run 2")],
        applied_seq=Seq(12),
    ),
)
STATES = history(BATCHES)
COMPACT_AFTER = (4, 9)
REOPEN_AFTER = (6,)


class Workload:
    """Commits all batches to a disk, compacting and reopening on the way, and knows what was acknowledged.

    Before, somebody asks and commits nothing.
    """

    def __init__(self, disk: FaultDisk) -> None:
        disk.put(ROOT)
        self.acknowledged = 0
        self._disk = disk

    def run(self, batches: tuple[Batch, ...] = BATCHES) -> None:
        store(self._disk).open(USER).file.close()
        memory = store(self._disk).open(USER).file
        try:
            for number, batch in enumerate(batches[self.acknowledged :], self.acknowledged + 1):
                memory.commit(batch)
                self.acknowledged = number
                if number in COMPACT_AFTER:
                    memory.compact()
                if number in REOPEN_AFTER:
                    memory.close()
                    memory = store(self._disk).open(USER).file
        finally:
            memory.close()


def reopened(disk: FaultDisk) -> Expected:
    """Return what the file on `disk` holds, read by a writer that opens it."""
    opened = store(disk).open(USER)
    try:
        assert len(opened.index) == opened.file.status().records
        return Expected.of(opened.file.load())
    finally:
        opened.file.close()


@cache
def every_operation() -> tuple[str, ...]:
    disk = FaultDisk()
    Workload(disk).run()
    return tuple(disk.operations)


OPERATIONS = range(1, len(every_operation()) + 1)


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", OPERATIONS)
def test_a_crash_at_any_operation_keeps_all_that_was_committed(n: int, survives: float) -> None:
    disk = FaultDisk(crash_at=n, seed=n)
    workload = Workload(disk)
    with pytest.raises(Crash):
        workload.run()

    found = reopened(disk.after_crash(survives))

    # The commit under way may have reached the disk whole; it is there whole or not at all.
    assert found in STATES[workload.acknowledged : workload.acknowledged + 2]


@pytest.mark.parametrize("n", OPERATIONS[::5])
def test_work_goes_on_after_a_crash_as_if_nothing_had_been(n: int) -> None:
    disk = FaultDisk(crash_at=n, seed=n)
    workload = Workload(disk)
    with pytest.raises(Crash):
        workload.run()
    disk = disk.after_crash(0.5)

    Workload(disk).run(BATCHES[STATES.index(reopened(disk)) :])

    assert reopened(disk) == STATES[-1]
    assert store(disk).verify(USER) == []


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("n", OPERATIONS)
def test_any_operation_that_fails_is_a_typed_error_and_loses_nothing(n: int, *, for_good: bool) -> None:
    disk = FaultDisk(fail_at=n, for_good=for_good)
    workload = Workload(disk)
    raised = None
    try:
        workload.run()
    except StorageFault as error:
        raised = error
    disk.heal()

    found = reopened(disk)

    assert found in STATES[workload.acknowledged : workload.acknowledged + 2]
    # Only what tidies up may fail in silence: a lock file that stays is free without its owner.
    assert raised is not None or found == STATES[-1]
    assert disk.second_syncs == 0


@cache
def every_operation_of_asking() -> int:
    disk = FaultDisk()
    disk.put(ROOT)
    store(disk).open(USER).file.close()
    return len(disk.operations)


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", range(1, every_operation_of_asking() + 1))
def test_a_crash_while_somebody_only_asks_leaves_nothing_that_the_next_one_does_not_remove(
    n: int, survives: float
) -> None:
    disk = FaultDisk(crash_at=n, seed=n)
    disk.put(ROOT)
    with pytest.raises(Crash):
        store(disk).open(USER).file.close()
    disk = disk.after_crash(survives)

    assert reopened(disk) == Expected()

    assert disk.list(ROOT) == []


def is_sync(operation: str, _path: Path) -> bool:
    return operation in {"sync", "sync folder"}


@cache
def every_sync() -> int:
    disk = FaultDisk(only=is_sync)
    Workload(disk).run()
    return len(disk.operations)


@pytest.mark.parametrize("n", range(1, every_sync() + 1))
def test_what_a_failed_fsync_has_dropped_is_written_again_by_the_next_writer(n: int) -> None:
    disk = FaultDisk(fail_at=n, only=is_sync)
    workload = Workload(disk)
    with pytest.raises(StorageFault, match="cannot sync"):
        workload.run()

    at = STATES.index(reopened(disk))
    Workload(disk).run(BATCHES[at:])

    assert disk.second_syncs == 0
    assert reopened(disk.after_crash(0.0)) == STATES[-1]


def test_a_writer_that_failed_stays_closed() -> None:
    disk = FaultDisk(fail_at=2, only=lambda operation, _: operation == "sync")
    disk.put(ROOT)
    memory = store(disk).open(USER).file
    memory.commit(BATCHES[0])
    with pytest.raises(StorageFault, match="cannot sync"):
        memory.commit(BATCHES[1])

    for use in (lambda: memory.commit(BATCHES[1]), memory.compact, memory.load):
        with pytest.raises(StorageFault, match="the memory of alice is closed"):
            use()

    assert memory.status().records == 1
    assert reopened(disk) == STATES[1]


def test_a_full_disk_refuses_writes_keeps_what_is_there_and_goes_on_when_there_is_room() -> None:
    room = FaultDisk()
    Workload(room).run()
    for capacity in range(0, len(room.content(FILE)), 97):
        disk = FaultDisk(capacity=capacity)
        workload = Workload(disk)
        with pytest.raises(DiskFull, match="no space left"):
            workload.run()

        kept = reopened(disk)  # also while the disk is full
        assert kept == STATES[workload.acknowledged]

        disk.capacity = None
        Workload(disk).run(BATCHES[workload.acknowledged :])
        assert reopened(disk) == STATES[-1]


def test_a_read_only_disk_is_said_to_be_one() -> None:
    disk = FaultDisk(fail_at=1, for_good=True, error=errno.EROFS, only=lambda operation, _: operation == "append")

    with pytest.raises(StorageFault, match="read-only") as refused:
        Workload(disk).run()

    assert type(refused.value).__name__ == "ReadOnly"
    assert refused.value.hint == "mount the file system for writing"


SMALL = BATCHES[:4]
LAST, BEFORE_LAST = STATES[len(SMALL)], STATES[len(SMALL) - 1]


@cache
def small_file() -> tuple[bytes, tuple[int, ...]]:
    """Return a file of a few commits, and how long it was after each of them."""
    disk = FaultDisk()
    disk.put(ROOT)
    memory = store(disk).open(USER).file
    statuses: list[FileStatus] = [memory.commit(batch) for batch in SMALL]
    memory.close()
    return disk.content(FILE), tuple(status.file_bytes for status in statuses)


def disk_with(content: bytes) -> FaultDisk:
    disk = FaultDisk()
    disk.put(FILE, content)
    return disk


def test_a_file_cut_at_any_length_holds_the_last_whole_commit_or_is_reported() -> None:
    content, ends = small_file()
    for length in range(len(content)):
        whole = [number for number, end in enumerate(ends, 1) if end <= length]
        disk = disk_with(content[:length])
        if not whole:
            with pytest.raises(Damaged, match="no valid manifest"):
                store(disk).open(USER)
            continue

        opened = store(disk).open(USER)

        assert Expected.of(opened.file.load()) == STATES[whole[-1]]
        assert opened.file.status().torn_bytes_cut == length - ends[whole[-1] - 1]
        assert disk.content(FILE) == content[: ends[whole[-1] - 1]]


@pytest.mark.parametrize("junk", [bytes(4096), b"\xa5" * 777, b"SFVR\x01\x05" * 100, b"SFVR"])
def test_what_stands_behind_the_last_commit_is_cut_and_counted(junk: bytes) -> None:
    content, _ = small_file()
    disk = disk_with(content + junk)

    (finding,) = store(disk).verify(USER)
    opened = store(disk).open(USER)

    assert finding.offset == len(content)
    assert Expected.of(opened.file.load()) == LAST
    assert opened.file.status().torn_bytes_cut == len(junk)
    assert disk.content(FILE) == content


def segments(content: bytes) -> list[tuple[int, int, int]]:
    """Return type, first byte and end of every segment."""
    found, at = [], 0
    while at < len(content):
        header = unpack_header(content[at : at + HEADER_SIZE])
        found.append((header.type, at, at + HEADER_SIZE + header.length))
        at = found[-1][2]
    return found


def fate(content: bytes) -> str:
    """Return what becomes of a file with this content: reported, torn or sound. Nothing else may happen."""
    try:
        opened = store(disk_with(content)).open(USER)
    except Damaged:
        assert store(disk_with(content)).verify(USER)
        return "reported"
    found = Expected.of(opened.file.load())
    if opened.file.status().torn_bytes_cut:
        assert found == BEFORE_LAST
        return "torn"
    assert found == LAST
    return "sound"


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_a_changed_byte_is_reported_cut_as_torn_or_harmless(flip: int) -> None:
    """The newest manifest cannot be told from a torn write: it is cut, counted, and the commit before it holds.

    Only when all but its version is right, it is that of a newer program, and not cut.
    """
    content, _ = small_file()
    *before, last = segments(content)
    for kind, start, end in [*before, last]:
        fates = ["reported", "sound"] if (kind, start, end) != last else ["torn", "sound"]
        for at in range(start, end):
            changed = content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :]
            happened = fate(changed)
            is_version = (kind, start, end) == last and at == start + len(MAGIC)
            assert happened in (["reported"] if is_version else fates)
            if at >= start + HEADER_SIZE:
                # Older manifests are not read; every other byte behind a header counts.
                assert happened == ("sound" if kind == MANIFEST and (kind, start, end) != last else fates[0])


def test_damage_in_an_old_commit_is_never_answered_with_an_older_state() -> None:
    content, ends = small_file()
    changed = bytearray(content)
    changed[ends[0] + 70] ^= 0xFF  # in the vectors of the second commit
    disk = disk_with(bytes(changed))

    with pytest.raises(Damaged) as damage:
        store(disk).open(USER)

    assert damage.value.details["offset"] == ends[0]
    assert damage.value.details["what"] == "content hash fails"
    assert disk.content(FILE) == bytes(changed)
    assert store(disk).verify(USER)[0].offset == ends[0]


def test_a_file_left_over_from_a_compaction_is_removed() -> None:
    content, _ = small_file()
    disk = disk_with(content)
    left_over = FILE.with_name("memory.rvf.compact.tmp")
    disk.put(left_over, content[:100])

    store(disk).open(USER)

    assert not disk.exists(left_over)
