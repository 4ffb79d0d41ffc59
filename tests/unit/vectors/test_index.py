from __future__ import annotations

import threading
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.interfaces import Contents
from memoryd.protocol.records import ANY, MemoryFilter, MemoryKind, MemorySource
from memoryd.rvf.records import decode_record, encode_record
from memoryd.vectors import index as index_module
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.exact import nearest_alive
from memoryd.vectors.graph import Graph
from memoryd.vectors.index import VectorIndex
from tests.helpers.memories import NOON, record, record_id, units

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memoryd.protocol.interfaces import Hits, IndexView, Vectors

DIM = 16


def encoded(numbers: Iterable[int]) -> list[bytes]:
    return [encode_record(record(number)) for number in numbers]


ROWS = units(6000, DIM, seed=7)


def vectors_of(numbers: Sequence[int]) -> Vectors:
    """Return the vectors that belong to these numbers."""
    return ROWS[list(numbers)]


def index_of(numbers: Sequence[int], *, graph_above: int = index_module.GRAPH_ABOVE) -> VectorIndex:
    return VectorIndex(
        Contents((), vectors_of(numbers), encoded(numbers), (), BEFORE_ALL), None, graph_above=graph_above
    )


def numbers_of(hits: Hits) -> list[int]:
    return [int(decode_record(hit.record).id) for hit in hits.hits]


def search(view: IndexView, k: int = 5, where: MemoryFilter = ANY, seed: int = 8) -> list[int]:
    return numbers_of(view.search(units(1, DIM, seed)[0], k=k, where=where))


def by_hand(numbers: Sequence[int], k: int = 5, seed: int = 8) -> list[int]:
    scores = vectors_of(numbers) @ units(1, DIM, seed)[0]
    return [numbers[row] for row in np.argsort(-scores, kind="stable")[:k]]


def test_a_new_index_is_empty() -> None:
    index = index_of([])

    assert len(index) == 0
    assert search(index.view()) == []
    assert index.page(0, 10)[0] == []
    assert index.select(ANY) == []


def test_rows_are_found_by_their_cosine_wherever_they_came_from() -> None:
    index = index_of(range(20))
    index.add(encoded(range(20, 50)), vectors_of(range(20, 50)))

    hits = index.view().search(units(1, DIM, 8)[0], k=5, where=ANY)

    assert numbers_of(hits) == by_hand(range(50))
    assert hits.path == "exact"
    np.testing.assert_allclose(
        [hit.score for hit in hits.hits], vectors_of(by_hand(range(50))) @ units(1, DIM, 8)[0], atol=1e-6
    )


def test_a_score_is_a_cosine_even_where_rounding_says_more() -> None:
    row = np.full((1, DIM), 0.25, np.float32) * np.float32(1.0000004)
    index = VectorIndex(Contents((), row.copy(), encoded([1]), (), BEFORE_ALL), None)

    assert [hit.score for hit in index.view().search(row[0], k=1, where=ANY).hits] == [1.0]
    assert [hit.score for hit in index.view().search(-row[0], k=1, where=ANY).hits] == [-1.0]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=60),
    st.sets(st.sampled_from(list(MemoryKind)), max_size=2),
    st.sets(st.sampled_from(list(MemorySource)), max_size=2),
    st.one_of(st.none(), st.integers(0, 25)),
    st.one_of(st.none(), st.integers(26, 40)),
    st.one_of(st.none(), st.sampled_from(["session 0", "session 1", "unknown"])),
)
def test_an_index_agrees_with_a_plain_list(
    steps: list[tuple[bool, int]],
    kinds: set[MemoryKind],
    sources: set[MemorySource],
    since: int | None,
    until: int | None,
    session: str | None,
) -> None:
    where = MemoryFilter(
        kinds=frozenset(kinds),
        sources=frozenset(sources),
        since=None if since is None else NOON + timedelta(minutes=since),
        until=None if until is None else NOON + timedelta(minutes=until),
        session_id=session,
    )
    index = index_of([])
    alive: list[int] = []
    for is_added, number in steps:
        if number in alive:
            alive.remove(number)
        if is_added:
            index.add(encoded([number]), vectors_of([number]))
            alive.append(number)
        else:
            index.discard([record_id(number)])

    passing = [
        number
        for number in alive
        if (not kinds or record(number).kind in kinds)
        and (not sources or record(number).source in sources)
        and (since is None or number >= since)
        and (until is None or number < until)
        and (session is None or record(number).session_id == session)
    ]

    assert search(index.view(), where=where) == by_hand(passing)
    assert index.select(where) == [record_id(number) for number in passing]
    assert index.select(where, NOON + timedelta(minutes=20)) == [record_id(n) for n in passing if n < 20]
    assert len(index) == len(alive)
    for number in range(41):
        asked, there = [record_id(number)], [number] if number in alive else []
        assert index.known(asked) == set(map(record_id, there))
        assert index.records(asked) == encoded(there)
        np.testing.assert_array_equal(index.vectors(asked), vectors_of(there))
    assert index.records([record_id(number) for number in reversed(range(41))]) == encoded(alive)


def test_pages_give_every_live_row_once() -> None:
    index = index_of(range(10))
    index.discard([record_id(number) for number in (0, 4, 9)])

    pages: list[list[int]] = []
    after: int | None = 0
    while after is not None:
        records, vectors, after = index.page(after, 3)
        pages.append([int(decode_record(one).id) for one in records])
        np.testing.assert_array_equal(vectors, vectors_of(pages[-1]))

    assert pages == [[1, 2, 3], [5, 6, 7], [8]]


def test_a_view_does_not_see_what_comes_later_but_loses_what_is_deleted() -> None:
    index = index_of(range(10))
    view = index.view()

    index.add(encoded(range(10, 40)), vectors_of(range(10, 40)))
    index.discard([record_id(by_hand(range(10))[0])])

    assert search(view, k=10) == by_hand(range(10), k=10)[1:]


def test_a_row_that_is_deleted_while_it_is_found_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(range(10))
    best = by_hand(range(10))

    def found_before_it_went(*asked: object) -> object:
        found = nearest_alive(*asked)
        index.discard([record_id(best[0])])
        return found

    monkeypatch.setattr(index_module, "nearest_alive", found_before_it_went)

    assert search(index.view()) == best[1:]


def test_the_text_of_a_deleted_row_leaves_memory_at_once() -> None:
    index = index_of(range(3))
    secret = encode_record(record(3, text="secret"))
    index.add([secret], vectors_of([3]))
    held = index._table._texts
    place = held.add([b"behind it"])

    index.discard([record_id(3)])

    assert all(b"secret" not in block.tobytes() for block in held._blocks)
    assert held.take(place) == [b"behind it"]


def test_a_record_that_cannot_be_decoded_changes_nothing() -> None:
    index = index_of(range(3))

    with pytest.raises(Exception, match=r"MessagePack|truncated|Expected"):
        index.add([*encoded([3]), b"\x81"], vectors_of([3, 4]))

    assert len(index) == 3
    index.add(encoded([4]), vectors_of([4]))
    assert search(index.view()) == by_hand([0, 1, 2, 4])


@pytest.mark.parametrize("hidden", [10, 600])
def test_hidden_rows_make_room_for_the_next_best(hidden: int) -> None:
    index = index_of(range(1000))
    best = by_hand(range(1000), k=hidden + 5)

    index.discard([record_id(number) for number in best[:hidden]])

    assert search(index.view()) == best[hidden:]


def test_a_user_with_one_memory_costs_little() -> None:
    vector = units(1, dim=384)
    index = VectorIndex(Contents((), vector, encoded([1]), (), BEFORE_ALL), None)

    assert index.resident_bytes < 4096


def test_resident_bytes_follow_what_is_added() -> None:
    index = index_of(range(100))
    before = index.resident_bytes
    text = encode_record(record(200, text="x" * 10_000))

    index.add([text], vectors_of([200]))

    assert before + 10_000 + 4 * DIM < index.resident_bytes < before + 14_000


@cache
def graph() -> Graph:
    return Graph.over(Blocks(vectors_of(range(3000))), 3000)


@pytest.fixture
def index() -> VectorIndex:
    """Return an index with 3,000 sealed rows, above a border of 1,000."""
    index = index_of(range(3000), graph_above=1000)
    index._graph = graph()
    return index


def test_the_graph_answers_nearly_as_the_exact_search(index: VectorIndex) -> None:
    found = [set(search(index.view(), k=10, seed=seed)) & set(by_hand(range(3000), 10, seed)) for seed in range(50)]

    assert index.view().search(units(1, DIM, 8)[0], k=5, where=ANY).path == "hnsw"
    assert sum(map(len, found)) / 500 >= 0.99


def test_a_filter_is_answered_exactly(index: VectorIndex) -> None:
    where = MemoryFilter(session_id="session 1")

    hits = index.view().search(units(1, DIM, 8)[0], k=5, where=where)

    assert hits.path == "exact"
    assert numbers_of(hits) == by_hand(range(1, 3000, 3))


def test_rows_behind_the_graph_are_found_too(index: VectorIndex) -> None:
    best = units(1, DIM, seed=8)
    index.add(encoded([9000]), best)

    hits = index.view().search(best[0], k=3, where=ANY)

    assert hits.path == "hnsw"
    assert numbers_of(hits) == [9000, *by_hand(range(3000), k=2)]


def test_deleted_rows_are_passed_over_and_where_they_crowd_the_search_is_exact(index: VectorIndex) -> None:
    best = by_hand(range(3000), k=700)

    index.discard([record_id(number) for number in [*best[:3], *best[100:600]]])
    few_are_near = index.view().search(units(1, DIM, 8)[0], k=5, where=ANY)
    index.discard([record_id(number) for number in best[3:100]])
    many_are_near = index.view().search(units(1, DIM, 8)[0], k=5, where=ANY)

    assert (few_are_near.path, numbers_of(few_are_near)) == ("hnsw", best[3:8])
    assert (many_are_near.path, numbers_of(many_are_near)) == ("exact", best[600:605])


def test_deleted_rows_of_the_tail_are_passed_over(index: VectorIndex) -> None:
    index.add(encoded([9000, 9001]), np.repeat(units(1, DIM, seed=8), 2, axis=0))

    index.discard([record_id(9000)])

    assert search(index.view(), k=2) == [9001, *by_hand(range(3000), k=1)]


def test_a_tail_is_sealed_when_it_is_long(index: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not index.wants_sealing()
    index.add(encoded(range(3000, 5000)), vectors_of(range(3000, 5000)))
    assert not index.wants_sealing()
    index.add(encoded([5000]), vectors_of([5000]))
    assert index.wants_sealing()
    before = index.view()

    swap = index.seal()
    index.add(encoded([5001]), vectors_of([5001]))
    swap()

    assert not index.wants_sealing()
    assert index._graph is not None
    assert index._graph.rows == 5001
    assert search(index.view(), k=3) == by_hand(range(5002), k=3)
    assert search(before, k=3) == by_hand(range(5001), k=3)


def test_a_graph_counts_as_resident(index: VectorIndex) -> None:
    without = index_of(range(3000))

    assert index.resident_bytes > without.resident_bytes + 3000 * (DIM * 4 + 128)


@pytest.mark.parametrize("k", [101, 4000])
def test_more_rows_than_a_graph_gives_well_are_searched_exactly(index: VectorIndex, k: int) -> None:
    assert search(index.view(), k=k) == by_hand(range(3000), k=k)


def test_below_the_border_nothing_is_sealed() -> None:
    assert not index_of(range(2500)).wants_sealing()
    assert index_of(range(2500), graph_above=2000).wants_sealing()
    assert index_of(range(10))._graph_above == 20_000


def test_views_may_be_searched_while_rows_are_added() -> None:
    index = index_of(range(100))
    expected = by_hand(range(100))
    wrong: list[list[int]] = []
    done = threading.Event()

    def read(view: IndexView) -> None:
        while not done.is_set():
            if (found := search(view)) != expected:
                wrong.append(found)

    readers = [threading.Thread(target=read, args=(index.view(),)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(100, 3000, 7):
        some = range(number, number + 7)
        index.add(encoded(some), vectors_of(some))
    done.set()
    for reader in readers:
        reader.join()

    assert wrong == []
    assert index.known([record_id(100)]) == {record_id(100)}
