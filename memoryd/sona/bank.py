"""The ReasoningBank: which memories helped which questions.

    match(q, k) = .3 cos(q, k) + .5 common / own(q) + .2 common / sqrt(own(q) own(k))
    gate(k)     = clip((match - .65) / .25, 0, 1)
    value(m)    = WEIGHT clip(sum over the NEAREST entries k of gate(k) v_k(m), -1/2, 1)

`common` is the sum of the squared rarities of the words that two questions share, `own` that of one's own. What was shown and did not
help counts little, and only for nearly the same question. A run of which only the outcome is known says of each memory that was shown

    guess(m) = (score(m) - the mean of those shown) / (2 WEIGHT) + credit(m), or - 1/3 and at most 0 if it failed

and such runs are set against each other: their mean over the entries, with gates that open sooner, is added as far as no run that
names what helped speaks. What came later than a run was not shown to it, so what was shown is hardly lifted by the outcome alone.
docs/research/learning.md has what was tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeVar

import numpy as np

from memoryd.sona.contrast import TEMPERATURE

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId, TrajectoryId
    from memoryd.protocol.learning import Intent, Lesson
    from memoryd.sona.lora import Floats

Number = TypeVar("Number", bound=np.generic)

WEIGHT: Final = 10 * TEMPERATURE
NEAREST: Final = 3
_BY_COSINE: Final = 0.3
_CONTAINED: Final = 0.5
_ALIKE: Final = 0.2
_SHUT: Final = 0.65
_OPEN: Final = 0.9
_SHUT_IN_VAIN: Final = 0.7
_IN_VAIN: Final = 0.15
_LEAST: Final = -0.5
_SHUT_TO_GUESSES: Final = 0.5
_BY_SCORE: Final = 0.5 / WEIGHT  # of how much better than the others the memory was found then
_FAILED: Final = -1 / 3
_SAME_WORDS: Final = 0.99
_SAME_VECTOR: Final = 0.95
_ROOM: Final = 64
_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Entry:
    """A question that came: its runs, what they say of memories, from -1 to 1 by key, and which memories helped.

    `guesses` is the sum of what the runs say of which only the outcome is known, and `guessed` how many these are.
    """

    lessons: tuple[Lesson, ...]
    values: Mapping[int, float]
    helped: tuple[RecordId, ...]
    guesses: Mapping[int, float]
    guessed: int

    @classmethod
    def of(cls, lessons: Sequence[Lesson]) -> Self:
        """Join the runs of one question: what is named once is worth that, whatever came of it at other times."""
        values: dict[int, float] = {}
        guesses: dict[int, float] = {}
        helped: dict[RecordId, None] = {}
        for lesson in lessons:
            credit = lesson.credit[: len(lesson.shown)].tolist()
            helped.update({record: None for record, much in zip(lesson.shown, credit, strict=True) if much > 0})
            if lesson.is_coarse:
                for key, value in zip(lesson.keys.tolist(), _guessed(lesson), strict=False):
                    guesses[key] = guesses.get(key, 0.0) + value
            else:
                for key, much in zip(lesson.keys.tolist(), credit, strict=False):
                    values[key] = max(much or -1.0, values.get(key, -1.0))
        return cls(tuple(lessons), values, tuple(helped), guesses, sum(lesson.is_coarse for lesson in lessons))


@dataclass(frozen=True, slots=True)
class Near:
    """An entry that is like a question, how much it matches, and how far its gate is open."""

    entry: Entry
    match: float
    gate: float


class Bank:
    """One thread changes it while others look."""

    def __init__(self, dim: int, lessons: Iterable[Lesson] = ()) -> None:
        self._vectors = np.empty((_ROOM, dim), np.float32)
        self._own = np.empty(_ROOM, np.float32)
        self._entries: list[Entry] = []
        # The words of all entries, one behind the other, with the place of their entry.
        self._terms = np.empty(_ROOM, np.uint64)
        self._places = np.empty(_ROOM, np.int32)
        self._used = 0
        self._of: dict[TrajectoryId, int] = {}
        for lesson in lessons:
            self.put(lesson)

    def __len__(self) -> int:
        """How many questions are known."""
        return len(set(self._of.values()))

    @property
    def is_thin(self) -> bool:
        """Whether most of it is empty places, so that it should be made anew of its lessons."""
        return len(self._entries) > _ROOM + 2 * len(self._of)

    def lessons(self) -> list[Lesson]:
        """Return all runs, by the place of their question."""
        return [lesson for entry in self._entries for lesson in entry.lessons]

    def put(self, lesson: Lesson) -> None:
        """Keep a run, in the place of an earlier state of it."""
        self.drop(lesson.id)
        place = self._same(lesson.intent)
        if place is None:
            place = self._opened(lesson.intent)
            self._entries.append(Entry.of([lesson]))  # the last thing: from now on it is seen
        else:
            self._entries[place] = Entry.of([*self._entries[place].lessons, lesson])
        self._of[lesson.id] = place

    def drop(self, which: TrajectoryId) -> None:
        """Let go of a run, if it is here."""
        place = self._of.pop(which, None)
        if place is not None:
            left = [lesson for lesson in self._entries[place].lessons if lesson.id != which]
            self._entries[place] = Entry.of(left)

    def match(self, intent: Intent) -> Floats:
        """Return how much each place is like a question, float32 [places]."""
        cosines, common, own, size = self._compared(intent)
        matches: Floats = _BY_COSINE * cosines + _CONTAINED * common / size + _ALIKE * common / np.sqrt(own * size)
        return matches

    def near(self, intent: Intent, most: int = NEAREST, without: Container[TrajectoryId] = ()) -> list[Near]:
        """Return the entries whose gates are open, those that match most first, as if the runs `without` had not been."""
        matches = self.match(intent)
        found: list[Near] = []
        for place in np.argsort(-matches, kind="stable").tolist():
            match = float(matches[place])
            if match <= _SHUT_TO_GUESSES or len(found) == most:
                break
            entry, gate = self._entries[place], _gate(match, _SHUT)
            if any(lesson.id in without for lesson in entry.lessons):
                entry = Entry.of([lesson for lesson in entry.lessons if lesson.id not in without])
            if entry.guessed or (entry.lessons and gate > 0):
                found.append(Near(entry, match, gate))
        return found

    def _same(self, intent: Intent) -> int | None:
        """Return the place of the same question, if it has come."""
        cosines, common, own, size = self._compared(intent)
        is_wordless = (own <= _TINY) & (size <= _TINY)
        is_same = (cosines > _SAME_VECTOR) & (is_wordless | (common / np.sqrt(own * size) > _SAME_WORDS))
        found = np.flatnonzero(is_same)
        return int(found[0]) if len(found) else None

    def _opened(self, intent: Intent) -> int:
        """Make a place for a question, which is not seen before it has an entry."""
        place, count = len(self._entries), len(intent.terms)
        if place == len(self._own):
            self._vectors, self._own = _grown(self._vectors), _grown(self._own)
        while self._used + count > len(self._terms):
            self._terms, self._places = _grown(self._terms), _grown(self._places)
        self._vectors[place] = intent.vector
        self._own[place] = max(float(intent.rarity @ intent.rarity), _TINY)
        self._terms[self._used : self._used + count] = intent.terms
        self._places[self._used : self._used + count] = place
        self._used += count
        return place

    def _compared(self, intent: Intent) -> tuple[Floats, Floats, Floats, float]:
        """Return of each entry its cosine, what it has in common, and its own words; and how much words the question has."""
        count, used = len(self._entries), self._used
        cosines: Floats = self._vectors[:count] @ intent.vector
        common = np.zeros(count, np.float32)
        if len(intent.terms) and used:
            places = np.searchsorted(intent.terms, self._terms[:used])
            places[places == len(intent.terms)] = 0
            shared = np.flatnonzero(intent.terms[places] == self._terms[:used])
            weights = intent.rarity[places[shared]] ** 2
            of_entries = self._places[shared]
            is_there = of_entries < count  # not of an entry that is being added
            common += np.bincount(of_entries[is_there], weights[is_there], count).astype(np.float32)
        return cosines, common, self._own[:count], max(float(intent.rarity @ intent.rarity), _TINY)


def said(near: Sequence[Near]) -> dict[int, float]:
    """Return what these entries say of the memories that they name, by key, in units of a score."""
    found: dict[int, float] = {}
    for each in near:
        in_vain = _IN_VAIN * _gate(each.match, _SHUT_IN_VAIN)
        for key, value in each.entry.values.items():
            found[key] = found.get(key, 0.0) + value * (each.gate if value > 0 else in_vain)
    known = max((each.gate for each in near if each.entry.values), default=0.0)
    for key, value in _guesses(near).items():
        found[key] = found.get(key, 0.0) + (1 - known) * value
    return {key: WEIGHT * _clipped(value) for key, value in found.items()}


def _guesses(near: Iterable[Near]) -> dict[int, float]:
    """Return the mean of what is guessed of each memory; it is nothing of one that a run was not shown."""
    sums: dict[int, float] = {}
    runs = 0.0
    for each in near:
        gate = _gate(each.match, _SHUT_TO_GUESSES)
        runs += gate * each.entry.guessed
        for key, value in each.entry.guesses.items():
            sums[key] = sums.get(key, 0.0) + gate * value
    return {key: _clipped(value / max(1.0, runs)) for key, value in sums.items()}


def _guessed(lesson: Lesson) -> list[float]:
    """Return what a run of which only the outcome is known says of each memory that was shown."""
    count = len(lesson.shown)
    credit, base = lesson.credit[:count], lesson.base[:count]
    by_score = np.float32(_BY_SCORE) * (base - base.mean())
    values = by_score + credit if credit.any() else np.minimum(by_score + _FAILED, 0)
    guessed: list[float] = values.tolist()
    return guessed


def _clipped(value: float) -> float:
    return min(1.0, max(_LEAST, value))


def _gate(match: float, shut: float) -> float:
    return min(1.0, max(0.0, (match - shut) / (_OPEN - shut)))


def _grown(array: NDArray[Number]) -> NDArray[Number]:
    return np.concatenate([array, np.empty_like(array)])
