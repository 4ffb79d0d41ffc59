"""The vectors of the parts of a long text."""

import numpy as np
import pytest

from memoryd.windows import nearest_cosine, packed
from tests.helpers.memories import units


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_cosine_is_that_of_the_nearest_window(count: int) -> None:
    windows = units(count, 384, seed=count)

    for asked in units(20, 384, seed=9):
        assert nearest_cosine(packed(windows), asked) == pytest.approx(float((windows @ asked).max()), abs=2e-3)


def test_a_window_is_found_by_its_own_vector() -> None:
    windows = units(4, 384, seed=1)

    assert [nearest_cosine(packed(windows), window) for window in windows] == pytest.approx([1.0] * 4, abs=1e-3)


def test_it_takes_a_byte_a_number() -> None:
    assert len(packed(units(3, 384, seed=1))) == 3 * 384


def test_a_window_without_a_direction_is_near_to_nothing() -> None:
    assert nearest_cosine(packed(np.zeros((2, 8), np.float32)), np.eye(8, dtype=np.float32)[0]) == 0.0
