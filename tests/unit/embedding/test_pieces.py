"""Texts as the model reads them."""

import pytest

from memoryd.embedding.folder import SHIPPED
from memoryd.embedding.pieces import PieceReader

ROOM = 254  # pieces beside the two special ones


@pytest.fixture(scope="module")
def reader() -> PieceReader:
    return PieceReader(SHIPPED / "all-MiniLM-L6-v2" / "tokenizer.json", max_tokens=ROOM + 2)


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        (0, [2]),
        (ROOM, [256]),
        (ROOM + 1, [145, 145]),
        (2 * ROOM - 31, [256, 256]),
        (2 * ROOM - 30, [182, 182, 182]),
        (5_000, [256] * 4),
    ],
)
def test_a_text_is_cut_into_as_few_windows_of_one_length_as_hold_it(
    reader: PieceReader, words: int, lengths: list[int]
) -> None:
    pieces = reader.read("word " * words)

    assert [len(window) for window in pieces.windows] == lengths
    assert (pieces.total, pieces.seen) == (words + 2, min(words, 4 * ROOM - 3 * 31) + 2)


def test_windows_overlap_and_leave_nothing_out(reader: PieceReader) -> None:
    (whole,) = PieceReader(SHIPPED / "all-MiniLM-L6-v2" / "tokenizer.json", max_tokens=9_000).read(TEXT).windows
    first, *others = reader.read(TEXT).windows

    joined = first[1:-1]
    for window in others:
        assert window[1 : 1 + 31] == joined[-31:]
        joined += window[1 + 31 : -1]

    assert joined == whole[1:-1]


TEXT = " ".join(str(number) for number in range(400))
