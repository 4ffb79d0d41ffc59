"""A graph put together again from its links: it answers as the first one did, and grows as it would have."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.protocol.interfaces import Adjacency
from memoryd.rvf.adjacency import pack_adjacency, unpack_adjacency
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.graph import Graph
from tests.helpers.memories import clustered, units

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Vectors

DIM = 16
K = 10


@cache
def rows() -> Vectors:
    return clustered(4000, DIM, each=50)


def blocks(n: int) -> Blocks:
    """Return the first `n` rows, in more than one block."""
    found = Blocks(rows()[: n // 2])
    found.add(rows()[n // 2 : n])
    return found


@cache
def graph(n: int) -> Graph:
    return Graph.over(blocks(n), n)


def assert_same(links: Adjacency, others: Adjacency) -> None:
    for name in ("layers", "counts", "neighbours"):
        np.testing.assert_array_equal(getattr(links, name), getattr(others, name))
    for name in ("m", "m0", "ef_construction", "entry"):
        assert getattr(links, name) == getattr(others, name)


def recall(found: Graph, n: int) -> float:
    """Return which share of the ten best of `n` rows is found, over 100 questions."""
    hits = 0
    for query in units(100, DIM, seed=5):
        best = np.argsort(-(rows()[:n] @ query), kind="stable")[:K]
        hits += len(set(best.tolist()) & set(found.nearest(query, K)[1].tolist()))
    return hits / (100 * min(n, K))


def test_the_links_of_a_graph_are_lists_of_rows_layer_by_layer() -> None:
    links = graph(1000).adjacency()
    lists = np.split(links.neighbours, np.cumsum(links.counts)[:-1])
    levels = np.concatenate([np.arange(layers) for layers in links.layers])

    assert len(links.layers) == 1000
    assert links.layers.max() > 1
    assert links.entry is not None
    assert links.layers[links.entry] == links.layers.max()
    assert all((np.diff(listed) > 0).all() for listed in lists)
    assert links.counts[levels == 0].min() > 0
    assert links.counts[levels == 0].max() <= links.m0 == 32
    assert links.counts[levels > 0].max() <= links.m == 16


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 1000])
def test_a_graph_goes_through_its_links_and_a_file_unchanged(n: int) -> None:
    links = graph(n).adjacency()
    ids = np.arange(n, dtype=np.uint64) * 3 + 7

    read_ids, read = unpack_adjacency(pack_adjacency(ids, links))
    restored = Graph.restored(read, blocks(n))

    assert read_ids.tolist() == ids.tolist()
    assert restored.rows == n
    assert restored.resident_bytes == graph(n).resident_bytes
    assert_same(restored.adjacency(), links)


@pytest.mark.parametrize("n", [1, 65, 3000])
def test_a_graph_that_was_restored_gives_the_same_answers(n: int) -> None:
    restored = Graph.restored(graph(n).adjacency(), blocks(n))

    for query in units(200, DIM, seed=4):
        scores, found = graph(n).nearest(query, K)
        scores_again, found_again = restored.nearest(query, K)
        np.testing.assert_array_equal(found_again, found)
        np.testing.assert_array_equal(scores_again, scores)
    assert recall(restored, n) == recall(graph(n), n) >= 0.99


def test_a_graph_may_be_over_the_first_rows_alone() -> None:
    restored = Graph.restored(graph(1000).adjacency(), blocks(4000))

    assert restored.rows == 1000
    assert recall(restored, 1000) >= 0.99


@pytest.mark.parametrize("n", [1, 65, 1000])
def test_a_graph_may_be_over_rows_with_others_between_them(n: int) -> None:
    places = np.sort(np.random.default_rng(7).choice(2 * n, n, replace=False))
    mixed = units(2 * n, DIM, seed=8)
    mixed[places] = rows()[:n]

    restored = Graph.restored(graph(n).adjacency(), Blocks(mixed), places)

    for query in units(50, DIM, seed=4):
        scores, found = graph(n).nearest(query, K)
        scores_again, found_again = restored.nearest(query, K)
        np.testing.assert_array_equal(found_again, places[found])
        np.testing.assert_array_equal(scores_again, scores)


def test_a_graph_with_others_between_its_rows_grows_as_well() -> None:
    places = np.arange(1000) + np.arange(1000) // 100  # after each hundred rows one that only fills up
    vectors = np.zeros((places[-1] + 3001, DIM), np.float32)
    vectors[places], vectors[places[-1] + 1 :] = rows()[:1000], rows()[1000:]

    longer = Graph.continued(graph(1000).adjacency(), Blocks(vectors), places, len(vectors))

    assert longer.rows == len(vectors)
    number = np.full(len(vectors), -1)
    number[places], number[places[-1] + 1 :] = np.arange(1000), np.arange(1000, 4000)
    hits = 0
    for query in units(100, DIM, seed=5):
        best = np.argsort(-(rows() @ query), kind="stable")[:K]
        hits += len(set(best.tolist()) & set(number[longer.nearest(query, K)[1]].tolist()))
    assert hits / (100 * K) >= 0.99


def test_a_graph_over_more_rows_than_it_has_places_is_refused() -> None:
    with pytest.raises(ValueError, match="more rows than there are"):
        Graph.restored(SOUND, blocks(10), array(0, 5))


@pytest.mark.parametrize("n", [0, 1, 3000])
def test_a_graph_that_was_restored_grows_and_stays_as_it_is_itself(n: int) -> None:
    restored = Graph.restored(graph(n).adjacency(), blocks(n))

    longer = restored.extended(blocks(n + 1000), n + 1000)

    assert longer.rows == n + 1000
    assert recall(longer, n + 1000) >= 0.99
    assert_same(restored.adjacency(), graph(n).adjacency())
    links = longer.adjacency()
    assert_same(Graph.restored(links, blocks(n + 1000)).adjacency(), links)


def array(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


SOUND = Adjacency(
    layers=array(2, 1, 2),
    counts=array(2, 1, 2, 2, 1),
    neighbours=array(1, 2, 2, 0, 2, 0, 1, 0),
    m=16,
    m0=32,
    ef_construction=200,
    entry=2,
)


def test_lists_of_other_bounds_are_taken_when_they_fit() -> None:
    restored = Graph.restored(replace(SOUND, m=2, m0=4, ef_construction=1 << 31), blocks(3))

    assert_same(restored.adjacency(), SOUND)
    assert sorted(restored.nearest(rows()[0], 3)[1].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("links", "why"),
    [
        (replace(SOUND, layers=array(2, 1, 2, 1)), "more rows"),
        (replace(SOUND, layers=array(2, 0, 3)), "without a layer"),
        (replace(SOUND, layers=array(2, 1, 9)), "too many"),
        (replace(SOUND, layers=array(2, 2, 2)), "belong"),
        (replace(SOUND, counts=array(2, 1, 2, 2, 2)), "belong"),
        (replace(SOUND, counts=array(2, -1, 4, 2, 1)), "belong"),
        (replace(SOUND, counts=array(2, 17, 2, 2, 1), neighbours=np.zeros(24, np.int64)), "longer"),
        (replace(SOUND, neighbours=array(1, 3, 2, 0, 2, 0, 1, 0)), "does not hold"),
        (replace(SOUND, neighbours=array(-1, 2, 2, 0, 2, 0, 1, 0)), "does not hold"),
        (replace(SOUND, neighbours=array(1, 2, 1, 0, 2, 0, 1, 0)), "not stand"),
        (replace(SOUND, entry=None), "without an entry"),
        (replace(SOUND, entry=3), "entry"),
        (replace(SOUND, entry=1), "top layer"),
    ],
)
def test_links_that_would_lead_out_of_the_graph_are_refused(links: Adjacency, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Graph.restored(links, blocks(3))
