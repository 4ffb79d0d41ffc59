"""The two scores to which what was learned is added."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, fields
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from memoryd.actors.recalling import QUESTION_CHARACTERS
from memoryd.actors.timing import timing
from memoryd.protocol.records import ANY
from memoryd.times import spoken
from memoryd.words.fusion import Candidates
from memoryd.words.hybrid import Question
from memoryd.words.terms import STOP_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from benchmarks.learning.stores import Store
    from memoryd.protocol.interfaces import Meaning, Nearest, Numbers, Vectors, Words

BY_WORDS: Final = 0.05  # of a cosine, in the plain score
# Of the plain score: it changes no order, and makes 1/22 of it one nat, which is what the engine takes a score for. By itself
# 1/9 of it is: under that the evidence of the questions of LoCoMo is most likely.
SCALE: Final = 0.4
_K1: Final = 1.2
_B: Final = 0.75
_WORD: Final = re.compile(r"\w+")
_NO_ROWS: Final = np.empty(0, np.int64)


class Base(Protocol):
    """A score over one store."""

    def about(self, text: str, asked: datetime) -> tuple[Words, Meaning]:
        """Return a question asked at that moment, with its words looked up, and its meaning."""
        ...


class Full:
    """A `Base`: this project's own ranking."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def about(self, text: str, asked: datetime) -> tuple[Words, Meaning]:
        words, view = self._store.words, self._store.view
        said = spoken(text, asked, UTC)
        event = words.event(view, text, said.event, 0) if said.event else None
        found = words.match(view, text, ANY, 0, timing(said, event, "prefer", ANY).preferred)
        return found, self._store.encoder.meaning(words.addressed(text)[:QUESTION_CHARACTERS])


class Plain:
    """A `Base`: SCALE (cosine + .05 BM25) of every memory, as embedded, of the question as it is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bm25 = Bm25()

    def about(self, text: str, asked: datetime) -> tuple[Words, Meaning]:
        self._bm25.add(self._store.texts[len(self._bm25) :])
        looked_up = self._store.words.match(self._store.view, text, ANY, 0)
        known: dict[str, Any] = {each.name: getattr(looked_up, each.name) for each in fields(Question)}
        meaning = self._store.encoder.meaning(text[:QUESTION_CHARACTERS])
        return _PlainQuestion(**known, bm25=self._bm25.scores(text)), meaning


class Bm25:
    """BM25 (Robertson and Zaragoza, 2009; k1 1.2, b .75) of words in small letters, stop words left out."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._found: dict[str, tuple[list[int], list[int]]] = {}  # of each word its rows, and how often it is in each

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            words = _words(text)
            for word, times in Counter(words).items():
                rows, counts = self._found.setdefault(word, ([], []))
                rows.append(len(self._lengths))
                counts.append(times)
            self._lengths.append(len(words))

    def scores(self, text: str) -> Vectors:
        """Return the score of every text, float32 [n]."""
        lengths = np.array(self._lengths, np.float64)
        scores = np.zeros(len(lengths))
        usual = 1 - _B + _B * lengths / max(1.0, float(lengths.mean())) if len(lengths) else lengths
        for word in dict.fromkeys(_words(text)):
            rows, times = (np.array(each, np.int64) for each in self._found.get(word, ((), ())))
            rarity = np.log(1 + (len(lengths) - len(rows) + 0.5) / (len(rows) + 0.5))
            scores[rows] += rarity * times * (_K1 + 1) / (times + _K1 * usual[rows])
        return scores.astype(np.float32)


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


class _Scored(Candidates):
    """All rows as candidates, with scores of their own."""

    def __init__(self, cosines: Vectors, scores: Vectors) -> None:
        super().__init__(np.arange(len(scores)), cosines, {})
        self.scores = scores


@dataclass(frozen=True, slots=True)
class _PlainQuestion(Question):
    """What was learned is added to the plain score, and answers that say the same are one, as in the product."""

    bm25: Vectors

    def candidates(self, meaning: Meaning | None, nearest: Nearest, also: Numbers = _NO_ROWS) -> Candidates:
        if meaning is None:
            raise ValueError("the plain score needs a vector")
        cosines = self.view.cosines(meaning.vector, np.arange(len(self.bm25)))
        return _Scored(cosines, np.float32(SCALE) * (cosines + np.float32(BY_WORDS) * self.bm25))
