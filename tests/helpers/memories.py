"""Memories to store: records with vectors, and what a memory is expected to hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from memoryd.protocol.ids import BEFORE_ALL, RecordId, Seq, TrajectoryId, UserId
from memoryd.protocol.interfaces import Adjacency, Batch, Entry, ModelInfo
from memoryd.protocol.records import MemoryKind, MemoryRecord, MemorySource, Trajectory
from memoryd.rvf.records import Body, decode_record
from memoryd.rvf.store import RvfMemoryStore
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.codes import Codebook
from memoryd.vectors.exact import nearest_of
from memoryd.vectors.index import VectorIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memoryd.files import FileSystem
    from memoryd.protocol.interfaces import Contents, Vectors
    from memoryd.rvf.rewriting import Link
    from memoryd.vectors.exact import Rows, Scores

ROOT = Path("/data")
USER = UserId("alice")
FILE = ROOT / USER / "memory.rvf"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = ModelInfo("test-model", 8, "5f" * 32)
# The sections of sealed rows, in their order.
COLUMNS = ("rows", "sums", "keys", "time_us", "added_us", "ends", "session", "kind", "source")
SECTIONS = (*COLUMNS, "codes", "trajectories", "blocks", "texts")
CODED = ModelInfo("coded-model", 24, "c0" * 32)  # of a dimension that has codes


class StillClock:
    """A clock that stands at noon."""

    def now(self) -> datetime:
        return NOON


@cache
def codebook() -> Codebook:
    """Return what the codes of CODED vectors stand for."""
    return Codebook.train(units(1_000, CODED.dim, seed=77))


def store(
    files: FileSystem,
    root: Path = ROOT,
    model: ModelInfo = MODEL,
    book: Codebook | None = None,
    link: Link | None = None,
) -> RvfMemoryStore:
    """Return a store that names its files without chance."""
    index = partial(VectorIndex, codebook=book)
    return RvfMemoryStore(root, model, files, StillClock(), index, book, link, lambda n: bytes(range(n)))


def units(n: int, dim: int = MODEL.dim, seed: int = 0) -> Vectors:
    """Return float32 [n, dim], rows of unit length."""
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def clustered(n: int, dim: int, each: int) -> Vectors:
    """Return float32 [n, dim], rows of unit length around centres, as sentences are; `each` centre has so many."""
    spread = units(n, dim, seed=2) * 0.7 + np.repeat(units(n // each, dim, seed=1), each, axis=0)
    mixed = spread[np.random.default_rng(3).permutation(n)]
    found: Vectors = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    return found


def ring(vectors: Vectors, _known: Adjacency | None, _is_wanted: Callable[[], bool]) -> Adjacency:
    """Return a graph in which each of at least three rows is linked to the two beside it: the same on every machine."""
    n = len(vectors)
    rows = np.arange(n)
    beside = np.sort(np.stack([(rows - 1) % n, (rows + 1) % n], axis=1), axis=1)
    one, two = np.ones(n, np.int64), np.full(n, 2, np.int64)
    return Adjacency(layers=one, counts=two, neighbours=beside.ravel(), m=2, m0=2, ef_construction=2, entry=0)


def body(**fields: object) -> Body:
    """Return what the first commit of a file says when it holds nothing, but for these fields."""
    empty = Body(
        generation=1,
        first=0,
        number=0,
        others=0,
        census=0,
        model=MODEL,
        applied_seq=Seq(3),
        next_row=10,
        linked_to=-1,
        erased_us=0,
        rows=[],
        records=[],
        added_us=[],
        dropped=[],
        trajectories=[],
        told_us=[],
        deleted=[],
        deleted_us=[],
    )
    return msgspec.structs.replace(empty, **fields)


def record_id(number: int) -> RecordId:
    return RecordId(f"{number:026d}")


def record(number: int, text: str | None = None, **fields: object) -> MemoryRecord:
    """Return a record that tells its number in every field."""
    known: dict[str, object] = {
        "id": record_id(number),
        "text": f"memory {number}" if text is None else text,
        "kind": list(MemoryKind)[number % len(MemoryKind)],
        "source": list(MemorySource)[number % len(MemorySource)],
        "timestamp": NOON + timedelta(minutes=number),
        "session_id": f"session {number % 3}",
    }
    return MemoryRecord(**(known | fields))


def entries(numbers: Iterable[int], dim: int = MODEL.dim) -> list[Entry]:
    """Return records with vectors; both follow from the number."""
    return [Entry(record(number), units(1, dim, seed=number)[0]) for number in numbers]


def trajectory(number: int, quality: float | None = None) -> Trajectory:
    return Trajectory(id=TrajectoryId(f"run {number}"), query=f"question {number}", started=NOON, quality=quality)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a memory holds, in a form that compares."""

    rows: tuple[tuple[MemoryRecord, bytes], ...] = ()
    trajectories: frozenset[tuple[str, float | None]] = frozenset()
    applied_seq: Seq = BEFORE_ALL

    def after(self, batch: Batch) -> Expected:
        """Return what a memory holds when `batch` was added to it."""
        last = {one.record.id: place for place, one in enumerate(batch.entries)}
        new = tuple((batch.entries[at].record, batch.entries[at].vector.tobytes()) for at in sorted(last.values()))
        gone = {*batch.deleted, *last}
        kept = {trajectory: quality for trajectory, quality in self.trajectories if trajectory not in batch.dropped}
        trajectories = kept | {one.id: one.quality for one in batch.trajectories}
        return Expected(
            tuple(row for row in self.rows if row[0].id not in gone) + new,
            frozenset(trajectories.items()),
            max(self.applied_seq, batch.applied_seq),
        )

    @classmethod
    def of(cls, contents: Contents) -> Expected:
        """Return what was read from a file."""
        rows = []
        for part in contents.sealed:
            alive = np.flatnonzero(part.alive())
            rows += zip(part.records(alive), part.vectors(alive), strict=True)
        rows += zip(contents.records, contents.vectors, strict=True)
        return cls(
            tuple((decode_record(found), vector.tobytes()) for found, vector in rows),
            frozenset((one.id, one.quality) for one in contents.trajectories),
            contents.applied_seq,
        )


def history(batches: Sequence[Batch]) -> list[Expected]:
    """Return what a memory holds before the first of `batches` and after each of them."""
    states = [Expected()]
    for batch in batches:
        states.append(states[-1].after(batch))
    return states


def nearest(query: Vectors, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
    """Return the `k` best of all these rows."""
    return nearest_of(query, Blocks(vectors), np.arange(len(vectors)), k)
