"""Files of ours, opened by the reference runtime of the format; and files of ours that it wrote to, opened by us."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from memoryd.files import RealFiles
from memoryd.protocol.interfaces import Batch, ModelInfo
from tests.helpers.interop import check_script, rewrite_script, run_reference
from tests.helpers.memories import USER, Expected, entries, record_id, store, units

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memoryd.protocol.interfaces import Opened, Vectors
    from memoryd.rvf.store import RvfMemoryStore

DIM = 384
MODEL = ModelInfo("all-MiniLM-L6-v2", DIM, "ab" * 32)
EVERY_ROW = {"op": "not", "child": {"op": "eq", "fieldId": 999, "valueType": "string", "value": "x"}}
K = 10


def ours(root: Path) -> RvfMemoryStore:
    return store(RealFiles(), root, MODEL)


def filled(root: Path, rows: int, per_commit: int, *, deleted: Sequence[int] = ()) -> Opened:
    """Return a memory of records 0..rows-1, committed some at a time, with some deleted at the end."""
    opened = ours(root).open(USER)
    for start in range(0, rows, per_commit):
        opened.file.commit(Batch(entries=entries(range(start, min(rows, start + per_commit)), DIM)))
    if deleted:
        opened.file.commit(Batch(deleted=[record_id(number) for number in deleted]))
    return opened


def file_of(root: Path) -> Path:
    return root / USER / "memory.rvf"


def answers_of_runtime(root: Path, queries: Vectors, tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "queries.json"
    document = [{"vector": query.tolist(), "k": K, "efSearch": 400, "filter": EVERY_ROW} for query in queries]
    path.write_text(json.dumps({"queries": document}))
    return run_reference(check_script(), file_of(root), path)


def assert_agrees(said: dict[str, object], queries: Vectors, alive: Sequence[int]) -> None:
    """Compare ids and distances of the runtime with the exact cosines; row ids are the numbers of the records."""
    vectors = np.stack([entry.vector for entry in entries(alive, DIM)])
    assert cast("dict[str, object]", said["status"])["count"] == len(alive)
    assert cast("dict[str, object]", said["status"])["metric"] == "cosine"
    for query, answer in zip(queries, cast("list[dict[str, list[dict[str, float]]]]", said["answers"]), strict=True):
        distances = 1 - vectors @ query
        order = np.argsort(distances, kind="stable")[:K]
        assert [hit["id"] for hit in answer["hits"]] == [alive[row] for row in order]
        np.testing.assert_allclose([hit["distance"] for hit in answer["hits"]], distances[order], atol=1e-5)


@pytest.mark.parametrize(("rows", "per_commit"), [(50, 1), (300, 7), (1500, 250)])
def test_the_reference_runtime_gives_our_exact_answers(tmp_path: Path, rows: int, per_commit: int) -> None:
    gone = range(3, rows, 10)
    filled(tmp_path / "data", rows, per_commit, deleted=gone).file.close()
    queries = units(5, DIM, seed=rows)

    said = answers_of_runtime(tmp_path / "data", queries, tmp_path)

    assert_agrees(said, queries, [row for row in range(rows) if row not in gone])


def test_the_reference_runtime_reads_a_file_that_we_compacted(tmp_path: Path) -> None:
    opened = filled(tmp_path / "data", 200, 9, deleted=range(0, 200, 3))
    opened.file.compact()
    opened.file.commit(Batch(entries=entries([200, 201], DIM)))
    opened.file.close()
    queries = units(5, DIM, seed=1)

    said = answers_of_runtime(tmp_path / "data", queries, tmp_path)

    assert_agrees(said, queries, [row for row in range(202) if row % 3 or row >= 200])


@pytest.mark.parametrize("compact", [False, True])
def test_what_the_reference_runtime_deletes_is_deleted_for_us(tmp_path: Path, *, compact: bool) -> None:
    opened = filled(tmp_path / "data", 60, 8, deleted=[5])
    before = Expected.of(opened.file.load())
    opened.file.close()

    run_reference(rewrite_script(), file_of(tmp_path / "data"), json.dumps({"delete": [7, 30], "compact": compact}))

    opened = ours(tmp_path / "data").open(USER)
    kept = tuple(row for row in before.rows if row[0].id not in (record_id(7), record_id(30)))
    assert Expected.of(opened.file.load()).rows == kept
    opened.file.commit(Batch(entries=entries([60], DIM)))
    opened.file.close()
    queries = units(5, DIM, seed=2)
    said = answers_of_runtime(tmp_path / "data", queries, tmp_path)
    assert_agrees(said, queries, [row for row in range(61) if row not in (5, 7, 30)])


def test_a_vector_that_the_reference_runtime_adds_is_ignored_and_named_by_verify(tmp_path: Path) -> None:
    opened = filled(tmp_path / "data", 20, 20)
    before = Expected.of(opened.file.load())
    opened.file.close()
    foreign = {"ingest": {"id": 5000, "vector": units(1, DIM, seed=9)[0].tolist()}}

    run_reference(rewrite_script(), file_of(tmp_path / "data"), json.dumps(foreign))

    (finding,) = ours(tmp_path / "data").verify(USER)
    opened = ours(tmp_path / "data").open(USER)
    opened.file.commit(Batch(entries=entries([20], DIM)))
    assert finding.what == "1 vectors without a record"
    assert Expected.of(opened.file.load()) == before.after(Batch(entries=entries([20], DIM)))
    opened.file.close()
