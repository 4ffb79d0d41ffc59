"""Memories as the daemon keeps and asks them, without the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from memoryd.files import RealFiles
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.interfaces import Contents
from memoryd.protocol.records import as_embedded
from memoryd.rvf.records import decode_record, encode_record
from memoryd.vectors.index import VectorIndex
from memoryd.words.hybrid import WordsIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Embedder, Meaning, Vectors
    from memoryd.protocol.learning import Memories
    from memoryd.protocol.records import MemoryRecord

_LONGEST: Final = 10_000  # characters of a text whose vector is kept: phrasings come again, outputs of commands do not


class Encoder:
    """Embeds each text by itself, as the daemon does, and a short one only once."""

    def __init__(self, embedder: Embedder) -> None:
        self.model = embedder.model
        self._embedder = embedder
        self._known: dict[str, tuple[Meaning, bytes]] = {}

    def meaning(self, text: str) -> Meaning:
        """Return the meaning of a text."""
        return self.of_record(text)[0]

    def of_record(self, text: str) -> tuple[Meaning, bytes]:
        """Return the meaning of a text, and its windows if it is long."""
        known = self._known.get(text)
        if known is None:
            found = self._embedder.embed([text])
            known = found.meaning(0), found.windows[0]
            if len(text) <= _LONGEST:
                self._known[text] = known
        return known


class Store:
    """One user's memories with their words."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.dim = encoder.model.dim
        self.words = WordsIndex(None, RealFiles(), decode_record)
        self.texts: list[str] = []  # as they were embedded, by row
        self._vectors: dict[RecordId, Vectors] = {}
        nothing = np.empty((0, self.dim), np.float32)
        self._index = VectorIndex(Contents((), nothing, (), (), BEFORE_ALL))
        self.view = self._index.view()

    def add(self, records: Sequence[MemoryRecord]) -> None:
        """Take in memories, which are found from now on."""
        if not records:
            return
        texts = [as_embedded(each.text, each.metadata) for each in records]
        embedded = [self.encoder.of_record(text) for text in texts]
        whole = [
            msgspec.structs.replace(record, windows=windows, signs=meaning.signs)
            for record, (meaning, windows) in zip(records, embedded, strict=True)
        ]
        vectors = np.stack([meaning.vector for meaning, _ in embedded])
        self._index.add([encode_record(each) for each in whole], vectors)
        self._vectors.update(zip((each.id for each in records), vectors, strict=True))
        self.texts += texts
        self.view = self._index.view()
        self.words.cover(self.view, len(records))

    def vectors(self, records: Sequence[RecordId]) -> Vectors:
        """Return the vectors of these memories, float32 [n, dim], in this order."""
        return np.stack([self._vectors[record] for record in records])

    @property
    def memories(self) -> Memories:
        """The vectors as they are given to a learner: looked at anew each time, as by the daemon."""
        return self.view.memories()
