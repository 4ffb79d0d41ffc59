from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.vectors.blocks import Blocks
from memoryd.vectors.exact import nearest_alive, nearest_of
from tests.helpers.memories import nearest, units

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = units(5000, dim=32, seed=1)
QUERY = units(1, dim=32, seed=2)[0]


def by_hand(rows: NDArray[np.float32], k: int) -> list[int]:
    """Return the `k` best rows; of those that are equal but for rounding the earlier ones."""
    scores = np.round(rows.astype(np.float64) @ QUERY, 6)
    return [int(row) for row in np.argsort(-scores, kind="stable")[:k]]


@pytest.mark.parametrize("k", [1, 10, 99, 100, 5000, 9000])
def test_the_best_rows_come_first(k: int) -> None:
    scores, rows = nearest(QUERY, ROWS, k)

    assert sorted(rows.tolist()[:100]) == sorted(by_hand(ROWS, min(k, 100)))
    assert len(set(rows.tolist())) == min(k, 5000)
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, ROWS[rows] @ QUERY, atol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 10, 100, 150, 999])
def test_of_equal_rows_the_earlier_one_comes_first_also_at_the_border(k: int) -> None:
    repeated = ROWS[np.random.default_rng(3).integers(40, size=1000)]

    assert nearest(QUERY, repeated, k)[1].tolist() == by_hand(repeated, k)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_a_subset_is_searched_as_if_there_were_no_other_rows(share: float) -> None:
    subset = np.flatnonzero(np.random.default_rng(4).random(len(ROWS)) < share)

    scores, rows = nearest_of(QUERY, Blocks(ROWS), subset, 10)

    assert rows.tolist() == [int(subset[row]) for row in by_hand(ROWS[subset], 10)]
    np.testing.assert_array_equal(scores, nearest(QUERY, ROWS[subset], 10)[0])


@pytest.mark.parametrize(("n", "k"), [(0, 10), (10, 0)])
def test_where_there_is_nothing_nothing_is_found(n: int, k: int) -> None:
    scores, rows = nearest(QUERY, ROWS[:n], k)

    assert len(scores) == len(rows) == 0
    assert len(nearest_of(QUERY, Blocks(ROWS[:n]), np.arange(n), k)[1]) == 0


@pytest.mark.parametrize("hidden", [0.0, 0.05, 0.9])
def test_rows_in_several_blocks_are_searched_as_if_they_stood_in_one(hidden: float) -> None:
    blocks = Blocks(ROWS[:700])
    for at in range(700, len(ROWS), 333):
        blocks.add(ROWS[at : at + 333])
    alive = np.random.default_rng(5).random(len(ROWS)) >= hidden
    alive_behind = alive[1500:]

    scores, rows = nearest_alive(QUERY, blocks, 1500, alive_behind, 25)

    expected = np.flatnonzero(alive_behind) + 1500
    assert rows.tolist() == [int(expected[row]) for row in by_hand(ROWS[expected], 25)]
    np.testing.assert_allclose(scores, ROWS[rows] @ QUERY, atol=1e-6)
