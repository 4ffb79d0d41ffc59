"""Which row of a memory each document of its words index stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import ref

import numpy as np

from memoryd.protocol.errors import Damaged
from memoryd.protocol.records import ANY
from memoryd.words.neighbours import Neighbours, neighbours
from memoryd.words.terms import Document, document_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import IndexView, Numbers
    from memoryd.protocol.records import MemoryRecord
    from memoryd.words.lexicon import Lexicon

NONE: Final = -1  # stands for a document without a row
_AT_ONCE: Final = 256  # documents of one transaction


@dataclass(frozen=True, slots=True)
class Joined:
    """The row of each document, int32 [documents], NONE where there is none; and what is known of each row.

    It may have a document, bool [rows], a session, whose number is not 0, int32 [rows], a length in words, uint16 [rows],
    and it may ask something, bool [rows].
    """

    rows: NDArray[np.int32]
    has_document: NDArray[np.bool_]
    sessions: NDArray[np.int32]
    lengths: NDArray[np.uint16]
    are_questions: NDArray[np.bool_]

    @classmethod
    def of_nothing(cls, rows: int) -> Joined:
        """Return what is known of so many rows without a document."""
        nowhere = np.zeros(rows, bool)
        return cls(np.empty(0, np.int32), nowhere, np.zeros(rows, np.int32), np.zeros(rows, np.uint16), nowhere)

    def up_to(self, rows: int) -> Joined:
        """Return the same for the first `rows` rows, of which the last may be unknown yet."""
        known = len(self.has_document)
        if rows == known:
            return self
        more = (0, max(0, rows - known))
        return Joined(
            self.rows,
            np.pad(self.has_document[:rows], more),
            np.pad(self.sessions[:rows], more),
            np.pad(self.lengths[:rows], more),
            np.pad(self.are_questions[:rows], more),
        )


class Alignment:
    """Joins a words index with the rows of one numbering, and adds what it lacks of them."""

    def __init__(self, lexicon: Lexicon, view: IndexView) -> None:
        self._numbering = ref(view.numbering)
        self._lexicon = lexicon
        self._sessions = {0: 0}  # their numbers by those of the view
        self._covered = 0  # rows before this one have documents, or need none
        self.joined = self._join(view)
        self._linked: tuple[Joined, int, Neighbours] | None = None  # for so many living rows

    def is_of(self, view: IndexView) -> bool:
        return self._numbering() is view.numbering

    def cover(self, view: IndexView, decode: Callable[[bytes], MemoryRecord], most: int) -> int:
        """Add documents for at most `most` rows that have none, the earliest first; return how many are left.

        Raises DiskFull, Damaged or another StorageFault.
        """
        missing = self.lacking(view)
        for at in range(0, min(most, len(missing)), _AT_ONCE):
            self._add(view, decode, missing[at : min(at + _AT_ONCE, most)])
        left = missing[most:]
        self._covered = int(left[0]) if len(left) else max(self._covered, view.rows)
        return len(left)

    def neighbours(self, joined: Joined, alive: NDArray[np.bool_]) -> Neighbours:
        """Return who stands beside whom among the rows that `alive`, bool [rows], marks; `joined` is of as many rows."""
        # Within one numbering rows only come and die, so that as many living ones among as many rows are the same.
        live = int(np.count_nonzero(alive))
        if self._linked is None or self._linked[0] is not joined or self._linked[1] != live:
            self._linked = (joined, live, neighbours(joined.sessions, alive))
        return self._linked[2]

    def lacking(self, view: IndexView) -> Numbers:
        """Return the rows that live and have no document yet, int64 [n] ascending."""
        if self._covered >= view.rows:
            return np.empty(0, np.int64)
        has_document = self.joined.up_to(view.rows).has_document[self._covered :]
        return self._covered + np.flatnonzero(view.passing(ANY)[self._covered :] & ~has_document)

    def _join(self, view: IndexView) -> Joined:
        """Find the row of each document by the key that both know; where several have the same, the last one counts."""
        known, wanted = self._lexicon.known(), view.keys(0, view.rows)
        rows = np.full(len(known.keys), NONE, np.int32)
        documents = np.full(view.rows, NONE, np.int64)
        if len(known.keys):
            order = np.argsort(known.keys, kind="stable")
            places = np.searchsorted(known.keys[order], wanted, side="right") - 1
            is_known = (places >= 0) & (known.keys[order][places] == wanted)
            documents[is_known] = order[places[is_known]]
            # Rows ascend, so of two rows with one key the later one, which took the place of the other, is put in last.
            rows[documents[is_known]] = np.flatnonzero(is_known)
        has_document = documents != NONE
        lengths, are_questions = np.zeros(view.rows, np.uint16), np.zeros(view.rows, bool)
        lengths[has_document] = known.lengths[documents[has_document]]
        are_questions[has_document] = known.are_questions[documents[has_document]]
        sessions = self._numbered(view.sessions(np.arange(view.rows)))
        return Joined(rows, has_document, sessions, lengths, are_questions)

    def _add(self, view: IndexView, decode: Callable[[bytes], MemoryRecord], rows: Numbers) -> None:
        records = view.records(rows)
        rows = rows[np.fromiter(map(bool, records), bool, len(records))]  # those hidden meanwhile need no document
        if not len(rows):
            return
        found = [document(record, decode) for record in records if record]
        first = int(rows[0])
        first_document = self._lexicon.add(view.keys(first, int(rows[-1]) + 1)[rows - first], found)
        old = self.joined.up_to(max(view.rows, len(self.joined.has_document)))
        has_document, sessions = old.has_document.copy(), old.sessions.copy()
        lengths, are_questions = old.lengths.copy(), old.are_questions.copy()
        has_document[rows] = True
        sessions[rows] = self._numbered(view.sessions(rows))
        lengths[rows] = [each.length for each in found]
        are_questions[rows] = [each.is_question for each in found]
        by_others = np.full(first_document - len(old.rows), NONE, np.int32)  # added beside this, for other rows
        of_documents = np.concatenate([old.rows, by_others, rows.astype(np.int32)])
        self.joined = Joined(of_documents, has_document, sessions, lengths, are_questions)

    def _numbered(self, sessions: Numbers) -> NDArray[np.int32]:
        """Return small numbers for those of the view."""
        numbers = (self._sessions.setdefault(session, len(self._sessions)) for session in sessions.tolist())
        return np.fromiter(numbers, np.int32, len(sessions))


def document(record: bytes, decode: Callable[[bytes], MemoryRecord]) -> Document:
    """Return what is indexed of an encoded record: nothing, if it cannot be decoded. Who is to read it will be told."""
    try:
        return document_of(decode(record))
    except Damaged:
        return Document((), 0, is_question=False)
