"""What is asked again and again."""

from __future__ import annotations

import numpy as np

from memoryd.protocol.learning import Lesson
from memoryd.sona.lora import unit
from memoryd.sona.patterns import patterns
from tests.helpers.lessons import DIM, intent, lesson, record
from tests.helpers.memories import units

TOPICS = units(5, DIM, seed=3)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def asked(times: int = 8, apart: float = 0.02) -> list[Lesson]:
    """Five topics, each asked so many times, in turn; its memory helped."""
    noise = np.random.default_rng(2)
    return [
        lesson(
            number,
            intent(unit(TOPICS[number % 5] + apart * noise.standard_normal(DIM).astype(np.float32))),
            [number % 5, 9],
            [number % 5],
            quality=1.0 if number % 5 else 0.2,
        )
        for number in range(5 * times)
    ]


def test_questions_about_one_thing_are_one_pattern() -> None:
    found = patterns(asked(), 100, rng())

    assert len(found) == 5
    assert all(len(pattern.runs) == 8 for pattern in found)
    for pattern in found:
        topic = int(np.argmax(TOPICS @ pattern.centre))
        assert dict(pattern.values) == {record(topic): (8, 1.0)}
        assert {int(run) % 5 for run in pattern.runs} == {topic}
        assert pattern.example in pattern.runs
        assert pattern.quality == (1.0 if topic else 0.2) or abs(pattern.quality - 0.2) < 1e-6
        assert pattern.last_us == max(map(int, pattern.runs))


def test_made_again_of_the_same_they_are_the_same() -> None:
    assert [p.runs for p in patterns(asked(), 100, rng())] == [p.runs for p in patterns(asked(), 100, rng())]


def test_there_are_no_more_than_wanted_and_the_largest_come_first() -> None:
    given = [*asked(), *(each for each in asked(16) if int(each.id) >= 40 and int(each.id) % 5 == 3)]
    assert len({each.id for each in given}) == len(given)

    found = patterns(given, 3, rng())

    assert len(found) <= 3
    sizes = [len(pattern.runs) for pattern in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == len(given)


def test_the_same_question_over_and_over_is_one_pattern() -> None:
    given = [lesson(number, intent(TOPICS[0]), [1], [1]) for number in range(20)]

    (pattern,) = patterns(given, 100, rng())

    assert len(pattern.runs) == 20


def test_of_nothing_there_is_nothing_and_of_one_there_is_one() -> None:
    assert patterns([], 100, rng()) == []
    assert len(patterns(asked()[:1], 100, rng())) == 1


def test_a_run_of_which_only_the_outcome_is_known_names_nothing_that_helped() -> None:
    run = lesson(1, intent(TOPICS[0]), [1, 2], [1, 2], is_coarse=True)

    (pattern,) = patterns([run], 10, rng())

    assert pattern.values == {}


def test_a_memory_is_worth_what_it_did_in_the_mean_of_the_runs_that_it_was_shown_to() -> None:
    asks = intent(TOPICS[0])
    runs = [
        lesson(1, asks, [1, 2, 3, 4], [1, 2], harmed=[3]),
        lesson(2, asks, [1, 2, 3], [1]),
        lesson(3, asks, [2], harmed=[2]),
        lesson(4, asks, [1, 3], is_coarse=True),
    ]

    (pattern,) = patterns(runs, 10, rng())

    assert list(pattern.values.items()) == [(record(1), (2, 1.0)), (record(2), (3, 0.0)), (record(3), (2, -0.5))]
