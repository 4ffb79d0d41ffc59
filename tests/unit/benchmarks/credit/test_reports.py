"""What runs report is of the kind that it says, and the outcomes of all kinds are wrong alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.credit.reports import ANSWER, KINDS, MIXED, NONE, OTHER, QUOTED, WRONG, Reporting
from benchmarks.learning.bases import Plain
from benchmarks.learning.protocols import Telling
from benchmarks.learning.users import User
from tests.helpers.learning import THINGS, people

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.ids import RecordId

TEXT = "who is it"


@pytest.fixture(scope="module")
def user() -> User:
    """Somebody whose questions are answered by the things that they ask for."""
    given = people("Bea")
    questions = [replace(each, answer=thing) for each, thing in zip(given.questions, THINGS, strict=True)]
    return User(replace(given, questions=questions), Plain)


def shown_to(user: User, question: int, *, has_evidence: bool) -> list[RecordId]:
    gold = user.questions[question].gold
    others = [record for record in user.unlearned(user.questions[question].text) if record not in gold]
    return [*others, *gold] if has_evidence else others


def later(user: User, kind: str, question: int, shown: Sequence[RecordId], seed: int = 0) -> list[str]:
    told = Reporting(kind=kind).of(user, question, TEXT, shown, np.random.default_rng(seed))
    assert not told.helped
    assert not told.harmful
    return list(told.later)


def test_reports_are_of_the_kind_that_they_say(user: User) -> None:
    for question, right in enumerate(THINGS):
        shown = shown_to(user, question, has_evidence=True)
        of_gold = user.questions[question].gold
        vain = {text for text, record in texts_of(user).items() if record in shown and record not in of_gold}

        assert later(user, NONE, question, shown) == []
        assert later(user, ANSWER, question, shown) == [right]
        answer, other = later(user, OTHER, question, shown)
        assert answer == right
        assert other in set(THINGS) - {right}
        (wrong,) = later(user, WRONG, question, shown)
        assert wrong in set(THINGS) - {right}
        asked, answer, quoted = later(user, QUOTED, question, shown)
        assert (asked, answer) == (TEXT, right)
        assert quoted in vain


def texts_of(user: User) -> dict[str, RecordId]:
    """Return the memories by their texts without who speaks, by looking each up alone."""
    hits = [record for question in range(len(THINGS)) for record in shown_to(user, question, has_evidence=True)]
    return {later(user, QUOTED, 0, [record])[-1]: record for record in hits if record not in user.questions[0].gold}


def test_who_was_shown_no_evidence_reports_the_answer_of_another_question(user: User) -> None:
    shown = shown_to(user, 0, has_evidence=False)

    for kind, place in ((ANSWER, 0), (OTHER, 0), (QUOTED, 1), (WRONG, 0)):
        answers = {later(user, kind, 0, shown, seed)[place] for seed in range(40)}
        assert answers <= set(THINGS[1:])
        assert len(answers) > 1


def test_without_a_vain_memory_nothing_is_quoted(user: User) -> None:
    gold = list(user.questions[0].gold)

    assert later(user, QUOTED, 0, gold) == [TEXT, THINGS[0]]


def test_mixed_reports_are_of_each_kind_as_often(user: User) -> None:
    shown = shown_to(user, 0, has_evidence=True)

    def kind(texts: list[str]) -> str:
        match texts:
            case []:
                return NONE
            case [answer]:
                return ANSWER if answer == THINGS[0] else WRONG
            case [asked, _]:
                return "quoted only" if asked == TEXT else OTHER
            case _:
                return QUOTED

    found = Counter(kind(later(user, MIXED, 0, shown, seed)) for seed in range(1200))

    assert set(found) == {NONE, ANSWER, OTHER, QUOTED, WRONG, "quoted only"}
    assert all(150 < count < 250 for count in found.values())


@pytest.mark.parametrize("has_evidence", [True, False])
def test_one_in_ten_outcomes_is_wrong_and_the_same_ones_whatever_is_reported(user: User, *, has_evidence: bool) -> None:
    shown = shown_to(user, 0, has_evidence=has_evidence)

    def qualities(telling: Telling) -> list[float]:
        rng = np.random.default_rng(1)
        return [telling.of(user, 0, TEXT, shown, rng).quality for _ in range(1000)]

    without = qualities(Telling(is_coarse=True, wrong=0.1))  # as benchmarks.learning has it
    assert 70 < sum(quality != float(has_evidence) for quality in without) < 130
    for kind in (NONE, *KINDS):
        assert qualities(Reporting(kind=kind)) == without
