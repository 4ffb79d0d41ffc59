"""When a user has come to ask about something else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memoryd.protocol.learning import Intent, Lesson
from memoryd.sona.boundary import is_boundary
from memoryd.sona.guard import ENOUGH
from memoryd.sona.learner import Learner
from memoryd.sona.lora import unit
from memoryd.sona.profiles import profile
from tests.helpers.lessons import COUNT, DIM, Held, intent, lesson
from tests.helpers.memories import units

ONE, OTHER = units(2, DIM, seed=21)


def about(subject: np.ndarray, count: int, first: int = 0) -> list[Lesson]:
    """Questions in all directions about a subject; each has its own words, and its own memory that helped."""
    rng = np.random.default_rng(first)
    found = []
    for number in range(first, first + count):
        vector = unit(subject + 0.25 * rng.standard_normal(DIM).astype(np.float32))
        shown = rng.permutation(COUNT)[:4].tolist()
        found.append(lesson(number, intent(vector, 1_000 + number), shown, shown[:1]))
    return found


def taught(given: list[Lesson], name: str = "batch") -> Learner:
    """In this profile nothing else makes a fit due before 200 runs."""
    of, held = Learner(DIM, profile(name)), Held()
    for run in given:
        of.learn(run, held)
    return of


def test_another_subject_is_a_boundary_and_the_same_is_not() -> None:
    assert is_boundary([*about(ONE, 60), *about(OTHER, 30, 60)])
    assert not is_boundary(about(ONE, 90))
    assert not is_boundary([*about(ONE, 60), *about(OTHER, 3, 60), *about(ONE, 27, 70)])


def test_of_too_few_questions_it_cannot_be_said() -> None:
    assert is_boundary([*about(ONE, 30), *about(OTHER, 30, 60)])
    assert not is_boundary([*about(ONE, 29), *about(OTHER, 30, 60)])


@pytest.mark.parametrize("seed", range(20))
def test_questions_that_differ_as_much_among_each_other_as_they_can_have_no_boundary(seed: int) -> None:
    given = [lesson(number, intent(vector), [1]) for number, vector in enumerate(units(230, DIM, seed=seed))]

    assert not is_boundary(given)


def test_the_same_question_over_and_over_is_none_and_the_first_other_ones_are() -> None:
    same = [lesson(number, intent(ONE), [1]) for number in range(60)]

    assert not is_boundary(same)
    assert is_boundary([*same, *(lesson(number, intent(OTHER), [1]) for number in range(30))])


def test_a_change_of_subject_makes_a_cycle_due_once_and_the_same_subject_does_not() -> None:
    held, before, after = Held(), about(ONE, 80), about(OTHER, 110, 80)
    of = taught(before)
    assert (of.is_due, of.is_at_boundary) == (False, False)

    due_at = []
    for number, run in enumerate(after, 1):
        of.learn(run, held)
        if of.is_due:
            assert of.is_at_boundary
            assert of.status().due_in == 0
            of.refit(held)
            assert not of.is_due
            due_at.append(number)

    assert len(due_at) == 1
    assert due_at[0] <= 30
    assert of.status().due_in == 200 - (110 - due_at[0])


def test_until_the_guard_can_judge_it_no_cycle_is_due() -> None:
    held = Held()
    of = taught([*about(ONE, 30), *about(OTHER, 30, 30)])
    assert of.snapshot().is_at_boundary
    assert not of.is_due
    assert of.status().due_in == ENOUGH - 60

    for run in about(OTHER, 4, 60):
        of.learn(run, held)

    assert of.is_at_boundary


def test_a_run_that_is_judged_again_is_no_step_towards_another_task() -> None:
    held, before = Held(), about(ONE, 80)
    of, again = taught(before), about(OTHER, 1, 80)[0]

    for _ in range(60):
        of.learn(again, held)

    assert not of.snapshot().is_at_boundary
    assert of.snapshot().in_task == 81


def test_what_is_forgotten_is_of_no_task() -> None:
    given = [*about(ONE, 80), *about(OTHER, 28, 80)]
    of, gone = taught(given[:104]), {run.id for run in given[80:104]}

    of.forget([], gone)

    assert of.snapshot().in_task == 80
    for run in given[104:]:
        of.learn(run, Held())
    assert not of.snapshot().is_at_boundary


def test_a_sample_of_earlier_runs_is_not_taken_for_those_that_came_before() -> None:
    of, held = Learner(DIM, replace(profile("edge"), replay=100)), Held()  # of which 50 follow each other

    for run in [*about(ONE, 200), *about(OTHER, 60, 200)]:
        of.learn(run, held)
        assert not of.snapshot().is_at_boundary


@pytest.mark.parametrize("name", ["edge", "balanced"])
def test_each_change_of_subject_is_found_once(name: str) -> None:
    of, held = Learner(DIM, profile(name)), Held()
    found = []
    for place, subject in enumerate([ONE, OTHER, *units(3, DIM, seed=31)]):
        for run in about(subject, 150, 150 * place):
            of.learn(run, held)
            if of.is_at_boundary:
                of.refit(held)
                found.append(place)

    assert found == [1, 2, 3, 4]


def test_questions_without_words_count_as_others_do() -> None:
    given = [*about(ONE, 80), *about(OTHER, 30, 80)]
    bare = [
        replace(run, intent=Intent(run.intent.vector, run.intent.terms[:0], run.intent.rarity[:0])) for run in given
    ]

    assert taught(bare).is_at_boundary
