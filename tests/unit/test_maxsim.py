"""Late interaction by signs: how near a text is to a query, piece by piece."""

import numpy as np
import pytest

from memoryd.maxsim import MOST, nearness, packed, width
from tests.helpers.memories import units

DIM = 384


def test_a_text_takes_so_many_bytes_for_each_piece_and_no_more_than_for_the_most() -> None:
    assert width(DIM) == 24
    assert [len(packed(units(count, DIM, seed=count))) for count in (0, 1, MOST, 10 * MOST)] == [
        0,
        width(DIM),
        MOST * width(DIM),
        MOST * width(DIM),
    ]


def test_what_is_short_of_dimensions_keeps_all_its_signs() -> None:
    assert width(16) == 8
    assert width(100) == 16
    assert nearness(packed(units(3, 100, seed=1)), [packed(units(3, 100, seed=1))], 100) == pytest.approx([1.0])


def test_a_text_is_as_near_as_the_nearest_of_its_pieces_to_each_of_the_query() -> None:
    asked = units(2, DIM, seed=1)
    others = units(6, DIM, seed=2)
    both, one, none = np.concatenate([others[:2], asked]), np.concatenate([asked[:1], others]), others

    found = nearness(packed(asked), [packed(both), packed(one), packed(none)], DIM)

    assert found[0] == pytest.approx(1)
    assert 0.5 <= found[1] < 0.75
    assert found[2] < 0.3


def test_the_share_of_signs_stands_for_the_cosine() -> None:
    asked = units(1, DIM, seed=3)
    near = asked + 0.5 * units(1, DIM, seed=4)

    found = nearness(packed(asked), [packed(near), packed(-asked)], DIM)

    angle = 1 - 2 * np.arccos(float(near[0] @ asked[0]) / np.linalg.norm(near)) / np.pi
    assert found.tolist() == pytest.approx([angle, -1], abs=0.15)


def test_pieces_of_a_long_text_stand_together_in_runs() -> None:
    pieces = np.repeat(units(MOST, DIM, seed=5), 3, axis=0)

    assert packed(pieces) == packed(units(MOST, DIM, seed=5))
