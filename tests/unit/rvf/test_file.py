"""What a commit, a compaction and a reopening do to a file, on a disk without faults."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol.errors import Damaged, ModelMismatch, StorageFault
from memoryd.protocol.ids import RecordId, Seq, TrajectoryId
from memoryd.protocol.interfaces import Batch, Entry, ModelInfo
from memoryd.rvf import format as rvf
from memoryd.rvf import ledger
from memoryd.rvf.reader import find_state, read_rows
from memoryd.rvf.snapshot import read_snapshot
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import (
    FILE,
    MODEL,
    ROOT,
    USER,
    Expected,
    entries,
    history,
    record,
    record_id,
    store,
    trajectory,
    units,
)

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import MemoryFile
    from memoryd.rvf.reader import State
    from memoryd.rvf.snapshot import Snapshot


def opened(disk: FaultDisk) -> MemoryFile:
    return store(disk).open(USER).file


def state_of(disk: FaultDisk) -> State:
    return find_state(disk.open(FILE, writable=False), FILE)


def row_ids(disk: FaultDisk) -> list[int]:
    state = state_of(disk)
    ids, _ = read_rows(disk.open(FILE, writable=False), FILE, state, state.of_type(rvf.VEC))
    return [int(row) for row in ids]


def snapshot(disk: FaultDisk) -> Snapshot:
    return read_snapshot(disk.open(FILE, writable=False), FILE)


batches = st.lists(
    st.builds(
        lambda added, deleted, trajectories, dropped: Batch(
            entries=entries(added),
            deleted=[record_id(number) for number in deleted],
            trajectories=[trajectory(number, quality) for number, quality in trajectories.items()],
            dropped=[TrajectoryId(f"run {number}") for number in dropped],
        ),
        st.lists(st.integers(1, 8), max_size=3, unique=True),
        st.lists(st.integers(1, 8), max_size=2),
        st.dictionaries(st.integers(1, 3), st.sampled_from([None, 0.0, 1.0]), max_size=2),
        st.lists(st.integers(1, 3), max_size=1),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(batches, st.lists(st.sampled_from(["commit", "compact", "reopen"]), max_size=6))
def test_a_file_holds_what_was_committed_whatever_happens_in_between(written: list[Batch], between: list[str]) -> None:
    disk = FaultDisk()
    disk.put(ROOT)
    memory = opened(disk)
    for number, (batch, expected) in enumerate(zip(written, history(written)[1:], strict=True)):
        memory.commit(batch)
        match between[number] if number < len(between) else "commit":
            case "compact":
                memory.compact()
            case "reopen":
                memory.close()
                memory = opened(disk)

        assert Expected.of(memory.load()) == expected
        assert memory.status().records == len(expected.rows)
    memory.close()
    assert not written or store(disk).verify(USER) == []


def test_a_new_user_has_no_file_before_the_first_commit(disk: FaultDisk) -> None:
    memory = opened(disk)

    assert Expected.of(memory.load()) == Expected()
    assert memory.compact() == memory.status()
    assert not disk.exists(FILE)

    memory.commit(Batch(applied_seq=Seq(4)))

    assert memory.load().applied_seq == 4
    assert disk.exists(FILE)


def test_a_commit_costs_two_fsyncs(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1])))
    before = len(disk.operations)

    memory.commit(Batch(entries=entries([2])))

    assert [name for name in disk.operations[before:] if name != "size"] == ["append", "sync", "append", "sync"]


def test_a_row_id_is_never_given_twice_even_after_a_compaction(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1, 2, 3])))
    memory.commit(Batch(deleted=[record_id(3)]))
    memory.compact()
    memory.close()

    opened(disk).commit(Batch(entries=entries([4])))

    assert row_ids(disk) == [0, 1, 3]


def test_a_manifest_lists_no_older_manifest_and_deleted_rows_in_order(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1, 2, 3])))
    memory.commit(Batch(deleted=[record_id(3), record_id(99)]))
    memory.commit(Batch(deleted=[record_id(1)]))

    state = state_of(disk)

    assert [entry.type for entry in state.entries] == [rvf.PRIVATE, rvf.VEC, rvf.PRIVATE, rvf.PRIVATE]
    assert state.manifest.deleted.tolist() == [0, 2]
    assert (state.manifest.held, state.manifest.epoch, state.manifest.metric) == (3, 3, rvf.COSINE)


def test_compaction_keeps_the_identity_and_begins_a_generation(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1, 2])))
    before = state_of(disk)

    memory.compact()

    after = state_of(disk)
    assert after.manifest.identity == before.manifest.identity == rvf.Identity(bytes(range(16)))
    assert after.manifest.epoch == before.manifest.epoch + 1
    assert snapshot(disk).history.generation == 2


def test_a_deleted_text_and_its_vector_are_gone_after_compaction(disk: FaultDisk) -> None:
    memory = opened(disk)
    secret = Entry(record(1, text="s" * 100), units(1, seed=5)[0])
    memory.commit(Batch(entries=[secret, *entries([2])]))
    assert secret.vector.tobytes() in disk.content(FILE)

    memory.commit(Batch(deleted=[record_id(1)]))
    status = memory.compact()

    assert secret.vector.tobytes() not in disk.content(FILE)
    assert (status.records, status.deleted, status.dead_bytes) == (1, 0, 0)
    assert len(snapshot(disk).records) == 1


def test_dead_bytes_tell_what_compaction_would_win(disk: FaultDisk) -> None:
    memory = opened(disk)
    texts = [Entry(record(n, text=np.random.default_rng(n).bytes(300).hex()), units(1, seed=n)[0]) for n in range(40)]
    memory.commit(Batch(entries=texts))
    for number in range(20):
        memory.commit(Batch(trajectories=[trajectory(1, quality=number / 20)]))
    status = memory.commit(Batch(deleted=[record_id(n) for n in range(0, 40, 2)]))

    compacted = memory.compact()

    won = status.file_bytes - compacted.file_bytes
    assert status.dead_bytes == pytest.approx(won, rel=0.2)
    assert compacted.dead_bytes == 0


def test_rows_that_are_sealed_are_mapped_and_those_behind_them_are_read(disk: FaultDisk) -> None:
    memory = opened(disk)
    first, second = Batch(entries=entries(range(300))), Batch(entries=entries([300, 7]), deleted=[record_id(8)])
    memory.commit(first)
    memory.compact()
    memory.commit(second)
    memory.close()

    contents = opened(disk).load()

    assert [part.slots for part in contents.sealed] == [320]
    assert len(contents.records) == len(contents.vectors) == 2
    assert Expected.of(contents) == Expected().after(first).after(second)


def test_a_sealed_record_is_deleted_or_replaced_once_however_often_it_is_named(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries(range(300))))
    memory.compact()

    deleted = memory.commit(Batch(deleted=[record_id(5), record_id(5), record_id(6)], entries=entries([6])))
    again = memory.commit(Batch(deleted=[record_id(5)], entries=entries([6, 7])))

    assert (deleted.records, deleted.deleted) == (299, 2)
    assert (again.records, again.deleted) == (299, 4)
    memory.close()
    assert opened(disk).status() == again


def test_a_manifest_that_counts_other_rows_is_damage(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries(range(3))))
    memory.close()
    file = disk.open(FILE, writable=True)
    manifest = find_state(file, FILE).manifest
    file.append(rvf.pack_segment(rvf.MANIFEST, 9, rvf.pack_manifest(replace(manifest, held=1 << 60))))

    with pytest.raises(Damaged, match="manifest counts other rows than there are"):
        opened(disk)


def test_figures_are_the_same_after_reopening(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1, 2, 3]), trajectories=[trajectory(1)], applied_seq=Seq(5)))
    memory.commit(Batch(deleted=[record_id(2)], trajectories=[trajectory(1, quality=1.0)], applied_seq=Seq(3)))
    before = memory.status()
    memory.close()

    assert opened(disk).status() == before
    assert (before.records, before.deleted, before.commits, before.applied_seq) == (2, 1, 2, 5)
    assert before.segments == 3


def test_large_additions_are_cut_into_segments(disk: FaultDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_MAX_VEC_BYTES", 3 * 40)  # three rows
    monkeypatch.setattr(ledger, "_MAX_RECORD_BYTES", 700)
    batch = Batch(entries=entries(range(8)), trajectories=[trajectory(n) for n in range(12)])
    memory = opened(disk)

    memory.commit(batch)
    by_commit = [entry.type for entry in state_of(disk).entries].count(rvf.VEC)
    memory.compact()
    by_compaction = [entry.type for entry in state_of(disk).entries].count(rvf.VEC)

    assert by_commit == by_compaction == 3
    assert Expected.of(memory.load()) == Expected().after(batch)
    assert store(disk).verify(USER) == []


@pytest.mark.parametrize(
    "vector",
    [np.zeros(8, np.float32), np.full(8, np.nan, np.float32), np.ones(8, np.float32), units(1, dim=9)[0], units(2)],
)
def test_a_vector_that_is_no_direction_is_refused_and_nothing_happens(disk: FaultDisk, vector: rvf.Vectors) -> None:
    memory = opened(disk)

    with pytest.raises(ValueError, match="a vector is not of"):
        memory.commit(Batch(entries=[*entries([1]), Entry(record(2), vector)]))

    assert memory.commit(Batch(entries=entries([1]))).records == 1


def test_a_row_id_that_other_readers_cannot_tell_is_not_given(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1])))
    memory._ledger.next_row = rvf.MAX_ROW_ID

    with pytest.raises(StorageFault, match="row ids are used up"):
        memory.commit(Batch(entries=entries([2])))


@pytest.mark.parametrize(
    "other",
    [ModelInfo("other", 8, MODEL.sha256), ModelInfo(MODEL.name, 9, MODEL.sha256), ModelInfo(MODEL.name, 8, "0")],
)
def test_a_file_of_another_model_is_refused_with_the_command_that_mends_it(disk: FaultDisk, other: ModelInfo) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1])))
    memory.close()

    with pytest.raises(
        ModelMismatch, match=r"made with test-model \(8 dimensions, 5f5f5f5f5f5f\), not with"
    ) as refused:
        store(disk, model=other).open(USER)

    assert refused.value.hint == "memoryd reembed --user alice"
    assert refused.value.details["stored_sha256"] == MODEL.sha256
    assert opened(disk).status().records == 1


def test_an_empty_file_is_damage_and_no_new_user(disk: FaultDisk) -> None:
    disk.put(FILE, b"")

    with pytest.raises(Damaged, match="no valid manifest"):
        opened(disk)


def test_close_can_be_called_twice_and_ends_the_use_of_the_file(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1])))

    memory.close()
    memory.close()

    with pytest.raises(StorageFault, match="closed"):
        memory.load()
    assert memory.status().records == 1


def test_a_close_that_fails_leaves_the_sign_of_it(disk: FaultDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries([1])))

    def fails() -> None:
        raise StorageFault("cannot close")

    monkeypatch.setattr(memory._file, "close", fails)
    with pytest.raises(StorageFault, match="cannot close"):
        memory.close()

    assert disk.exists(FILE.with_name("memory.rvf.lock"))
    assert opened(disk).status().records == 1


def test_a_folder_that_could_not_be_removed_goes_with_the_next_closing() -> None:
    disk = FaultDisk(fail_at=1, only=lambda operation, _: operation == "remove folder")
    disk.put(ROOT)

    opened(disk).close()

    assert disk.exists(FILE.parent)
    opened(disk).close()
    assert not disk.exists(FILE.parent)


def test_the_folder_of_a_memory_that_was_never_committed_stays_when_another_process_has_its_lock(
    disk: FaultDisk,
) -> None:
    lock = FILE.with_name("memory.rvf.lock")
    memory = opened(disk)
    disk.unlink(lock)
    disk.put(lock, b"theirs")

    memory.close()

    assert disk.content(lock) == b"theirs"


def test_ids_of_records_that_are_not_there_change_nothing(disk: FaultDisk) -> None:
    memory = opened(disk)

    status = memory.commit(Batch(entries=entries([1]), deleted=[RecordId("unknown")], dropped=[TrajectoryId("no")]))

    assert (status.records, status.deleted) == (1, 0)
