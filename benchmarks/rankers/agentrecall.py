"""agentrecall-db with its semantic search: FTS5 and sqlite-vec in one file, joined by their ranks (k = 60)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pysqlite3

sys.modules["sqlite3"] = pysqlite3  # Python's own is often built without extensions, and this one is a drop-in for it

from agentrecall import Memory  # noqa: E402 - after its sqlite3

from benchmarks.rankers.ranker import DEPTH, folder_bytes  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from benchmarks.conversations import Conversation
    from benchmarks.rankers.ranker import Encode


class _Embedder:
    """Our encoder in the shape that it takes."""

    dim = 384

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._encode(texts).tolist()
        return vectors


class System:
    """A `Ranker`."""

    def __init__(self, conversation: Conversation, folder: Path, encode: Encode) -> None:
        self._folder = folder
        self._memory = Memory(folder / "memory.db", embeddings=True, embedder=_Embedder(encode))
        self._memory.add_many([{"content": turn.spoken, "metadata": {"turn": turn.id}} for turn in conversation.turns])

    def rank(self, question: str, asked: datetime) -> list[str]:
        return [hit.record.metadata["turn"] for hit in self._memory.search(question, k=DEPTH)]

    def size(self) -> int:
        return folder_bytes(self._folder)
