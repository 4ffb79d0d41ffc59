"""What comes of each way to credit, for questions that come again and for those that never came."""

from __future__ import annotations

from functools import partial

from benchmarks.credit.reports import ANSWER, Reporting
from benchmarks.credit.tables import of_users
from benchmarks.learning import figures as f
from benchmarks.learning.bases import Plain
from benchmarks.learning.protocols import Trial, held_out
from benchmarks.learning.pupils import Ours
from benchmarks.learning.users import User
from memoryd.sona.profiles import profile
from tests.helpers.learning import people


def pair(rule: str, user: str, after: float) -> f.Pair:
    return f.Pair(f.FULL, rule, ANSWER, user, 0, 0.5, after, 10)


def test_a_row_has_the_change_of_all_of_each_half_and_of_the_worst_user() -> None:
    pairs = [
        pair("by words", "Ann", 0.6),
        pair("by words", "Bea", 0.5),
        pair("alike", "Ann", 0.5),
        pair("alike", "Bea", 0.4),
    ]

    grid = of_users(pairs, "questions", 1)

    assert grid.title == "questions: 2 users, 1 seeds, nDCG@10 against 0.500 without learning"
    assert grid.rows == [
        ["by words", ANSWER, "+10.0 %", "+20.0 %", "+0.0 %", "+0.0 %"],
        ["alike", ANSWER, "-10.0 %", "+0.0 %", "-20.0 %", "-20.0 %"],
    ]


def test_questions_that_never_came_are_asked_after_runs_that_report() -> None:
    user, figures = User(people("Bea"), Plain), f.Figures()

    held_out(
        Trial(user, partial(Ours, user, profile("balanced")), 0, f.PLAIN, "by words", figures), Reporting(kind=ANSWER)
    )

    (found,) = figures.pairs
    assert found.what == ANSWER
    assert found.questions == len(user.questions) - len(user.questions) // 2
