"""How a run that went well may credit what it was shown, when it says only how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from benchmarks.credit.reports import ANSWER, KINDS, MIXED, NONE
from benchmarks.learning.pupils import Ours
from memoryd.protocol.learning import UNTOLD
from memoryd.rvf.records import decode_record
from memoryd.words.credit import later_texts, told
from memoryd.words.hybrid import Question

if TYPE_CHECKING:
    from benchmarks.learning.stores import Store
    from benchmarks.learning.users import User
    from memoryd.protocol.interfaces import Matched, Meaning, Numbers, Vectors, Words
    from memoryd.protocol.learning import Lesson
    from memoryd.protocol.records import Trajectory
    from memoryd.sona.profiles import Profile

FEW: Final = 5
_NEAR: Final = 0.1  # of a cosine: so much nearer than what is by chance is told for sure
_BY_CHANCE: Final = 0.9  # of the next candidates are no nearer than that


@dataclass(frozen=True, slots=True)
class Ended:
    """What a rule may look at: a run that went well, its question, and the credit that it gives as shipped, float32 [n].

    What is creditable has some: the run's own memories, and echoes of its question, have none by any rule.
    """

    run: Trajectory
    words: Question
    meaning: Meaning
    credit: Vectors
    lesson: Lesson
    store: Store

    @property
    def said(self) -> Sequence[Matched]:
        return self.store.words.said(self.store.view, self.run)

    @property
    def rows(self) -> tuple[Numbers, Numbers]:
        """The rows of what is creditable, and of the next candidates."""
        given, found, chosen = self.words.chosen(self.meaning, self.lesson.shown)
        return found.rows[chosen[: len(given)]][self.credit > 0], found.rows[chosen[len(given) :]]

    def credited(self, shares: Vectors) -> Vectors:
        """Return the credit when so much of each that is creditable is told, from 0 to 1."""
        credit = np.zeros_like(self.credit)
        credit[self.credit > 0] = UNTOLD + (1 - UNTOLD) * shares
        return credit


Rule = Callable[[Ended], "Vectors"]


def shipped(ended: Ended) -> Vectors:
    """Credit what the later texts go back to, as the daemon does."""
    return ended.credit


def alike(ended: Ended) -> Vectors:
    """Credit all alike."""
    return ended.credited(np.zeros(np.count_nonzero(ended.credit), np.float32))


def first_few(ended: Ended) -> Vectors:
    """Credit the first five."""
    return np.where(np.arange(len(ended.credit)) < FEW, alike(ended), np.float32(0))


def by_place(ended: Ended) -> Vectors:
    """Credit more what stands further behind: the inverse of how often a user looks there, 1 / log2(1 + place)."""
    return (alike(ended) * np.log2(np.arange(2, len(ended.credit) + 2))).astype(np.float32)


def without_chance(ended: Ended) -> Vectors:
    """Credit by words, whatever those share with the texts that were not shown."""
    shown, others = ended.rows
    return ended.credited(told(ended.said, ended.words.matched, shown, others[:0]))


def of_each(ended: Ended) -> Vectors:
    """Credit by words, each memory by itself: what several of them hold counts for each of them."""
    said, (shown, others) = ended.said, ended.rows
    alone = [told(said, ended.words.matched, shown[place : place + 1], others)[0] for place in range(len(shown))]
    return ended.credited(np.array(alone, np.float32))


def by_vectors(ended: Ended) -> Vectors:
    """Credit what is nearer to one of the later texts than nine in ten of the next candidates are."""
    shown, others = ended.rows
    rows = np.concatenate([shown, others])
    order = np.argsort(rows)
    view, encoder = ended.store.view, ended.store.encoder
    nearest = np.zeros(len(rows), np.float32)
    for text in later_texts(ended.run, view, decode_record):
        cosines = view.cosines(encoder.meaning(text).vector, rows[order])
        nearest[order] = np.maximum(nearest[order], cosines)
    usual = np.quantile(nearest[len(shown) :], _BY_CHANCE) if len(others) else 0
    return ended.credited(np.clip((nearest[: len(shown)] - usual) / _NEAR, 0, 1))


def by_both(ended: Ended) -> Vectors:
    """Credit by words or by vectors, whichever is more."""
    return np.maximum(shipped(ended), by_vectors(ended))


ALIKE: Final = "outcome alone"
FIRST: Final = "outcome alone, the first five"
BY_WORDS: Final = "by words, as shipped"
RULES: Final[Mapping[str, tuple[Rule, Sequence[str]]]] = {  # with the kinds of later texts that are asked
    ALIKE: (alike, (NONE,)),
    FIRST: (first_few, (NONE,)),
    "outcome alone, divided by the propensity of the place": (by_place, (NONE,)),
    BY_WORDS: (shipped, KINDS),
    "by words, chance not taken off": (without_chance, (ANSWER, MIXED)),
    "by words, each memory by itself": (of_each, (ANSWER, MIXED)),
    "by vectors": (by_vectors, (ANSWER, MIXED)),
    "by words or vectors": (by_both, (ANSWER, MIXED)),
}


class Crediting(Ours):
    """The engine of this project, to which runs credit by one of the rules.

    It notes in `made` what each lesson took, in seconds of a processor, as shipped: what another rule takes is not in it.
    """

    def __init__(self, user: User, profile: Profile, rule: Rule, made: list[float]) -> None:
        super().__init__(user, profile)
        self._rule = rule
        self._made = made

    def lesson(self, run: Trajectory, words: Words, meaning: Meaning) -> Lesson | None:
        began = time.process_time()
        lesson = super().lesson(run, words, meaning)
        self._made.append(time.process_time() - began)
        if lesson is None or not (lesson.is_coarse and lesson.is_positive):
            return lesson
        count = len(lesson.shown)
        ended = Ended(run, cast("Question", words), meaning, lesson.credit[:count], lesson, self._user.store)
        credit = np.zeros_like(lesson.credit)
        credit[:count] = np.clip(self._rule(ended), 0, 1)
        return replace(lesson, credit=credit) if credit.any() else None
