"""The embedded global store: copies of what users published, in one more memory file."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from memoryd.protocol.errors import Damaged
from memoryd.protocol.ids import EventId, RecordId, UserId, derived_record_id
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.records import ANY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.interfaces import IndexView, MemoryStore, Opened, Vectors, WordsIndex
    from memoryd.protocol.records import MemoryFilter, MemoryRecord, RetrievedMemory

NAME: Final = UserId("global")  # the name of the one file, in a root of its own
_AT_ONCE: Final = 256  # copies whose words are taken in together


class GlobalFile:
    """A GlobalStore on one file of a MemoryStore that has a root of its own, with the words of what is in it.

    A copy has its own id, made from the publisher and the original, so that two users never collide. Its metadata says
    `published_by` and `published_id`.
    """

    def __init__(self, store: MemoryStore, words: WordsIndex) -> None:
        self._store = store
        self._words = words
        self._opened: Opened | None = None
        self._published: Counter[str] = Counter()

    def open(self) -> None:
        """Open the file. Raises StorageFault."""
        self._opened = self._store.open(NAME)
        self._published.clear()
        index = self._opened.index
        for record in index.records(index.select(ANY)):
            self._published[_publisher(self._store.decode(record))] += 1
        try:
            self._cover(index.view())
        except Damaged:
            self._words.discard()
            self._cover(index.view())

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
                metadata={**record.metadata, "published_by": user, "published_id": record.id},
            )
            for row, record in enumerate(records)
        }
        known = index.known([copy.id for copy in copies.values()])
        new = {row: copy for row, copy in copies.items() if copy.id not in known}
        if not new:
            return
        file.commit(Batch(entries=[Entry(copy, vectors[row]) for row, copy in new.items()]))
        index.add([self._store.encode(copy) for copy in new.values()], vectors[list(new)])
        self._published[user] += len(new)
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
        self._published[user] -= len(gone)
        self._words.discard()  # so that none of theirs is left
        self._cover(index.view())

    def query(
        self,
        query: str,
        vector: Vectors | None,
        *,
        k: int,
        where: MemoryFilter,
        preferred: MemoryFilter | None,
        explain: bool,
        asked_by: UserId,
    ) -> list[RetrievedMemory]:
        """Return the best of what others published; `vector` is float32 [dim], and words alone answer without one."""
        own = self._published[asked_by]
        if len(self._use.index) <= own:
            return []
        asked = self._words.match(self._use.index.view(), query, where, 0, preferred)
        hits = asked.rank(vector, k=k + own, explain=explain).hits
        found = ((self._store.decode(hit.record), hit) for hit in hits)
        return [hit.retrieved(copy) for copy, hit in found if _publisher(copy) != asked_by][:k]

    def close(self) -> None:
        """Release the files."""
        self._words.close()
        if self._opened is not None:
            self._opened.file.close()
            self._opened = None

    def _cover(self, view: IndexView) -> None:
        while self._words.cover(view, _AT_ONCE):
            pass
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
