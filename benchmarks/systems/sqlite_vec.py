"""sqlite-vec: a virtual table of vectors with the text as its auxiliary column; scans every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pysqlite3
import sqlite_vec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.systems.system import About, Found, Vectors


class Store:
    """A `System`."""

    def __init__(self, folder: Path, about: About) -> None:
        self._path = folder / "memories.sqlite"
        self._dim = about.dim

    def open(self, *, new: bool) -> None:
        self._database = pysqlite3.connect(self._path)
        self._database.enable_load_extension(True)
        sqlite_vec.load(self._database)
        # The quickest way to commit that survives a loss of power.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if new:
            self._database.execute(
                "CREATE VIRTUAL TABLE memories USING vec0("
                f"id INTEGER PRIMARY KEY, vector FLOAT[{self._dim}] distance_metric=cosine, +text TEXT)"
            )

    def add(self, first: int, vectors: Vectors, texts: Sequence[str]) -> None:
        rows = zip(range(first, first + len(texts)), map(bytes, vectors), texts, strict=True)
        with self._database:
            self._database.executemany("INSERT INTO memories (id, vector, text) VALUES (?, ?, ?)", rows)

    def settle(self) -> None:
        """Do nothing: it works in the foreground."""

    def search(self, query: Vectors, k: int) -> Found:
        found: Found = self._database.execute(
            "SELECT id, text FROM memories WHERE vector MATCH ? AND k = ? ORDER BY distance", (bytes(query), k)
        ).fetchall()
        return found

    def close(self) -> None:
        self._database.close()
