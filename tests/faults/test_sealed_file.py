"""The faults of `test_memory_file`, on a file whose rows are sealed, folded and compacted beside its commits."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.protocol.errors import Damaged, DiskFull, StorageFault
from memoryd.protocol.ids import Seq, TrajectoryId
from memoryd.protocol.interfaces import Batch
from memoryd.rvf import ledger, rewriting
from memoryd.rvf.format import HEADER_SIZE, MANIFEST, unpack_header
from memoryd.rvf.store import RvfMemoryStore
from memoryd.vectors.index import VectorIndex
from tests.helpers.faultfs import Crash, FaultDisk
from tests.helpers.memories import (
    FILE,
    MODEL,
    ROOT,
    USER,
    Expected,
    StillClock,
    entries,
    history,
    record_id,
    trajectory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memoryd.protocol.interfaces import MemoryFile, Rewriting, Vectors

BATCHES = (
    Batch(entries=entries(range(1, 6)), trajectories=[trajectory(1)], applied_seq=Seq(1)),
    Batch(entries=entries([6, 7]), deleted=[record_id(2)], applied_seq=Seq(2)),
    Batch(entries=entries([3, 8]), trajectories=[trajectory(2)], applied_seq=Seq(3)),  # in the place of a sealed one
    Batch(deleted=[record_id(1), record_id(8)], dropped=[TrajectoryId("run 1")], applied_seq=Seq(4)),
    Batch(entries=entries(range(9, 14)), applied_seq=Seq(5)),
    Batch(trajectories=[trajectory(2, quality=1.0), trajectory(3)], applied_seq=Seq(6)),
    Batch(entries=entries([5, 14]), deleted=[record_id(6)], applied_seq=Seq(7)),
    Batch(entries=entries([15]), applied_seq=Seq(8)),
    Batch(entries=entries([16, 17]), deleted=[record_id(16)], dropped=[TrajectoryId("run 3")], applied_seq=Seq(9)),
)
STATES = history(BATCHES)
COMPACT_AFTER = (5,)
REOPEN_AFTER = (3, 8)


class PlainEncoder:
    """Codes that say nothing, and take as much room as real ones."""

    sha256 = "c0de" * 16

    def encode(self, vectors: Vectors) -> bytes:
        return bytes(vectors.size // 6)


@contextmanager
def small_pieces() -> Iterator[None]:
    """Fold and seal a few rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_FOLD_COMMITS", 2)
        patch.setattr(ledger, "_MERGES", ((100, 2),))
        patch.setattr(ledger, "MAX_ROWS", 6)
        for module in (ledger, rewriting):
            patch.setattr(module, "SEALED_ROWS", 2)
        yield


@pytest.fixture(autouse=True)
def _small_pieces() -> Iterator[None]:
    with small_pieces():
        yield


def store(disk: FaultDisk) -> RvfMemoryStore:
    return RvfMemoryStore(
        ROOT, MODEL, disk, StillClock(), VectorIndex, PlainEncoder(), random_bytes=lambda n: bytes(range(n))
    )


class Workload:
    """Commits all batches; beside every commit something is folded or compacted, if it is offered."""

    def __init__(self, disk: FaultDisk) -> None:
        disk.put(ROOT)
        self.acknowledged = 0
        self._disk = disk

    def run(self, batches: tuple[Batch, ...] = BATCHES) -> None:
        memory: MemoryFile = store(self._disk).open(USER).file
        beside: Rewriting | None = None
        try:
            for number, batch in enumerate(batches[self.acknowledged :], self.acknowledged + 1):
                memory.commit(batch)
                self.acknowledged = number
                if beside is not None:
                    memory.finish(beside)
                beside = memory.compaction() if number in COMPACT_AFTER else memory.fold()
                if number in REOPEN_AFTER:
                    memory.close()
                    memory, beside = store(self._disk).open(USER).file, None
                if beside is not None:
                    beside.prepare()
        finally:
            if beside is not None:
                beside.abandon()
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
def every_operation() -> int:
    disk = FaultDisk()
    with small_pieces():
        Workload(disk).run()
    return len(disk.operations)


OPERATIONS = range(1, every_operation() + 1)


def test_the_workload_seals_folds_and_compacts() -> None:
    disk = FaultDisk()
    Workload(disk).run()

    opened = store(disk).open(USER)

    assert len(opened.file.load().sealed) >= 2
    assert disk.operations.count("rename") == 2  # the first commit and the compaction
    assert Expected.of(opened.file.load()) == STATES[-1]
    assert store(disk).verify(USER) == []


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", OPERATIONS)
def test_a_crash_at_any_operation_keeps_all_that_was_committed(n: int, survives: float) -> None:
    disk = FaultDisk(crash_at=n, seed=n)
    workload = Workload(disk)
    with pytest.raises(Crash):
        workload.run()

    found = reopened(disk.after_crash(survives))

    assert found in STATES[workload.acknowledged : workload.acknowledged + 2]


@pytest.mark.parametrize("n", OPERATIONS[::7])
def test_work_goes_on_after_a_crash_as_if_nothing_had_been(n: int) -> None:
    disk = FaultDisk(crash_at=n, seed=n)
    with pytest.raises(Crash):
        Workload(disk).run()
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
    assert raised is not None or found == STATES[-1]
    assert disk.second_syncs == 0


def test_a_full_disk_keeps_what_is_there_and_goes_on_when_there_is_room() -> None:
    room = FaultDisk()
    Workload(room).run()
    for capacity in range(0, len(room.content(FILE)) * 2, 997):
        disk = FaultDisk(capacity=capacity)
        workload = Workload(disk)
        with suppress(DiskFull):
            workload.run()
        disk.capacity = None

        Workload(disk).run(BATCHES[STATES.index(reopened(disk)) :])

        assert reopened(disk) == STATES[-1]


@cache
def sealed_file() -> bytes:
    """Return a file with two sealed pieces, a commit behind them and rows deleted in all."""
    with small_pieces():
        disk = FaultDisk()
        disk.put(ROOT)
        memory = store(disk).open(USER).file
        memory.commit(Batch(entries=entries(range(6)), trajectories=[trajectory(1)]))
        memory.commit(Batch(entries=entries(range(6, 12))))
        memory.compact()
        memory.commit(Batch(entries=entries([12]), deleted=[record_id(3), record_id(7)]))
        memory.close()
        return disk.content(FILE)


def disk_with(content: bytes) -> FaultDisk:
    disk = FaultDisk()
    disk.put(FILE, content)
    return disk


def everything(disk: FaultDisk) -> tuple[Expected, list[bytes]]:
    """Return all that a user of the file can see: rows, and what they are found and filtered by. Raises Damaged."""
    contents = store(disk).open(USER).file.load()
    seen = []
    for part in contents.sealed:
        alive = np.flatnonzero(part.alive())
        seen += [part.keys[alive].tobytes(), part.time_us[alive].tobytes(), part.codes.tobytes()]
        seen += [part.session[alive].tobytes(), part.kind[alive].tobytes(), part.source[alive].tobytes()]
        seen += [repr((part.kinds, part.sources, part.sessions, part.codebook, part.ids())).encode()]
    return Expected.of(contents), seen


def last_manifest(content: bytes) -> int:
    """Return where the newest manifest begins."""
    at, found = 0, 0
    while at < len(content):
        header = unpack_header(content[at : at + HEADER_SIZE])
        found = at if header.type == MANIFEST else found
        at += HEADER_SIZE + header.length
    return found


@pytest.mark.parametrize("start", range(8))
def test_a_changed_byte_is_reported_when_it_is_read_or_harmless(start: int) -> None:
    """Every eighth byte in each of eight tests; the newest manifest cannot be told from a torn write, and is cut."""
    content = sealed_file()
    sound = everything(disk_with(content))
    behind = last_manifest(content)
    reported = 0
    for at in range(start, behind, 8):
        disk = disk_with(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
        try:
            assert everything(disk) == sound
        except Damaged:
            reported += 1
            assert store(disk).verify(USER)
    assert reported > behind / 8 / 3  # the rest is padding, and an old manifest


def test_a_file_cut_at_any_length_holds_the_last_whole_commit_or_is_reported() -> None:
    content = sealed_file()
    sound = everything(disk_with(content))[0]
    first = everything(disk_with(content[: last_manifest(content) + 1]))[0]
    for length in range(0, len(content), 13):
        disk = disk_with(content[:length])
        try:
            found = everything(disk)[0]
        except Damaged:
            continue
        assert found in (sound, first)
    assert first != sound
