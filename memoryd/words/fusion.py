"""Words, vectors and what stands around a memory, made into one score.

Candidates are the best by words, the best by vectors, and the neighbours of both within their session: an answer often
stands beside the words of its question. Each has a handful of numbers, scaled to the best of this query, and the score is
their weighted sum, 1 at most. The weights are those under which the evidence of many questions is most likely;
`benchmarks.fusion` fits them, but for that of `unsaid`: where the words of a query are not found, its meaning counts more.

What words say is made ready while the query is embedded, so that little is left to do when its vector comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd import relevance
from memoryd.words.neighbours import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import IndexView, Nearest, Numbers, Vectors
    from memoryd.words.alignment import Joined
    from memoryd.words.matching import Match
    from memoryd.words.neighbours import Neighbours

    Scores = NDArray[np.float32]  # [m]
    Mask = NDArray[np.bool_]  # [rows]
    Rows = NDArray[np.integer]  # [m]
    Closer = Callable[[Numbers], tuple[Numbers, Scores]]  # of these rows those that are long, and their cosines
    Nearness = Callable[[Numbers], Scores]  # of each of these rows, NaN where it is not known

BY_WORDS: Final = 100  # candidates of each list
BY_VECTORS: Final = 32
OF_TIME: Final = 32  # of each list, among those of the time that the query prefers
CLOSER: Final = 32  # candidates that are looked at more closely: by their windows if they are long, and piece by piece
_NO_ROWS: Final = np.empty(0, np.int64)

_TELLING: Final = 0.1  # a smaller difference of likeness between the best and the last tells little

_AROUND: Final = 50  # of the best by words, whose neighbours are candidates too

_SESSION_BEST: Final = 3  # of a session, whose mean says how much the session is about the query

# Words without stop words: of the texts that the model reads in several windows, 98 in 100 have more.
_LONG: Final = 32

_ENOUGH: Final = 40  # words; a memory that has more of them says no more
_SAID: Final = np.log1p(np.arange(_ENOUGH + 1)).astype(np.float32) / np.float32(4)  # by a memory of so many words

WEIGHTS: Final[Mapping[str, float]] = {
    "words": 0.172,
    "words_after": 0.031,
    "words_two_before": 0.055,
    "words_two_after": 0.027,
    "vector": 0.074,
    "vector_before": 0.050,
    "session": 0.168,
    "speaker": 0.051,
    "question": -0.049,
    "length": 0.165,
    "answers": 0.109,
    "time": 0.098,
    "unsaid": 0.200,
}
# With `maxsim`, which says much of what words and vectors say; by those above it is chosen who is looked at.
WEIGHTS_OF_PIECES: Final[Mapping[str, float]] = {
    "words": 0.128,
    "words_after": 0.029,
    "words_two_before": 0.055,
    "words_two_after": 0.028,
    "vector": 0.020,
    "vector_before": 0.048,
    "session": 0.141,
    "speaker": 0.048,
    "question": -0.049,
    "length": 0.165,
    "answers": 0.109,
    "time": 0.091,
    "unsaid": 0.200,
    "maxsim": 0.138,
}


class ByWords:
    """What the words of a query say of every row, for an answer from the rows that `mask`, bool [rows], marks.

    Those that are `preferred`, bool [rows], score more, and the best of them are looked at although others are better.
    """

    def __init__(
        self, match: Match, joined: Joined, neighbours: Neighbours, mask: Mask, preferred: Mask | None = None
    ) -> None:
        self._match = match
        self._joined = joined
        self._neighbours = neighbours
        self._mask = np.append(mask, False)  # NOWHERE, the last place, is no answer
        self._preferred = preferred
        best = _best(np.where(mask, match.scores, 0), BY_WORDS)
        highest = float(match.scores[best].max(initial=0))
        scale = max(highest, match.most / 2) or 1.0
        self._coverage = np.float32(highest / scale)
        self._words = np.append(match.scores / np.float32(scale), np.float32(0))
        first = best[np.argsort(-match.scores[best], kind="stable")[:_AROUND]]
        rows = [best, self._beside(first)]
        if preferred is not None:
            rows.append(_best(np.where(mask & preferred, match.scores, 0), OF_TIME))
        self._rows = _distinct(np.concatenate(rows))

    def candidates(
        self,
        view: IndexView,
        nearest: Nearest,
        vector: Vectors | None,
        also: Numbers = _NO_ROWS,
        closer: Closer | None = None,
        nearness: Nearness | None = None,
    ) -> Candidates:
        """Return what may answer; without a `vector`, float32 [dim], which `nearest` is near to, words alone count.

        The rows `also` are looked at in any case. Where `closer` knows the cosine of a long text better than its row does,
        that counts. Of the best by all that, `nearness` counts too. Raises Damaged.
        """
        near = nearest.rows
        rows = _distinct(np.concatenate([self._rows, near, self._beside(near), also]))
        cosines = np.zeros(len(self._words), np.float32)
        scaled = np.zeros(len(self._words), np.float32)
        before = self._neighbours.before[rows]
        if vector is not None:
            known = _distinct(np.concatenate([rows, before]))
            cosines[known] = view.cosines(vector, known)
            listed = nearest.scores
            if closer is not None and len(listed):
                long, exact = closer(self._long(rows, cosines[rows], listed))
                cosines[long] = exact
                listed = np.append(exact.max(initial=listed[0]), listed)
            scaled[known] = _scaled(cosines[known], listed)
        found = Candidates(rows, cosines[rows], self._features(rows, before, scaled))
        return found if nearness is None else found.looked_at(nearness)

    def _long(self, rows: Numbers, cosines: Scores, listed: Scores) -> Numbers:
        """Return those of the most promising rows whose texts may have several windows, int64 [m] ascending."""
        promising = _best(_rough(self._words[rows], _scaled(cosines, listed)), CLOSER)
        return rows[promising[self._joined.lengths[rows[promising]] >= _LONG]]

    def _features(self, rows: Numbers, before: Rows, vectors: Scores) -> dict[str, Scores]:
        """Return the features of these rows, which stand behind the rows `before`; `vectors` float32 [rows + 1]."""
        words, around, joined = self._words, self._neighbours, self._joined
        after, own_words, own_vector = around.after[rows], words[rows], vectors[rows]
        is_of_time = np.zeros(len(rows), bool) if self._preferred is None else self._preferred[rows]
        return {
            "words": own_words,
            "words_after": words[after],
            "words_two_before": words[around.before[before]],
            "words_two_after": words[around.after[after]],
            "vector": own_vector,
            "vector_before": np.maximum(vectors[before], 0),
            "unsaid": own_vector * (1 - self._coverage) ** 2,
            "session": _lift(joined.sessions[rows], _rough(own_words, own_vector)),
            "speaker": self._match.spoken[rows].astype(np.float32),
            "question": joined.are_questions[rows].astype(np.float32),
            "length": _SAID[np.minimum(joined.lengths[rows], _ENOUGH)] * self._coverage,
            "answers": words[before] * joined.are_questions[before],
            "time": is_of_time.astype(np.float32),
        }

    def _beside(self, rows: Numbers) -> Rows:
        """Return the neighbours of these rows that may answer: an answer stands behind its question rather than before it."""
        after = self._neighbours.after[rows]
        beside: Rows = np.concatenate([self._neighbours.before[rows], after, self._neighbours.after[after]])
        may_answer: Rows = beside[self._mask[beside]]
        return may_answer


class Candidates:
    """Rows that may answer, int64 [m] ascending, their cosines, float32 [m], and their features, float32 [m] by name."""

    def __init__(self, rows: Numbers, cosines: Scores, features: Mapping[str, Scores]) -> None:
        self.rows = rows
        self.cosines = cosines
        self.features = features
        self._weights = WEIGHTS_OF_PIECES if "maxsim" in features else WEIGHTS
        self.scores = np.zeros(len(rows), np.float32)
        for name, values in features.items():
            self.scores += np.float32(self._weights[name]) * values

    def looked_at(self, nearness: Nearness) -> Candidates:
        """Return the same with how near the best of them are to the query piece by piece: the nearest 1 at most, the farthest 0."""
        best = _best(self.scores, CLOSER)
        values = nearness(self.rows[best])
        lowest, highest = float(np.nanmin(values, initial=np.inf)), float(np.nanmax(values, initial=-np.inf))
        if not lowest < highest:
            return self
        scaled = np.zeros(len(self.rows), np.float32)
        known = np.where(np.isnan(values), np.nanmean(values), values)  # neither near nor far
        scaled[best] = (known - lowest) / max(highest - lowest, _TELLING)
        return Candidates(self.rows, self.cosines, {**self.features, "maxsim": scaled})

    def features_of_relevance(self, match: Match) -> dict[str, Scores]:
        """Return what the relevance of each is made of, float32 [m] by name."""
        shares = match.scores[self.rows] / np.float32(match.most or 1)
        return relevance.features(self.scores, shares, self.cosines, len(match.matched))

    def parts(self, place: int) -> dict[str, float]:
        """Return the summands of one candidate that are not 0."""
        return {
            name: round(self._weights[name] * float(values[place]), 6)
            for name, values in self.features.items()
            if values[place]
        }


def _distinct(rows: Rows) -> Numbers:
    """Return `rows` ascending, each once, without NOWHERE."""
    rows = np.sort(rows[rows != NOWHERE])
    is_new = np.ones(len(rows), bool)
    is_new[1:] = rows[1:] != rows[:-1]
    return rows[is_new].astype(np.int64, copy=False)


def _best(scores: Scores, most: int) -> Numbers:
    """Return the places of the `most` largest of those above 0, ascending; the earlier ones where several are equal."""
    places = np.flatnonzero(scores > 0)
    if len(places) > most:
        places = places[scores[places] >= np.partition(scores[places], -most)[-most]]
        places = np.sort(places[np.argsort(-scores[places], kind="stable")[:most]])
    return places


def _rough(words: Scores, vectors: Scores) -> Scores:
    """Return about how good rows are, by themselves."""
    return (2 * words + vectors) / np.float32(3)


def _scaled(cosines: Scores, listed: Scores) -> Scores:
    """Return cosines such that the best of a list is 1 and the last of it is 0; -1 at least, however far a memory is."""
    if not len(listed):
        return np.zeros(len(cosines), np.float32)
    low, high = float(listed[-1]), float(listed[0])
    scaled: Scores = np.maximum((cosines - low) / max(high - low, 1e-6), -1).astype(np.float32)
    return scaled


def _lift(sessions: Rows, rough: Scores) -> Scores:
    """Return how much the session of each row is about the query: the mean of its best rows."""
    order = np.lexsort((-rough, sessions))
    is_first = np.ones(len(order), bool)
    is_first[1:] = sessions[order][1:] != sessions[order][:-1]
    group = np.cumsum(is_first) - 1
    rank = np.arange(len(order)) - np.flatnonzero(is_first)[group]
    counted = np.where(rank < _SESSION_BEST, np.maximum(rough[order], 0), 0)
    of_group = np.bincount(group, counted) / _SESSION_BEST
    lifts = np.empty(len(order), np.float32)
    lifts[order] = of_group[group]
    lifts[sessions == 0] = 0
    return lifts
