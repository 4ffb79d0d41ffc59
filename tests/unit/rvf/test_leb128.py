"""Numbers of seven bits to a byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoryd.rvf.leb128 import pack_numbers, unpack_numbers

EDGES = [edge for bits in range(7, 63, 7) for edge in ((1 << bits) - 1, 1 << bits)]


def test_numbers_are_written_in_as_few_bytes_as_they_need() -> None:
    data, starts = pack_numbers(np.array([0, 127, 128, 300, (1 << 63) - 1], np.int64))

    assert data == b"\x00\x7f\x80\x01\xac\x02" + b"\xff" * 8 + b"\x7f"
    assert starts.tolist() == [0, 1, 2, 4, 6]


@given(st.lists(st.integers(0, (1 << 63) - 1) | st.sampled_from(EDGES)))
def test_any_numbers_are_read_as_they_were_written(numbers: list[int]) -> None:
    data, starts = pack_numbers(np.array(numbers, np.int64))

    read, read_starts = unpack_numbers(data)

    assert read.tolist() == numbers
    assert read_starts.tolist() == starts.tolist()


@pytest.mark.parametrize(
    ("data", "why"), [(b"\x80", "cut short"), (b"\x01\xff", "cut short"), (b"\x80" * 9 + b"\x01", "too long")]
)
def test_what_is_no_number_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        unpack_numbers(data)
