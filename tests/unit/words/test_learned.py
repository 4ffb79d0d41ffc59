"""Recall with what was learned from runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.protocol.ids import TrajectoryId
from memoryd.protocol.interfaces import Meaning
from memoryd.protocol.learning import Lesson
from memoryd.protocol.records import ANY, MemoryFilter
from memoryd.rvf.records import decode_record
from memoryd.sona.learner import Learner
from memoryd.sona.profiles import profile
from tests.helpers.memories import units
from tests.unit.words.test_hybrid import ALL, DIM, Memory, memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.interfaces import Hit, Placed, Vectors

__all__ = ["memory"]  # the fixture

QUERY = "how was the lock of the queue mended"
VECTOR = units(1, DIM, seed=50)[0]


class User:
    """A memory and what its user's runs taught."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.learner = Learner(DIM, profile("balanced"))
        self._runs = 0

    def ran(self, query: str, vector: Vectors, shown: Sequence[str], helped: Sequence[str]) -> None:
        """A run that asked `query` went well because of `helped`."""
        view = self.memory.index.view()
        asked = self.memory.words.match(view, query, ANY, ALL)
        ids = [self.id(text) for text in shown]
        there, keys, base = asked.candidates_for(Meaning(vector), ids)
        credit = np.zeros(len(keys), np.float32)
        credit[: len(there)] = [record in {self.id(text) for text in helped} for record in there]
        self._runs += 1
        run = Lesson(
            id=TrajectoryId(f"{self._runs:026}"),
            intent=asked.intent(vector),
            shown=there,
            keys=keys,
            base=base,
            credit=credit,
            harmed=np.zeros(len(keys), bool),
            quality=1.0,
            is_coarse=False,
            ended_us=self._runs,
        )
        self.learner.learn(run, view.memories())

    def id(self, text: str) -> str:
        return next(record.id for record in self.memory.records if record.text == text)

    def hits(self, query: str, vector: Vectors, k: int = 10, where: MemoryFilter = ANY) -> Sequence[Hit]:
        view = self.memory.index.view()
        asked = self.memory.words.match(view, query, where, ALL)
        learned = self.learner.about(asked.intent(vector))
        return asked.rank(Meaning(vector), k=k, explain=True, learned=learned).hits

    def texts(self, query: str, vector: Vectors, k: int = 10, where: MemoryFilter = ANY) -> list[str]:
        return [decode_record(hit.record).text for hit in self.hits(query, vector, k, where)]

    def place(self, query: str, vector: Vectors, text: str) -> Placed | None:
        view = self.memory.index.view()
        asked = self.memory.words.match(view, query, ANY, ALL)
        return asked.place(Meaning(vector), self.id(text), self.learner.about(asked.intent(vector)))


@pytest.fixture
def user(memory: Memory) -> User:
    memory.said("the lock of the queue was mended by a lease", "the lock of the door was mended", session="a")
    memory.said("a lease runs out", "nobody waits for ever", session="b")
    memory.said(*(f"filler number {place}" for place in range(200)), session="c")
    return User(memory)


def test_what_helped_comes_first_and_its_score_stays_what_it_was(user: User) -> None:
    before = {decode_record(hit.record).text: hit for hit in user.hits(QUERY, VECTOR)}
    assert user.texts(QUERY, VECTOR)[0] == "the lock of the queue was mended by a lease"
    assert all(hit.score == hit.sona_score for hit in before.values())

    user.ran(QUERY, VECTOR, list(before), ["the lock of the door was mended"])

    first, *_ = user.hits(QUERY, VECTOR)
    assert decode_record(first.record).text == "the lock of the door was mended"
    assert first.score == pytest.approx(before["the lock of the door was mended"].score, abs=1e-6)
    assert first.sona_score > first.score + 0.3


def test_the_summands_add_up_and_name_what_was_learned(user: User) -> None:
    user.ran(QUERY, VECTOR, user.texts(QUERY, VECTOR), ["the lock of the door was mended"])

    for hit in user.hits(QUERY, VECTOR):
        assert hit.explanation is not None
        assert sum(hit.explanation.parts.values()) == pytest.approx(hit.sona_score, abs=1e-4)
        own = {name: part for name, part in hit.explanation.parts.items() if not name.startswith("sona_")}
        assert sum(own.values()) == pytest.approx(hit.score, abs=1e-4)
    (first, *_) = user.hits(QUERY, VECTOR)
    assert first.explanation is not None
    assert {"sona_bank", "sona_common", "sona_adapter"} <= first.explanation.parts.keys()


def test_what_helped_is_found_although_nothing_else_would_find_it(user: User) -> None:
    far = "filler number 150"
    placed = user.place(QUERY, VECTOR, far)
    assert placed is not None
    assert far not in user.texts(QUERY, VECTOR, k=30)

    user.ran(QUERY, VECTOR, [*user.texts(QUERY, VECTOR), far], [far])

    assert user.texts(QUERY, VECTOR)[0] == far
    placed = user.place(QUERY, VECTOR, far)
    assert placed is not None
    assert placed.place == 1


def test_what_helped_must_pass_the_filter_and_live(user: User) -> None:
    far = "filler number 150"
    user.ran(QUERY, VECTOR, [*user.texts(QUERY, VECTOR), far], [far])

    assert far not in user.texts(QUERY, VECTOR, where=MemoryFilter(session_id="a"))
    user.memory.forget(far)
    assert far not in user.texts(QUERY, VECTOR)


def test_without_learning_the_answers_are_exactly_as_before(user: User) -> None:
    before = user.hits(QUERY, VECTOR)
    user.ran(QUERY, VECTOR, user.texts(QUERY, VECTOR), ["the lock of the door was mended"])
    assert user.hits(QUERY, VECTOR) != before

    user.learner.is_enabled = False

    assert user.hits(QUERY, VECTOR) == before


def test_a_question_by_words_alone_is_answered_without_what_was_learned(user: User) -> None:
    user.ran(QUERY, VECTOR, user.texts(QUERY, VECTOR), ["the lock of the door was mended"])
    view = user.memory.index.view()
    asked = user.memory.words.match(view, QUERY, ANY, ALL)
    learned = user.learner.about(asked.intent(VECTOR))

    hits = asked.rank(None, k=5, learned=learned).hits

    assert all(hit.sona_score == hit.score for hit in hits)


def test_candidates_are_those_shown_that_live_and_the_next_ones(user: User) -> None:
    shown = user.texts(QUERY, VECTOR, k=5)
    user.memory.forget(shown[2])
    view = user.memory.index.view()
    asked = user.memory.words.match(view, QUERY, ANY, ALL)

    there, keys, base = asked.candidates_for(Meaning(VECTOR), [user.id(text) for text in shown])

    assert there == [user.id(text) for place, text in enumerate(shown) if place != 2]
    assert len(keys) == len(base) == len(set(keys.tolist())) > 20
    scores = {decode_record(hit.record).id: hit.score for hit in asked.rank(Meaning(VECTOR), k=5).hits}
    assert base[0] == pytest.approx(scores[there[0]])
    assert sorted(base[len(there) :], reverse=True) == base[len(there) :].tolist()


def test_the_vectors_of_what_lives_are_found_by_key(user: User) -> None:
    user.memory.forget("a lease runs out")
    view = user.memory.index.view()
    rows = view.find([record.id for record in user.memory.records])
    keys = view.keys_at(rows)
    memories = view.memories()

    known, vectors = memories.vectors(np.sort(np.append(keys, np.uint64(7))))

    assert sorted(keys.tolist()) == known.tolist()
    by_key = dict(zip(keys.tolist(), user.memory.index._table.vectors.take(rows), strict=True))
    assert all(np.array_equal(by_key[key], vector) for key, vector in zip(known.tolist(), vectors, strict=True))
    chosen = memories.sample(50, np.random.default_rng(1))
    assert len(set(chosen.tolist())) == 50
    assert set(chosen.tolist()) <= set(keys.tolist())
    assert len(memories.sample(10_000, np.random.default_rng(1))) == len(keys) == 203


def test_learning_is_told_whether_a_query_asks_when(user: User) -> None:
    view = user.memory.index.view()

    asked = [user.memory.words.match(view, text, ANY, ALL).intent(VECTOR) for text in ("When was it?", "What was it?")]

    assert [each.asks_when for each in asked] == [True, False]
