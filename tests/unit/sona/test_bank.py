"""The bank: which memories helped which questions."""

from __future__ import annotations

import numpy as np
import pytest

from memoryd.sona.bank import WEIGHT, Bank
from tests.helpers.lessons import DIM, intent, record
from tests.helpers.memories import units

ONE, TWO, THREE = units(3, DIM, seed=4)


def of(bank: Bank, *words: int, vector: np.ndarray = ONE) -> dict[int, float]:
    return bank.values(bank.near(intent(vector, *words)))


def test_what_helped_a_question_is_worth_the_whole_weight_when_it_comes_again() -> None:
    bank = Bank(DIM)
    bank.add(intent(ONE, 1, 2), {7: 1.0, 8: -1.0}, ())

    found = of(bank, 1, 2)

    assert found[7] == pytest.approx(WEIGHT)
    assert -0.1 * WEIGHT > found[8] > -0.2 * WEIGHT


def test_another_question_gets_nothing() -> None:
    bank = Bank(DIM)
    bank.add(intent(ONE, 1, 2), {7: 1.0}, ())

    assert of(bank, 3, 4, vector=TWO) == {}
    assert of(Bank(DIM), 1, 2) == {}


def test_a_question_in_other_words_but_of_the_same_meaning_is_let_through_in_part() -> None:
    bank = Bank(DIM)
    bank.add(intent(ONE, 1, 2, 3), {7: 1.0}, ())

    found = of(bank, 1, 2, 9)

    assert 0 < found[7] < WEIGHT


def test_the_same_question_joins_its_entry_and_what_helped_once_stays() -> None:
    bank = Bank(DIM)
    first = bank.add(intent(ONE, 1, 2), {7: 1.0, 8: -1.0}, ())
    second = bank.add(intent(ONE, 1, 2), {7: -1.0, 8: 1.0, 9: 0.5}, ())

    assert (first, second, len(bank)) == (0, 0, 1)
    found = of(bank, 1, 2)
    assert found[7] == found[8] == pytest.approx(WEIGHT)
    assert found[9] == pytest.approx(0.5 * WEIGHT)


def test_questions_without_words_are_told_apart_by_their_vectors() -> None:
    bank = Bank(DIM)
    bank.add(intent(ONE), {7: 1.0}, ())

    assert bank.add(intent(ONE), {8: 1.0}, ()) == 0
    assert bank.add(intent(TWO), {9: 1.0}, ()) == 1


def test_no_more_than_three_entries_speak_and_together_no_louder_than_one() -> None:
    bank = Bank(DIM)
    for other in range(5):
        bank.add(intent(ONE, 1, 2, 3, 4, 5, 6, 7, 8, 100 + other), {7: 1.0, 20 + other: 1.0}, ())
    assert len(bank) == 5

    near = bank.near(intent(ONE, 1, 2, 3, 4, 5, 6, 7, 8))
    found = bank.values(near)

    assert len(near) == 3
    assert found[7] == pytest.approx(WEIGHT)
    assert len([key for key in found if key >= 20]) == 3


def test_an_entry_can_be_left_out() -> None:
    bank = Bank(DIM)
    place = bank.add(intent(ONE, 1, 2), {7: 1.0}, ())

    assert bank.near(intent(ONE, 1, 2), without=[place]) == []


def test_it_names_each_memory_that_helped_once() -> None:
    bank = Bank(DIM)
    bank.add(intent(ONE, 1, 2), {7: 1.0, 8: -1.0}, [record(7)])
    bank.add(intent(ONE, 1, 2), {7: 1.0, 9: 1.0}, [record(7), record(9)])

    assert bank.helped(bank.near(intent(ONE, 1, 2))) == [record(7), record(9)]
    assert bank.helped([]) == []


def test_it_grows_and_finds_each_of_its_entries() -> None:
    bank = Bank(DIM)
    vectors = units(300, DIM, seed=8)
    for place, vector in enumerate(vectors):
        assert bank.add(intent(vector, 3 * place, 3 * place + 1, 3 * place + 2), {place: 1.0}, ()) == place

    for place in (0, 63, 64, 65, 299):
        asked = intent(vectors[place], 3 * place, 3 * place + 1, 3 * place + 2)
        assert [near.place for near in bank.near(asked)] == [place]
