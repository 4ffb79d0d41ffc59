"""Does a words index agree with the memory it was made from? Every term of every document is compared."""

from __future__ import annotations

from contextlib import closing
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.errors import StorageFault
from memoryd.protocol.interfaces import Finding
from memoryd.words.alignment import NONE, Alignment, document
from memoryd.words.lexicon import Lexicon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memoryd.protocol.interfaces import IndexView, Numbers
    from memoryd.protocol.records import MemoryRecord

_HINT: Final = "memoryd verify --repair removes it; it is made anew from the memory when it is needed"
_AT_ONCE: Final = 1_024  # documents that are made anew together


def findings(path: Path, view: IndexView, decode: Callable[[bytes], MemoryRecord]) -> list[Finding]:
    """Return what is wrong with the index at `path` of the memory that `view` shows; all of it may pass.

    Its owner may be writing to it, or making it anew. Words of what was deleted are looked over: they stay until its bytes
    are erased.
    """
    try:
        with closing(Lexicon(path)) as lexicon:
            lexicon.check()
            what = "" if _agrees(lexicon, view, decode) else "the words index does not agree with the memory"
    except StorageFault as error:
        what = error.message
    return [Finding(what, 0, _HINT, path.name, may_pass=True)] if what else []


def _agrees(lexicon: Lexicon, view: IndexView, decode: Callable[[bytes], MemoryRecord]) -> bool:
    """Whether each document holds the terms of its record, and no others."""
    rows = Alignment(lexicon, view).joined.rows.astype(np.int64)
    documents = np.flatnonzero(rows != NONE)
    records = _records(view, rows[documents])
    known = np.array([bool(record) for record in records], bool)  # hidden ones are gone, and only their words are left
    documents = documents[known]
    with closing(Lexicon(None)) as anew:
        living = [document(record, decode) for record in records if record]
        for at in range(0, len(living), _AT_ONCE):
            part = living[at : at + _AT_ONCE]
            anew.add(np.zeros(len(part), np.uint64), part)
        numbers = np.full(len(rows), NONE, np.int64)
        numbers[documents] = np.arange(len(documents))
        return all(a == b for a, b in zip_longest(_instances(lexicon, numbers), anew.instances()))


def _records(view: IndexView, rows: Numbers) -> list[bytes]:
    """Return the records in these rows, in their order, empty ones for those that are hidden."""
    ascending = np.sort(rows)
    records = view.records(ascending)
    return [records[place] for place in np.searchsorted(ascending, rows).tolist()]


def _instances(lexicon: Lexicon, numbers: Numbers) -> Iterator[tuple[str, int]]:
    """Yield the terms with those of their documents that have a number here."""
    for term, number in lexicon.instances():
        if number < len(numbers) and numbers[number] != NONE:
            yield term, int(numbers[number])
