"""Which trajectories are kept."""

from __future__ import annotations

import numpy as np

from memoryd.protocol.learning import Lesson
from memoryd.sona.replay import Replay
from tests.helpers.lessons import DIM, intent, lesson
from tests.helpers.memories import units

VECTOR = units(1, DIM, seed=1)[0]


def numbered(number: int) -> Lesson:
    return lesson(number, intent(VECTOR), [1, 2], [1])


def filled(room: int, count: int, seed: int = 0) -> Replay:
    replay, rng = Replay(room), np.random.default_rng(seed)
    for number in range(count):
        replay.put(numbered(number), rng)
    return replay


def test_all_are_kept_while_there_is_room() -> None:
    replay = filled(10, 10)

    assert [each.ended_us for each in replay] == list(range(10))
    assert replay.is_whole


def test_then_the_last_ones_and_a_sample_of_those_before() -> None:
    replay = filled(20, 1_000)

    kept = [each.ended_us for each in replay]
    assert len(kept) == 20
    assert kept[10:] == list(range(990, 1_000))
    assert kept == sorted(kept)
    assert not replay.is_whole
    assert replay.seen == 1_000


def test_the_sample_is_of_all_that_came_before() -> None:
    kept = [each.ended_us for seed in range(100) for each in list(filled(20, 1_000, seed))[:10]]

    assert 400 < np.mean(kept) < 590  # the middle of what came before the last ten is 495
    assert min(kept) < 50
    assert max(kept) > 940


def test_a_lesson_that_comes_again_takes_its_place() -> None:
    replay = filled(10, 5)

    assert replay.put(lesson(2, intent(VECTOR), [3], [3]), np.random.default_rng(0)) is None

    assert [each.keys.tolist() for each in replay] == [[1, 2], [1, 2], [3], [1, 2], [1, 2]]
    assert replay.seen == 5


def test_who_goes_is_named() -> None:
    replay = filled(4, 4)

    gone = replay.put(numbered(4), np.random.default_rng(0))

    assert gone is not None
    assert gone.ended_us not in [each.ended_us for each in replay]


def test_it_knows_in_which_of_them_something_helped_in_the_order_in_which_they_came() -> None:
    replay, asked = Replay(3), intent(VECTOR)
    good, bad = (lambda n: lesson(n, asked, [1, 2], [1])), (lambda n: lesson(n, asked, [1, 2]))
    rng = np.random.default_rng(1)

    for each in (good(1), bad(2), good(3)):
        replay.put(each, rng)
    assert [each.id for each in replay.positive()] == [good(1).id, good(3).id]

    replay.put(good(2), rng)  # judged anew
    replay.put(bad(1), rng)
    assert [each.id for each in replay.positive()] == [good(2).id, good(3).id]

    for number in range(4, 40):
        replay.put(bad(number), rng)
        assert [each.id for each in replay.positive()] == [each.id for each in replay if each.is_positive]
        assert replay.positives == len(replay.positive())
