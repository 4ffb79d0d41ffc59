"""A learner as a whole: what finished runs change, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.learning import UNTOLD, Intent, Lesson
from memoryd.sona.bank import WEIGHT, Bank
from memoryd.sona.contrast import LEARNED
from memoryd.sona.guard import judge
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
    assert learner().about(runs(1)[0].intent) is None


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
    for run in runs(70):
        of.learn(run, held)
    asked = intent(units(1, DIM, seed=77)[0])
    before = of.about(asked)
    assert before is not None
    assert before.bent is not None
    assert not np.allclose(before.bent, asked.vector, atol=1e-6)

    assert of.refit(held).outcome == "accepted"
    after = of.about(asked)

    assert after is not None
    assert after.bent is not None
    assert not np.array_equal(after.bent, before.bent)


def test_adapters_lift_what_helps_questions_that_never_came() -> None:
    of, held, given = learner(), Held(), runs(100)
    for run in given[:80]:
        of.learn(run, held)
    assert of.refit(held).outcome == "accepted"

    gains = []
    for run in given[80:]:
        found = of.about(Intent(run.intent.vector, np.empty(0, np.uint64), np.empty(0, np.float32)))
        assert found is not None
        assert found.bent is not None
        moved = held.all @ (found.bent - run.intent.vector)
        gains.append(moved[int(run.keys[run.credit > 0][0])] - moved.mean())

    assert np.mean(gains) > 0.01


def test_learning_the_same_in_the_same_order_gives_the_same() -> None:
    held, given = Held(), runs(70)
    first, second = learner(), learner()
    for of in (first, second):
        for run in given:
            of.learn(run, held)
        of.refit(held)

    for run in given[:5]:
        assert np.array_equal(learned(first, run.intent, held), learned(second, run.intent, held))


def test_a_refit_without_new_runs_changes_nothing() -> None:
    of, held = learner(), Held()
    for run in runs(70):
        of.learn(run, held)
    of.refit(held)
    asked = runs(1, seed=6)[0].intent
    before = learned(of, asked, held)

    of.refit(held)

    assert np.array_equal(learned(of, asked, held), before)


def coarse(number: int, asked: Intent, told: tuple[float, ...], quality: float) -> Lesson:
    """A run of which only the outcome is known; `told` is the credit of each of 1, 2, 3."""
    run = lesson(number, asked, [1, 2, 3], is_coarse=True, quality=quality)
    run.credit[:] = told
    run.base[:] = 0.5
    return run


def bank_of(of: Learner, asked: Intent) -> np.ndarray:
    found = of.about(asked)
    assert found is not None
    return found.parts(KEYS, np.zeros(COUNT, np.float32))["bank"]


def test_of_a_run_of_which_only_the_outcome_is_known_little_is_believed() -> None:
    of, held, asked = learner(), Held(), runs(1)[0].intent
    of.learn(coarse(1, asked, (UNTOLD, UNTOLD, UNTOLD), 0.9), held)

    bank = bank_of(of, asked)
    found = of.about(asked)

    assert found is not None
    assert found.bent is None
    assert bank[1] == bank[2] == bank[3] == pytest.approx(UNTOLD * WEIGHT, rel=1e-3)


def test_what_such_a_run_said_later_tells_which_of_them_helped() -> None:
    of, held, asked = learner(), Held(), runs(1)[0].intent
    of.learn(coarse(1, asked, (1, UNTOLD, UNTOLD), 0.9), held)

    bank = bank_of(of, asked)

    assert bank[1] == pytest.approx(WEIGHT)
    assert bank[2] == bank[3] == pytest.approx(UNTOLD * WEIGHT, rel=1e-3)


def test_such_a_run_that_failed_speaks_against_all_of_them() -> None:
    of, held, asked = learner(), Held(), runs(1)[0].intent
    of.learn(coarse(1, asked, (0, 0, 0), 0.1), held)

    bank = bank_of(of, asked)

    assert bank[1] == bank[2] == bank[3] == pytest.approx(-WEIGHT / 4)


def test_what_is_shown_for_everything_and_seldom_helps_is_held_back() -> None:
    of, held = learner(), Held()
    vectors = units(20, DIM, seed=12)
    for number, vector in enumerate(vectors):
        of.learn(lesson(number, intent(vector, 10 * number), [0, 1 + number], [1 + number]), held)

    found = of.about(intent(units(1, DIM, seed=13)[0], 999))

    assert found is not None
    common = found.parts(KEYS, np.zeros(COUNT, np.float32))["common"]
    assert common[0] == pytest.approx(-2 * 20 / 40 / 22)
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

    assert of.refit(held).outcome == "too few"
    found = of.about(runs(1)[0].intent)
    assert found is not None
    assert found.bent is None


def shuffled(given: list[Lesson], seed: int) -> list[Lesson]:
    """The same runs, of each of which something else than what helped is said to have helped."""
    rng = np.random.default_rng(seed)
    found = []
    for run in given:
        credit = run.credit.copy()
        credit[: len(run.shown)] = rng.permutation(credit[: len(run.shown)])
        found.append(replace(run, credit=credit))
    return found


def test_the_guard_lets_runs_pass_that_agree() -> None:
    of, held = learner(), Held()
    for run in runs(90):
        of.learn(run, held)

    cycle = of.refit(held)

    assert cycle.outcome == "accepted"
    assert cycle.gain is not None
    assert cycle.gain > 0
    assert (of.generation, of.refused) == (1, 0)


@pytest.mark.parametrize("seed", range(10))
def test_the_guard_refuses_what_means_nothing_and_nothing_is_lost(seed: int) -> None:
    of, held = learner(), Held()
    asked = [replace(run, intent=replace(run.intent, terms=runs(1)[0].intent.terms)) for run in runs(90, seed)]
    for run in shuffled(asked, seed):
        of.learn(run, held)
    before = learned(of, asked[0].intent, held)

    cycle = of.refit(held)

    assert cycle.outcome == "refused"
    assert (of.generation, of.refused) == (0, 1)
    assert np.array_equal(learned(of, asked[0].intent, held), before)


def strength(of: Learner) -> float:
    base = of.snapshot().base
    assert base is not None
    return base.strength


def test_an_adapter_counts_more_where_the_score_says_little_of_what_it_says() -> None:
    of, held = learner(), Held()
    for run in runs(90):  # what helped stands last by score
        of.learn(run, held)

    assert of.refit(held).outcome == "accepted"

    assert strength(of) > LEARNED


def test_an_adapter_counts_no_more_than_while_it_is_fitted_where_questions_have_nothing_in_common() -> None:
    held, asked, rng = Held(), units(90, DIM, seed=8), np.random.default_rng(8)
    shown = [rng.permutation(COUNT)[:6].tolist() for _ in asked]
    given = [lesson(number, intent(asked[number]), shown[number], shown[number][:1]) for number in range(90)]

    verdict = judge(given, held, Bank(DIM, given), profile("balanced"), rng)

    assert verdict is not None
    assert verdict.strength == LEARNED


def test_what_an_adapter_moves_counts_as_much_as_the_guard_found() -> None:
    of, held, asked = learner(), Held(), runs(1)[0].intent
    for run in runs(90):
        of.learn(run, held)
    of.refit(held)
    found = of.about(asked)
    assert found is not None

    moved = np.linspace(-1, 1, COUNT, dtype=np.float32)

    assert np.allclose(found.parts(KEYS, moved)["adapter"], strength(of) * moved)


def test_too_few_runs_are_not_judged() -> None:
    of, held = learner(), Held()
    for run in runs(40):
        of.learn(run, held)

    assert of.refit(held).outcome == "too few"
    assert of.generation == 0


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_learns(name: str) -> None:
    of, held, given = learner(name), Held(), runs(70)

    for run in given:
        of.learn(run, held)

    assert of.refit(held).outcome == "accepted"
    assert learned(of, given[-1].intent, held).any()


def test_there_are_five_profiles_and_no_other() -> None:
    assert sorted(PROFILES) == ["balanced", "batch", "edge", "realtime", "research"]
    with pytest.raises(InvalidMessage) as refused:
        profile("turbo")
    assert refused.value.field == "profile"


def bent(of: Learner, asked: Intent) -> np.ndarray | None:
    found = of.about(asked)
    assert found is not None
    return found.bent


def test_one_can_go_back_to_earlier_generations() -> None:
    of, held, given = learner(), Held(), runs(100)
    seen = []
    for place, run in enumerate(given):
        of.learn(run, held)
        if place in (69, 79, 89, 99):
            assert of.refit(held).outcome == "accepted"
            seen.append(bent(of, given[0].intent))

    assert of.generation == 4
    assert of.rollback() == 3
    assert np.array_equal(bent(of, given[0].intent), seen[2])
    assert of.rollback(2) == 1
    assert np.array_equal(bent(of, given[0].intent), seen[0])
    assert of.rollback() == 0
    assert bent(of, given[0].intent) is None
    with pytest.raises(InvalidMessage) as refused:
        of.rollback()
    assert refused.value.field == "generations"


@pytest.mark.parametrize("generations", [0, -1, 6])
def test_there_is_no_going_back_further_than_is_kept(generations: int) -> None:
    of, held = learner(), Held()
    for run in runs(70):
        of.learn(run, held)
    of.refit(held)

    with pytest.raises(InvalidMessage):
        of.rollback(generations)

    assert of.generation == 1


def test_a_forgotten_memory_leaves_no_trace() -> None:
    of, held, given = learner(), Held(), runs(80)
    for run in given:
        of.learn(run, held)
    of.refit(held)
    target = int(given[0].keys[given[0].credit > 0][0])
    others = learner()

    held.gone = {target}
    assert of.forget([target])
    for run in given:
        left = _left(run, target)
        if left is not None:
            others.learn(left, held)
    of.refit(held)
    others.refit(held)

    state = of.snapshot()
    assert all(target not in lesson.keys.tolist() for lesson in state.lessons)
    assert target not in state.shown
    found = of.about(given[0].intent)
    assert found is not None
    assert record(target) not in found.helped
    # As if it had never been there: the weights too.
    assert np.array_equal(learned(of, given[5].intent, held), learned(others, given[5].intent, held))
    assert of.forget([target])  # the weights that were fitted since
    assert not of.forget([target])


def _left(run: Lesson, target: int) -> Lesson | None:
    keys = [key for key in run.keys.tolist() if key != target]
    helped = [
        key for key, credit in zip(run.keys.tolist(), run.credit.tolist(), strict=True) if credit and key != target
    ]
    found = lesson(run.ended_us, run.intent, keys, helped)
    kept = np.isin(run.keys, np.array(keys, np.uint64))
    return replace(found, base=run.base[kept]) if keys else None


def test_a_forgotten_run_leaves_no_trace() -> None:
    of, held, given = learner(), Held(), runs(80)
    for run in given:
        of.learn(run, held)

    assert of.forget([], {given[3].id})

    assert given[3].id not in [lesson.id for lesson in of.snapshot().lessons]
    found = of.about(given[3].intent)
    assert found is not None
    assert not found.helped


def test_a_run_that_says_nothing_is_known_as_it_was_judged_until_it_teaches_or_is_forgotten() -> None:
    of, (first, second) = learner(), runs(2)
    for run in (first, second):
        of.pass_over(run.id, (0.9, False))

    assert of.says_nothing(first.id, (0.9, False))
    assert not of.says_nothing(first.id, (0.2, False))
    assert not of.says_nothing(first.id, (0.9, True))
    assert of.in_profile(replace(profile("edge"), threshold=0.3)).says_nothing(first.id, (0.9, False))
    assert not of.in_profile(profile("edge")).says_nothing(first.id, (0.9, False))  # it may under another threshold
    of.learn(first, Held())
    assert not of.says_nothing(first.id, (0.9, False))
    assert of.forget((), {second.id})
    assert not of.says_nothing(second.id, (0.9, False))


def test_a_run_that_says_nothing_any_more_is_not_held_to_what_it_said() -> None:
    of, held = learner(), Held()
    failed, other = (replace(each, is_coarse=True, credit=0 * each.credit, quality=0.1) for each in runs(2))
    of.learn(failed, held)
    found = of.about(failed.intent)
    assert found is not None
    assert min(found.values.values()) < 0

    of.pass_over(failed.id, (0.9, False))

    assert of.lesson(failed.id) is None
    assert of.about(failed.intent) is None
    assert of.is_whole
    of.learn(other, held)
    found = of.about(failed.intent)
    assert found is not None
    assert not found.values


def test_of_a_forgotten_run_no_count_stays() -> None:
    of, held, (first, second) = learner(), Held(), runs(2)
    of.learn(first, held)
    once = of.snapshot().shown
    of.learn(second, held)

    of.forget((), {second.id})

    assert of.snapshot().shown == once
    of.forget((), {first.id})
    assert of.is_empty


def test_when_the_last_run_ended_is_known_of_what_is_archived_too() -> None:
    of = Learner(DIM, replace(profile("balanced"), replay=4, archive=100, refit_every=1_000))
    given = [replace(each, ended_us=number) for number, each in enumerate(runs(12))]
    for each in given:
        of.learn(each, Held())
    held = {lesson.id for lesson in of.snapshot().lessons}

    of.forget((), held)

    archived = [lesson.ended_us for lesson in of.snapshot().archive]
    assert of.last_us >= max(archived) > 0
    assert Learner(DIM, of.profile, of.snapshot()).last_us == max(archived)


def test_of_too_many_runs_that_say_nothing_the_last_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memoryd.sona.learner._MOST_SILENT", 2)
    of, three = learner(), runs(3)
    for run in three:
        of.pass_over(run.id, (0.9, False))

    assert [of.says_nothing(run.id, (0.9, False)) for run in three] == [False, True, True]


def test_a_run_that_is_judged_again_counts_once() -> None:
    of, held, run = learner(), Held(), runs(1)[0]
    of.learn(run, held)
    of.learn(replace(run, credit=np.zeros_like(run.credit)), held)

    assert len(of) == 1
    assert max(of.snapshot().shown.values()) == 1
    found = of.about(run.intent)
    assert found is not None
    assert not found.helped


def small(replay: int = 10, archive: int = 10) -> Learner:
    """One that holds few runs."""
    return Learner(DIM, replace(profile("edge"), replay=replay, archive=archive))


def archived(of: Learner) -> list[Lesson]:
    return list(of.snapshot().archive)


def test_what_a_run_taught_is_known_when_it_had_to_go_for_others() -> None:
    of, held, given = small(), Held(), runs(20)
    before = learner()
    for run in given:
        of.learn(run, held)
        before.learn(run, held)

    assert (len(of), of.status().runs, of.status().archived, of.is_whole) == (10, 10, 10, True)
    assert all(len(each.keys) == len(each.shown) for each in archived(of))
    for run in given:
        assert of.lesson(run.id) is not None
        assert np.array_equal(bank_of(of, run.intent), bank_of(before, run.intent))


def test_no_more_runs_are_known_than_there_is_room_for_and_those_that_are_gone_say_nothing() -> None:
    of, held, given = small(), Held(), runs(50)
    for run in given:
        of.learn(run, held)

    assert (len(of), of.archived, of.is_whole) == (10, 10, False)
    gone = [run for run in given if of.lesson(run.id) is None]
    assert len(gone) == 30
    assert {each.id for runs in of.snapshot().questions for each in runs}.isdisjoint(run.id for run in gone)


def test_the_question_that_comes_again_and_again_takes_one_place_and_what_helped_once_is_known() -> None:
    of, held = small(), Held()
    asked, others = runs(1)[0].intent, runs(90)[1:]
    for number in range(30):
        of.learn(lesson(1_000 + number, asked, [1, 2, 3], [1 + number % 3]), held)
    for run in others:
        of.learn(replace(run, credit=np.zeros_like(run.credit)), held)

    assert sorted(each.keys[each.credit > 0].tolist() for each in archived(of) if each.is_positive) == [[1], [2], [3]]
    assert [key for key in range(COUNT) if bank_of(of, asked)[key] > 0] == [1, 2, 3]


def test_a_run_that_is_judged_again_where_it_is_archived_counts_once_and_stays_there() -> None:
    of, held, given = small(), Held(), runs(20)
    for run in given:
        of.learn(run, held)
    which = archived(of)[3].id
    (run,) = [each for each in given if each.id == which]
    seen, shown = of.status().seen, of.snapshot().shown

    of.learn(replace(run, credit=np.zeros_like(run.credit)), held)

    assert (of.status().seen, of.snapshot().shown, len(of), of.archived) == (seen, shown, 10, 10)
    assert bank_of(of, run.intent).max() <= 0
    known = of.lesson(which)
    assert known is not None
    assert (known.is_positive, len(known.keys)) == (False, len(known.shown))


def test_what_is_archived_is_forgotten_without_a_trace() -> None:
    of, held, given = small(), Held(), runs(20)
    for run in given:
        of.learn(run, held)
    one, other = archived(of)[2], archived(of)[5]
    key = int(other.keys[other.credit > 0][0])

    assert of.forget([key], {one.id})

    state = of.snapshot()
    assert all(one.id not in [each.id for each in runs] for runs in state.questions)
    assert of.lesson(one.id) is None
    for each in (*state.archive, *state.lessons):
        assert key not in each.keys.tolist()
        assert record(key) not in each.shown
    assert key not in state.shown
    assert of.is_whole
    assert bank_of(of, other.intent)[key] == 0
    assert len(state.archive) == 9


def test_of_what_is_archived_only_what_is_here_is_kept() -> None:
    of, held, given = small(), Held(), runs(20)
    for run in given:
        of.learn(run, held)
    one, other = archived(of)[2], archived(of)[5]
    key = int(other.keys[other.credit > 0][0])
    held.gone = {key}

    of.keep_only([held], lambda run: run != one.id)

    assert of.lesson(one.id) is None
    assert all(key not in each.keys.tolist() for each in archived(of))


def test_in_a_smaller_profile_what_there_is_no_room_for_is_archived() -> None:
    of, held, given = learner(), Held(), runs(40)
    for run in given:
        of.learn(run, held)

    other = of.in_profile(small(10, 25).profile)

    assert ([each.id for each in other.snapshot().lessons], other.archived) == ([run.id for run in given[-10:]], 25)
    for run in given[5:]:
        assert bank_of(other, run.intent).max() > 0.3
    assert other.in_profile(profile("balanced")).archived == 25


def test_patterns_are_of_what_is_archived_too() -> None:
    of, held, given = small(), Held(), runs(20)
    for run in given:
        of.learn(run, held)

    assert sorted(run for pattern in of.patterns() for run in pattern.runs) == sorted(run.id for run in given)
