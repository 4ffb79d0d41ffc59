"""The words index of one user's memory, and recall by words and vectors together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.maxsim import nearness, width
from memoryd.protocol.interfaces import Hit, Hits, Nearest, Placed
from memoryd.protocol.learning import UNTOLD, Intent
from memoryd.protocol.records import ANY, Explanation
from memoryd.relevance import BY_BOTH, BY_WORDS, relevance
from memoryd.windows import nearest_cosine
from memoryd.words.alignment import Alignment, Joined
from memoryd.words.credit import is_echo, is_of, later_texts, terms_to_look_up, told
from memoryd.words.events import told_in
from memoryd.words.folding import Answer, distinct
from memoryd.words.fusion import BY_VECTORS, OF_TIME, ByWords
from memoryd.words.learned import rows_for, summands
from memoryd.words.lexicon import Lexicon
from memoryd.words.matching import match, nothing, telling
from memoryd.words.neighbours import neighbours
from memoryd.words.terms import ASKING, addressed, asks_when, hashed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from memoryd.files import FileSystem
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import IndexView, Matched, Meaning, Numbers, Vectors
    from memoryd.protocol.learning import Keys, Learned
    from memoryd.protocol.records import MemoryFilter, MemoryRecord, Trajectory
    from memoryd.words.fusion import Candidates
    from memoryd.words.matching import Match
    from memoryd.words.neighbours import Neighbours

LEXICAL: Final = "lexical"
_BESIDE: Final = ("", "-wal", "-shm")  # SQLite's names of the files of a database
_ALIGNED: Final = 4  # numberings that are remembered, those used last

_ROW_BYTES: Final = 20  # the row of each document, and what is known of each row and its neighbours

_NO_ROWS: Final = np.empty(0, np.int64)
_NEXT: Final = 64  # candidates that learning sees beside those that were shown
_NOTHING: Final = Nearest(np.empty(0, np.float32), np.empty(0, np.int64), LEXICAL)


class _Found:
    """Candidates, what is added to their scores because of what was learned, by summand, and the chance that each is right."""

    def __init__(self, candidates: Candidates, added: Mapping[str, Vectors], chances: Vectors) -> None:
        self.candidates = candidates
        self.rows = candidates.rows
        self.chances = chances
        self.final = candidates.scores + sum(added.values()) if added else candidates.scores
        self._added = added

    def parts(self, place: int) -> dict[str, float]:
        """Return the summands of one candidate that are not 0."""
        added = {name: round(float(values[place]), 6) for name, values in self._added.items() if values[place]}
        return {**self.candidates.parts(place), **added}


@dataclass(frozen=True, slots=True)
class Question:
    """A query whose words were looked up in a view, for an answer from the rows that `mask`, bool [rows], marks."""

    view: IndexView
    decode: Callable[[bytes], MemoryRecord]
    match: Match
    by_words: ByWords
    mask: NDArray[np.bool_]
    is_filtered: bool
    preferred: NDArray[np.bool_] | None
    lacking: int
    asks_when: bool | None

    @property
    def matched(self) -> Sequence[Matched]:
        return self.match.matched

    @property
    def pruned(self) -> Sequence[str]:
        return self.match.pruned

    def intent(self, vector: Vectors) -> Intent:
        # What no memory holds says little about one that helped.
        rarity_of = {one.term: one.idf if len(one.rows) else one.idf / 2 for one in self.matched}
        terms = {hashed(term): rarity for term, rarity in rarity_of.items() if term not in ASKING}
        order = sorted(terms)
        rarity = np.fromiter((terms[term] for term in order), np.float32, len(order))
        return Intent(vector, np.array(order, np.uint64), rarity, self.asks_when)

    def rank(self, meaning: Meaning | None, *, k: int, explain: bool = False, learned: Learned | None = None) -> Hits:
        nearest = self._nearest(meaning, k)
        found = self._found(meaning, nearest, _NO_ROWS, learned)
        best = np.argsort(-found.final, kind="stable")
        answers = distinct(self._records(found.rows, best, k), self.decode, k)
        hits = [self._hit(found, each, nearest, explain=explain) for each in answers]
        return Hits(hits, nearest.path, len(found.rows))

    def place(self, meaning: Meaning | None, record: RecordId, learned: Learned | None = None) -> Placed | None:
        asked = self.view.find((record,))
        if not len(asked):
            return None
        row = int(asked[0])
        nearest = self._nearest(meaning, 1)
        found = self._found(meaning, nearest, asked, learned)
        own = int(np.searchsorted(found.rows, row))
        ahead = self.mask[found.rows] & (found.final > found.final[own])
        ((place, encoded),) = self._records(found.rows, np.array([own]), 1)
        hit = self._hit(found, Answer(place, encoded), nearest, explain=True)
        count = len(found.rows) - (not self.mask[row])
        return Placed(hit, 1 + int(np.count_nonzero(ahead)), count, bool(self.mask[row]), nearest.path)

    def candidates_for(self, meaning: Meaning, shown: Sequence[RecordId]) -> tuple[Sequence[RecordId], Keys, Vectors]:
        given, found, chosen = self.chosen(meaning, shown)
        return given, self.view.keys_at(found.rows)[chosen], found.scores[chosen]

    def credit(self, meaning: Meaning, shown: Sequence[RecordId], run: Trajectory, said: Sequence[Matched]) -> Vectors:
        given, found, chosen = self.chosen(meaning, shown)
        records = self._records(found.rows, chosen, len(chosen)) if len(chosen) else ()
        known = {place: self.decode(record) for place, record in records if record}
        creditable = [
            place for place in chosen[: len(given)].tolist() if place in known and not is_echo(known[place], run)
        ]
        others = [place for place in chosen[len(given) :].tolist() if place in known and not is_of(known[place], run)]
        credit = np.zeros(len(found.rows), np.float32)
        shares = told(said, self.matched, found.rows[creditable], found.rows[others])
        credit[creditable] = UNTOLD + (1 - UNTOLD) * shares
        return credit[chosen[: len(given)]]

    def chosen(
        self, meaning: Meaning, shown: Sequence[RecordId]
    ) -> tuple[Sequence[RecordId], Candidates, NDArray[np.int64]]:
        """Return those of the memories `shown` that live, the candidates, and the places among them of these and of the next ones."""
        given = [(record, rows) for record in shown if len(rows := self.view.find((record,)))]
        known = np.array([rows[0] for _, rows in given], np.int64)
        found = self.candidates(meaning, self._nearest(meaning, 1), known)
        places = np.searchsorted(found.rows, known)
        best = np.argsort(-found.scores, kind="stable")[:_NEXT]
        others = best[~np.isin(best, places)]
        return [record for record, _ in given], found, np.concatenate([places, others])

    def candidates(self, meaning: Meaning | None, nearest: Nearest, also: NDArray[np.int64] = _NO_ROWS) -> Candidates:
        """Return what may answer, see `ByWords.candidates`; of a long text its nearest window counts. Raises Damaged."""
        if meaning is None:
            return self.by_words.candidates(self.view, nearest, None, also)
        if self.preferred is not None:
            of_time = self.view.nearest(meaning.vector, self.mask & self.preferred, k=OF_TIME, is_filtered=True)
            also = np.concatenate([also, of_time.rows])
        by_windows = partial(self._by_windows, meaning.vector)
        by_pieces = partial(self._by_pieces, meaning) if meaning.signs else None
        return self.by_words.candidates(self.view, nearest, meaning.vector, also, by_windows, by_pieces)

    def _found(
        self, meaning: Meaning | None, nearest: Nearest, also: NDArray[np.int64], learned: Learned | None
    ) -> _Found:
        added: Mapping[str, Vectors] = {}
        weights = BY_WORDS if meaning is None else BY_BOTH
        if meaning is None or learned is None:
            found = self.candidates(meaning, nearest, also)
            chances = relevance(found.features_of_relevance(self.match), weights)
        else:
            by_learning = rows_for(self.view, self.mask, learned, is_filtered=self.is_filtered)
            found = self.candidates(meaning, nearest, np.concatenate([also, by_learning]))
            added = summands(self.view, found.rows, meaning.vector, learned)
            evidence = learned.evidence(self.view.keys_at(found.rows))
            chances = relevance(found.features_of_relevance(self.match), weights, evidence)
        return _Found(found, added, chances)

    def _by_windows(self, vector: Vectors, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Vectors]:
        """Return those of these rows, ascending, whose texts have several windows, and the cosine of the nearest of each."""
        records = self.view.records(rows) if len(rows) else ()
        found = {
            row: nearest_cosine(windows, vector)
            for row, record in zip(rows.tolist(), records, strict=True)
            if record and (windows := self.decode(record).windows) and not len(windows) % len(vector)
        }
        return np.fromiter(found, np.int64, len(found)), np.fromiter(found.values(), np.float32, len(found))

    def _by_pieces(self, meaning: Meaning, rows: NDArray[np.int64]) -> Vectors:
        """Return how near these rows are to the query piece by piece, float32 [m]; NaN where it is not known."""
        dim = len(meaning.vector)
        records = self.view.records(rows) if len(rows) else ()
        signs = [self.decode(record).signs if record else b"" for record in records]
        found = np.full(len(rows), np.nan, np.float32)
        is_known = np.fromiter((bool(each) and not len(each) % width(dim) for each in signs), bool, len(signs))
        if is_known.any():
            found[is_known] = nearness(
                meaning.signs, [each for each, known in zip(signs, is_known, strict=True) if known], dim
            )
        return found

    def _nearest(self, meaning: Meaning | None, k: int) -> Nearest:
        if meaning is None:
            return _NOTHING
        return self.view.nearest(meaning.vector, self.mask, k=max(k, BY_VECTORS), is_filtered=self.is_filtered)

    def _records(self, rows: NDArray[np.int64], places: NDArray[np.int64], at_once: int) -> Iterator[tuple[int, bytes]]:
        """Yield these places among `rows` with their records, so many at once; empty where one was hidden meanwhile."""
        for at in range(0, len(places), at_once):
            some = places[at : at + at_once]
            ascending = np.sort(some)
            records = dict(zip(ascending.tolist(), self.view.records(rows[ascending]), strict=True))
            yield from ((place, records[place]) for place in some.tolist())

    def _hit(self, found: _Found, answer: Answer, nearest: Nearest, *, explain: bool) -> Hit:
        place = answer.place
        return Hit(
            record=answer.record,
            score=float(found.candidates.scores[place]),
            sona_score=float(found.final[place]),
            cosine=float(found.candidates.cosines[place]),
            relevance=float(found.chances[place]),
            folded=tuple(answer.folded),
            explanation=self._explained(found, place, nearest) if explain else None,
        )

    def _explained(self, found: _Found, place: int, nearest: Nearest) -> Explanation:
        row, scores = int(found.rows[place]), self.match.scores
        near = np.flatnonzero(nearest.rows == row)
        score = scores[row]
        return Explanation(
            parts=found.parts(place),
            words=tuple(one.term for one in self.matched if row in one.rows),
            by_words=1 + int(np.count_nonzero(self.mask & (scores > score))) if score else None,
            by_vector=1 + int(near[0]) if len(near) else None,
        )


class WordsIndex:
    """Which rows hold a word, and recall by it. Safe to call from any thread; blocks.

    The file is opened, or made, when there is something to be taken in; without a path everything stays in memory.
    """

    def __init__(self, path: Path | None, files: FileSystem, decode: Callable[[bytes], MemoryRecord]) -> None:
        self._path = path
        self._files = files
        self._decode = decode
        self._lock = Lock()
        self._lexicon: Lexicon | None = None
        self._alignments: list[Alignment] = []

    def cover(self, view: IndexView, most: int) -> int:
        """Take in at most `most` rows that it does not hold, the earliest first; return how many are left.

        Raises StorageFault.
        """
        with self._lock:
            return self._aligned(view)[1].cover(view, self._decode, most) if view.passing(ANY).any() else 0

    def merge(self) -> bool:
        """Do some of what makes looking words up quicker, and return whether there is more. Raises StorageFault."""
        with self._lock:
            return self._lexicon is not None and self._lexicon.merge()

    @property
    def is_open(self) -> bool:
        return self._lexicon is not None

    def addressed(self, query: str) -> str:
        """Return a query as it would be put to the speaker whom it names; as it is while the index is not open.

        Reads nothing and waits for nobody. Who speaks in memories that are not taken in is not known.
        """
        lexicon = self._lexicon
        return query if lexicon is None else addressed(query, lexicon.has_spoken)

    def match(
        self,
        view: IndexView,
        query: str,
        where: MemoryFilter,
        most: int,
        preferred: MemoryFilter | None = None,
        without: Numbers | None = None,
    ) -> Question:
        """Look the words of `query` up, for an answer from what passes `where`; what passes `preferred`, a time, comes sooner.

        The rows `without`, int64 [m], are no answers. What the index lacks of this view is taken in first if it is no more than `most` rows. Raises StorageFault.
        """
        alive = view.passing(ANY)
        mask = view.passing(where)
        if without is not None:
            mask[without] = False
        then = None if preferred is None else view.passing(preferred)
        with self._lock:
            match, joined, beside = self._looked_up(view, query, alive, most)
        lacking = int(np.count_nonzero(alive & ~joined.has_document))
        by_words = ByWords(match, joined, beside, mask, then)
        is_filtered = where != ANY or without is not None
        return Question(view, self._decode, match, by_words, mask, is_filtered, then, lacking, asks_when(query))

    def _looked_up(
        self, view: IndexView, query: str, alive: NDArray[np.bool_], most: int
    ) -> tuple[Match, Joined, Neighbours]:
        if not alive.any():  # no file is opened for nothing
            joined = Joined.of_nothing(view.rows)
            return nothing(view.rows), joined, neighbours(joined.sessions, alive)
        lexicon, alignment = self._aligned(view)
        if 0 < len(alignment.lacking(view)) <= most:
            alignment.cover(view, self._decode, most)
        joined = alignment.joined.up_to(view.rows)
        return match(lexicon, joined, alive, query), joined, alignment.neighbours(joined, alive)

    def said(self, view: IndexView, run: Trajectory) -> Sequence[Matched]:
        """Look up what a run said later: the terms of its steps, and of the memories that its events became.

        Terms of its question, or that many memories hold, are left out; what the index lacks of this view is not looked for. Raises
        StorageFault.
        """
        terms = terms_to_look_up(later_texts(run, view, self._decode), run.query)
        alive = view.passing(ANY)
        if not terms or not alive.any():
            return ()
        with self._lock:
            lexicon, alignment = self._aligned(view)
            return telling(lexicon, alignment.joined.up_to(view.rows), alive, terms)

    def event(self, view: IndexView, query: str, name: str, most: int) -> tuple[RecordId, datetime] | None:
        """Return the memory that tells of the event `name`, a part of the query, and its moment; None if none does.

        What the index lacks of this view is taken in first if it is no more than `most` rows. Raises Damaged or another StorageFault.
        """
        with self._lock:
            match, joined, _ = self._looked_up(view, query, view.passing(ANY), most)
        row = told_in(match, joined.are_questions, name)
        if row is None:
            return None
        (record,) = view.records(np.array([row]))
        if not record:  # hidden meanwhile
            return None
        found = self._decode(record)
        return found.id, found.timestamp

    def others(self, views: Sequence[IndexView]) -> NDArray[np.uint64]:
        """Return the ids of the records that it holds and none of these do, as numbers, see `keys.folded`."""
        held = np.concatenate([view.keys(0, view.rows) for view in views])
        with self._lock:
            if self._lexicon is None and (self._path is None or not self._files.exists(self._path)):
                return np.empty(0, np.uint64)
            return np.setdiff1d(self._opened().known().keys, held)

    @property
    def resident_bytes(self) -> int:
        # Without the lock, since the event loop asks: the list is replaced, never changed.
        return _ROW_BYTES * sum(len(alignment.joined.rows) for alignment in self._alignments)

    def discard(self) -> None:
        """Remove everything it holds: it is made anew by covering."""
        with self._lock:
            self._close()
            if self._path is not None:
                for suffix in _BESIDE:
                    self._files.unlink(self._path.with_name(self._path.name + suffix))

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._alignments = []
        if self._lexicon is not None:
            self._lexicon.close()
            self._lexicon = None

    def _opened(self) -> Lexicon:
        if self._lexicon is None:
            self._lexicon = Lexicon(self._path)
        return self._lexicon

    def _aligned(self, view: IndexView) -> tuple[Lexicon, Alignment]:
        lexicon = self._opened()
        for alignment in self._alignments:
            if alignment.is_of(view):
                return lexicon, alignment
        alignment = Alignment(lexicon, view)
        self._alignments = [*self._alignments[1 - _ALIGNED :], alignment]
        return lexicon, alignment
