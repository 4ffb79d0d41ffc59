"""An index whose first rows stand in a file: it answers exactly like one that has everything in memory."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol.errors import Damaged
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.interfaces import Batch, Contents, Entry, ModelInfo
from memoryd.protocol.records import ANY, MemoryFilter, MemoryKind, MemorySource
from memoryd.rvf import ledger, rewriting
from memoryd.rvf.records import decode_record, encode_record
from memoryd.rvf.snapshot import read_snapshot
from memoryd.vectors import codes as codes_module
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.codes import Codebook, Codes, MappedCodes
from memoryd.vectors.index import EXACT_ROWS, VectorIndex
from memoryd.vectors.table import Table
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import FILE, NOON, ROOT, SECTIONS, USER, clustered, record, record_id, store, units

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Hits, SealedRows, Vectors

DIM = 96
CODED = ModelInfo("coded-model", DIM, "c1" * 32)
SEALED = 3_000
TAIL = 150
FILTERS = (
    ANY,
    MemoryFilter(kinds=frozenset([MemoryKind.FINDING])),
    MemoryFilter(kinds=frozenset([MemoryKind.FINDING, MemoryKind.EPISODE, MemoryKind.PATTERN])),
    MemoryFilter(sources=frozenset([MemorySource.USER_INPUT, MemorySource.WORKER_RESULT])),
    MemoryFilter(since=NOON + timedelta(minutes=100)),
    MemoryFilter(since=NOON + timedelta(minutes=2_950)),
    MemoryFilter(session_id="session 1"),
    MemoryFilter(session_id="unknown"),
    MemoryFilter(kinds=frozenset([MemoryKind.STRATEGY]), session_id="session 2", since=NOON + timedelta(minutes=7)),
)


@cache
def rows() -> Vectors:
    return clustered(SEALED + 1_000 + TAIL, DIM, each=50)


@cache
def codebook() -> Codebook:
    return Codebook.train(rows()[:2_000])


def queries(n: int = 8) -> Vectors:
    asked = rows()[-n:] + np.float32(0.3) * units(n, DIM, seed=6)
    found: Vectors = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    return found


def some(numbers: Iterable[int]) -> list[Entry]:
    return [Entry(record(number), rows()[number]) for number in numbers]


def encoded(numbers: Iterable[int]) -> list[bytes]:
    return [encode_record(record(number)) for number in numbers]


def written(
    sealed: Sequence[Iterable[int]],
    tail: Iterable[int] = (),
    deleted: Iterable[int] = (),
    book: Codebook | None = None,
) -> FaultDisk:
    """Return a disk with a file of these sealed parts, commits behind them, and rows that were deleted then."""
    disk = FaultDisk()
    disk.put(ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "MAX_ROWS", 10_000)
        for module in (ledger, rewriting):
            patch.setattr(module, "SEALED_ROWS", 1)
        patch.setattr(ledger, "_FOLD_ROWS", 1)
        patch.setattr(ledger, "_MERGES", ())
        memory = store(disk, model=CODED, book=book).open(USER).file
        for numbers in sealed:
            memory.commit(Batch(entries=some(numbers)))
            fold = memory.fold()
            assert fold is not None
            fold.prepare()
            memory.finish(fold)
        if batch := some(tail):
            memory.commit(Batch(entries=batch))
        memory.commit(Batch(deleted=[record_id(number) for number in deleted]))
        memory.close()
    return disk


def contents_of(disk: FaultDisk, sealed: int) -> Contents:
    contents = read_snapshot(disk.open(FILE, writable=False), FILE).contents()
    assert len(contents.sealed) == sealed
    return contents


def in_memory(numbers: Sequence[int], book: Codebook | None = None) -> VectorIndex:
    return VectorIndex(Contents((), rows()[list(numbers)], encoded(numbers), (), BEFORE_ALL), book)


def numbers_of(hits: Hits) -> list[int]:
    return [int(decode_record(hit.record).id) for hit in hits.hits]


def assert_alike(one: VectorIndex, other: VectorIndex, asked: Vectors, k: int = 10) -> None:
    """Everything that can be asked of an index has the same answer, scores to the last bit."""
    for where in FILTERS:
        for query in asked:
            assert one.view().search(query, k=k, where=where).hits == other.view().search(query, k=k, where=where).hits
        assert list(one.select(where)) == list(other.select(where))
        before = NOON + timedelta(minutes=120)
        assert list(one.select(where, before)) == list(other.select(where, before))
    assert len(one) == len(other)


def paged(index: VectorIndex, limit: int) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    after: int | None = 0
    while after is not None:
        records, vectors, after = index.page(after, limit)
        assert len(records) <= limit
        found += [(one, vector.tobytes()) for one, vector in zip(records, vectors, strict=True)]
    return found


# --- few rows, against an index in memory ---

STEPS = st.lists(st.tuples(st.sampled_from(["add", "discard"]), st.lists(st.integers(0, 130), max_size=5)), max_size=12)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([[32], [1], [31, 33], [5, 64, 7], [40, 1, 1]]),
    st.integers(0, 20),
    st.sets(st.integers(0, 129), max_size=40),
    STEPS,
)
def test_sealed_rows_are_answered_like_those_in_memory(
    sizes: list[int], tail: int, deleted: set[int], steps: list[tuple[str, list[int]]]
) -> None:
    starts = np.cumsum([0, *sizes]).tolist()
    parts = [range(start, start + size) for start, size in zip(starts, sizes, strict=False)]
    behind = starts[-1] + tail
    alive = [number for number in range(behind) if number not in deleted]
    contents = contents_of(written(parts, range(starts[-1], behind), deleted), len(sizes))
    mapped, plain = VectorIndex(contents), in_memory(alive)

    for what, numbers in steps:
        if what == "add":
            for index in (mapped, plain):
                index.add(encoded(numbers), rows()[numbers])
        else:
            for index in (mapped, plain):
                index.discard([record_id(number) for number in numbers])

    assert_alike(mapped, plain, queries(2), k=7)
    assert paged(mapped, 7) == paged(plain, 7)
    for number in range(140):
        asked = [record_id(number)]
        assert mapped.known(asked) == plain.known(asked)
        assert mapped.records(asked) == plain.records(asked)
        assert mapped.vectors(asked).tobytes() == plain.vectors(asked).tobytes()
    every = [record_id(number) for number in range(140)]
    assert mapped.known(every) == plain.known(every)
    assert mapped.records(every) == plain.records(every)


def test_a_record_that_is_added_again_takes_the_place_of_the_sealed_one() -> None:
    index = VectorIndex(contents_of(written([range(40)]), 1))
    new = encode_record(record(3, text="new"))

    index.add([new], rows()[[100]])

    assert index.records([record_id(3)]) == [new]
    assert index.vectors([record_id(3)]).tobytes() == rows()[100].tobytes()
    assert len(index) == 40
    assert list(index.select(ANY)) == [record_id(n) for n in (*range(3), *range(4, 40), 3)]
    assert numbers_of(index.view().search(rows()[3], k=40, where=ANY))[0] != 3


def test_a_view_loses_sealed_rows_that_are_deleted_and_no_others() -> None:
    index = VectorIndex(contents_of(written([range(40), range(40, 80)], range(80, 90)), 2))
    view = index.view()

    index.discard([record_id(number) for number in (0, 41, 85)])
    index.add(encoded([200]), rows()[[200]])

    kept = [number for number in range(90) if number not in (0, 41, 85)]
    assert sorted(numbers_of(view.search(queries()[0], k=100, where=ANY))) == kept
    assert sorted(numbers_of(index.view().search(queries()[0], k=100, where=ANY))) == [*kept, 200]


def test_sealed_rows_take_no_memory_to_speak_of() -> None:
    mapped = VectorIndex(contents_of(written([range(1_000)]), 1))

    assert mapped.resident_bytes < 4_096
    assert in_memory(range(1_000)).resident_bytes > 100 * 1_000


def test_the_rows_that_only_fill_up_are_never_found() -> None:
    index = VectorIndex(contents_of(written([range(1)]), 1))
    against = -rows()[0]  # whatever else there is would score better

    assert numbers_of(index.view().search(against, k=10, where=ANY)) == [0]
    assert list(index.select(ANY)) == [record_id(0)]
    assert index.known([record_id(0)]) == {record_id(0)}
    assert paged(index, 10) == [(encoded([0])[0], rows()[0].tobytes())]


# --- many rows, by their codes ---


@cache
def many() -> FaultDisk:
    """Return a file of three sealed parts with codes, one of them not a whole number of groups, and a tail."""
    gone = [*range(0, 3_000, 17), SEALED + 3]
    return written(
        [range(1_000), range(1_000, 1_777), range(1_777, SEALED)], range(SEALED, SEALED + TAIL), gone, codebook()
    )


def alive() -> list[int]:
    return [n for n in range(SEALED + TAIL) if n not in {*range(0, 3_000, 17), SEALED + 3}]


@pytest.fixture
def index() -> VectorIndex:
    return VectorIndex(contents_of(many(), 3), codebook())


def path_of(index: VectorIndex, where: MemoryFilter = ANY) -> str:
    return index.view().search(queries()[0], k=5, where=where).path


def test_the_codes_are_read_where_they_stand_until_they_are_sealed_with_the_same_answers(index: VectorIndex) -> None:
    exact = in_memory(alive())
    assert (path_of(index), path_of(exact)) == ("mapped", "exact")
    assert_alike(index, exact, queries())
    before = index.view()
    assert index.wants_sealing()

    index.seal()()

    assert not index.wants_sealing()
    assert path_of(index) == "codes"
    assert_alike(index, exact, queries())
    coded = in_memory(alive(), codebook())
    coded.seal()()
    assert path_of(coded) == "codes"
    assert_alike(index, coded, queries())
    assert before.search(queries()[0], k=5, where=ANY).path == "mapped"


@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("k", [1, 100, 600])
def test_what_is_added_and_deleted_meanwhile_counts(index: VectorIndex, k: int, *, is_sealed: bool) -> None:
    if is_sealed:
        index.seal()()
    best = numbers_of(index.view().search(queries()[0], k=300, where=ANY))
    more = range(SEALED + TAIL, SEALED + TAIL + 40)
    exact = in_memory(alive())

    for each in (index, exact):
        each.discard([record_id(number) for number in best[:20]])
        each.add(encoded(more), rows()[list(more)])
        each.add(encoded(best[200:210]), rows()[best[200:210]])

    assert path_of(index) == ("codes" if is_sealed else "mapped")
    for query in queries(3):
        found = index.view().search(query, k=k, where=ANY).hits
        expected = exact.view().search(query, k=k, where=ANY).hits
        if k <= 100:
            assert found == expected
        else:
            assert len({hit.record for hit in found} & {hit.record for hit in expected}) >= 0.99 * k
    assert list(index.select(ANY)) == list(exact.select(ANY))


def test_a_tail_is_added_to_the_codes_of_the_file(index: VectorIndex) -> None:
    index.seal()()
    more = range(SEALED + TAIL, SEALED + TAIL + 800)
    numbers = [*more, *range(5_000, 5_000 + EXACT_ROWS)]
    extra = rows()[np.arange(EXACT_ROWS)] + np.float32(0.3) * units(EXACT_ROWS, DIM, seed=9)
    extra /= np.linalg.norm(extra, axis=1, keepdims=True)
    vectors = np.concatenate([rows()[list(more)], extra])
    exact = in_memory(alive())
    for each in (index, exact):
        each.add(encoded(numbers), vectors)
    assert index.wants_sealing()

    index.seal()()

    assert not index.wants_sealing()
    view = index.view()
    for query in queries():
        found = view.search(query, k=10, where=ANY)
        assert found.path == "codes"
        assert found.hits == exact.view().search(query, k=10, where=ANY).hits


@pytest.mark.parametrize("book", [None, Codebook(np.zeros((32, 16, 3), np.float32))])
def test_codes_of_another_codebook_are_not_used(book: Codebook | None) -> None:
    contents = contents_of(many(), 3) if book else contents_of(written([range(2_100)]), 1)
    exact = in_memory(alive() if book else range(2_100))
    index = VectorIndex(contents, book or codebook())

    assert path_of(index) == "exact"
    assert_alike(index, exact, queries(2))
    assert index.wants_sealing()
    index.seal()()
    assert not index.wants_sealing()
    if book is None:
        assert path_of(index) == "codes"
        assert_alike(index, exact, queries(2))


def test_few_sealed_rows_are_searched_exactly() -> None:
    index = VectorIndex(contents_of(written([range(500)], book=codebook()), 1), codebook())

    assert path_of(index) == "exact"
    assert not index.wants_sealing()


def test_mapped_codes_rank_as_those_in_memory_do() -> None:
    parts = contents_of(many(), 3).sealed
    loaded, mapped = Codes.loaded(codebook(), parts), MappedCodes(codebook(), parts)
    made = Codes.over(codebook(), Blocks(np.empty((0, DIM), np.float32), parts), loaded.rows)

    assert loaded.rows == mapped.rows == made.rows == sum(part.slots for part in parts)
    chances = np.random.default_rng(4).random(loaded.rows)
    for share in (1.0, 0.95, 0.5, 0.01):
        for query in queries(4):
            scores, _ = loaded.nearest_of(query, chances < share, 400)
            for other in (mapped, made):
                assert other.nearest_of(query, chances < share, 400)[0].tobytes() == scores.tobytes()
                above = other.above(query, chances < share, 0.3)
                assert sorted(zip(*above, strict=True)) == sorted(
                    zip(*loaded.above(query, chances < share, 0.3), strict=True)
                )


def test_rows_that_are_checked_are_looked_at_where_they_stand_with_the_same_answers(index: VectorIndex) -> None:
    exact = in_memory(alive())
    assert all(part.matrix is None for part in index._table.sealed)

    index.check()()

    assert all(part.matrix is not None for part in index._table.sealed)
    assert_alike(index, exact, queries())
    index.seal()()
    assert_alike(index, exact, queries())


def test_codes_are_copied_in_pieces_with_the_same_answers(monkeypatch: pytest.MonkeyPatch, index: VectorIndex) -> None:
    monkeypatch.setattr(codes_module, "_COPIED_AT_ONCE", 320)

    assert_alike(index, in_memory(alive()), queries())


def test_a_graph_over_sealed_rows_finds_no_row_that_only_fills_up() -> None:
    contents = contents_of(written([range(1_000), range(1_000, 2_001)], range(2_001, 2_100), range(50)), 2)
    index = VectorIndex(contents, graph_above=100)
    exact = in_memory(range(50, 2_100))
    index.seal()()

    assert path_of(index) == "hnsw"
    found = [
        len(
            set(numbers_of(index.view().search(q, k=10, where=ANY)))
            & set(numbers_of(exact.view().search(q, k=10, where=ANY)))
        )
        for q in queries(20)
    ]
    assert sum(found) / 200 >= 0.97
    assert sorted(numbers_of(index.view().search(queries()[0], k=3_000, where=ANY))) == list(range(50, 2_100))


# --- when the file was rewritten ---


def test_rebasing_changes_nothing_that_is_asked(index: VectorIndex) -> None:
    index.seal()()
    before = {query.tobytes(): index.view().search(query, k=10, where=ANY).hits for query in queries()}
    old = index.view()
    disk = FaultDisk()
    disk.put(FILE, many().content(FILE))
    memory = store(disk, model=CODED, book=codebook()).open(USER).file
    memory.compact()
    contents = memory.load()
    assert len(contents.sealed) == 1

    index.rebased(contents)()

    assert path_of(index) == "mapped"
    for query in queries():
        assert index.view().search(query, k=10, where=ANY).hits == before[query.tobytes()]
        assert old.search(query, k=10, where=ANY).hits == before[query.tobytes()]
    assert_alike(index, in_memory(alive()), queries(2))
    assert old.search(queries()[0], k=5, where=ANY).path == "codes"


def test_what_is_deleted_disappears_from_views_of_before_the_rebasing(index: VectorIndex) -> None:
    first = index.view()
    index.rebased(contents_of(many(), 3))()
    second = index.view()
    index.rebased(contents_of(many(), 3))()
    best = numbers_of(index.view().search(queries()[0], k=3, where=ANY))

    index.discard([record_id(best[0]), record_id(SEALED + 5)])

    for view in (first, second, index.view()):
        assert numbers_of(view.search(queries()[0], k=2, where=ANY)) == best[1:]
        assert numbers_of(view.search(rows()[SEALED + 5], k=1, where=ANY)) != [SEALED + 5]


def test_rebased_rows_are_there_with_what_is_not_in_the_file_in_one_step(index: VectorIndex) -> None:
    swap = index.rebased(contents_of(written([range(10)], book=codebook()), 1))

    swap([record_id(3)], encoded([50, 4]), rows()[[50, 4]])

    assert index.select(ANY) == [record_id(number) for number in (0, 1, 2, 5, 6, 7, 8, 9, 50, 4)]
    assert len(index) == 10


def test_records_that_are_hidden_while_they_are_looked_up_are_left_out(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Table.find

    def hidden_meanwhile(table: Table, ids: Sequence[RecordId]) -> NDArray[np.int64]:
        found = find(table, ids)
        table.discard([record_id(3)])
        return found

    monkeypatch.setattr(Table, "find", hidden_meanwhile)

    assert index.records([record_id(number) for number in (2, 3, 4)]) == encoded([2, 4])


def test_a_view_of_before_the_rebasing_keeps_its_rows_and_is_forgotten_with_them(index: VectorIndex) -> None:
    view = index.view()
    index.add(encoded([4_000]), rows()[[4_000]])

    index.rebased(contents_of(written([range(10)], book=codebook()), 1))()

    assert numbers_of(view.search(rows()[100], k=1, where=ANY)) == [100]
    assert len(index) == 10
    assert index.known([record_id(100), record_id(3)]) == {record_id(3)}
    assert sorted(numbers_of(index.view().search(rows()[100], k=20, where=ANY))) == list(range(10))
    assert len(index._retired) == 1
    del view
    assert len(index._retired) == 0


def test_codes_that_were_being_made_when_the_rows_were_rebased_are_not_put_to_use(index: VectorIndex) -> None:
    swap = index.seal()
    index.rebased(contents_of(written([range(2_500, 3_000), range(2_400)], book=codebook()), 2))()
    exact = in_memory([*range(2_500, 3_000), *range(2_400)])
    assert path_of(index) == "mapped"

    swap()

    assert path_of(index) == "mapped"
    assert_alike(index, exact, queries(3))


class Watched(VectorIndex):
    """An index in which a thread begins to seal at the very moment the rows are replaced."""

    seals_at_once = False
    swaps: list[object]

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if self.seals_at_once and name in {"_table", "_codes", "_graph"}:
            self.swaps.append(self.seal())


def test_a_sealing_that_begins_while_the_rows_are_replaced_uses_no_codes_of_the_old_ones() -> None:
    index = Watched(contents_of(written([range(2_001)], book=codebook()), 1), codebook())
    index.seal()()
    numbers = [*range(2_001, 4_100), *range(1_900)]
    contents = contents_of(written([range(2_001, 4_100), range(1_900)], book=codebook()), 2)
    swap = index.rebased(contents)
    index.swaps = []
    index.seals_at_once = True

    swap()
    index.seals_at_once = False

    exact = in_memory(numbers)
    for sealed in index.swaps:
        sealed()
        for query in queries(2):
            found = index.view().search(query, k=10, where=ANY).hits
            assert found == exact.view().search(query, k=10, where=ANY).hits


def test_a_graph_that_was_being_made_when_the_rows_were_rebased_is_not_put_to_use() -> None:
    index = VectorIndex(contents_of(written([range(2_100)]), 1), graph_above=100)
    swap = index.seal()
    index.rebased(contents_of(written([range(2_100, 2_200)]), 1))()

    swap()

    assert path_of(index) == "exact"
    assert sorted(numbers_of(index.view().search(queries()[0], k=200, where=ANY))) == list(range(2_100, 2_200))


# --- damage ---


def damaged(disk: FaultDisk, which: str) -> Contents:
    """Return what is read from a file in which the last byte of a section, or of a vector, was changed."""
    (part, *_) = read_snapshot(disk.open(FILE, writable=False), FILE).parts
    if which == "vector":
        assert part.vec is not None
        at = part.vec.offset + 64 + 6 + 8 + 3
    else:
        section = part.head.sections[SECTIONS.index(which)]
        at = part.private.offset + 64 + section.offset + section.length - 1
    content = bytearray(disk.content(FILE))
    content[at] ^= 1
    other = FaultDisk()
    other.put(FILE, bytes(content))
    return read_snapshot(other.open(FILE, writable=False), FILE).contents()


@pytest.mark.parametrize(
    ("which", "where"),
    [
        ("codes", ANY),
        ("texts", ANY),
        ("kind", MemoryFilter(kinds=frozenset([MemoryKind.FINDING]))),
        ("source", MemoryFilter(sources=frozenset([MemorySource.USER_INPUT]))),
        ("session", MemoryFilter(session_id="session 1")),
        ("time_us", MemoryFilter(since=NOON)),
    ],
)
def test_damage_is_told_by_who_meets_it(which: str, where: MemoryFilter) -> None:
    index = VectorIndex(damaged(written([range(2_100)], book=codebook()), which), codebook())

    with pytest.raises(Damaged, match="checksum of"):
        index.view().search(rows()[2_099], k=10, where=where)
    with pytest.raises(Damaged, match="checksum of"):
        index.check()()


@pytest.mark.parametrize(("which", "asked"), [("vector", 0), ("texts", 39), ("keys", 0), ("ends", 0), ("blocks", 0)])
def test_damage_of_one_row_is_told_when_it_is_asked_for(which: str, asked: int) -> None:
    index = VectorIndex(damaged(written([range(40)], book=codebook()), which), codebook())

    ask = index.vectors if which == "vector" else index.records
    with pytest.raises(Damaged):
        ask([record_id(asked)])
    with pytest.raises(Damaged):
        index.check()()


def test_checksums_that_do_not_hold_are_made_anew_from_vectors_that_do() -> None:
    index = VectorIndex(damaged(written([range(40)], book=codebook()), "sums"), codebook())

    np.testing.assert_array_equal(index.vectors([record_id(7)])[0], rows()[7])

    with pytest.raises(Damaged, match="checksum of sums"):
        index.check()()


def test_damage_in_rows_that_were_replaced_before_it_is_told_is_nobodys() -> None:
    index = VectorIndex(damaged(written([range(40)], book=codebook()), "sums"), codebook())
    swap = index.rebased(contents_of(written([range(40)], book=codebook()), 1))
    tell = index.check()

    swap()
    tell()

    assert len(index) == 40


# --- rows in blocks ---


def sealed_parts(sizes: Sequence[int]) -> tuple[Sequence[SealedRows], list[int]]:
    """Return sealed rows, and which number stands in each slot; -1 where none does."""
    starts = np.cumsum([0, *sizes]).tolist()
    parts = contents_of(
        written([range(start, start + size) for start, size in zip(starts, sizes, strict=False)]), len(sizes)
    )
    slots: list[int] = []
    for start, size in zip(starts, sizes, strict=False):
        slots += [*range(start, start + size), *[-1] * (-size % 32)]
    return parts.sealed, slots


@pytest.mark.parametrize("sizes", [[32], [1, 33], [40, 5, 64]])
@pytest.mark.parametrize("tail", [0, 1, 70])
def test_blocks_behind_sealed_rows_give_every_row_where_it_is(sizes: list[int], tail: int) -> None:
    sealed, slots = sealed_parts(sizes)
    behind = range(500, 500 + tail)
    blocks = Blocks(rows()[list(behind[: tail // 2])], sealed)
    blocks.add(rows()[list(behind[tail // 2 :])])
    numbers = [*slots, *behind]
    expected = np.stack([rows()[n] if n >= 0 else np.zeros(DIM, np.float32) for n in numbers])

    assert blocks.rows == len(numbers)
    assert blocks.resident_bytes == tail * DIM * 4
    for first in range(0, len(numbers), 13):
        pieces = list(blocks.parts(first, len(numbers)))
        assert [start for start, _ in pieces] == np.cumsum([first, *(len(part) for _, part in pieces)])[:-1].tolist()
        np.testing.assert_array_equal(np.concatenate([part for _, part in pieces]), expected[first:])
    for share in (0.0, 0.1, 0.9, 1.0):
        chosen = np.flatnonzero(np.random.default_rng(3).random(len(numbers)) < share)
        np.testing.assert_array_equal(blocks.take(chosen), expected[chosen])
    for row in range(len(numbers)):
        np.testing.assert_array_equal(blocks.take(np.array([row]))[0], expected[row])


def test_many_sealed_rows_come_in_pieces() -> None:
    sealed, slots = sealed_parts([SEALED + 1_000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memoryd.vectors.blocks._PIECE_BYTES", 1_024 * 4 * DIM)
        pieces = list(Blocks(np.empty((0, DIM), np.float32), sealed).parts(10, 3_900))

    assert [(start, len(part)) for start, part in pieces] == [(10, 1_024), (1_034, 1_024), (2_058, 1_024), (3_082, 818)]
    np.testing.assert_array_equal(np.concatenate([part for _, part in pieces]), rows()[slots[10:3_900]])


@pytest.mark.parametrize("limit", [1, 7, 13, 24])
def test_pages_go_on_where_they_were_when_the_rows_are_rebased_in_between(limit: int) -> None:
    disk = written([range(12), range(12, 20)], tail=range(20, 26), deleted=[3, 15])
    index = in_memory(range(26))
    index.discard([record_id(3), record_id(15)])
    index.add(encoded(range(26, 30)), rows()[26:30])  # not committed yet

    found: list[int] = []
    after: int | None = 0
    while after is not None:
        records, _, after = index.page(after, limit)
        found += [int(decode_record(each).id) for each in records]
        index.rebased(contents_of(disk, sealed=2))()
        index.add(encoded(range(26, 30)), rows()[26:30])

    assert found == [number for number in range(30) if number not in (3, 15)]


def test_a_page_that_nobody_knows_any_more_begins_anew() -> None:
    index = in_memory(range(5))
    _, _, after = index.page(0, 2)
    assert after is not None
    for _ in range(20):
        index.rebased(contents_of(written([range(5)]), sealed=1))()

    records, _, _ = index.page(after, 10)

    assert [int(decode_record(each).id) for each in records] == list(range(5))
