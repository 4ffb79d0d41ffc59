"""Codes by themselves and in the index: what they find, what they cost, and that a filter does not spoil them."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.errors import ModelUnavailable
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.interfaces import Contents
from memoryd.protocol.records import ANY, MemoryFilter
from memoryd.rvf.records import decode_record, encode_record
from memoryd.vectors import codes as codes_module
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.codes import Codebook, Codes
from memoryd.vectors.index import EXACT_ROWS, VectorIndex
from tests.helpers.memories import NOON, clustered, nearest, record, record_id, units

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.protocol.interfaces import Vectors

DIM = 384
SEALED = 6000


@cache
def rows() -> Vectors:
    return clustered(8000, DIM, each=100)


@cache
def codebook() -> Codebook:
    return Codebook.train(rows())


def index_of(n: int) -> VectorIndex:
    records = [encode_record(record(number)) for number in range(n)]
    return VectorIndex(Contents((), rows()[:n], records, (), BEFORE_ALL), codebook())


def found(index: VectorIndex, query: Vectors, k: int = 10, where: MemoryFilter = ANY) -> tuple[str, list[int]]:
    hits = index.view().search(query, k=k, where=where)
    return hits.path, [int(decode_record(hit.record).id) for hit in hits.hits]


def by_hand(query: Vectors, among: list[int], k: int = 10) -> list[int]:
    return [among[row] for row in nearest(query, rows()[among], k)[1]]


@pytest.fixture
def index() -> VectorIndex:
    index = index_of(SEALED)
    index.seal()()
    return index


# --- codes ---


def test_a_scan_finds_the_nearest_among_its_best() -> None:
    codes = Codes.over(codebook(), Blocks(rows()), 8000)

    for query in rows()[:50] + units(50, DIM, seed=9) * np.float32(0.1):
        assert set(nearest(query, rows(), 5)[1]) <= set(codes.nearest(query, 400)[1])


def test_extended_codes_are_those_of_all_rows_and_leave_the_first_as_they_were() -> None:
    blocks = Blocks(rows())
    whole, part = Codes.over(codebook(), blocks, 8000), Codes.over(codebook(), blocks, 1001)

    extended = part.extended(blocks, 8000)

    assert (part.rows, extended.rows) == (1001, 8000)
    for query in rows()[:20]:
        assert extended.nearest(query, 100)[1].tolist() == whole.nearest(query, 100)[1].tolist()
        assert part.nearest(query, 2000)[1].max() <= 1000


def test_more_is_wanted_than_there_is() -> None:
    codes = Codes.over(codebook(), Blocks(rows()), 40)

    assert sorted(codes.nearest(rows()[0], 1000)[1]) == list(range(40))


def test_codes_take_half_a_byte_for_three_dimensions_and_the_number_of_the_row() -> None:
    codes = Codes.over(codebook(), Blocks(rows()), 8000)

    assert codes.bytes_to_read == 8000 * DIM / 3 / 2
    assert codes.resident_bytes == codes.bytes_to_read + 8000 * 8


@pytest.mark.parametrize("share", [1.0, 0.99, 0.5, 0.1, 0.003, 0.0])
def test_of_the_rows_that_pass_the_best_by_their_codes_are_found(share: float) -> None:
    codes = Codes.over(codebook(), Blocks(rows()), 8000)
    passes = np.random.default_rng(5).random(8000) < share

    for query in rows()[:20]:
        scores, ranked = codes.nearest(query, 8000)
        ranked_scores, found = scores[passes[ranked]], codes.nearest_of(query, passes, 400)
        assert found[0].tobytes() == ranked_scores[:400].tobytes()
        assert passes[found[1]].all()
        assert len(set(found[1].tolist())) == len(found[1])


@pytest.mark.parametrize("share", [1.0, 0.5, 0.003, 0.0])
def test_all_rows_that_pass_and_have_more_than_a_score_are_found(share: float) -> None:
    codes = Codes.over(codebook(), Blocks(rows()), 8000)
    passes = np.random.default_rng(5).random(8000) < share

    for query in rows()[:20]:
        scores, ranked = codes.nearest_of(query, passes, 8000)
        least = float(scores[len(scores) // 3]) if len(scores) else 0.0
        found = codes.above(query, passes, least)
        assert {*ranked[scores > least].tolist()} <= {*found[1].tolist()} <= {*ranked[scores >= least].tolist()}
        known = dict(zip(ranked.tolist(), scores.tolist(), strict=True))
        assert found[0].tolist() == [known[row] for row in found[1].tolist()]


# --- the codebook ---


def test_an_index_is_lent_to_one_at_a_time_and_made_only_once() -> None:
    book = codebook()
    with book.lent() as one, book.lent() as other:
        assert one is not other
    with book.lent() as again:
        assert again is one


def test_a_codebook_comes_back_from_its_file(tmp_path: Path) -> None:
    codebook().save(tmp_path / "book.npy")

    np.testing.assert_array_equal(np.load(tmp_path / "book.npy"), codebook().centroids)


@pytest.mark.parametrize(
    "centroids", [np.zeros((4, 16, 2)), np.zeros((4, 15, 3)), np.zeros((4, 16)), np.full((4, 16, 3), np.nan)]
)
def test_what_is_no_codebook_is_refused(centroids: Vectors) -> None:
    with pytest.raises(ValueError, match="not a codebook"):
        Codebook(centroids)


def test_dimensions_that_cannot_be_cut_into_threes_are_refused() -> None:
    with pytest.raises(ValueError, match="threes"):
        Codebook.train(units(100, 16, seed=1))


def test_the_shipped_model_has_a_codebook_and_another_has_none() -> None:
    model = OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1).model

    shipped = Codebook.shipped(model.sha256)

    assert shipped is not None
    assert shipped.dim == model.dim
    assert Codebook.shipped("0" * 64) is None


@pytest.mark.parametrize("content", [b"", b"not numpy's", b"\x93NUMPY\x01\x00"])
def test_a_damaged_codebook_is_named(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "_SHIPPED", tmp_path)
    (tmp_path / "abc.npy").write_bytes(content)

    with pytest.raises(ModelUnavailable, match=r"abc\.npy"):
        Codebook.shipped("abc")


# --- in the index ---


def test_few_rows_are_searched_exactly_and_not_sealed() -> None:
    index = index_of(EXACT_ROWS)

    assert not index.wants_sealing()
    assert found(index, rows()[7])[0] == "exact"


def test_many_rows_are_searched_by_codes_with_the_answers_of_the_exact_search(index: VectorIndex) -> None:
    for query in rows()[SEALED : SEALED + 100]:
        assert found(index, query) == ("codes", by_hand(query, list(range(SEALED))))


def test_answers_have_the_same_scores_to_the_last_bit_with_and_without_codes(index: VectorIndex) -> None:
    without = index_of(SEALED)

    for query in rows()[SEALED : SEALED + 100]:
        assert index.view().search(query, k=10, where=ANY).hits == without.view().search(query, k=10, where=ANY).hits


def test_of_many_equal_rows_the_earliest_are_found(index: VectorIndex) -> None:
    """They have one code, so the codes alone could give any of them; where they tell too little, every row is looked at."""
    repeated = np.repeat(rows()[:20], 300, axis=0)[np.random.default_rng(6).permutation(6000)]
    records = [encode_record(record(number)) for number in range(6000)]
    index = VectorIndex(Contents((), repeated, records, (), BEFORE_ALL), codebook())
    index.seal()()

    for query in rows()[:40]:
        hits = index.view().search(query, k=10, where=ANY)
        expected = nearest(query, repeated, 10)[1].tolist()
        assert [int(decode_record(hit.record).id) for hit in hits.hits] == expected


def test_rows_behind_the_sealed_ones_are_found_too(index: VectorIndex) -> None:
    index.add([encode_record(record(number)) for number in range(SEALED, SEALED + 500)], rows()[SEALED : SEALED + 500])

    for query in rows()[SEALED : SEALED + 50]:
        assert found(index, query) == ("codes", by_hand(query, list(range(SEALED + 500))))


def test_what_passes_may_all_be_newer_than_the_codes() -> None:
    index, behind = index_of(5_900), range(5_900, 8_000)
    index.seal()()
    index.add([encode_record(record(number)) for number in behind], rows()[behind.start :])
    where = MemoryFilter(since=NOON + timedelta(minutes=behind.start))

    for query in rows()[SEALED : SEALED + 20]:
        assert found(index, query, where=where) == ("exact", by_hand(query, list(behind)))


def test_a_tail_is_sealed_when_it_is_long(index: VectorIndex) -> None:
    behind = range(SEALED, 8000)
    index.add([encode_record(record(number)) for number in behind], rows()[SEALED:])
    assert not index.wants_sealing()
    index.add([encode_record(record(8000))], units(1, DIM, seed=5))
    assert index.wants_sealing()

    index.seal()()

    assert not index.wants_sealing()
    assert found(index, units(1, DIM, seed=5)[0], k=1) == ("codes", [8000])


@pytest.mark.parametrize(("first", "path"), [(3000, "codes"), (3999, "codes"), (4000, "exact"), (5999, "exact")])
def test_a_filter_is_answered_from_the_codes_or_from_the_few_rows_that_pass(
    index: VectorIndex, first: int, path: str
) -> None:
    where = MemoryFilter(since=NOON + timedelta(minutes=first))

    for query in rows()[SEALED : SEALED + 50]:
        assert found(index, query, where=where) == (path, by_hand(query, list(range(first, SEALED))))


def test_a_filter_whose_rows_lie_far_from_the_query_still_finds_the_best_of_them(index: VectorIndex) -> None:
    """The candidates that pass are the last ones: the list has to grow until it holds them, or all of them are looked at."""
    query = rows()[0]
    near = by_hand(query, list(range(SEALED)), k=3500)
    index.discard([record_id(number) for number in near])
    left = sorted(set(range(SEALED)) - set(near))

    assert found(index, query)[1] == by_hand(query, left)


def test_deleted_rows_are_passed_over(index: VectorIndex) -> None:
    best = by_hand(rows()[3], list(range(SEALED)), k=20)

    index.discard([record_id(number) for number in best[:10]])

    assert found(index, rows()[3]) == ("codes", best[10:])


def test_many_hits_are_found_as_well_as_few(index: VectorIndex) -> None:
    query = rows()[SEALED]

    _, numbers = found(index, query, k=500)

    assert len(set(numbers) & set(by_hand(query, list(range(SEALED)), k=500))) / 500 >= 0.99
