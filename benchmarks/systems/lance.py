"""LanceDB with a table of vectors and texts, and no index but the scan, which is what it does unless told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import lancedb
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.systems.system import About, Found, Vectors

_NAME: Final = "memories"


class Store:
    """A `System`."""

    def __init__(self, folder: Path, about: About) -> None:
        self._folder = folder
        self._schema = pa.schema(
            [("id", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), about.dim))]
        )

    def open(self, *, new: bool) -> None:
        database = lancedb.connect(self._folder)
        self._table = database.create_table(_NAME, schema=self._schema) if new else database.open_table(_NAME)

    def add(self, first: int, vectors: Vectors, texts: Sequence[str]) -> None:
        ids = pa.array(range(first, first + len(texts)), pa.int64())
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        self._table.add(pa.table([ids, pa.array(texts), values], schema=self._schema))

    def settle(self) -> None:
        """Do nothing: without an index there is nothing to build."""

    def search(self, query: Vectors, k: int) -> Found:
        wanted = self._table.search(query).distance_type("cosine").select(["id", "text", "_distance"]).limit(k)
        answer = wanted.to_arrow()
        return list(zip(answer["id"].to_pylist(), answer["text"].to_pylist(), strict=True))

    def close(self) -> None:
        """Do nothing: a table has nothing to close."""
