"""How fast the index answers, and from how many rows on the graph beats the exact scan.

    python -m benchmarks.index [--rows 1000 --rows 10000 ...] [TEXTS | VECTORS.npy]

Without a path the vectors are clustered random ones, which says little about recall on real texts; the title of the
table tells which they are. A file of texts, one in a line, is embedded with the shipped model; a `.npy` file holds
float32 [n, dim], rows of unit length. One row in fifty is held out as a query.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.ids import BEFORE_ALL, RecordId
from memoryd.protocol.interfaces import Contents
from memoryd.protocol.records import ANY, MemoryFilter, MemoryKind, MemoryRecord, MemorySource
from memoryd.rvf.records import encode_record
from memoryd.vectors.index import VectorIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.interfaces import Hits, IndexView, Vectors

_K = 10
_QUERIES = 200
_DIM = 384
_MODEL = "all-MiniLM-L6-v2"
_HALF = MemoryFilter(sources=frozenset({MemorySource.USER_INPUT}))
_ONE_PERCENT = MemoryFilter(session_id="session-0")


@dataclass(frozen=True, slots=True)
class _Timing:
    """Median and 99th percentile of the wall time of one query, milliseconds, and what came back."""

    median_ms: float
    p99_ms: float
    answers: Sequence[Hits]

    def __str__(self) -> str:
        return f"{self.median_ms:.3f} / {self.p99_ms:.3f}"


@click.command()
@click.argument("source", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rows", "sizes", multiple=True, type=int, default=(1_000, 10_000, 100_000), help="Sizes to measure.")
def main(source: Path | None, sizes: Sequence[int]) -> None:
    """Measure exact and graph search by wall time."""
    faiss.omp_set_num_threads(1)
    vectors, what = _vectors(source, max(sizes) + _QUERIES)
    held_out = np.zeros(len(vectors), bool)
    held_out[:: max(1, len(vectors) // _QUERIES)] = True
    queries, rows = vectors[held_out][:_QUERIES], vectors[~held_out]
    table = Table(title=f"{what}, {rows.shape[1]} dimensions, k = {_K}, one thread; p50 / p99 ms a query")
    for column in ("rows", "exact", "half pass", "1 % pass", "graph", "recall@10", "built in", "index MB"):
        table.add_column(column, justify="right")
    for size in sorted({min(size, len(rows)) for size in sizes}):
        table.add_row(*_measure(rows[:size], queries))
    Console(width=120).print(table)


def _measure(rows: Vectors, queries: Vectors) -> Sequence[str]:
    """Return one line of the table."""
    index = VectorIndex(Contents(rows.copy(), _records(len(rows)), (), BEFORE_ALL), hnsw_above=0)
    exact = _timed(index.view(), queries, ANY)
    half = _timed(index.view(), queries, _HALF)
    hundredth = _timed(index.view(), queries, _ONE_PERCENT)
    begun = time.perf_counter()
    index.seal()()
    seconds = time.perf_counter() - begun
    graph = _timed(index.view(), queries, ANY)
    found = [len(_ids(a) & _ids(b)) / _K for a, b in zip(exact.answers, graph.answers, strict=True)]
    return (
        f"{len(rows):,}",
        *(str(timing) for timing in (exact, half, hundredth, graph)),
        f"{np.mean(found):.3f}",
        f"{seconds:.1f} s",
        f"{index.resident_bytes / 1e6:.0f}",
    )


def _timed(view: IndexView, queries: Vectors, where: MemoryFilter) -> _Timing:
    answers: list[Hits] = []
    times: list[float] = []
    view.search(queries[0], k=_K, where=where)  # the first one pays for cold caches
    for query in queries:
        begun = time.perf_counter()
        answers.append(view.search(query, k=_K, where=where))
        times.append((time.perf_counter() - begun) * 1e3)
    return _Timing(float(np.median(times)), float(np.percentile(times, 99)), answers)


def _ids(hits: Hits) -> set[bytes]:
    return {hit.record for hit in hits.hits}


def _records(n: int) -> list[bytes]:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    sources = (MemorySource.USER_INPUT, MemorySource.WORKER_RESULT)
    return [
        encode_record(
            MemoryRecord(
                id=RecordId(f"{row:026d}"),
                text="",
                kind=MemoryKind.FINDING,
                source=sources[row % 2],
                timestamp=moment,
                session_id=f"session-{row % 100}",
            )
        )
        for row in range(n)
    ]


def _vectors(source: Path | None, n: int) -> tuple[Vectors, str]:
    """Return up to `n` vectors, float32 [n, dim], and what they are."""
    if source is None:
        return _clustered(n), "clustered random vectors"
    if source.suffix == ".npy":
        vectors = np.load(source)[:n]
        return vectors, f"{len(vectors):,} vectors of {source.name}"
    texts = source.read_text().splitlines()[:n]
    embedder = OnnxEmbedder.open(_MODEL, threads=1)
    return embedder.embed(texts).vectors, f"{len(texts):,} texts of {source.name} by {_MODEL}"


def _clustered(n: int) -> Vectors:
    """Return unit vectors around one centre for every hundred of them; neighbours have cosines of about 0.6."""
    random = np.random.default_rng(1)
    centres = random.standard_normal((max(1, n // 100), _DIM), np.float32)
    vectors = centres[random.integers(len(centres), size=n)] + 0.8 * random.standard_normal((n, _DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


if __name__ == "__main__":
    main()
