"""Which of the memories shown a run's later texts go back to."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.ids import TrajectoryId
from memoryd.protocol.interfaces import Meaning
from memoryd.protocol.learning import UNTOLD
from memoryd.protocol.records import ANY, Step, Trajectory
from memoryd.words.credit import MOST_CHARACTERS, MOST_TERMS, terms_to_look_up
from tests.helpers.memories import units
from tests.unit.words.test_hybrid import ALL, DIM, NOON, Memory, memory

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["memory"]  # the fixture

QUERY = "how was the queue mended"
VECTOR = units(1, DIM, seed=50)[0]
LEASE = "a lease replaced the mutex of the queue"
MONDAY = "we mend every queue on Mondays"
HARBOUR = "the queue of the harbour was mended"
SHOWN = [HARBOUR, MONDAY, LEASE]


@pytest.fixture
def shown(memory: Memory) -> Memory:
    memory.said(*(f"nothing of interest number {number}" for number in range(300)))
    memory.said(*(f"the queue was long {number}" for number in range(20)))
    memory.said(*SHOWN)
    return memory


def credit(memory: Memory, *texts: str, among: Sequence[str] = SHOWN, run_id: str = "") -> dict[str, float]:
    """Return the credit of memories for a run that was shown them and then said these texts."""
    ids = {record.text: record.id for record in memory.records}
    run = Trajectory(
        id=TrajectoryId(f"{1:026}"),
        query=QUERY,
        started=NOON,
        ended=NOON + timedelta(days=2),
        shown=tuple(ids[text] for text in among),
        steps=tuple(Step(action="report", text=text, timestamp=NOON) for text in texts),
        run_id=run_id,
    )
    view = memory.index.view()
    words = memory.words.match(view, QUERY, ANY, ALL)
    found = words.credit(Meaning(VECTOR), run.shown, run, memory.words.said(view, run))
    return dict(zip(among, found.tolist(), strict=True))


ALIKE = dict.fromkeys(SHOWN, pytest.approx(UNTOLD))


def test_the_memory_whose_rare_words_the_report_uses_is_credited(shown: Memory) -> None:
    found = credit(shown, "it works since a lease replaces the mutex")

    assert found[LEASE] == pytest.approx(1)
    assert found[MONDAY] == found[HARBOUR] == pytest.approx(UNTOLD)


def test_a_word_counts_in_another_form(shown: Memory) -> None:
    assert credit(shown, "of the mutexes nothing is left")[LEASE] > 2 * UNTOLD


@pytest.mark.parametrize("texts", [(), ("",), (QUERY,), ("mending a queue",), ("zeppelins and dragons",)])
def test_without_texts_that_tell_more_than_the_question_all_are_alike(shown: Memory, texts: tuple[str, ...]) -> None:
    assert credit(shown, *texts) == ALIKE


def test_what_several_of_them_hold_tells_less_of_each(shown: Memory) -> None:
    other = "somebody else broke the mutex"
    shown.said(other)

    alone = credit(shown, "the mutex")[LEASE]
    shared = credit(shown, "the mutex", among=[*SHOWN, other])

    assert UNTOLD < shared[LEASE] == shared[other] < alone


def test_what_the_texts_share_with_what_was_never_shown_is_by_chance(shown: Memory) -> None:
    report = "the harbour, the harbour"
    assert credit(shown, report)[HARBOUR] > UNTOLD

    shown.said(*(f"nothing of interest there {number}" for number in range(100)))
    shown.said(*(f"the queue at harbour {number} was mended then" for number in range(40)))

    assert credit(shown, report)[HARBOUR] == pytest.approx(UNTOLD)


def test_an_echo_of_the_question_is_not_credited(shown: Memory) -> None:
    echo = "How was the queue mended?"
    shown.said(echo)

    assert credit(shown, "the queue was mended", among=[*SHOWN, echo]) == {**ALIKE, echo: 0}


def test_the_runs_own_memories_are_its_texts_and_are_not_credited(shown: Memory) -> None:
    own, others = "the mutex is a lease now", "the harbour of another run"
    shown.said(own, metadata={"run_id": "r1"})
    shown.said(others, metadata={"run_id": "r2"})

    found = credit(shown, among=[*SHOWN, own], run_id="r1")

    assert found[own] == 0
    assert found[LEASE] > 0.9
    assert found[HARBOUR] == pytest.approx(UNTOLD)


def test_a_run_with_many_memories_of_its_own_is_not_measured_by_them(shown: Memory) -> None:
    shown.said(
        *("the queue was mended by so many a mutex" for _ in range(20)),
        metadata={"run_id": "r1"},
        session="r1",
    )

    assert credit(shown, run_id="r1")[LEASE] > 2 * UNTOLD


def test_what_is_gone_gets_no_credit(shown: Memory) -> None:
    shown.forget(LEASE)
    ids = [record.id for record in shown.records if record.text in SHOWN]
    run = Trajectory(id=TrajectoryId(f"{1:026}"), query=QUERY, started=NOON)
    view = shown.index.view()

    found = shown.words.match(view, QUERY, ANY, ALL).credit(Meaning(VECTOR), ids, run, ())

    assert found.tolist() == pytest.approx([UNTOLD, UNTOLD])


def test_of_long_texts_the_last_part_is_looked_at_and_so_many_terms() -> None:
    long = " ".join(f"word{number}" for number in range(20_000))

    found = terms_to_look_up(["early", long, "late mending"], "mending")

    assert len(long) > MOST_CHARACTERS
    assert len(found) == MOST_TERMS
    assert found[0] == "late"
    assert not {"early", "mending", "word0"}.intersection(found)
