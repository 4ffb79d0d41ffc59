"""Vectors and texts that every system is given alike, the questions, and the exact answers.

Three kinds: embeddings of real texts, beyond some thousands extended by mixtures of neighbours; vectors around random
centres; uniformly random ones, which no index can order.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import faiss
import numpy as np

from benchmarks import corpus
from benchmarks.index import clustered
from benchmarks.systems.system import About
from memoryd.embedding.onnx import OnnxEmbedder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memoryd.protocol.interfaces import Vectors

K: Final = 10
QUERIES: Final = 200
REAL: Final = 10_000
APPEND_ROWS: Final = 32
_REPEATED: Final = 1.3  # so many texts are embedded for one that no other equals
BATCH: Final = 5_000  # Chroma takes no more at once
_DIM: Final = 384
_NEIGHBOURS: Final = 10
_PIECE: Final = 50_000  # rows that are mixed together: as float64 a million would take 9 GB
EQUAL: Final = 1e-6  # cosines that differ by less are equal: a system may sum in another order


@dataclass(frozen=True, slots=True)
class Given:
    """`rows` are loaded, `extra` appended, `queries` asked and never stored; float32 [n, dim], unit length."""

    what: str
    rows: Vectors
    texts: Sequence[str]
    extra: Vectors
    extra_texts: Sequence[str]
    queries: Vectors
    model_sha256: str

    def write(self, folder: Path, appends: int) -> None:
        """Write everything for the processes that measure; see `About`."""
        folder.mkdir()
        for name, vectors in (("rows", self.rows), ("extra", self.extra), ("queries", self.queries)):
            np.save(folder / f"{name}.npy", np.ascontiguousarray(vectors))
        for name, texts in (("rows", self.texts), ("extra", self.extra_texts)):
            (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts), encoding="utf-8")
        (folder / "about.json").write_text(json.dumps(asdict(self.about(appends))), encoding="utf-8")

    def about(self, appends: int) -> About:
        """Return what a system is told."""
        return About(self.rows.shape[1], len(self.rows), K, BATCH, APPEND_ROWS, appends, self.model_sha256)

    def recall(self, answers: Sequence[Sequence[int]]) -> float:
        """Return the mean recall@K; a row that is as near as the last of the exact answer counts like it."""
        exact = faiss.IndexFlatIP(self.rows.shape[1])
        exact.add(self.rows)
        least = exact.search(self.queries, K)[0][:, -1]
        shares = [
            np.count_nonzero(self.rows[sorted(set(answer))] @ query >= bound - EQUAL) / K
            for answer, query, bound in zip(answers, self.queries, least, strict=True)
        ]
        return float(np.mean(shares))


def extra_rows(appends: int) -> int:
    """Return how many rows `appends` appends of each size take."""
    return appends * (APPEND_ROWS + 1)


def real(logs: Sequence[Path], size: int, appends: int) -> Given:
    """Return embeddings of the sample and the logs, each text once, and mixtures of them when they are too few."""
    held_out = QUERIES + extra_rows(appends)
    embedded = min(size, REAL)
    found = corpus.corpus(logs, int(_REPEATED * (embedded + held_out)), 0)
    records = list({record.text: record for record in found.records}.values())
    order = np.random.default_rng(1).permutation(len(records))[: embedded + held_out]
    vectors = np.stack([np.frombuffer(records[place].embedding, "<f4") for place in order])
    texts = [records[place].text for place in order]
    apart = len(order) - held_out
    rows, row_texts = vectors[:apart], texts[:apart]
    what = f"{len(rows):,} embeddings ({found.what.partition(';')[0]})"
    if size > len(rows):
        rows, row_texts = _mixed(rows, row_texts, size)
        what += f", and {size - apart:,} mixtures of two neighbours among them"
    questions, extra = np.split(vectors[apart:], [QUERIES])
    return Given(what, rows, row_texts, extra, texts[apart + QUERIES :], questions, found.model_sha256)


def random(kind: str, size: int, appends: int) -> Given:
    """Return vectors around random centres (`clustered`) or uniformly random ones."""
    total = size + QUERIES + extra_rows(appends)
    vectors = (
        clustered(total) if kind == "clustered" else _unit(np.random.default_rng(1).standard_normal((total, _DIM)))
    )
    texts = [f"memory {row}" for row in range(total)]
    queries, rows, extra = np.split(vectors, [QUERIES, QUERIES + size])
    sha256 = OnnxEmbedder.open(corpus.MODEL, threads=1).model.sha256
    return Given(f"{size:,} {kind} random vectors", rows, texts[:size], extra, texts[size + QUERIES :], queries, sha256)


def _mixed(rows: Vectors, texts: Sequence[str], size: int) -> tuple[Vectors, list[str]]:
    """Return the rows and mixtures of one with one of its nearest; their texts are halves of the texts of both."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    near = index.search(rows, _NEIGHBOURS + 1)[1]
    chance = np.random.default_rng(2)
    left = chance.integers(len(rows), size=size - len(rows))
    right = near[left, chance.integers(1, _NEIGHBOURS + 1, size=len(left))]
    share = chance.uniform(0.3, 0.7, size=(len(left), 1))
    pieces = [slice(at, at + _PIECE) for at in range(0, len(left), _PIECE)]
    mixtures = [_unit(share[piece] * rows[left[piece]] + (1 - share[piece]) * rows[right[piece]]) for piece in pieces]
    halves = [texts[a][: len(texts[a]) // 2] + texts[b][len(texts[b]) // 2 :] for a, b in zip(left, right, strict=True)]
    return np.concatenate([rows, *mixtures]), [*texts, *halves]


def _unit(vectors: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Vectors:
    units: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units
