"""Chroma with its persistent client: every addition goes into SQLite before the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import chromadb
import chromadb.api.rust  # otherwise opening the first client imports these two
import chromadb.telemetry.product.posthog
from chromadb.config import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.systems.system import About, Found, Vectors

_NAME: Final = "memories"


class Store:
    """A `System`."""

    def __init__(self, folder: Path, about: About) -> None:
        self._folder = folder

    def open(self, *, new: bool) -> None:
        self._client = chromadb.PersistentClient(self._folder, Settings(anonymized_telemetry=False))
        if new:
            self._collection = self._client.create_collection(
                _NAME, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
            )
        else:
            self._collection = self._client.get_collection(_NAME, embedding_function=None)

    def add(self, first: int, vectors: Vectors, texts: Sequence[str]) -> None:
        ids = [str(first + place) for place in range(len(texts))]
        self._collection.add(ids, embeddings=vectors, documents=list(texts))

    def settle(self) -> None:
        """Do nothing: it works in the foreground."""

    def search(self, query: Vectors, k: int) -> Found:
        answer = self._collection.query(query_embeddings=query[None], n_results=k, include=["documents"])
        return [(int(row), text) for row, text in zip(answer["ids"][0], answer["documents"][0], strict=True)]

    def close(self) -> None:
        self._client.close()
