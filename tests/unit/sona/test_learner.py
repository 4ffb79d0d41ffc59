"""A learner as a whole: what finished runs change, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.learning import Intent, Lesson
from memoryd.sona.learner import Learner
from memoryd.sona.profiles import PROFILES, profile
from tests.helpers.lessons import COUNT, DIM, Held, intent, lesson, record
from tests.helpers.memories import units

KEYS = np.arange(COUNT, dtype=np.uint64)


def learner(name: str = "balanced") -> Learner:
    return Learner(DIM, profile(name))


def learned(of: Learner, asked: Intent, held: Held) -> np.ndarray:
    """What is added to the score of each memory."""
    found = of.about(asked)
    assert found is not None
    moved = np.zeros(COUNT, np.float32) if found.bent is None else held.all @ (found.bent - asked.vector)
    return np.sum(list(found.parts(KEYS, moved).values()), axis=0)


def runs(count: int, seed: int = 5) -> list[Lesson]:
    """Questions that differ from what helps them by the same direction."""
    held, drift = Held(), units(1, DIM, seed=99)[0]
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        target = int(rng.integers(COUNT))
        asked = held.all[target] - 0.8 * drift
        asked = (asked / np.linalg.norm(asked)).astype(np.float32)
        shown = list(dict.fromkeys([*rng.permutation(COUNT)[:5].tolist(), target]))
        found.append(lesson(number, intent(asked, 1_000 + number, 2_000 + number), shown, [target]))
    return found


def test_who_learned_nothing_adds_nothing() -> None:
    assert not learned(learner(), runs(1)[0].intent, Held()).any()


def test_what_helped_comes_first_when_the_question_comes_again_at_once() -> None:
    of, held, run = learner(), Held(), runs(1)[0]

    of.learn(run, held)

    added = learned(of, run.intent, held)
    helped = int(run.keys[run.credit > 0][0])
    assert int(np.argmax(added)) == helped
    assert added[helped] > 0.3


def test_a_question_about_something_else_is_left_nearly_as_it_was() -> None:
    of, held = learner(), Held()
    of.learn(runs(1)[0], held)

    added = learned(of, intent(units(1, DIM, seed=77)[0], 5), held)

    assert np.abs(added).max() < 0.02


def test_the_micro_adapter_moves_with_every_run_and_begins_anew_behind_a_refit() -> None:
    of, held = learner(), Held()
    for run in runs(3):
        of.learn(run, held)
    asked = intent(units(1, DIM, seed=77)[0])
    before = of.about(asked)
    assert before is not None
    assert before.bent is not None
    assert not np.allclose(before.bent, asked.vector, atol=1e-6)

    assert of.refit(held)
    after = of.about(asked)

    assert after is not None
    assert after.bent is not None
    assert not np.array_equal(after.bent, before.bent)


def test_adapters_lift_what_helps_questions_that_never_came() -> None:
    of, held, given = learner(), Held(), runs(80)
    for run in given[:60]:
        of.learn(run, held)
    of.refit(held)

    gains = []
    for run in given[60:]:
        found = of.about(Intent(run.intent.vector, np.empty(0, np.uint64), np.empty(0, np.float32)))
        assert found is not None
        assert found.bent is not None
        moved = held.all @ (found.bent - run.intent.vector)
        gains.append(moved[int(run.keys[run.credit > 0][0])] - moved.mean())

    assert np.mean(gains) > 0.01


def test_learning_the_same_in_the_same_order_gives_the_same() -> None:
    held, given = Held(), runs(40)
    first, second = learner(), learner()
    for of in (first, second):
        for run in given:
            of.learn(run, held)
        of.refit(held)

    for run in given[:5]:
        assert np.array_equal(learned(first, run.intent, held), learned(second, run.intent, held))


def test_a_refit_without_new_runs_changes_nothing() -> None:
    of, held = learner(), Held()
    for run in runs(40):
        of.learn(run, held)
    of.refit(held)
    asked = runs(1, seed=6)[0].intent
    before = learned(of, asked, held)

    of.refit(held)

    assert np.array_equal(learned(of, asked, held), before)


def test_a_run_of_which_only_the_outcome_is_known_moves_little_and_no_adapter() -> None:
    of, held, asked = learner(), Held(), runs(1)[0].intent
    of.learn(lesson(1, asked, [1, 2, 3], is_coarse=True, quality=0.9), held)

    found = of.about(asked)

    assert found is not None
    assert found.bent is None
    assert found.helped == [record(1), record(2), record(3)]
    bank = found.parts(KEYS, np.zeros(COUNT, np.float32))["bank"]
    assert 0 < bank.max() <= 0.1
    assert not of.refit(held)


def test_what_is_shown_for_everything_and_seldom_helps_is_held_back() -> None:
    of, held = learner(), Held()
    vectors = units(20, DIM, seed=12)
    for number, vector in enumerate(vectors):
        of.learn(lesson(number, intent(vector, 10 * number), [0, 1 + number], [1 + number]), held)

    found = of.about(intent(units(1, DIM, seed=13)[0], 999))

    assert found is not None
    common = found.parts(KEYS, np.zeros(COUNT, np.float32))["common"]
    assert common[0] == pytest.approx(-0.05 * 20 / 25)
    assert common[0] < common[1] < common[50] == 0


def test_learning_that_is_off_is_off() -> None:
    of, held, run = learner(), Held(), runs(1)[0]
    of.learn(run, held)
    of.is_enabled = False

    assert of.about(run.intent) is None

    of.is_enabled = True
    assert learned(of, run.intent, held).any()


def test_memories_that_are_gone_teach_nothing_and_disturb_nobody() -> None:
    of, held = learner(), Held()
    held.gone = set(range(COUNT))

    for run in runs(5):
        of.learn(run, held)

    assert not of.refit(held)
    found = of.about(runs(1)[0].intent)
    assert found is not None
    assert found.bent is None


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_learns(name: str) -> None:
    of, held, run = learner(name), Held(), runs(1)[0]

    of.learn(run, held)

    assert of.refit(held)
    assert learned(of, run.intent, held).any()


def test_there_are_five_profiles_and_no_other() -> None:
    assert sorted(PROFILES) == ["balanced", "batch", "edge", "realtime", "research"]
    with pytest.raises(InvalidMessage) as refused:
        profile("turbo")
    assert refused.value.field == "profile"
