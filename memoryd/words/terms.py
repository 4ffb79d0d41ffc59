"""Texts as terms: what the words index holds of them, and what it is asked for."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from memoryd.protocol.records import speaker_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memoryd.protocol.records import MemoryRecord

# Words that stand in every text. They are neither kept nor looked for: FTS5 knows no stop words by itself, and what they
# add to a score is noise.
_STOP_WORDS: Final = """
    a about above after again against all am an and any are aren as at be because been before being below between both but
    by can could couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn have
    haven having he her here hers herself him himself his how i if in into is isn it its itself just ll m me might more most
    must my myself no nor not now of off on once only or other our ours ourselves out over own re s same shan she should
    shouldn so some such t than that the their theirs them themselves then there these they this those through to too under
    until up ve very was wasn we were weren what when where which while who whom why will with won would wouldn you your
    yours yourself yourselves
    """
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())

# Terms that ask rather than say what is asked for; they are looked up, but do not tell questions apart.
ASKING: Final = frozenset(["please", "remember", "recall", "remind", "tell", "know"])

# What a question begins with that says what it asks for; each of the second asks for a time when one of the third follows.
_QUESTION_WORDS: Final = frozenset(["when", "where", "who", "whom", "whose", "why", "how", "what", "which"])
_OF_WHICH: Final = frozenset(["what", "which"])
_TIMES: Final = frozenset(["time", "date", "day", "month", "year"])

# A longer one is a hash, a path or encoded data: nobody asks for it, and each would stand in the index for good.
LONGEST_TERM: Final = 40

# A memory is found by its first words; more of them make it match everything.
MOST_TERMS: Final = 2_000

SPEAKER: Final = "@"  # begins the terms that stand for who said it
MONTHS: Final = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)

_WORD: Final = re.compile(r"[^\W_]+")
_MENTIONED: Final = re.compile(r"\b[^\W_]+\b(?!:)")  # "Ann: ..." is a line that she says, not a question about her
_LONGEST_QUESTION: Final = 1_000  # characters; more is a pasted text, which is about nobody, and takes time
_ADDRESS: Final = "you"
_REPEATED: Final = re.compile(rf"\b{_ADDRESS}(?:\s+{_ADDRESS})+\b")  # of a name of several words

# Chinese characters and kana: they are written without spaces, so a word of these is a whole clause.
_UNSPACED: Final = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)

# A name in a program that is several words: userName, HTTPServer; not IDs. Those with underscores are several already.
# It is looked for from the beginning of a word only, or else a word without end would take for ever; and only where one is,
# which is quick to tell by its capitals.
_HAS_JOINED: Final = re.compile(r"[A-Z](?:(?<=[a-z].)|[A-Z][a-z]{2})")
_JOINED: Final = re.compile(r"(?<![^\W_])[A-Za-z0-9]*?(?:[a-z][A-Z]|[A-Z]{2}[a-z]{2})[A-Za-z0-9]*")
_PART: Final = re.compile(r"[A-Z]{2,}(?![a-z])|[A-Z][a-z]+|[a-z]{2,}")


def terms_of(text: str) -> list[str]:
    """Return the distinct terms of a text in order: lower-case words that are no stop words, neither stemmed nor sorted.

    Of what is written without spaces, each two neighbouring characters are a term. A name like `userName` is a term, and
    so are its parts. Characters that Unicode holds to be compatible are the same.
    """
    if not text.isascii():
        text = _UNSPACED.sub(_in_pairs, unicodedata.normalize("NFKC", text))
    if _HAS_JOINED.search(text):
        text = _JOINED.sub(_with_parts, text)
    found = dict.fromkeys(_WORD.findall(text.casefold()))
    terms = [term for term in found if term not in STOP_WORDS and len(term) <= LONGEST_TERM]
    return terms[:MOST_TERMS]


def _in_pairs(run: re.Match[str]) -> str:
    characters = run[0]
    pairs = map("".join, pairwise(characters)) if len(characters) > 1 else (characters,)
    return f" {' '.join(pairs)} "


def _with_parts(name: re.Match[str]) -> str:
    parts = _PART.findall(name[0]) if len(name[0]) <= LONGEST_TERM else ()
    return " ".join((name[0], *parts))


@dataclass(frozen=True, slots=True)
class Document:
    """What the index keeps of a memory: its terms, how many of them are words of its text, and whether it asks something."""

    terms: Sequence[str]
    length: int
    is_question: bool


def document_of(record: MemoryRecord) -> Document:
    """Return a memory as it is indexed: what it says, who said it and when.

    Whoever asks about a day or a person uses these words, and most texts do not.
    """
    speaker = speaker_of(record.metadata)
    when = record.timestamp
    words = terms_of(f"{speaker} {record.text}")
    day = [str(when.day), MONTHS[when.month - 1], str(when.year)]
    terms = dict.fromkeys([*words, *day, *spoken_by(speaker)])
    return Document(list(terms), len(words), record.text.rstrip().endswith("?"))


def addressed(query: str, has_spoken: Callable[[str], bool]) -> str:
    """Return a query as it would be put to the speaker whom it names: "you" in the place of the name.

    `has_spoken` knows the terms of `spoken_by`. A vector of a query with a name is near to whatever this speaker says. What
    begins with a small letter is no name: speakers are called "user" and "agent", too.
    """

    def replaced(word: re.Match[str]) -> str:
        is_name = not word[0][0].islower() and has_spoken(f"{SPEAKER}{word[0].casefold()}")
        return _ADDRESS if is_name else word[0]

    if len(query) > _LONGEST_QUESTION:
        return query
    return _REPEATED.sub(_ADDRESS, _MENTIONED.sub(replaced, query))


def asks_when(query: str) -> bool | None:
    """Return whether a question asks for a time; None when what it asks for is not said before what it is about."""
    words = (found[0] for found in _WORD.finditer(query[:_LONGEST_QUESTION].casefold()))
    for word in words:
        if word in _QUESTION_WORDS:
            return word == "when" or (word in _OF_WHICH and next(words, "") in _TIMES)
        if word not in STOP_WORDS and word not in ASKING:
            return None
    return None


def spoken_by(name: str) -> list[str]:
    """Return the terms that stand for a speaker of this name: no text holds them."""
    return [f"{SPEAKER}{term}" for term in terms_of(name)]


def hashed(term: str) -> int:
    """Return 64 bits that stand for a term where the term itself is not to be kept."""
    return int.from_bytes(blake2b(term.encode(), digest_size=8).digest(), "little")
