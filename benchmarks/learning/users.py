"""Who asks, and what is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.judging import K, of_ranked
from benchmarks.learning.stores import Store
from benchmarks.rewording import WAYS, reworded
from benchmarks.turns import remembered
from memoryd.rvf.records import decode_record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from benchmarks.conversations import Conversation
    from benchmarks.learning.bases import Base
    from benchmarks.learning.stores import Encoder
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Meaning, Words
    from memoryd.protocol.learning import Learned


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the memories that are evidence for the answer; `answer` is that of the file, if any."""

    text: str
    gold: frozenset[RecordId]
    answer: str = ""


@dataclass(frozen=True, slots=True)
class People:
    """Conversations in one store; the questions about each stand behind those about the one before."""

    name: str
    store: Store
    questions: Sequence[Question]
    first: int  # so many questions are about the first conversation
    asked: datetime

    @classmethod
    def of(cls, conversations: Sequence[Conversation], encoder: Encoder) -> People:
        """Remember what was said in these conversations."""
        store, questions, counts = Store(encoder), list[Question](), list[int]()
        for conversation in conversations:
            records = remembered(conversation)
            store.add(records)
            ids = {turn.id: record.id for turn, record in zip(conversation.turns, records, strict=True)}
            found = [
                Question(each.text, frozenset(ids[turn] for turn in each.turns), each.answer)
                for each in conversation.questions
                if each.turns  # some files know only the session
            ]
            questions += found
            counts.append(len(found))
        name = " and ".join(each.name for each in conversations)
        return cls(name, store, questions, counts[0], max(each.asked for each in conversations))


class User:
    """Asks a store under one score; each answer that learning has no part in is found once."""

    def __init__(self, people: People, base: Callable[[Store], Base]) -> None:
        self.people = people
        self.store = people.store
        self.questions = people.questions
        self.asked = people.asked
        self._base = base(people.store)
        self._known: dict[tuple[str, int], tuple[Words, Meaning]] = {}  # by text and size of the store
        self._unlearned: dict[tuple[str, int], list[RecordId]] = {}

    def about(self, text: str) -> tuple[Words, Meaning]:
        """Return a question with its words looked up, and its meaning."""
        which = text, self.store.view.rows
        if which not in self._known:
            self._known[which] = self._base.about(text, self.asked)
        return self._known[which]

    def unlearned(self, text: str) -> list[RecordId]:
        """Return the first ten answers as they are without learning."""
        which = text, self.store.view.rows
        if which not in self._unlearned:
            words, meaning = self.about(text)
            self._unlearned[which] = ranked(words, meaning)
        return self._unlearned[which]

    def phrasings(self, question: int) -> list[str]:
        """Return the question in other words, always the same ones."""
        rng = np.random.default_rng(question)
        return [reworded(self.questions[question].text, way, rng) for way in range(WAYS)]

    def quality(self, answers: Sequence[RecordId], question: int) -> float:
        """Return nDCG@10."""
        return quality(answers, self.questions[question].gold)


def ranked(words: Words, meaning: Meaning, learned: Learned | None = None) -> list[RecordId]:
    """Return the first ten answers."""
    return [decode_record(hit.record).id for hit in words.rank(meaning, k=K, learned=learned).hits]


def quality(answers: Sequence[RecordId], gold: Collection[RecordId]) -> float:
    """Return nDCG@10."""
    return of_ranked(answers, gold)[f"nDCG@{K}"]
