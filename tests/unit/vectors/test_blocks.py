from __future__ import annotations

import numpy as np
import pytest

from memoryd.vectors.blocks import Blocks
from tests.helpers.memories import units

ROWS = units(10_000, dim=384, seed=1)


def grown(first: int, step: int) -> Blocks:
    blocks = Blocks(ROWS[:first])
    for at in range(first, len(ROWS), step):
        blocks.add(ROWS[at : at + step])
    return blocks


@pytest.mark.parametrize(("first", "step"), [(0, 10_000), (1, 1), (2048, 2048), (37, 999), (9_999, 1)])
def test_rows_come_back_as_they_were_added(first: int, step: int) -> None:
    blocks = grown(first, step)
    chosen = np.flatnonzero(np.random.default_rng(2).random(len(ROWS)) < 0.3)

    assert blocks.rows == len(ROWS)
    np.testing.assert_array_equal(blocks.take(chosen), ROWS[chosen])
    np.testing.assert_array_equal(
        np.concatenate([blocks.take(chosen[at : at + 1]) for at in range(100)]), ROWS[chosen[:100]]
    )
    np.testing.assert_array_equal(np.concatenate([part for _, part in blocks.parts(0, len(ROWS))]), ROWS)


@pytest.mark.parametrize(("first", "behind"), [(0, 0), (0, 1), (5_000, 9_000), (2_147, 2_149), (9_999, 10_000)])
def test_a_range_comes_in_pieces_that_say_where_they_begin(first: int, behind: int) -> None:
    pieces = list(grown(100, 777).parts(first, behind))

    assert sum(len(part) for _, part in pieces) == behind - first
    for start, part in pieces:
        np.testing.assert_array_equal(part, ROWS[start : start + len(part)])


def test_what_a_reader_looks_at_stays_where_it_is() -> None:
    blocks = grown(10, 50)
    seen = [part for _, part in blocks.parts(0, blocks.rows)]

    blocks.add(ROWS)

    np.testing.assert_array_equal(np.concatenate(seen), ROWS)
    assert np.shares_memory(seen[1], next(part for start, part in blocks.parts(10, 20)))


def test_room_that_is_not_used_yet_is_not_counted() -> None:
    assert grown(0, 10_000).resident_bytes == ROWS.nbytes
