"""What runs taught that are held no longer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from memoryd.protocol.learning import Lesson
from memoryd.sona.archive import Archive, reduced
from tests.helpers.lessons import DIM, intent, lesson
from tests.helpers.memories import units

VECTOR = units(1, DIM, seed=1)[0]


def numbered(number: int, *helped: int, is_coarse: bool = False) -> Lesson:
    return lesson(number, intent(VECTOR), [1, 2, 3], helped, is_coarse=is_coarse)


def kept(of: Archive) -> list[int]:
    return [each.ended_us for each in of]


def test_of_a_lesson_stays_what_was_shown_and_not_what_else_was_there() -> None:
    whole = lesson(1, intent(VECTOR, 5), [1, 2], [2], harmed=[1], besides=[3, 4])

    small = reduced(whole)

    assert (small.keys.tolist(), small.credit.tolist(), small.harmed.tolist()) == ([1, 2], [0, 1], [True, False])
    assert np.array_equal(small.base, whole.base[:2])
    assert all(
        each.base is None for each in (small.keys, small.base, small.credit, small.harmed)
    )  # no part of the whole
    assert replace(small, keys=whole.keys, base=whole.base, credit=whole.credit, harmed=whole.harmed) == whole


def test_when_there_is_no_more_room_what_taught_nothing_good_goes_first_and_then_what_ended_first() -> None:
    archive = Archive(3, [numbered(5, 1), numbered(4), numbered(2, 1)])

    assert archive.put(numbered(3, 1), ()) == [numbered(4).id]
    assert archive.put(numbered(6, 1), ()) == [numbered(2).id]
    assert archive.put(numbered(1, 1), ()) == [numbered(1).id]
    assert kept(archive) == [5, 3, 6]


def test_it_says_of_itself_that_it_goes_where_there_is_no_room_at_all() -> None:
    archive, run = Archive(0), numbered(1, 1)

    assert archive.put(run, ()) == [run.id]
    assert (len(archive), run.id in archive, archive.get(run.id)) == (0, False, None)


def test_a_later_run_of_the_same_question_takes_the_place_of_those_that_say_no_more() -> None:
    earlier = [numbered(1, 1), numbered(2), numbered(3, 2), numbered(4, 1, 3)]
    archive = Archive(10, earlier)

    assert archive.put(numbered(5, 1, 2), earlier) == [numbered(1).id, numbered(2).id, numbered(3).id]
    assert kept(archive) == [4, 5]


def test_it_goes_itself_when_a_run_that_ended_later_is_archived_already_and_says_as_much() -> None:
    later = numbered(5, 1, 2)
    archive = Archive(10, [later])

    assert archive.put(numbered(4, 1), [later]) == [numbered(4).id]
    assert archive.put(numbered(3, 3), [later]) == []
    assert kept(archive) == [5, 3]


def test_a_run_that_is_not_archived_does_not_go_for_another() -> None:
    archive = Archive(10)

    assert archive.put(numbered(5, 1), [numbered(1, 1)]) == []


def test_runs_of_which_only_the_outcome_is_known_are_all_kept_since_they_are_averaged() -> None:
    guessed, named = numbered(1, 1, is_coarse=True), numbered(2, 1)
    archive = Archive(10, [guessed, named])

    assert archive.put(numbered(3, 1, is_coarse=True), [guessed, named]) == []
    assert archive.put(numbered(4, 1, 2), [guessed]) == []
    assert kept(archive) == [1, 2, 3, 4]


def test_a_lesson_that_is_put_again_is_there_once() -> None:
    archive = Archive(2, [numbered(1), numbered(2, 1)])

    assert archive.put(numbered(1, 1), ()) == []
    assert archive.put(numbered(3, 1), ()) == [numbered(1).id]  # it helped now, and ended first
    assert kept(archive) == [2, 3]
