"""The ReasoningBank: which memories helped which questions.

    match(q, k) = 1 - .4 (1 - cos(q, k)) - .8 (1 - common / own(q)) - .5 (1 - common / own(k)) - 1.5 lacking - differing
    value(m)    = WEIGHT clip(sum over the NEAREST entries k of clip(match, 0, 1) v_k(m), -1/2, 1)

`common` is the sum of the squared rarities of the words that two questions share, `own` that of one's own; `lacking` is the share of the
new question's words that the earlier one has not, however common they are, and `differing` 1 when only one of the two asks when. What
was shown and did not help counts little. A run of which only the outcome is known says of each memory that was shown

    guess(m) = (score(m) - the mean of those shown) / (2 WEIGHT) + credit(m), or - 1/4 and at most 0 if it failed

and such runs are set against each other: their mean over the entries, which match sooner, is added as far as no run that names what
helped speaks. What came later than a run was not shown to it, so what was shown is hardly lifted by the outcome alone.
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

WEIGHT: Final = 9 * TEMPERATURE
NEAREST: Final = 3
_BY_COSINE: Final = 0.4
_CONTAINED: Final = 0.8
_CONTAINS: Final = 0.5
_LACKING: Final = 1.5
_DIFFERING: Final = 1.0
IN_VAIN: Final = 0.25
_LEAST: Final = -0.5
_SOONER: Final = 0.4  # runs of which only the outcome is known match
_BY_SCORE: Final = 0.5 / WEIGHT  # of how much better than the others the memory was found then
_FAILED: Final = -1 / 4
_SAME_WORDS: Final = 0.99
_SAME_VECTOR: Final = 0.95
_ROOM: Final = 64
_GROWTH: Final = 0.25
_LOOSE: Final = 1.25  # places for each run, before the empty ones are given up
_TINY: Final = 1e-9
_UNKNOWN: Final = -1  # whether a question asks when
_LOW: Final = np.uint64(0xFFF)  # bits of a term, by which most of those that a question has not are passed over


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
    """An entry that is like a question, and how much it matches, from 0 to 1: its runs that name what helped, and its others."""

    entry: Entry
    match: float
    guess: float


@dataclass(frozen=True, slots=True)
class _Compared:
    """A question beside each entry, [places].

    Its cosine, which share of what the words of the question say the entry has, which of its own the question has, which share of
    the question's words it lacks, float32, and whether both are known to ask when or not, and only one does, bool.
    """

    cosines: Floats
    contained: Floats
    contains: Floats
    lacking: Floats
    is_differing: NDArray[np.bool_]


class Bank:
    """One thread changes it while others look."""

    def __init__(self, dim: int, lessons: Iterable[Lesson] = (), *, questions: Iterable[Sequence[Lesson]] = ()) -> None:
        """Begin with the runs of each of these questions, and then these lessons."""
        self._vectors = np.empty((_ROOM, dim), np.float32)
        self._own = np.empty(_ROOM, np.float32)
        self._asks_when = np.empty(_ROOM, np.int8)
        self._entries: list[Entry] = []
        # The words of all entries, one behind the other, with the place of their entry.
        self._terms = np.empty(_ROOM, np.uint64)
        self._low = np.empty(_ROOM, np.uint16)
        self._places = np.empty(_ROOM, np.int32)
        self._used = 0
        self._of: dict[TrajectoryId, int] = {}
        for runs in questions:
            self._open(runs)
        for lesson in lessons:
            self.put(lesson)

    def __len__(self) -> int:
        """How many questions are known."""
        return len(set(self._of.values()))

    @property
    def is_thin(self) -> bool:
        """Whether much of it is empty places."""
        return len(self._entries) > _ROOM + _LOOSE * len(self._of)

    def questions(self) -> list[Sequence[Lesson]]:
        """Return the runs of each question, by its place."""
        return [entry.lessons for entry in self._entries if entry.lessons]

    def put(self, lesson: Lesson) -> None:
        """Keep a run, in the place of an earlier state of it."""
        self.drop(lesson.id)
        place = self._same(lesson.intent)
        if place is None:
            self._open([lesson])
        else:
            self._entries[place] = Entry.of([*self._entries[place].lessons, lesson])
            self._of[lesson.id] = place

    def replace(self, lesson: Lesson) -> None:
        """Keep a run in the place of an earlier state of it, which is here and asks the same."""
        place = self._of[lesson.id]
        runs = self._entries[place].lessons
        self._entries[place] = Entry.of([lesson if each.id == lesson.id else each for each in runs])

    def alike(self, which: TrajectoryId) -> list[Lesson]:
        """Return the other runs of the question of this one, which is here."""
        return [lesson for lesson in self._entries[self._of[which]].lessons if lesson.id != which]

    def drop(self, which: TrajectoryId) -> None:
        """Let go of a run, if it is here."""
        place = self._of.pop(which, None)
        if place is None:
            return
        runs = self._entries[place].lessons
        left = [lesson for lesson in runs if lesson.id != which]
        if left and runs[0].id == which:  # whose question stands there, and goes with it
            self._open(left)
            left = []
        self._entries[place] = Entry.of(left)

    def compact(self) -> Bank:
        """Return one without empty places: itself, when there are none."""
        entries = [entry for entry in self._entries if entry.lessons]
        if len(entries) == len(self._entries):
            return self
        is_kept = np.array([bool(entry.lessons) for entry in self._entries], bool)
        places = np.cumsum(is_kept, dtype=np.int32) - 1
        of_terms = self._places[: self._used]
        terms = np.flatnonzero(is_kept[of_terms])
        other, count = Bank(self._vectors.shape[1]), len(self._entries)
        other._entries, other._used = entries, len(terms)
        other._vectors, other._own = _grown(self._vectors[:count][is_kept]), _grown(self._own[:count][is_kept])
        other._asks_when = _grown(self._asks_when[:count][is_kept])
        other._terms, other._low = _grown(self._terms[terms]), _grown(self._low[terms])
        other._places = _grown(places[of_terms[terms]])
        other._of = {which: int(places[place]) for which, place in self._of.items()}
        return other

    def match(self, intent: Intent) -> Floats:
        """Return how much each place is like a question, float32 [places]: 1 for the same question, 0 or less for another."""
        found = self._compared(intent)
        matches: Floats = (
            1
            - _BY_COSINE * (1 - found.cosines)
            - _CONTAINED * (1 - found.contained)
            - _CONTAINS * (1 - found.contains)
            - _LACKING * found.lacking
            - _DIFFERING * found.is_differing
        ).astype(np.float32)
        return matches

    def near(
        self, intent: Intent, most: int = NEAREST, without: Container[TrajectoryId] = (), bolder: float = 0.0
    ) -> list[Near]:
        """Return the entries that match, those that do most first, as if the runs `without` had not been.

        So much `bolder`, each matches more.
        """
        matches = self.match(intent) + np.float32(bolder)
        likely = np.flatnonzero(matches > -_SOONER)
        found: list[Near] = []
        for place in likely[np.argsort(-matches[likely], kind="stable")].tolist():
            if len(found) == most:
                break
            entry = self._entries[place]
            if any(lesson.id in without for lesson in entry.lessons):
                entry = Entry.of([lesson for lesson in entry.lessons if lesson.id not in without])
            match = float(matches[place])
            if entry.guessed or (entry.lessons and match > 0):
                found.append(Near(entry, min(1.0, max(0.0, match)), min(1.0, match + _SOONER)))
        return found

    def _same(self, intent: Intent) -> int | None:
        """Return the place of the same question, if it has come."""
        cosines = self._vectors[: len(self._entries)] @ intent.vector
        for place in np.flatnonzero(cosines > _SAME_VECTOR).tolist():
            runs = self._entries[place].lessons
            if runs and _has_same_words(runs[0].intent, intent):
                return int(place)
        return None

    def _open(self, lessons: Sequence[Lesson]) -> None:
        """Make a place for runs that ask the same; what the first of them asks stands there."""
        intent = lessons[0].intent
        place, count = len(self._entries), len(intent.terms)
        if place == len(self._own):
            self._vectors, self._own = _grown(self._vectors), _grown(self._own)
            self._asks_when = _grown(self._asks_when)
        while self._used + count > len(self._terms):
            self._terms, self._low, self._places = _grown(self._terms), _grown(self._low), _grown(self._places)
        self._vectors[place] = intent.vector
        self._asks_when[place] = _UNKNOWN if intent.asks_when is None else intent.asks_when
        self._own[place] = _own(intent)
        self._terms[self._used : self._used + count] = intent.terms
        self._low[self._used : self._used + count] = intent.terms & _LOW
        self._places[self._used : self._used + count] = place
        self._used += count
        self._entries.append(Entry.of(lessons))  # the last thing: from now on it is seen
        self._of.update((lesson.id, place) for lesson in lessons)

    def _compared(self, intent: Intent) -> _Compared:
        count = len(self._entries)
        cosines: Floats = self._vectors[:count] @ intent.vector
        common, shared = np.zeros(count, np.float32), np.zeros(count, np.float32)
        if len(intent.terms) and self._used:
            is_likely = np.zeros(int(_LOW) + 1, bool)
            is_likely[intent.terms & _LOW] = True
            likely = np.flatnonzero(is_likely[self._low[: self._used]])
            places = np.searchsorted(intent.terms, self._terms[likely])
            places[places == len(intent.terms)] = 0
            of_entries = self._places[likely]
            # What an entry has that is being added is not looked at.
            is_there = (intent.terms[places] == self._terms[likely]) & (of_entries < count)
            of_entries, weights = of_entries[is_there], intent.rarity[places[is_there]] ** 2
            common += np.bincount(of_entries, weights, count).astype(np.float32)
            shared += np.bincount(of_entries, minlength=count)
        own = _own(intent)
        asks_when = self._asks_when[:count]
        is_known = (asks_when != _UNKNOWN) & (intent.asks_when is not None)
        return _Compared(
            cosines=cosines,
            contained=np.minimum(1, common / own),
            contains=np.minimum(1, common / self._own[:count]),
            lacking=np.float32(1) - shared / np.float32(max(1, len(intent.terms))),
            is_differing=is_known & (asks_when != bool(intent.asks_when)),
        )


def _own(intent: Intent) -> float:
    """Return how much the words of a question say."""
    return max(float(intent.rarity @ intent.rarity), _TINY)


def _has_same_words(earlier: Intent, intent: Intent) -> bool:
    """Whether what two questions say in words is the same but for a hundredth, and both ask when, or neither."""
    if None not in (earlier.asks_when, intent.asks_when) and earlier.asks_when != intent.asks_when:
        return False
    own, others = _own(intent), _own(earlier)
    if own <= _TINY or others <= _TINY:
        return own == others
    common = float(np.square(intent.rarity[np.isin(intent.terms, earlier.terms)]).sum())
    return min(1.0, common / own) * min(1.0, common / others) > _SAME_WORDS**2


def said(near: Sequence[Near], in_vain: float = IN_VAIN) -> dict[int, float]:
    """Return what these entries say of the memories that they name, by key, in units of a score.

    What was shown `in_vain` counts that much of what helped.
    """
    found: dict[int, float] = {}
    for each in near:
        for key, value in each.entry.values.items():
            found[key] = found.get(key, 0.0) + value * each.match * (1 if value > 0 else in_vain)
    known = max((each.match for each in near if each.entry.values), default=0.0)
    for key, value in _guesses(near).items():
        found[key] = found.get(key, 0.0) + (1 - known) * value
    return {key: WEIGHT * _clipped(value) for key, value in found.items()}


def _guesses(near: Iterable[Near]) -> dict[int, float]:
    """Return the mean of what is guessed of each memory; it is nothing of one that a run was not shown."""
    sums: dict[int, float] = {}
    runs = 0.0
    for each in near:
        runs += each.guess * each.entry.guessed
        for key, value in each.entry.guesses.items():
            sums[key] = sums.get(key, 0.0) + each.guess * value
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


def _grown(array: NDArray[Number]) -> NDArray[Number]:
    more = max(_ROOM, int(_GROWTH * len(array)))
    return np.concatenate([array, np.empty_like(array, shape=(more, *array.shape[1:]))])
