"""How fast the index answers, how well, and where codes and graph beat the exact scan.

    python -m benchmarks.index [--rows 1000 --rows 10000 ...] [--with-graph] [TEXTS | VECTORS.npy]

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
from memoryd.vectors.codes import Codebook
from memoryd.vectors.index import VectorIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.interfaces import Hits, IndexView, Vectors

_K = 10
_QUERIES = 200
_NEVER = 1 << 40
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
@click.option("--with-graph", is_flag=True, help="Also build the graph, which takes minutes.")
def main(source: Path | None, sizes: Sequence[int], *, with_graph: bool) -> None:
    """Measure the exact search, codes and graph by wall time, and their recall@10 against the exact one."""
    faiss.omp_set_num_threads(1)
    vectors, what = _vectors(source, max(sizes) + _QUERIES)
    held_out = np.zeros(len(vectors), bool)
    held_out[:: max(1, len(vectors) // _QUERIES)] = True
    queries, rows = vectors[held_out][:_QUERIES], vectors[~held_out]
    table = Table(title=f"{what}, {rows.shape[1]} dimensions, k = {_K}, one thread; p50 / p99 ms a query")
    columns = ["rows", "exact", "codes", "recall", "half pass", "recall", "1 % pass", "recall", "encoded in"]
    for column in columns + (["graph", "recall", "built in"] if with_graph else []):
        table.add_column(column, justify="right")
    codebook = Codebook.shipped(OnnxEmbedder.open(_MODEL, threads=1).model.sha256)
    if codebook is None:
        raise click.ClickException("the shipped model has no codebook: python -m benchmarks.codebook")
    for size in sorted({min(size, len(rows)) for size in sizes}):
        table.add_row(*_measure(rows[:size], queries, codebook, with_graph=with_graph))
    Console(width=160).print(table)


def _measure(rows: Vectors, queries: Vectors, codebook: Codebook, *, with_graph: bool) -> Sequence[str]:
    """Return one line of the table."""
    index = _index(rows, codebook)
    wheres = (ANY, _HALF, _ONE_PERCENT)
    exact = [_timed(index.view(), queries, where) for where in wheres]
    encoded = _sealed(index)
    codes = [_timed(index.view(), queries, where) for where in wheres]
    line = [f"{len(rows):,}", str(exact[0])]
    for truth, found in zip(exact, codes, strict=True):
        line += [str(found), f"{_recall(truth, found):.3f}"]
    line.append(f"{encoded:.2f} s")
    if with_graph:
        index = _index(rows, None)
        built = _sealed(index)
        graph = _timed(index.view(), queries, ANY)
        line += [str(graph), f"{_recall(exact[0], graph):.3f}", f"{built:.1f} s"]
    return line


def _index(rows: Vectors, codebook: Codebook | None) -> VectorIndex:
    return VectorIndex(
        Contents((), rows, _records(len(rows)), (), BEFORE_ALL), codebook, graph_above=_NEVER if codebook else 0
    )


def _sealed(index: VectorIndex) -> float:
    """Seal the index and return how many seconds it took."""
    begun = time.perf_counter()
    index.seal()()
    return time.perf_counter() - begun


def _recall(truth: _Timing, found: _Timing) -> float:
    shares = [len(_ids(a) & _ids(b)) / max(1, len(a.hits)) for a, b in zip(truth.answers, found.answers, strict=True)]
    return float(np.mean(shares))


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
        return clustered(n), "clustered random vectors"
    if source.suffix == ".npy":
        vectors = np.load(source)[:n]
        return vectors, f"{len(vectors):,} vectors of {source.name}"
    texts = source.read_text().splitlines()[:n]
    embedder = OnnxEmbedder.open(_MODEL, threads=1)
    return embedder.embed(texts).vectors, f"{len(texts):,} texts of {source.name} by {_MODEL}"


def clustered(n: int) -> Vectors:
    """Return unit vectors around one centre for every hundred of them; neighbours have cosines of about 0.6."""
    random = np.random.default_rng(1)
    centres = random.standard_normal((max(1, n // 100), _DIM), np.float32)
    vectors = centres[random.integers(len(centres), size=n)] + 0.8 * random.standard_normal((n, _DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


if __name__ == "__main__":
    main()
