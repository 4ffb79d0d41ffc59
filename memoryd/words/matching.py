"""Which rows hold the words of a query, and how much that says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.interfaces import Matched
from memoryd.words.alignment import NONE
from memoryd.words.terms import SPEAKER, terms_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import Numbers
    from memoryd.words.alignment import Joined
    from memoryd.words.lexicon import Lexicon, Posting

    Scores = NDArray[np.float32]  # [rows]
    Mask = NDArray[np.bool_]  # [rows]

# BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009) where a term occurs or does not: how often it
# does says nothing more about texts as short as memories.
_K1: Final = 1.2
_B: Final = 0.4

# In a large memory a word that stands in more of the memories than this says little and costs most.
_LARGE: Final = 20_000
_COMMON: Final = 0.1
_KEPT: Final = 2  # of the rarest words, however common they are

# A word that stands in more of the memories than this does not tell which of them a text goes back to.
_TELLING: Final = 0.1
_MOST_TELLING: Final = 1_000
_LEAST_TELLING: Final = 8

# Further words of a query, which are those of a pasted text, add time and nothing else.
_MOST_TERMS: Final = 64


@dataclass(frozen=True, slots=True)
class Match:
    """What the words of a query say about each row.

    `scores` float32 [rows]; `most` is what a row of usual length would have that holds all terms; `spoken`, bool [rows],
    marks what was said by the one speaker whom the query names. `pruned` terms were too common to be looked at.
    """

    scores: Scores
    most: float
    matched: Sequence[Matched]
    pruned: Sequence[str]
    spoken: Mask


def match(lexicon: Lexicon, joined: Joined, alive: Mask, query: str) -> Match:
    """Look the words of a query up; rows that are not `alive`, bool [rows], count for nothing. Raises StorageFault.

    `joined` is of as many rows.
    """
    terms = terms_of(query)[:_MOST_TERMS]
    live = max(1, int(np.count_nonzero(alive)))
    most = len(lexicon) if live < _LARGE else int(_COMMON * live)
    found = lexicon.postings(terms, most)
    common = [posting for posting in found if len(posting.documents) > most]
    rare = [posting for posting in found if len(posting.documents) <= most]
    kept = common[: max(0, _KEPT - len(rare))]
    rare += lexicon.postings([posting.term for posting in kept], len(lexicon))
    matched = [_weighed(posting, joined, alive, live) for posting in rare]
    scores, usual = np.zeros(len(alive), np.float32), _usual(joined.lengths, alive)
    for one in matched:
        scores[one.rows] += one.idf * (_K1 + 1) / (1 + _K1 * (1 - _B + _B * joined.lengths[one.rows] / usual))
    return Match(
        scores=scores,
        most=sum(one.idf for one in matched),
        matched=matched,
        pruned=[posting.term for posting in common[len(kept) :]],
        spoken=_spoken(lexicon, joined, alive, terms),
    )


def telling(lexicon: Lexicon, joined: Joined, alive: Mask, terms: Sequence[str]) -> list[Matched]:
    """Look those of these terms up that few memories hold; rows that are not `alive`, bool [rows], count for nothing.

    `joined` is of as many rows. Raises StorageFault.
    """
    live = max(1, int(np.count_nonzero(alive)))
    most = max(_LEAST_TELLING, min(_MOST_TELLING, int(_TELLING * live)))
    found = lexicon.postings(terms, most)
    return [_weighed(each, joined, alive, live) for each in found if 0 < len(each.documents) <= most]


def _spoken(lexicon: Lexicon, joined: Joined, alive: Mask, terms: Sequence[str]) -> Mask:
    """Return what was said by the one speaker whom these terms name; nothing when they name several."""
    named = [speaker for term in terms if lexicon.has_spoken(speaker := f"{SPEAKER}{term}")]
    said = lexicon.postings(named, len(lexicon))
    masks = [_marked(_rows(joined, alive, posting.documents), len(alive)) for posting in said]
    return np.logical_and.reduce(masks) if masks else np.zeros(len(alive), bool)


def _marked(rows: Numbers, length: int) -> Mask:
    mask = np.zeros(length, bool)
    mask[rows] = True
    return mask


def _rows(joined: Joined, alive: Mask, documents: Numbers) -> Numbers:
    """Return the rows of those of these documents that are alive."""
    rows = joined.rows[documents[documents < len(joined.rows)]]
    rows = rows[(rows != NONE) & (rows < len(alive))]
    living: Numbers = rows[alive[rows]].astype(np.int64)
    return living


def _weighed(posting: Posting, joined: Joined, alive: Mask, live: int) -> Matched:
    rows = _rows(joined, alive, posting.documents)
    return Matched(posting.term, rows, float(np.log(1 + (live - len(rows) + 0.5) / (len(rows) + 0.5))))


def _usual(lengths: NDArray[np.uint16], alive: Mask) -> float:
    """Return the mean length of what is alive."""
    return max(1.0, float(lengths[alive].mean())) if alive.any() else 1.0


def nothing(rows: int) -> Match:
    """Return what is said of so many rows of which none lives."""
    return Match(np.zeros(rows, np.float32), 0.0, (), (), np.zeros(rows, bool))
