"""Nothing that a run teaches is known before it ends, and no run says more than it was shown."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.learning import figures as f
from benchmarks.learning.protocols import Telling, held_out, paraphrase, stream
from benchmarks.learning.pupils import Ours
from benchmarks.learning.shuffled import guard
from memoryd.sona.profiles import profile
from tests.helpers.learning import Oracle, people, trial


def found(pairs: list[f.Pair], what: str) -> f.Pair:
    (pair,) = [pair for pair in pairs if pair.what == what]
    return pair


def test_a_stream_is_scored_before_its_runs_are_told_of() -> None:
    given = trial(people("Bea"), Oracle)

    stream(given)

    first = found(given.figures.pairs, f.OCCURRENCE.format(1))
    assert first.after == first.before < 1
    assert first.questions == 8
    for time in (2, 3, 4):
        assert found(given.figures.pairs, f.OCCURRENCE.format(time)).after == 1
    again = found(given.figures.pairs, f.STREAM)
    assert (again.after, again.questions) == (1, 24)


def test_of_two_halves_only_the_fed_one_is_told_of() -> None:
    pupils: list[Oracle] = []
    given = trial(people("Bea"), lambda user: pupils.append(Oracle(user)) or pupils[-1])

    held_out(given)

    told = {each.text for each in pupils[0].told}
    assert len(told) == 4
    half = found(given.figures.pairs, f.HELD_OUT)
    assert half.after == half.before
    assert half.questions == 4
    assert not any(pair.what == f.AFTER.format(10) for pair in given.figures.pairs)


def test_held_out_is_asked_after_each_amount_of_feedback() -> None:
    pupils: list[Oracle] = []
    given = trial(people("Bea", "Cid", "Dan"), lambda user: pupils.append(Oracle(user)) or pupils[-1])

    held_out(given)

    assert found(given.figures.pairs, f.AFTER.format(10)).questions == 12
    assert len(pupils[0].told) == 12
    assert pupils[0].fits == 2
    assert len({id(each) for each in pupils[0].told}) == 12


def test_paraphrases_are_asked_in_other_words_than_those_fed() -> None:
    given = trial(people("Bea"), Oracle)

    paraphrase(given)

    pair = found(given.figures.pairs, f.PARAPHRASE)
    assert (pair.after, pair.questions) == (1, 24)


@pytest.mark.parametrize("telling", [Telling(), Telling(wrong=1.0), Telling(is_coarse=True), Telling(True, 1.0)])
def test_a_run_tells_only_of_what_was_shown(telling: Telling) -> None:
    user = trial(people("Bea"), Oracle).user
    rng = np.random.default_rng(1)
    for question, each in enumerate(user.questions):
        shown = user.unlearned(each.text)[:5]
        told = telling.of(user, question, each.text, shown, rng)
        has_helped = not each.gold.isdisjoint(shown)

        assert {*told.helped, *told.harmful} <= set(shown)
        if telling.is_coarse:
            assert not told.helped
            assert not told.harmful
            assert told.quality == float(has_helped != bool(telling.wrong))
        elif telling.wrong:
            assert told.helped
            assert each.gold.isdisjoint(told.helped)
        else:
            assert bool(told.helped) == has_helped == bool(told.quality)
            assert set(told.helped) <= each.gold


def test_the_guard_is_shown_runs_as_they_are_and_then_exchanged() -> None:
    pupils: list[Oracle] = []
    given = trial(people("Bea", "Cid", "Dan"), lambda user: pupils.append(Oracle(user)) or pupils[-1])

    guard(given, draws=3)

    assert [verdict.kind for verdict in given.figures.verdicts] == [f.AS_THEY_ARE, *[f.EXCHANGED] * 3]
    true, *others = ([set(told.helped) for told in pupil.told] for pupil in pupils)
    for other in others:
        assert [len(helped) for helped in other] == [len(helped) for helped in true]
        assert other != true


def test_who_lets_runs_go_keeps_the_weights_and_archives_the_others() -> None:
    given = trial(people("Bea"), lambda user: Ours(user, profile("balanced")))
    pupil = given.begin()
    assert isinstance(pupil, Ours)
    for question in given.user.questions:
        shown = given.user.unlearned(question.text)
        pupil.learn(Telling().of(given.user, 0, question.text, [*shown[:9], *question.gold], np.random.default_rng(0)))
    before = pupil.learner.snapshot()

    pupil.lose(2, np.random.default_rng(0))

    after = pupil.learner.snapshot()
    assert len(before.lessons) == 8
    assert (len(after.lessons), len(after.archive)) == (2, 6)
    assert pupil.learner.status().seen == 8
    assert after.micro is before.micro is not None
