"""What was asked lately."""

from memoryd.actors.recent import KEPT, WITHIN_S, RecentRecalls
from memoryd.protocol.ids import RecordId

ONE, TWO = RecordId("1"), RecordId("2")


def test_a_run_that_begins_with_the_words_of_a_question_was_shown_its_answer() -> None:
    recent = RecentRecalls()
    recent.note("Fix the\n cache", [ONE, TWO], now=100.0)

    assert recent.shown_for("fix the cache", now=100.0 + WITHIN_S) == (ONE, TWO)
    assert recent.shown_for("fix the cache", now=101.0 + WITHIN_S) == ()
    assert recent.shown_for("fix the queue", now=100.0) == ()
    assert recent.shown_for("", now=100.0) == ()


def test_the_last_answer_counts() -> None:
    recent = RecentRecalls()
    recent.note("fix it", [ONE], now=1.0)
    recent.note("fix it", [TWO], now=2.0)

    assert recent.shown_for("fix it", now=3.0) == (TWO,)


def test_so_many_are_kept_and_those_asked_longest_ago_go() -> None:
    recent = RecentRecalls()
    for number in range(KEPT + 1):
        recent.note(f"question {number}", [ONE], now=1.0)
        recent.note("again and again", [TWO], now=1.0)

    assert recent.shown_for("question 0", now=1.0) == ()
    assert recent.shown_for("question 1", now=1.0) == ()
    assert recent.shown_for(f"question {KEPT}", now=1.0) == (ONE,)
    assert recent.shown_for("again and again", now=1.0) == (TWO,)


def test_cleared_it_knows_nothing() -> None:
    recent = RecentRecalls()
    recent.note("fix it", [ONE], now=1.0)

    recent.clear()

    assert recent.shown_for("fix it", now=1.0) == ()
