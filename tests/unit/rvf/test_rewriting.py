"""Folding and compaction beside commits, against a plain list; and files that another program has rewritten."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol.errors import StorageFault
from memoryd.protocol.ids import Seq, TrajectoryId
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.rvf import format as rvf
from memoryd.rvf import ledger, rewriting
from memoryd.rvf.adjacency import unpack_adjacency
from memoryd.rvf.reader import find_state, read_segment
from memoryd.rvf.records import SEALED, decode_record, is_of
from memoryd.rvf.rewriting import TEMPORARY_SUFFIX
from memoryd.rvf.snapshot import read_snapshot
from memoryd.rvf.store import RvfMemoryStore
from memoryd.vectors.graph import link
from memoryd.vectors.index import VectorIndex
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import (
    CODED,
    FILE,
    MODEL,
    ROOT,
    USER,
    Expected,
    StillClock,
    codebook,
    entries,
    record,
    record_id,
    store,
    trajectory,
    units,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memoryd.files import File
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import MemoryFile, Rewriting
    from memoryd.rvf.reader import Entry as Line
    from memoryd.rvf.snapshot import Snapshot

TEMPORARY = FILE.with_name(FILE.name + TEMPORARY_SUFFIX)


def make_small(patch: pytest.MonkeyPatch, *, max_rows: int = 24) -> None:
    """Let a few rows do what thousands do otherwise."""
    patch.setattr(ledger, "_FOLD_COMMITS", 4)
    patch.setattr(ledger, "_FOLD_ROWS", 12)
    patch.setattr(ledger, "_MERGES", ((12, 3), (36, 2)))
    patch.setattr(ledger, "MAX_ROWS", max_rows)
    for module in (ledger, rewriting):
        patch.setattr(module, "SEALED_ROWS", 6)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def opened(disk: FaultDisk) -> MemoryFile:
    return store(disk).open(USER).file


def snapshot(disk: FaultDisk) -> Snapshot:
    return read_snapshot(disk.open(FILE, writable=False), FILE)


def folded(memory: MemoryFile) -> bool:
    """Fold once, if that is offered."""
    fold = memory.fold()
    if fold is None:
        return False
    fold.prepare()
    memory.finish(fold)
    return True


def rows_of(disk: FaultDisk) -> dict[int, RecordId]:
    """Return which record stands in which row, deleted ones too where they are still known."""
    found = snapshot(disk)
    rows = dict(zip(found.rows.tolist(), found.ids, strict=True))
    for part in found.parts:
        rows |= dict(zip(part.rows[: part.count].tolist(), part.ids(), strict=True))
    return rows


def assert_sound(disk: FaultDisk, memory: MemoryFile, expected: Expected) -> None:
    """The open file, the figures, the file opened anew, and a check of every byte agree with the model."""
    assert Expected.of(memory.load()) == expected
    assert memory.status().records == len(expected.rows)
    status = memory.status()
    memory.close()
    assert store(disk).verify(USER) == []
    again = opened(disk)
    assert Expected.of(again.load()) == expected
    assert again.status() == status
    assert not disk.exists(TEMPORARY)
    again.close()


# --- against a model ---

NUMBERS = st.integers(1, 40)
BATCHES = st.builds(
    lambda added, deleted, runs, dropped, seq: Batch(
        entries=entries(added),
        deleted=[record_id(number) for number in deleted],
        trajectories=[trajectory(number, quality) for number, quality in runs.items()],
        dropped=[TrajectoryId(f"run {number}") for number in dropped],
        applied_seq=Seq(seq),
    ),
    st.lists(NUMBERS, max_size=9, unique=True),
    st.lists(NUMBERS, max_size=6),
    st.dictionaries(st.integers(1, 4), st.sampled_from([None, 0.0, 1.0]), max_size=2),
    st.lists(st.integers(1, 4), max_size=1),
    st.integers(0, 99),
)
STEPS = st.one_of(
    BATCHES,
    BATCHES,
    BATCHES,
    st.sampled_from(["fold", "compaction", "prepare", "finish", "abandon", "reopen", "compact"]),
)


class Driven:
    """A memory, its model, and at most one rewriting under way, as a writer has it."""

    def __init__(self) -> None:
        self.disk = FaultDisk()
        self.disk.put(ROOT)
        self.memory = opened(self.disk)
        self.expected = Expected()
        self.rewriting: Rewriting | None = None
        self.is_prepared = False
        self.known: dict[int, RecordId] = {}

    def step(self, step: Batch | str) -> None:
        match step:
            case Batch():
                self.memory.commit(step)
                self.expected = self.expected.after(step)
            case "fold" | "compaction" if self.rewriting is None:
                self.rewriting = self.memory.fold() if step == "fold" else self.memory.compaction()
                self.is_prepared = False
            case "prepare" if self.rewriting is not None and not self.is_prepared:
                self.rewriting.prepare()
                self.is_prepared = True
            case "finish" if self.rewriting is not None and self.is_prepared:
                self.memory.finish(self.rewriting)
                self.rewriting.abandon()
                self.rewriting = None
            case "abandon" if self.rewriting is not None:
                self.rewriting.abandon()
                self.rewriting = None
            case "compact" if self.rewriting is None:
                self.memory.compact()
            case "reopen":
                if self.rewriting is not None:
                    self.rewriting.abandon()
                    self.rewriting = None
                self.memory.close()
                self.memory = opened(self.disk)

    def check(self) -> None:
        assert Expected.of(self.memory.load()) == self.expected
        assert self.memory.status().records == len(self.expected.rows)
        assert self.memory.status().applied_seq == self.expected.applied_seq
        if self.disk.exists(FILE):
            assert not snapshot(self.disk).is_moved
            for row, record in rows_of(self.disk).items():
                assert self.known.setdefault(row, record) == record, f"row {row} was used again"


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, max_size=30), st.sampled_from([12, 24, 1000]))
def test_a_file_holds_what_was_committed_whatever_is_rewritten_beside(steps: list[Batch | str], max_rows: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch, max_rows=max_rows)
        driven = Driven()
        for step in steps:
            driven.step(step)
            driven.check()
        if driven.rewriting is not None:
            driven.rewriting.abandon()
        if driven.disk.exists(FILE):
            assert_sound(driven.disk, driven.memory, driven.expected)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(BATCHES, min_size=5, max_size=8),
    st.lists(BATCHES, max_size=2),
    st.lists(BATCHES, max_size=4),
    st.lists(BATCHES, max_size=2),
    st.sampled_from(["fold", "compaction"]),
    st.sampled_from([["reopen"], []]),
)
def test_commits_before_during_and_behind_a_rewriting_are_all_there(
    before: list[Batch],
    asked: list[Batch],
    during: list[Batch],
    behind: list[Batch],
    how: str,
    between: list[Batch | str],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        driven = Driven()
        order: list[Batch | str] = [*before, how, *asked, "prepare", *during, "finish"]
        for step in [*order, *between, *behind]:
            driven.step(step)
            driven.check()
        assert_sound(driven.disk, driven.memory, driven.expected)


# --- folding ---


def committed(
    memory: MemoryFile, numbers: Sequence[int], expected: Expected | None = None, **fields: object
) -> Expected:
    """Commit these records one by one."""
    found = Expected() if expected is None else expected
    for number in numbers:
        batch = Batch(entries=entries([number]), applied_seq=Seq(number), **fields)
        memory.commit(batch)
        found = found.after(batch)
    return found


def test_commits_are_folded_into_one_piece_when_there_are_many(disk: FaultDisk) -> None:
    memory = opened(disk)
    expected = committed(memory, range(64))
    assert memory.fold() is None
    expected = committed(memory, [64], expected)
    before = memory.status()

    assert folded(memory)

    assert Expected.of(memory.load()) == expected
    after = memory.status()
    assert (before.segments, after.segments) == (130, 3)  # the piece, its vectors, and the last word of the commits
    assert (after.records, after.deleted, after.applied_seq) == (65, 0, 64)
    assert memory.fold() is None
    assert_sound(disk, memory, expected)


def test_many_rows_are_folded_before_there_are_many_commits_and_sealed(disk: FaultDisk) -> None:
    memory = opened(disk)
    first = Batch(entries=entries(range(1_023)))
    memory.commit(first)
    assert memory.fold() is None
    second = Batch(entries=entries([1_023]), deleted=[record_id(7)])
    memory.commit(second)

    assert folded(memory)

    (part,) = snapshot(disk).parts
    assert (part.count, part.slots) == (1_023, 1_024)
    assert_sound(disk, memory, Expected().after(first).after(second))


@pytest.mark.parametrize(("rows", "sealed"), [(255, 0), (256, 1)])
def test_a_piece_is_sealed_when_it_has_enough_rows(disk: FaultDisk, rows: int, sealed: int) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries(range(rows - 64))))
    committed(memory, range(rows - 64, rows))

    assert folded(memory)

    assert len(snapshot(disk).parts) == sealed


def test_sealed_pieces_of_one_size_are_folded_into_a_larger_one(
    disk: FaultDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch, max_rows=40)
    memory, expected, sizes = opened(disk), Expected(), []
    for first in range(0, 90, 6):
        batch = Batch(entries=entries(range(first, first + 6)))
        memory.commit(batch)
        expected = expected.after(batch)
        while folded(memory):
            sizes.append([part.count for part in snapshot(disk).parts])

    # Two commits make a piece of 12; those below 36 are folded two by two.
    assert sizes[:5] == [[12], [12, 12], [24], [24, 12], [36]]
    assert all(count >= 6 for some in sizes for count in some)
    assert_sound(disk, memory, expected)


@pytest.mark.usefixtures("small")
def test_rows_that_were_deleted_are_not_taken_along(disk: FaultDisk) -> None:
    memory = opened(disk)
    secret = Entry(record(1, text="secret " * 20), units(1, seed=5)[0])
    memory.commit(Batch(entries=[secret, *entries(range(2, 20))]))
    status = memory.commit(Batch(deleted=[record_id(1), record_id(2)]))
    assert (status.records, status.deleted) == (17, 2)

    assert folded(memory)

    status = memory.status()
    assert (status.records, status.deleted) == (17, 0)
    assert snapshot(disk).parts[0].count == 17
    assert find_state(disk.open(FILE, writable=False), FILE).manifest.held == 17


@pytest.mark.usefixtures("small")
def test_a_piece_whose_rows_are_all_deleted_is_folded_away(disk: FaultDisk) -> None:
    memory = opened(disk)
    run = trajectory(1, quality=1.0)
    memory.commit(Batch(entries=entries(range(20)), trajectories=[run]))
    memory.commit(Batch(deleted=[record_id(number) for number in range(20)], applied_seq=Seq(5)))

    assert folded(memory)

    status = memory.status()
    assert (status.records, status.deleted, status.applied_seq) == (0, 0, 5)
    assert [*memory.load().trajectories] == [run]
    memory.commit(Batch(entries=entries([20])))
    assert rows_of(disk) == {20: record_id(20)}


@pytest.mark.usefixtures("small")
def test_rows_deleted_while_a_fold_is_prepared_are_deleted_behind_it(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries(range(20))))
    fold = memory.fold()
    assert fold is not None

    fold.prepare()
    memory.commit(Batch(deleted=[record_id(3)], entries=entries([4, 50])))
    status = memory.finish(fold)

    assert (status.records, status.deleted) == (20, 2)
    assert [int(one.id) for one, _ in Expected.of(memory.load()).rows] == [0, 1, 2, *range(5, 20), 4, 50]
    assert memory.compact().deleted == 0


@pytest.mark.usefixtures("small")
def test_sealed_rows_have_codes_and_are_mapped(disk: FaultDisk) -> None:
    memory = store(disk, model=CODED, book=codebook()).open(USER).file
    memory.commit(Batch(entries=entries(range(20), CODED.dim)))

    assert folded(memory)

    (part,) = memory.load().sealed
    assert part.codebook == codebook().sha256
    padded = np.zeros((32, CODED.dim), np.float32)
    padded[:20] = np.stack([entry.vector for entry in entries(range(20), CODED.dim)])
    assert part.codes.tobytes() == codebook().encode(padded)
    assert len(memory.load().records) == 0


def test_what_was_mapped_stays_readable_when_the_file_is_rewritten(disk: FaultDisk) -> None:
    memory = opened(disk)
    first = Batch(entries=entries(range(300)))
    memory.commit(first)
    memory.compact()
    contents = memory.load()

    memory.commit(Batch(deleted=[record_id(number) for number in range(200)]))
    memory.compact()

    assert Expected.of(contents) == Expected().after(first)


# --- what it costs ---


def test_a_thousand_commits_leave_a_short_directory_and_a_file_that_grows_with_them(disk: FaultDisk) -> None:
    memory = opened(disk)
    expected, sizes, directories = Expected(), [], []
    for number in range(1_000):
        batch = Batch(entries=entries([number]), applied_seq=Seq(number))
        status = memory.commit(batch)
        expected = expected.after(batch)
        while folded(memory):
            status = memory.status()
        directories.append(status.segments)
        sizes.append(status.file_bytes)

    assert max(directories) <= 2 * 64 + 20
    # A row is written four times at most, and a manifest names no more than the directory.
    assert sizes[999] - sizes[499] <= 1.25 * sizes[499]
    assert max(np.diff(sizes)) < 100_000
    assert_sound(disk, memory, expected)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_no_row_is_written_more_than_a_few_times(disk: FaultDisk, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """All bounds are a sixteenth of the real ones."""
    monkeypatch.setattr(ledger, "_FOLD_COMMITS", 4)
    monkeypatch.setattr(ledger, "_FOLD_ROWS", 64)
    monkeypatch.setattr(ledger, "SEALED_ROWS", 16)
    monkeypatch.setattr(ledger, "_MERGES", ((256, 8), (1_024, 4)))
    memory = opened(disk)
    written, segments = 0, 0
    for first in range(0, 1_600, rows):
        memory.commit(Batch(entries=entries(range(first, first + rows))))
        written += rows
        while (fold := memory.fold()) is not None:
            fold.prepare()
            memory.finish(fold)
            last = find_state(disk.open(FILE, writable=False), FILE)
            newest = max(last.of_type(rvf.VEC), key=lambda entry: entry.offset)
            written += newest.length // rvf.row_dtype(MODEL.dim).itemsize
        segments = max(segments, memory.status().segments)

    # Once as it is committed, about twice until there are enough to be sealed, once so, and once for each larger size.
    assert written / 1_600 <= 8
    assert segments <= 2 * (4 + 8 + 4 + 4)


def noise(number: int, size: int) -> Entry:
    """Return a record with a text that cannot be packed."""
    text = np.random.default_rng(number).integers(0x4E00, 0x9000, size // 3).astype("<u4").tobytes().decode("utf-32-le")
    return Entry(record(number, text=text), units(1, seed=number)[0])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["fold", "compact"])
def test_no_segment_becomes_longer_than_other_readers_accept(
    disk: FaultDisk, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Bounds in the proportion of the real ones: 16 MiB of texts in a commit, 256 MiB in a segment."""
    monkeypatch.setattr(ledger, "_MAX_RECORD_BYTES", 4_000)
    monkeypatch.setattr(rvf, "MAX_PAYLOAD", 64_000)
    monkeypatch.setattr(ledger, "MAX_ROWS", 1_000)
    monkeypatch.setattr(ledger, "_MERGES", ((1_000, 3),))
    memory, expected = opened(disk), Expected()
    for first in range(0, 96, 12):
        batch = Batch(entries=[noise(number, 1_000) for number in range(first, first + 12)])
        memory.commit(batch)
        expected = expected.after(batch)
        while how == "fold" and folded(memory):
            pass

    if how == "compact":
        memory.compact()

    assert_sound(disk, memory, expected)


def test_vectors_of_many_dimensions_are_cut_too(disk: FaultDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch, max_rows=1_000)
    monkeypatch.setattr(ledger, "_MAX_VEC_BYTES", 20 * 40)  # twenty rows
    monkeypatch.setattr(rvf, "MAX_PAYLOAD", 6_000)
    memory = opened(disk)
    batch = Batch(entries=entries(range(200)))
    memory.commit(batch)

    memory.compact()

    assert_sound(disk, memory, Expected().after(batch))


# --- compaction ---


@pytest.mark.usefixtures("small")
def test_commits_between_the_asking_and_the_preparing_are_not_lost(disk: FaultDisk) -> None:
    memory = opened(disk)
    expected = committed(memory, range(3))
    compaction = memory.compaction()
    assert compaction is not None

    expected = committed(memory, range(3, 6), expected)
    compaction.prepare()
    memory.finish(compaction)

    assert_sound(disk, memory, expected)


@pytest.mark.usefixtures("small")
def test_a_row_deleted_before_a_compaction_is_not_given_again(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries(range(8))))
    compaction = memory.compaction()
    assert compaction is not None
    memory.commit(Batch(entries=entries([8]), applied_seq=Seq(4)))
    memory.commit(Batch(deleted=[record_id(8)], applied_seq=Seq(5)))
    compaction.prepare()
    memory.finish(compaction)
    memory.close()

    memory = opened(disk)
    assert memory.status().applied_seq == 5
    memory.commit(Batch(entries=entries([9])))

    assert 8 not in rows_of(disk)
    assert rows_of(disk)[9] == record_id(9)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("max_rows", [6, 7, 8, 11])
def test_a_piece_with_few_rows_left_does_not_come_between_sealed_ones(
    disk: FaultDisk, monkeypatch: pytest.MonkeyPatch, max_rows: int
) -> None:
    memory, expected = opened(disk), Expected()
    for first in range(0, 48, 12):
        for batch in (Batch(entries=entries(range(first, first + 12))), Batch(applied_seq=Seq(first))):
            memory.commit(batch)
            expected = expected.after(batch)
        folded(memory)
    gone = Batch(deleted=[record_id(number) for number in (*range(10), *range(12, 18), *range(24, 29))])
    memory.commit(gone)
    monkeypatch.setattr(ledger, "MAX_ROWS", max_rows)

    memory.compact()

    assert not snapshot(disk).is_moved
    assert_sound(disk, memory, expected.after(gone))


def test_a_compaction_of_nothing_leaves_a_file_of_one_piece(disk: FaultDisk) -> None:
    memory = opened(disk)
    memory.commit(Batch(entries=entries(range(5)), applied_seq=Seq(3)))
    memory.commit(Batch(deleted=[record_id(number) for number in range(5)]))

    status = memory.compact()

    assert (status.records, status.deleted, status.segments, status.dead_bytes) == (0, 0, 1, 0)
    assert_sound(disk, memory, Expected(applied_seq=Seq(3)))


# --- what is given up, and what is asked twice ---


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["fold", "compaction"])
@pytest.mark.parametrize("is_prepared", [False, True])
def test_what_is_abandoned_leaves_the_file_as_it_was(disk: FaultDisk, how: str, *, is_prepared: bool) -> None:
    memory = opened(disk)
    expected = committed(memory, range(20))
    before = disk.content(FILE)
    rewriting = getattr(memory, how)()

    if is_prepared:
        rewriting.prepare()
    rewriting.abandon()
    rewriting.abandon()

    assert disk.content(FILE) == before
    expected = committed(memory, [20], expected)
    assert folded(memory)
    memory.compact()
    assert_sound(disk, memory, expected)


REFUSED = (StorageFault, ValueError, TypeError)


def assert_whole(disk: FaultDisk, memory: MemoryFile, expected: Expected) -> None:
    """Whatever became of the writer, the file opened anew holds what was committed."""
    memory.close()
    assert Expected.of(opened(disk).load()) == expected
    assert store(disk).verify(USER) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["fold", "compaction"])
@pytest.mark.parametrize("commits", [0, 1])
def test_a_second_finish_is_refused_and_harms_nothing(disk: FaultDisk, how: str, commits: int) -> None:
    memory = opened(disk)
    expected = committed(memory, range(20))
    rewriting = getattr(memory, how)()
    rewriting.prepare()
    memory.finish(rewriting)
    expected = committed(memory, range(20, 20 + commits), expected)

    with pytest.raises(REFUSED):
        memory.finish(rewriting)

    assert_whole(disk, memory, expected)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["fold", "compaction"])
def test_what_was_not_prepared_cannot_be_finished(disk: FaultDisk, how: str) -> None:
    memory = opened(disk)
    expected = committed(memory, range(20))

    with pytest.raises(REFUSED):
        memory.finish(getattr(memory, how)())

    assert_whole(disk, memory, expected)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["fold", "compaction"])
def test_what_was_abandoned_cannot_be_finished(disk: FaultDisk, how: str) -> None:
    memory = opened(disk)
    expected = committed(memory, range(20))
    rewriting = getattr(memory, how)()
    rewriting.prepare()
    rewriting.abandon()

    with pytest.raises(REFUSED):
        memory.finish(rewriting)

    assert_whole(disk, memory, expected)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("first", ["fold", "compaction"])
@pytest.mark.parametrize("second", ["fold", "compaction"])
@pytest.mark.parametrize("commits", [0, 4, 20, 24])
def test_of_two_rewritings_beside_each_other_one_is_refused_or_both_are_right(
    disk: FaultDisk, first: str, second: str, commits: int
) -> None:
    """Who forgets compacts at once, whatever is being prepared beside."""
    memory = opened(disk)
    expected = committed(memory, range(20))
    one, two = getattr(memory, first)(), getattr(memory, second)()
    one.prepare()
    two.prepare()
    memory.finish(two)
    gone = Batch(deleted=[record_id(3)])
    memory.commit(gone)
    expected = committed(memory, range(20, 20 + commits), expected.after(gone))

    with suppress(*REFUSED):
        memory.finish(one)
    one.abandon()

    assert_whole(disk, memory, expected)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["fold", "compaction"])
def test_a_rewriting_asked_for_before_the_file_was_compacted_is_refused_or_right(disk: FaultDisk, how: str) -> None:
    memory = opened(disk)
    expected = committed(memory, range(20))
    rewriting = getattr(memory, how)()
    memory.compact()
    expected = committed(memory, range(20, 22), expected)

    with suppress(*REFUSED):
        rewriting.prepare()
        memory.finish(rewriting)
    rewriting.abandon()

    assert_whole(disk, memory, expected)


@pytest.mark.usefixtures("small")
def test_a_compaction_that_begins_while_another_is_written_does_not_take_its_file(
    disk: FaultDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = opened(disk)
    expected = committed(memory, range(20))
    beside = memory.compaction()
    assert beside is not None
    grouped = rewriting._grouped

    def interrupted(*asked: object) -> object:
        monkeypatch.setattr(rewriting, "_grouped", grouped)
        with suppress(*REFUSED):
            beside.prepare()
        return grouped(*asked)

    monkeypatch.setattr(rewriting, "_grouped", interrupted)
    with suppress(*REFUSED):
        memory.compact()
    beside.abandon()

    assert_whole(disk, memory, expected)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["fold", "compact"])
def test_a_graph_made_beside_a_rewriting_names_no_row_that_is_gone(
    disk: FaultDisk, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(ledger, "_LINKED_ROWS", 6)
    linked = RvfMemoryStore(
        ROOT, MODEL, disk, StillClock(), VectorIndex, None, link, random_bytes=lambda n: bytes(range(n))
    )
    memory = linked.open(USER).file
    memory.commit(Batch(entries=entries(range(20))))
    assert folded(memory)
    linking = memory.linking()
    assert linking is not None

    assert linking.prepare()
    memory.commit(Batch(entries=entries(range(20, 40)), deleted=[record_id(number) for number in range(15)]))
    if how == "compact":
        memory.compact()
    else:
        while folded(memory):
            pass
    with suppress(*REFUSED):
        memory.finish(linking)

    memory.close()
    file = disk.open(FILE, writable=False)
    state = find_state(file, FILE)
    held = {row for entry in state.of_type(rvf.VEC) for row in ids_of(file, entry)}
    for entry in state.of_type(rvf.INDEX):
        ids, _ = unpack_adjacency(read_segment(file, FILE, entry))
        assert set(ids.tolist()) <= held
    assert store(disk).verify(USER) == []


def ids_of(file: File, entry: Line) -> list[int]:
    ids, _ = rvf.unpack_vec(read_segment(file, FILE, entry), MODEL.dim)
    found: list[int] = ids.tolist()
    return found


def test_what_is_of_another_file_is_refused(disk: FaultDisk) -> None:
    memory = opened(disk)
    assert memory.fold() is None
    assert memory.compaction() is None

    class Foreign:
        def prepare(self) -> bool:
            return True

        def stop(self) -> None: ...

        def abandon(self) -> None: ...

    memory.commit(Batch(entries=entries([1])))
    with pytest.raises(TypeError, match="nothing of this file: Foreign"):
        memory.finish(Foreign())


@pytest.mark.usefixtures("small")
def test_a_fold_that_fails_leaves_what_was_committed(disk: FaultDisk) -> None:
    memory = opened(disk)
    expected = committed(memory, range(20))
    memory.close()
    for at in range(1, 9):
        found = FaultDisk(fail_at=at, only=lambda operation, path: path == FILE and operation in {"append", "sync"})
        found.put(FILE, disk.content(FILE))
        memory = opened(found)
        fold = memory.fold()
        assert fold is not None
        fold.prepare()
        try:
            memory.finish(fold)
        except StorageFault:
            with pytest.raises(StorageFault, match="closed"):
                memory.commit(Batch())
        found.heal()
        assert_whole(found, memory, expected)


# --- files that another program has rewritten ---


def segments(content: bytes) -> Iterator[tuple[int, rvf.SegmentHeader, bytes]]:
    """Yield every segment of a file, listed or not."""
    at = 0
    while at < len(content):
        header = rvf.unpack_header(content[at:])
        yield at, header, content[at + rvf.HEADER_SIZE : at + rvf.HEADER_SIZE + header.length]
        at += rvf.HEADER_SIZE + header.length


def rewritten(
    disk: FaultDisk,
    *,
    order: Callable[[list[bytes], list[bytes]], list[bytes]] = lambda vectors, private: [*vectors, *private],
    delete: Sequence[int] = (),
    orphans: bool = True,
) -> FaultDisk:
    """Compact a file as the reference runtime does: one VEC segment of what is alive, and every private segment there is."""
    content = disk.content(FILE)
    file = disk.open(FILE, writable=False)
    state = find_state(file, FILE)
    rows: dict[int, rvf.Vectors] = {}
    for entry in state.of_type(rvf.VEC):
        ids, vectors = rvf.unpack_vec(read_segment(file, FILE, entry), state.manifest.dim)
        rows |= dict(zip(ids.tolist(), vectors, strict=True))
    for gone in (*state.manifest.deleted.tolist(), *delete):
        rows.pop(gone, None)
    listed = {entry.offset for entry in state.entries}
    private = [
        content[at : at + rvf.HEADER_SIZE + header.length]
        for at, header, _ in segments(content)
        if header.type == rvf.PRIVATE and (orphans or at in listed)
    ]
    alive = sorted(rows)
    stacked = np.stack([rows[row] for row in alive]) if alive else np.empty((0, state.manifest.dim), np.float32)
    merged = [rvf.pack_segment(rvf.VEC, 900, rvf.pack_vec(np.array(alive, np.uint64), stacked))]
    new, lines = b"", []
    for segment in order(merged, private):
        header = rvf.unpack_header(segment)
        lines.append((header.id, len(new), header.length, header.type))
        new += segment
    manifest = rvf.Manifest(
        state.manifest.epoch + 1,
        state.manifest.dim,
        len(alive),
        np.array(lines, rvf.ENTRY),
        rvf.NO_ROWS,
        state.manifest.identity,
    )
    other = FaultDisk()
    other.put(FILE, new + rvf.pack_segment(rvf.MANIFEST, 901, rvf.pack_manifest(manifest)))
    return other


ORDERS = {
    "vectors first": lambda vectors, private: [*vectors, *private],
    "vectors last": lambda vectors, private: [*private, *vectors],
    "vectors behind the first": lambda vectors, private: [private[0], *vectors, *private[1:]],
    "backwards": lambda vectors, private: [*vectors, *reversed(private)],
}


def grown(disk: FaultDisk) -> Expected:
    """Fill a file with sealed pieces, commits behind them, and old segments that are not listed any more."""
    memory, expected = opened(disk), Expected()
    for first in range(0, 60, 10):
        batch = Batch(
            entries=entries(range(first, first + 10)),
            trajectories=[trajectory(first, quality=0.5)],
            applied_seq=Seq(first + 1),
        )
        memory.commit(batch)
        expected = expected.after(batch)
        folded(memory)
    for batch in (
        Batch(deleted=[record_id(number) for number in (0, 11, 59)], dropped=[TrajectoryId("run 10")]),
        Batch(entries=entries([5, 100])),
        Batch(entries=entries([101])),
    ):
        memory.commit(batch)
        expected = expected.after(batch)
    assert len(snapshot(disk).parts) >= 2
    memory.close()
    return expected


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("orphans", [False, True])
def test_a_file_whose_vectors_were_moved_is_read_and_mended_by_compaction(
    disk: FaultDisk, order: str, *, orphans: bool
) -> None:
    expected = grown(disk)
    disk = rewritten(disk, order=ORDERS[order], orphans=orphans)

    found = snapshot(disk)
    assert found.is_moved
    assert found.parts == []
    said = [finding.what for finding in store(disk).verify(USER)]
    assert "vectors were moved away from their rows" in said
    assert ("private segment that another one stands for" in said) == orphans
    memory = opened(disk)
    assert Expected.of(memory.load()) == expected
    assert memory.status().records == len(expected.rows)

    memory.compact()

    assert not snapshot(disk).is_moved
    assert len(snapshot(disk).parts) >= 1
    assert_sound(disk, memory, expected)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("order", ORDERS)
def test_commits_and_folds_go_on_in_a_file_whose_vectors_were_moved(disk: FaultDisk, order: str) -> None:
    expected = grown(disk)
    disk = rewritten(disk, order=ORDERS[order])
    memory = opened(disk)

    for number in range(200, 230):
        batch = Batch(entries=entries([number]), deleted=[record_id(number - 180)])
        memory.commit(batch)
        expected = expected.after(batch)
        while folded(memory):
            assert Expected.of(memory.load()) == expected
        assert Expected.of(memory.load()) == expected
    memory.close()
    memory = opened(disk)
    assert Expected.of(memory.load()) == expected
    memory.compact()

    assert_sound(disk, memory, expected)


@pytest.mark.usefixtures("small")
def test_what_another_program_deletes_while_it_moves_the_vectors_is_deleted(disk: FaultDisk) -> None:
    expected = grown(disk)
    rows = {row: one for row, one in rows_of(disk).items() if row in (20, 33)}
    assert len(rows) == 2
    disk = rewritten(disk, delete=[*rows])

    memory = opened(disk)

    kept = tuple(row for row in expected.rows if row[0].id not in rows.values())
    assert Expected.of(memory.load()) == Expected(kept, expected.trajectories, expected.applied_seq)
    memory.compact()
    assert_sound(disk, memory, Expected(kept, expected.trajectories, expected.applied_seq))


@pytest.mark.usefixtures("small")
def test_a_compaction_beside_commits_mends_a_file_whose_vectors_were_moved(disk: FaultDisk) -> None:
    expected = grown(disk)
    memory = opened(disk := rewritten(disk))
    compaction = memory.compaction()
    assert compaction is not None

    compaction.prepare()
    batch = Batch(entries=entries([7, 300]), deleted=[record_id(8)])
    memory.commit(batch)
    memory.finish(compaction)

    assert_sound(disk, memory, expected.after(batch))


@pytest.mark.usefixtures("small")
def test_old_segments_that_come_back_where_nothing_was_moved_do_not_count(disk: FaultDisk) -> None:
    expected = grown(disk)
    content = disk.content(FILE)
    state = find_state(disk.open(FILE, writable=False), FILE)
    lines = [
        (header.id, at, header.length, header.type)
        for at, header, _ in segments(content)
        if header.type == rvf.PRIVATE or (header.type == rvf.VEC and at in {entry.offset for entry in state.entries})
    ]
    assert len(lines) > len(state.entries)
    manifest = rvf.Manifest(
        state.manifest.epoch + 1,
        MODEL.dim,
        state.manifest.held,
        np.array(lines, rvf.ENTRY),
        state.manifest.deleted,
        state.manifest.identity,
    )
    disk.put(FILE, content + rvf.pack_segment(rvf.MANIFEST, 901, rvf.pack_manifest(manifest)))

    memory = opened(disk)

    assert not snapshot(disk).is_moved
    assert Expected.of(memory.load()) == expected
    assert {finding.what for finding in store(disk).verify(USER)} == {"private segment that another one stands for"}
    expected = committed(memory, range(200, 205), expected)
    while folded(memory):
        pass
    assert_sound(disk, memory, expected)


@pytest.mark.usefixtures("small")
def test_a_sealed_row_that_another_program_writes_again_counts_as_it_is_now(disk: FaultDisk) -> None:
    expected = grown(disk)
    file = disk.open(FILE, writable=True)
    state = find_state(file, FILE)
    (row,) = (row for row, one in rows_of(disk).items() if one == record_id(15))
    other = units(1, seed=999)
    vec = rvf.pack_segment(rvf.VEC, 90, rvf.pack_vec(np.array([row], np.uint64), other))
    kept = [(e.id, e.offset, e.length, e.type) for e in state.entries]
    manifest = rvf.Manifest(
        state.manifest.epoch + 1,
        MODEL.dim,
        state.manifest.held,
        np.array([*kept, (90, state.end, len(vec) - rvf.HEADER_SIZE, rvf.VEC)], rvf.ENTRY),
        state.manifest.deleted,
        state.manifest.identity,
    )
    file.append(vec + rvf.pack_segment(rvf.MANIFEST, 91, rvf.pack_manifest(manifest)))
    rows = tuple((one, other.tobytes() if one.id == record_id(15) else vector) for one, vector in expected.rows)
    expected = Expected(rows, expected.trajectories, expected.applied_seq)

    memory = opened(disk)

    assert snapshot(disk).is_moved
    assert Expected.of(memory.load()) == expected
    memory.compact()
    assert_sound(disk, memory, expected)


def lines_of(disk: FaultDisk) -> list[tuple[Line, bool]]:
    """Return the private segments that are listed, and whether they are sealed."""
    file = disk.open(FILE, writable=False)
    state = find_state(file, FILE)
    return [(line, is_of(SEALED, read_segment(file, FILE, line)[:12])) for line in state.of_type(rvf.PRIVATE)]


@pytest.mark.usefixtures("small")
def test_a_commit_looks_at_no_more_of_the_sealed_rows_than_their_ids(disk: FaultDisk) -> None:
    grown(disk)
    sealed = [line for line, is_one in lines_of(disk) if is_one]
    content = bytearray(disk.content(FILE))
    for line in sealed:
        content[line.offset + line.size - 3] ^= 1  # the last text, or what fills up behind it
    disk.put(FILE, bytes(content))

    memory = opened(disk)
    memory.commit(Batch(entries=entries([400]), deleted=[record_id(30)]))

    assert decode_record(memory.load().records[-1]) == record(400)
