"""What each rule credits of a run that says only how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.credit.rules import ALIKE, BY_WORDS, FEW, FIRST, RULES, Crediting
from benchmarks.learning.bases import Plain
from benchmarks.learning.pupils import Ours, Told
from benchmarks.learning.users import User
from memoryd.protocol.learning import UNTOLD
from memoryd.rvf.records import decode_record
from memoryd.sona.profiles import profile
from tests.helpers.learning import people

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.learning import Lesson

OUTCOME_ALONE = [rule for rule in RULES if rule.startswith(ALIKE)]
BY_TEXTS = [rule for rule in RULES if rule not in OUTCOME_ALONE]
USED = 7  # the place of the memory that the run goes back to


@pytest.fixture(scope="module")
def user() -> User:
    return User(people("Bea"), Plain)


def lesson(user: User, pupil: Ours, later: Sequence[str] = (), quality: float = 1.0, helped: int = 0) -> Lesson:
    """Return what a run teaches that asked for the first thing and says this later; so many are named."""
    text = user.questions[0].text
    shown = user.unlearned(text)
    pupil.learn(Told(text, shown, quality, helped=shown[:helped], later=later))
    (found,) = pupil.learner.snapshot().lessons
    return found


def crediting(user: User, rule: str) -> Crediting:
    return Crediting(user, profile("balanced"), RULES[rule][0], [])


def credit(user: User, rule: str, later: Sequence[str] = ()) -> np.ndarray:
    found = lesson(user, crediting(user, rule), later)
    assert not found.credit[len(found.shown) :].any()
    return found.credit[: len(found.shown)]


def text_of(user: User, record: RecordId) -> str:
    view = user.store.view
    (found,) = view.records(view.find((record,)))
    return decode_record(found).text


@pytest.mark.parametrize("rule", RULES)
def test_without_texts_no_memory_stands_out_but_by_its_place(user: User, rule: str) -> None:
    places = np.arange(10)
    expected = {
        FIRST: UNTOLD * (places < FEW),
        "outcome alone, divided by the propensity of the place": UNTOLD * np.log2(2 + places),
    }.get(rule, np.full(10, UNTOLD))

    np.testing.assert_allclose(credit(user, rule), expected, rtol=1e-3)  # held in half precision


@pytest.mark.parametrize("rule", OUTCOME_ALONE)
def test_who_credits_by_the_outcome_alone_reads_no_texts(user: User, rule: str) -> None:
    used = text_of(user, user.unlearned(user.questions[0].text)[USED])

    np.testing.assert_array_equal(credit(user, rule, [used]), credit(user, rule))


@pytest.mark.parametrize("rule", BY_TEXTS)
def test_who_reads_texts_credits_what_they_go_back_to(user: User, rule: str) -> None:
    used = text_of(user, user.unlearned(user.questions[0].text)[USED])

    found = credit(user, rule, [used])

    assert found[USED] == found.max() > UNTOLD
    assert found.min() == pytest.approx(UNTOLD, rel=1e-3)
    assert found.max() <= 1


@pytest.mark.parametrize("rule", RULES)
def test_an_echo_of_the_question_has_no_credit_by_any_rule(user: User, rule: str) -> None:
    text = text_of(user, user.unlearned(user.questions[0].text)[0])
    pupil = crediting(user, rule)
    pupil.learn(Told(text, user.unlearned(text), 1.0, later=["the telescope on the 14 day"]))

    (found,) = pupil.learner.snapshot().lessons
    assert text_of(user, found.shown[0]) == text
    assert found.credit[0] == 0
    assert all(found.credit[1:FEW])


def test_a_failure_and_what_is_named_are_as_without_a_rule(user: User) -> None:
    failed = lesson(user, crediting(user, FIRST), quality=0.0)
    named = lesson(user, crediting(user, FIRST), helped=8)

    assert not failed.credit.any()
    assert named.credit.tolist() == [*[1.0] * 8, *[0.0] * (len(named.credit) - 8)]


def test_the_rule_that_is_shipped_is_what_the_engine_does_without_one(user: User) -> None:
    used = text_of(user, user.unlearned(user.questions[0].text)[USED])

    found = lesson(user, Ours(user, profile("balanced")), [used])

    np.testing.assert_array_equal(credit(user, BY_WORDS, [used]), found.credit[: len(found.shown)])
