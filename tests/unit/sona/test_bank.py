"""The bank: which memories helped which questions."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from memoryd.protocol.learning import Intent, Lesson
from memoryd.sona.bank import WEIGHT, Bank, said
from tests.helpers.lessons import DIM, intent, lesson, record
from tests.helpers.memories import units

ONE, TWO, THREE = units(3, DIM, seed=4)
_numbers = count(1)


def run(asked: Intent, helped: list[int], vain: list[int] | None = None, **fields: object) -> Lesson:
    return lesson(next(_numbers), asked, [*helped, *(vain or [])], helped, **fields)


def of(bank: Bank, *words: int, vector: np.ndarray = ONE) -> dict[int, float]:
    return said(bank.near(intent(vector, *words)))


def weighed(vector: np.ndarray, rarities: dict[int, float]) -> Intent:
    """A question of these words and their rarities."""
    words = sorted(rarities)
    return Intent(vector, np.array(words, np.uint64), np.array([rarities[word] for word in words], np.float32))


def of_intent(bank: Bank, asked: Intent) -> float:
    return said(bank.near(asked)).get(7, 0.0)


def test_what_helped_a_question_is_worth_the_whole_weight_when_it_comes_again() -> None:
    bank = Bank(DIM, [run(intent(ONE, 1, 2), [7], [8])])

    found = of(bank, 1, 2)

    assert found[7] == pytest.approx(WEIGHT)
    assert -0.2 * WEIGHT > found[8] > -0.3 * WEIGHT


def test_another_question_gets_nothing() -> None:
    bank = Bank(DIM, [run(intent(ONE, 1, 2), [7])])

    assert of(bank, 3, 4, vector=TWO) == {}
    assert of(Bank(DIM), 1, 2) == {}


def test_a_question_in_other_words_but_of_the_same_meaning_is_let_through_in_part() -> None:
    found = of(Bank(DIM, [run(intent(ONE, 1, 2, 3), [7])]), 1, 2, 9)

    assert 0 < found[7] < WEIGHT


def test_each_word_that_an_earlier_question_lacks_counts_however_common_it_is() -> None:
    bank = Bank(DIM, [run(weighed(ONE, {1: 4.0, 2: 4.0}), [7])])

    worth = [of_intent(bank, weighed(ONE, {1: 4.0, 2: 4.0, **more})) for more in ({}, {3: 0.1}, {3: 0.1, 4: 0.1})]

    assert worth[0] == pytest.approx(WEIGHT)
    assert worth[0] - 0.3 * WEIGHT > worth[1] > worth[2]


def test_words_that_are_left_out_count_less_than_words_that_are_others() -> None:
    bank = Bank(DIM, [run(intent(ONE, 1, 2, 3, 4), [7])])

    shorter, other = of(bank, 1, 2, 3)[7], of(bank, 1, 2, 3, 9)[7]

    assert WEIGHT > shorter > other + 0.3 * WEIGHT


@pytest.mark.parametrize(
    ("earlier", "now", "is_open"),
    [(True, True, True), (False, False, True), (True, None, True), (None, False, True), (True, False, False)],
)
def test_what_was_asked_of_a_time_says_nothing_to_who_asks_for_something_else(
    *, earlier: bool | None, now: bool | None, is_open: bool
) -> None:
    asked = intent(ONE, 1, 2)
    bank = Bank(DIM, [run(replace(asked, asks_when=earlier), [7])])

    assert bool(bank.near(replace(asked, asks_when=now))) == is_open


def test_the_same_words_that_ask_when_and_where_are_two_questions() -> None:
    asked = [intent(ONE, 1, 2), intent(ONE, 1, 2)]
    bank = Bank(DIM, [run(replace(each, asks_when=when), [7]) for each, when in zip(asked, (True, False), strict=True)])

    assert len(bank) == 2


def test_the_same_question_joins_its_entry_and_what_helped_once_stays() -> None:
    bank = Bank(DIM, [run(intent(ONE, 1, 2), [7], [8]), run(intent(ONE, 1, 2), [8, 9], [7])])

    assert len(bank) == 1
    assert of(bank, 1, 2) == pytest.approx({7: WEIGHT, 8: WEIGHT, 9: WEIGHT})
    (near,) = bank.near(intent(ONE, 1, 2))
    assert near.entry.helped == (record(7), record(8), record(9))


def test_credit_counts_in_part() -> None:
    asked = intent(ONE, 1, 2)
    half = lesson(1, asked, [7, 8], [7])
    half.credit[0] = 0.5

    assert of(Bank(DIM, [half]), 1, 2)[7] == pytest.approx(0.5 * WEIGHT)


def test_questions_without_words_are_told_apart_by_their_vectors() -> None:
    assert len(Bank(DIM, [run(intent(ONE), [7]), run(intent(ONE), [8])])) == 1
    assert len(Bank(DIM, [run(intent(ONE), [7]), run(intent(TWO), [8])])) == 2


def test_no_more_than_three_entries_speak_and_together_no_louder_than_one() -> None:
    words = (1, 2, 3, 4, 5, 6, 7, 8)
    bank = Bank(DIM, [run(intent(ONE, *words, 100 + other), [7, 20 + other]) for other in range(5)])
    assert len(bank) == 5

    near = bank.near(intent(ONE, *words))
    found = said(near)

    assert len(near) == 3
    assert found[7] == pytest.approx(WEIGHT)
    assert len([key for key in found if key >= 20]) == 3


def test_a_bolder_bank_lets_more_speak_and_what_was_in_vain_may_be_left_out() -> None:
    bank, asked = Bank(DIM, [run(intent(ONE, 1, 2, 3), [7], [8])]), intent(ONE, 1, 2, 9)

    usual, bolder = said(bank.near(asked)), said(bank.near(asked, bolder=0.5))

    assert usual.get(7, 0.0) < bolder[7] < WEIGHT
    assert bolder[8] < 0
    assert said(bank.near(asked, bolder=0.5), in_vain=0.0)[8] == 0


def guess(asked: Intent, credit: dict[int, float], *, base: list[float] | None = None) -> Lesson:
    """A run of which only the outcome is known, and the credit of what it was shown."""
    made = lesson(next(_numbers), asked, list(credit), is_coarse=True)
    made.credit[:] = list(credit.values())
    made.base[:] = base or [0.5] * len(credit)
    return made


def test_runs_that_say_only_how_they_ended_are_set_against_each_other() -> None:
    good, bad = guess(intent(ONE, 1, 2), {7: 0.5, 8: 0.5}), guess(intent(ONE, 1, 2), {8: 0, 9: 0})

    found = of(Bank(DIM, [good, bad]), 1, 2)

    assert found[7] == pytest.approx(0.5 * WEIGHT / 2)
    assert found[9] == pytest.approx(-WEIGHT / 4 / 2)
    assert found[8] == pytest.approx(found[7] + found[9])


def test_such_a_run_says_more_of_what_was_found_more_easily_and_a_failed_one_lifts_nothing() -> None:
    good = guess(intent(ONE, 1, 2), {7: 0.5, 8: 0.5}, base=[0.6, 0.5])
    bad = guess(intent(TWO, 3, 4), {7: 0, 8: 0}, base=[0.9, 0.1])

    found, failed = of(Bank(DIM, [good]), 1, 2), of(Bank(DIM, [bad]), 3, 4, vector=TWO)

    assert found[7] - found[8] == pytest.approx(0.05)
    assert failed[7] == 0 > failed[8] >= -WEIGHT / 2


def test_what_is_named_wins_over_what_is_guessed() -> None:
    asked = intent(ONE, 1, 2)
    bank = Bank(DIM, [guess(asked, {7: 1, 8: 0.5}), run(asked, [8], [7])])

    assert of(bank, 1, 2) == of(Bank(DIM, [run(asked, [8], [7])]), 1, 2)


def test_a_guess_reaches_questions_that_are_less_alike_than_what_is_named_does() -> None:
    one, other = np.eye(2, DIM, dtype=np.float32)
    came, asked = intent(one, 1, 2, 3, 4, 5), intent(other, 1, 2, 3, 4, 5, 6, 7)

    assert Bank(DIM, [run(came, [7])]).near(asked) == []
    near = Bank(DIM, [guess(came, {7: 1})]).near(asked)
    assert [each.match for each in near] == [0]
    assert 0 < said(near)[7] < WEIGHT / 2


def test_a_run_can_be_left_out_and_the_others_of_its_question_speak() -> None:
    first, second = run(intent(ONE, 1, 2), [7]), run(intent(ONE, 1, 2), [8])
    bank = Bank(DIM, [first, second])

    (near,) = bank.near(intent(ONE, 1, 2), without={first.id})

    assert near.entry.helped == (record(8),)
    assert bank.near(intent(ONE, 1, 2), without={first.id, second.id}) == []


def test_what_is_dropped_says_nothing_any_more() -> None:
    first, second, third = (run(asked, [n]) for n, asked in enumerate([intent(ONE, 1), intent(ONE, 1), intent(TWO, 2)]))
    bank = Bank(DIM, [first, second, third])

    bank.drop(first.id)
    assert of(bank, 1) == pytest.approx({1: WEIGHT})
    bank.drop(second.id)
    bank.drop(second.id)

    assert of(bank, 1) == {}
    assert of(bank, 2, vector=TWO) == pytest.approx({2: WEIGHT})
    assert len(bank) == 1
    assert bank.questions() == [(third,)]


def test_with_the_run_whose_question_stood_there_its_question_goes_and_the_others_stand_for_themselves() -> None:
    other = (0.99 * ONE + 0.1 * TWO).astype(np.float32)
    other /= np.linalg.norm(other)
    first, second, third = run(intent(ONE, 1), [7]), run(intent(other, 1), [8]), run(intent(ONE, 1), [9])
    bank = Bank(DIM, [first, second])
    assert bank.questions() == [(first, second)]

    bank.drop(first.id)

    assert bank.questions() == [(second,)]
    assert np.array_equal(bank.match(intent(ONE, 1))[-1:], Bank(DIM, [second]).match(intent(ONE, 1)))
    bank.put(third)
    assert bank.questions() == [(second, third)]


def test_a_place_whose_runs_are_gone_is_nobodys() -> None:
    first, second = run(intent(ONE, 1), [7]), run(intent(ONE, 1), [8])
    bank = Bank(DIM, [first])

    bank.drop(first.id)
    bank.put(second)

    assert bank.questions() == [(second,)]
    assert of(bank, 1) == pytest.approx({8: WEIGHT})


def test_a_run_is_replaced_where_it_stands() -> None:
    first, second = run(intent(ONE, 1), [7]), run(intent(ONE, 1), [8])
    bank = Bank(DIM, [first, second])
    assert bank.alike(first.id) == [second]

    bank.replace(replace(first, credit=np.zeros_like(first.credit)))

    assert [each.id for each in bank.questions()[0]] == [first.id, second.id]
    assert of(bank, 1)[7] < 0 < of(bank, 1)[8]


def test_without_empty_places_it_says_the_same_and_goes_on_the_same() -> None:
    vectors = units(40, DIM, seed=8)
    runs = [
        lesson(2_000 + n, intent(vectors[n % 30], n % 30, 50 + n % 7), [n, 60], [n], is_coarse=n % 5 == 0)
        for n in range(40)
    ]
    bank = Bank(DIM, runs[:38])
    for each in runs[::3]:
        bank.drop(each.id)

    small = bank.compact()
    made = Bank(DIM, questions=bank.questions())

    for each in runs[38:]:
        for which in (bank, small, made):
            which.put(each)
    small.drop(runs[1].id)
    made.drop(runs[1].id)
    bank.drop(runs[1].id)
    assert small.questions() == made.questions() == bank.questions()
    for each in runs:
        found = said(bank.near(each.intent))
        assert said(small.near(each.intent)) == said(made.near(each.intent)) == pytest.approx(found, rel=1e-5)
    assert Bank(DIM).compact().near(runs[0].intent) == []


def test_a_run_that_is_put_again_takes_its_own_place() -> None:
    asked = intent(ONE, 1, 2)
    bank = Bank(DIM, [lesson(1, asked, [7, 8], [7])])

    bank.put(lesson(1, asked, [7, 8], [8]))

    assert of(bank, 1, 2)[7] < 0 < of(bank, 1, 2)[8]
    assert len(bank) == 1


def test_it_grows_and_finds_each_of_its_entries_and_knows_when_it_is_thin() -> None:
    vectors = units(300, DIM, seed=8)
    asked = [intent(vector, 3 * n, 3 * n + 1, 3 * n + 2) for n, vector in enumerate(vectors)]
    runs = [lesson(1_000 + n, each, [n], [n]) for n, each in enumerate(asked)]
    bank = Bank(DIM, runs)

    for place in (0, 63, 64, 65, 299):
        (near,) = bank.near(asked[place])
        assert near.entry.lessons == (runs[place],)

    assert not bank.is_thin
    for each in runs[:290]:
        bank.drop(each.id)
    assert bank.is_thin
    again = bank.compact()
    assert not again.is_thin
    assert len(again) == len(bank) == 10
    assert [near.entry for near in again.near(asked[299])] == [near.entry for near in bank.near(asked[299])]
