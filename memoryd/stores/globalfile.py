"""The embedded global store: copies of what users published, in one more memory file."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from memoryd.protocol.errors import Damaged, StorageFault
from memoryd.protocol.ids import EventId, RecordId, UserId, derived_record_id
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.records import ANY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.interfaces import IndexView, MemoryStore, Numbers, Opened, Vectors, Words, WordsIndex
    from memoryd.protocol.internal import QueryGlobal
    from memoryd.protocol.records import MemoryRecord, RetrievedMemory

NAME: Final = UserId("global")  # the name of the one file, in a root of its own
_AT_ONCE: Final = 256  # copies whose words are taken in together
_MERGED: Final = 64  # additions after which the words index is made quicker to look up, more in a large one


class GlobalFile:
    """A GlobalStore on one file of a MemoryStore that has a root of its own, with the words of what is in it.

    A copy has its own id, made from the publisher and the original, so that two users never collide. Its metadata says
    `published_by` and `published_id`, and `published_session` if it had one: a copy stands in no session itself.
    """

    def __init__(self, store: MemoryStore, words: WordsIndex) -> None:
        self._store = store
        self._words = words
        self._opened: Opened | None = None
        self._rows_of: dict[str, list[int]] = {}  # those of each publisher
        self._unmerged = 0

    def open(self) -> None:
        """Open the file. Raises StorageFault."""
        self._opened = self._store.open(NAME)
        self._number()
        view = self._use.index.view()
        with suppress(StorageFault):
            if len(self._words.others([view])):  # what was taken back before a crash
                self._words.discard()
        self._cover(view)

    @property
    def is_empty(self) -> bool:
        """Whether it is open and holds nothing."""
        return self._opened is not None and len(self._opened.index) == 0

    def publish(self, user: UserId, records: Sequence[MemoryRecord], vectors: Vectors) -> None:
        """Keep copies durably; vectors float32 [n, dim]. What is published already stays as it is."""
        file, index = self._use.file, self._use.index
        copies = {
            row: msgspec.structs.replace(
                record,
                id=_copy_id(user, record.id, record),
                session_id="",  # sessions of different users have the same names
                metadata={
                    **record.metadata,
                    "published_by": user,
                    "published_id": record.id,
                    **({"published_session": record.session_id} if record.session_id else {}),
                },
            )
            for row, record in enumerate(records)
        }
        known = index.known([copy.id for copy in copies.values()])
        new = {row: copy for row, copy in copies.items() if copy.id not in known}
        if not new:
            return
        file.commit(Batch(entries=[Entry(copy, vectors[row]) for row, copy in new.items()]))
        first = index.view().rows
        index.add([self._store.encode(copy) for copy in new.values()], vectors[list(new)])
        self._rows_of.setdefault(user, []).extend(range(first, first + len(new)))
        self._cover(index.view())

    def unpublish(self, user: UserId, ids: Sequence[RecordId] | None) -> None:
        """Remove these copies, or all of the user, and their bytes."""
        file, index = self._use.file, self._use.index
        gone = [
            copy.id
            for copy in map(self._store.decode, index.records(index.select(ANY)))
            if _publisher(copy) == user and (ids is None or copy.metadata.get("published_id") in ids)
        ]
        if not gone:
            return
        index.discard(gone)
        file.commit(Batch(deleted=gone))
        file.compact()
        index.rebased(file.load())()
        self._number()
        self._words.discard()  # so that none of theirs is left
        self._cover(index.view())

    def query(self, asked: QueryGlobal) -> list[RetrievedMemory]:
        """Return the best of what others published; words alone answer without a vector."""
        view, own = self._use.index.view(), np.array(self._rows_of.get(asked.asked_by, ()), np.int64)
        if len(self._use.index) <= len(own):
            return []
        try:
            hits = self._looked_up(view, asked, own).rank(asked.meaning, k=asked.top_k, explain=asked.explain).hits
        except StorageFault:  # of the words
            if asked.meaning is None:
                raise
            hits = view.search(asked.meaning.vector, k=asked.top_k + len(own), where=asked.filter).hits
        found = ((self._store.decode(hit.record), hit) for hit in hits)
        return [hit.retrieved(copy) for copy, hit in found if _publisher(copy) != asked.asked_by][: asked.top_k]

    def close(self) -> None:
        """Release the files."""
        self._words.close()
        if self._opened is not None:
            self._opened.file.close()
            self._opened = None

    def _looked_up(self, view: IndexView, asked: QueryGlobal, without: Numbers) -> Words:
        try:
            return self._words.match(view, asked.query, asked.filter, _AT_ONCE, asked.preferred, without)
        except Damaged:
            self._words.discard()
            self._cover(view)
            return self._words.match(view, asked.query, asked.filter, _AT_ONCE, asked.preferred, without)

    def _number(self) -> None:
        """See which rows are whose."""
        view = self._use.index.view()
        self._rows_of = {}
        for row, record in enumerate(view.records(np.arange(view.rows))):
            if record:
                self._rows_of.setdefault(_publisher(self._store.decode(record)), []).append(row)

    def _cover(self, view: IndexView) -> None:
        """Take in what the words index lacks. A fault of it is told when somebody asks; what is published stays so."""
        with suppress(StorageFault):
            try:
                self._take_in(view)
            except Damaged:
                self._words.discard()
                self._take_in(view)

    def _take_in(self, view: IndexView) -> None:
        left = view.rows
        while left:
            left = self._words.cover(view, _AT_ONCE)
            self._unmerged += 1
        # That writes all of it anew.
        if self._unmerged > max(_MERGED, view.rows // _MERGED):
            self._unmerged = 0
            while self._words.merge():
                pass

    @property
    def _use(self) -> Opened:
        if self._opened is None:
            raise RuntimeError("the global store is not open")
        return self._opened


def _publisher(copy: MemoryRecord) -> str:
    return str(copy.metadata.get("published_by", ""))


def _copy_id(user: UserId, original: RecordId, record: MemoryRecord) -> RecordId:
    return derived_record_id(record.timestamp, EventId(f"{user}/{original}"), 0)
