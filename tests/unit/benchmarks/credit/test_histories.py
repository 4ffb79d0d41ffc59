"""A run of an agent is asked before its memories are there, and learned from when they are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from benchmarks.agents import Run
from benchmarks.corpus import remembered
from benchmarks.credit.histories import NAMED, crediters, replay
from benchmarks.credit.rules import ALIKE, BY_WORDS
from benchmarks.learning.histories import Replayed
from benchmarks.learning.stores import Encoder, Store
from memoryd import Event
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol.records import Draft, MemoryKind, MemorySource
from memoryd.sona.profiles import profile
from tests.helpers.learning import NOON

SAID = {  # by run: what it asked, and what it said later
    "boats-1": ("mend my boat", "the keel was caulked with tar"),
    "bread-1": ("mend my oven", "its thermostat was replaced"),
    "boats-2": ("mend my other boat", "caulked its keel, too"),
}


def given() -> Replayed:
    drafts, runs = [], []
    for place, (name, texts) in enumerate(SAID.items()):
        began = NOON + timedelta(hours=place)
        moments = [began, began + timedelta(minutes=1)]
        events = [
            Event(id=f"{name}-{moment:%H%M}", type="chat.user_msg", session_id=name, timestamp=moment)
            for moment in moments
        ]
        drafts += [
            Draft(
                text=text,
                kind=MemoryKind.EPISODE,
                source=MemorySource.USER_INPUT,
                timestamp=moment,
                session_id=name,
                metadata={"run_id": name},
            )
            for text, moment in zip(texts, moments, strict=True)
        ]
        runs.append(Run(name, name.partition("-")[0], texts[0], events, succeeded=True))
    records = remembered(drafts)
    return Replayed("three", runs, [records[:2], records[2:4], records[4:]])


def test_a_run_credits_the_earlier_memories_that_it_goes_back_to_and_never_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.credit.histories.FLIPPED", 0.0)
    history, store, made = given(), Store(Encoder(HashingEmbedder())), list[float]()
    followers = crediters(history, store, [BY_WORDS, ALIKE], profile("balanced"), 2, made)

    assert len(list(replay(history, store, followers))) == 3

    assert [(each.learner, each.seed) for each in followers] == [
        (rule, seed) for rule in (ALIKE, BY_WORDS, NAMED) for seed in (0, 1)
    ]
    earlier = {record.id for left in history.left[:2] for record in left}
    right = {record.id for record in history.left[0]}
    keel = history.left[0][1].id
    assert len(made) == 4 * 2  # of two runs that were asked, by all but who is told what is right
    for each in followers:
        assert len(each.before) == len(each.after) == 1  # only the last has an earlier one of its group
        last = each.pupil.learner.snapshot().lessons[-1]
        assert set(last.shown) == earlier
        assert len(last.keys) == 6  # its own are there, beside what it was shown
        credit = dict(zip(last.shown, last.credit.tolist(), strict=False))
        if each.learner == NAMED:
            assert {record for record, of_it in credit.items() if of_it} == right
        elif each.learner == BY_WORDS:
            assert credit[keel] == max(credit.values()) > min(credit.values())
        assert each.right == ([1.0] if each.learner == BY_WORDS else [])
        assert each.first == ([0.5] if each.learner == BY_WORDS else [])


def test_outcomes_are_told_wrongly_and_names_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.credit.histories.FLIPPED", 1.0)
    history, store = given(), Store(Encoder(HashingEmbedder()))
    followers = crediters(history, store, [ALIKE], profile("balanced"), 1, [])

    list(replay(history, store, followers))

    by_outcome, named = (each.pupil.learner.snapshot().lessons for each in followers)
    assert [each.quality for each in by_outcome] == [0, 0]
    assert [each.quality for each in named] == [0, 1]
