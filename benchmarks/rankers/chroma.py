"""Chroma with its persistent client and the cosine: a graph over vectors, texts beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import chromadb
from chromadb.config import Settings

from benchmarks.rankers.ranker import DEPTH, folder_bytes

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from benchmarks.conversations import Conversation
    from benchmarks.rankers.ranker import Encode


class System:
    """A `Ranker`."""

    def __init__(self, conversation: Conversation, folder: Path, encode: Encode) -> None:
        self._folder = folder
        self._encode = encode
        client = chromadb.PersistentClient(folder, Settings(anonymized_telemetry=False))
        self._turns = client.create_collection(
            "turns", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )
        texts = [turn.spoken for turn in conversation.turns]
        self._turns.add([turn.id for turn in conversation.turns], embeddings=encode(texts), documents=texts)

    def rank(self, question: str, asked: datetime) -> list[str]:
        answer = self._turns.query(query_embeddings=self._encode([question]), n_results=DEPTH, include=["documents"])
        return list(answer["ids"][0])

    def size(self) -> int:
        return folder_bytes(self._folder)
