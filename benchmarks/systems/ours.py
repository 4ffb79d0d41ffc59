"""memoryd's own engines, called directly: the store of `.rvf` files and the index over one user's memory."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import faiss

from memoryd import garbage
from memoryd.actors.writer import QUIET_WASTE
from memoryd.clock import SystemClock
from memoryd.files import RealFiles
from memoryd.protocol.ids import RecordId, UserId, record_key, record_of_key
from memoryd.protocol.interfaces import Batch, Contents, Entry, ModelInfo
from memoryd.protocol.records import ANY, MemoryKind, MemoryRecord, MemorySource
from memoryd.rvf.store import RvfMemoryStore
from memoryd.vectors.codes import Codebook
from memoryd.vectors.index import VectorIndex

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.systems.system import About, Found, Vectors
    from memoryd.protocol.records import MemoryFilter

USER: Final = UserId("user")
_MOMENT: Final = datetime(2026, 1, 1, tzinfo=UTC)
_TIME: Final = int(_MOMENT.timestamp() * 1e3).to_bytes(6, "big")
_CHANCES: Final = 1 << 80
_SCRAMBLE: Final = 0x9E37_79B9_7F4A_7C15_F39D  # the golden ratio; odd, so that every row has its own
_UNSCRAMBLE: Final = pow(_SCRAMBLE, -1, _CHANCES)


class Store:
    """A `System`; the codebook is loaded before it is opened, as the daemon does when it starts."""

    def __init__(self, folder: Path, about: About) -> None:
        faiss.omp_set_num_threads(1)  # as in the daemon
        garbage.return_large_blocks()
        codebook = Codebook.shipped(about.model_sha256)
        model = ModelInfo("all-MiniLM-L6-v2", about.dim, about.model_sha256)

        def index(contents: Contents) -> VectorIndex:
            return VectorIndex(contents, codebook, graph_above=sys.maxsize)

        self._store = RvfMemoryStore(folder, model, RealFiles(), SystemClock(), index, codebook)

    def open(self, *, new: bool, user: UserId = USER) -> None:
        """Open the file, which is made by its first commit."""
        self._opened = self._store.open(user)

    def add(self, first: int, vectors: Vectors, texts: Sequence[str], sessions: Sequence[str] = ()) -> None:
        """Commit rows; `sessions` has that of each row, if they have any."""
        named = zip_longest(texts, sessions, fillvalue="")
        records = [_record(first + place, text, session) for place, (text, session) in enumerate(named)]
        entries = [Entry(record, vector) for record, vector in zip(records, vectors, strict=True)]
        self._opened.file.commit(Batch(entries=entries))
        self._opened.index.add([self._store.encode(record) for record in records], vectors)

    def settle(self) -> None:
        """Fold and seal as the user's actor does; the graph, which it makes for other programs, is left out."""
        file, index = self._opened.file, self._opened.index
        while (folding := file.fold(is_quiet=True)) is not None:
            folding.prepare()
            file.finish(folding)
            index.rebased(file.load())()
        status = file.status()
        if status.dead_bytes > QUIET_WASTE * (status.file_bytes - status.dead_bytes):
            file.compact()
            index.rebased(file.load())()
        while index.wants_sealing():
            index.seal()()
        index.check()

    def search(self, query: Vectors, k: int) -> Found:
        return self.find(query, k, ANY)[0]

    def find(self, query: Vectors, k: int, where: MemoryFilter) -> tuple[Found, str]:
        """Return the `k` nearest rows that pass `where`, and how they were found."""
        hits = self._opened.index.view().search(query, k=k, where=where)
        records = [self._store.decode(hit.record) for hit in hits.hits]
        return [(_row(record.id), record.text) for record in records], hits.path

    def close(self) -> None:
        self._opened.file.close()
        del self._opened  # what is mapped stays in the page cache, whoever drops it


def _id(row: int) -> RecordId:
    """Return a ULID whose 80 bits of chance look like chance."""
    return record_of_key(_TIME + (row * _SCRAMBLE % _CHANCES).to_bytes(10, "big"))


def _row(record: RecordId) -> int:
    key = record_key(record)
    if key is None:
        raise ValueError("no ULID")
    return int.from_bytes(key[6:], "big") * _UNSCRAMBLE % _CHANCES


def _record(row: int, text: str, session: str) -> MemoryRecord:
    return MemoryRecord(
        id=_id(row),
        text=text,
        kind=MemoryKind.FINDING,
        source=MemorySource.WORKER_RESULT,
        timestamp=_MOMENT,
        session_id=session,
    )
