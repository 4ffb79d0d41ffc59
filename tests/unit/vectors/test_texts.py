"""Encoded records in blocks."""

from __future__ import annotations

import numpy as np

from memoryd.vectors.texts import Texts

MIB = 1 << 20


def test_each_place_gives_its_text_back_in_any_order() -> None:
    texts = Texts()
    first, second = texts.add([b"one", b"", b"three"]), texts.add([b"four"])
    places = np.concatenate([first, second])

    assert texts.take(places[[3, 1, 0, 2]]) == [b"four", b"", b"one", b"three"]
    assert texts.take(places[:0]) == []


def test_a_text_that_does_not_fit_behind_the_last_one_stands_in_a_new_block() -> None:
    texts = Texts()
    given = [bytes([number]) * (MIB // 3) for number in range(4)] + [b"x" * (2 * MIB), b"behind it"]

    places = texts.add(given)

    assert texts.take(places) == given
    assert places[:, 0].tolist() == [0, 0, 0, 1, 2, 3]
    assert texts.resident_bytes == sum(map(len, given))


def test_what_was_taken_stays_when_its_place_is_overwritten() -> None:
    texts = Texts()
    places = texts.add([b"before", b"secret", b"behind"])
    taken = texts.take(places)

    texts.erase(places[1])

    assert taken == [b"before", b"secret", b"behind"]
    assert texts.take(places) == [b"before", bytes(6), b"behind"]
