"""Words, vectors and what stands around a memory, made into one score.

Candidates are the best by words, the best by vectors, and the neighbours of both within their session: an answer often
stands beside the words of its question. Each has a handful of numbers, scaled to the best of this query, and the score is
their weighted sum, 1 at most. The weights are those under which the evidence of many questions is most likely;
`benchmarks.fusion` fits them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import IndexView, Nearest, Numbers, Vectors, Words

    Scores = NDArray[np.float32]  # [m]
    Mask = NDArray[np.bool_]  # [rows]
    Sessions = NDArray[np.int32]  # [rows]

BY_WORDS: Final = 100  # candidates of each list
BY_VECTORS: Final = 32
_AROUND: Final = 50  # of the best candidates, whose neighbours are candidates too

# Neighbours are looked for among so many rows before and behind.
_REACH: Final = 8
_OFFSETS: Final = (-2, -1, 1, 2)
_CANDIDATES_BESIDE: Final = (-1, 1, 2)  # an answer stands behind its question rather than before it

_SESSION_BEST: Final = 3  # of a session, whose mean says how much the session is about the query
_LONG: Final = 40.0  # words; a memory that has more of them says no more

NOWHERE: Final = -1

WEIGHTS: Final[Mapping[str, float]] = {
    "words": 0.212,
    "words_before": 0.016,
    "words_after": 0.039,
    "words_two_before": 0.069,
    "words_two_after": 0.036,
    "vector": 0.036,
    "vector_before": 0.063,
    "vector_after": 0.010,
    "session": 0.110,
    "speaker": 0.046,
    "question": -0.035,
    "length": 0.242,
    "answers": 0.119,
}


class Candidates:
    """Rows that may answer, int64 [m] ascending, their cosines, float32 [m], and their features, float32 [m] by name."""

    def __init__(self, rows: Numbers, cosines: Scores, features: Mapping[str, Scores]) -> None:
        self.rows = rows
        self.cosines = cosines
        self.features = features
        self.scores = np.zeros(len(rows), np.float32)
        for name, values in features.items():
            self.scores += WEIGHTS[name] * values

    def parts(self, place: int) -> dict[str, float]:
        """Return the summands of one candidate that are not 0."""
        return {
            name: round(WEIGHTS[name] * float(values[place]), 6)
            for name, values in self.features.items()
            if values[place]
        }


def candidates(
    view: IndexView,
    mask: Mask,
    alive: Mask,
    words: Words,
    nearest: Nearest,
    vector: Vectors | None,
    also: Sequence[int] = (),
) -> Candidates:
    """Return what may answer among the rows that `mask` marks, bool [rows]; what stands around them must be `alive`.

    `vector` is what `nearest` is near to; without one, words alone count. The rows `also` are looked at in any case. Raises
    Damaged.
    """
    by_words = _best(np.where(mask, words.scores, 0), BY_WORDS)
    best_words = max(float(words.scores[by_words].max(initial=0)), words.most / 2) or 1.0
    coverage = float(words.scores[by_words].max(initial=0)) / best_words
    rows = _with_neighbours(words, mask, alive, by_words, best_words, nearest)
    rows = _distinct(np.concatenate([rows, np.array(also, np.int64)]))
    if not len(rows):
        return Candidates(rows, np.empty(0, np.float32), {})
    around = _around(words.sessions, alive, rows)
    known = _distinct(np.concatenate([rows, around[-1], around[1]]))
    cosines = np.zeros(len(known), np.float32) if vector is None else view.cosines(vector, known)
    vectors = _scaled(cosines, nearest.scores)

    def words_of(places: Numbers) -> Scores:
        return np.where(places == NOWHERE, 0, words.scores[places] / best_words).astype(np.float32)

    def vectors_of(places: Numbers) -> Scores:
        found = vectors[np.searchsorted(known, np.where(places == NOWHERE, known[0], places))]
        return np.where(places == NOWHERE, 0, np.maximum(found, 0)).astype(np.float32)

    places = np.searchsorted(known, rows)
    own_words, own_vector, before = words_of(rows), vectors[places], around[-1]
    follows_question = (before != NOWHERE) & words.are_questions[before]
    features = {
        "words": own_words,
        "words_before": words_of(before),
        "words_after": words_of(around[1]),
        "words_two_before": words_of(around[-2]),
        "words_two_after": words_of(around[2]),
        "vector": own_vector,
        "vector_before": vectors_of(before),
        "vector_after": vectors_of(around[1]),
        "session": _lift(words.sessions[rows], own_words + own_vector / np.float32(2)),
        "speaker": words.spoken[rows].astype(np.float32),
        "question": words.are_questions[rows].astype(np.float32),
        "length": np.log1p(np.minimum(words.lengths[rows], _LONG)) / np.float32(4) * np.float32(coverage),
        "answers": words_of(before) * follows_question,
    }
    return Candidates(rows, cosines[places], features)


def _with_neighbours(
    words: Words, mask: Mask, alive: Mask, by_words: Numbers, best_words: float, nearest: Nearest
) -> Numbers:
    """Return the rows of both lists and those beside the best of them, int64 [m] ascending."""
    rows = _distinct(np.concatenate([by_words, nearest.rows]))
    rough = words.scores[rows] / best_words
    rough[np.searchsorted(rows, nearest.rows)] += _scaled(nearest.scores, nearest.scores) / 2
    first = rows[np.sort(np.argsort(-rough, kind="stable")[:_AROUND])]
    around = _around(words.sessions, alive, first)
    beside = _distinct(np.concatenate([around[offset] for offset in _CANDIDATES_BESIDE]))
    return _distinct(np.concatenate([rows, beside[mask[beside]]]))


def _distinct(rows: Numbers) -> Numbers:
    """Return `rows` ascending, each once, without NOWHERE."""
    rows = np.sort(rows[rows != NOWHERE])
    is_new = np.ones(len(rows), bool)
    is_new[1:] = rows[1:] != rows[:-1]
    return rows[is_new]


def _best(scores: Scores, most: int) -> Numbers:
    """Return the places of the `most` largest of those above 0, ascending; the earlier ones where several are equal."""
    places = np.flatnonzero(scores > 0)
    if len(places) > most:
        places = places[scores[places] >= np.partition(scores[places], -most)[-most]]
        places = np.sort(places[np.argsort(-scores[places], kind="stable")[:most]])
    return places


def _scaled(cosines: Scores, listed: Scores) -> Scores:
    """Return cosines such that the best of a list is 1 and the last of it is 0; -1 at least, however far a memory is."""
    if not len(listed):
        return np.zeros(len(cosines), np.float32)
    low, high = float(listed[-1]), float(listed[0])
    scaled: Scores = np.maximum((cosines - low) / max(high - low, 1e-6), -1).astype(np.float32)
    return scaled


def _around(sessions: Sessions, alive: Mask, rows: Numbers) -> dict[int, Numbers]:
    """Return for each row, int64 [m], its neighbours in its session by their distance; NOWHERE without one."""
    window = rows[:, None] + np.arange(-_REACH, _REACH + 1)
    is_there = (window >= 0) & (window < len(alive))
    window = np.where(is_there, window, 0)
    own = sessions[rows][:, None]
    is_same = is_there & alive[window] & (sessions[window] == own) & (own != 0)
    ahead = np.cumsum(is_same[:, _REACH - 1 :: -1], axis=1, dtype=np.int8)
    behind = np.cumsum(is_same[:, _REACH + 1 :], axis=1, dtype=np.int8)
    found = {}
    for offset in _OFFSETS:
        counted = ahead if offset < 0 else behind
        steps = 1 + np.argmax(counted >= abs(offset), axis=1)
        places = rows + (steps if offset > 0 else -steps)
        found[offset] = np.where(counted[:, -1] >= abs(offset), places, NOWHERE)
    return found


def _lift(sessions: Sessions, rough: Scores) -> Scores:
    """Return how much the session of each row is about the query: the mean of its best rows, over the best session's."""
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
    return lifts / max(float(lifts.max(initial=0)), 1e-6)
