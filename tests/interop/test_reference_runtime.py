"""Files of ours, opened by the reference runtime of the format; and files of ours that it wrote to, opened by us."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np
import pytest

from memoryd.files import RealFiles
from memoryd.protocol.ids import MAIN, BranchName, Seq
from memoryd.protocol.interfaces import Batch, ModelInfo
from memoryd.protocol.messages import Exported
from memoryd.rvf import format as rvf
from memoryd.rvf.adjacency import pack_adjacency
from memoryd.rvf.store import RvfMemoryStore
from memoryd.standalone import standalone
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.graph import Graph, link
from memoryd.vectors.index import VectorIndex
from tests.helpers.backups import back_up, put_back
from tests.helpers.interop import check_script, rewrite_script, run_reference
from tests.helpers.memories import USER, Expected, StillClock, entries, record_id, units

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memoryd.protocol.interfaces import Adjacency, Opened, Rewriting, Vectors
    from memoryd.protocol.records import MemoryRecord

DIM = 384
MODEL = ModelInfo("all-MiniLM-L6-v2", DIM, "ab" * 32)
EVERY_ROW = {"op": "not", "child": {"op": "eq", "fieldId": 999, "valueType": "string", "value": "x"}}
K = 10


def ours(root: Path, model: ModelInfo = MODEL) -> RvfMemoryStore:
    return RvfMemoryStore(root, model, RealFiles(), StillClock(), VectorIndex, link=link)


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
def test_the_reference_runtime_works_on_a_restored_file_whose_dead_segments_are_zeros(
    tmp_path: Path, *, compact: bool
) -> None:
    opened = filled(tmp_path / "data", 300, 4)
    folding = opened.file.fold()
    assert folding is not None
    assert folding.prepare()
    opened.file.finish(folding)
    opened.file.commit(Batch(entries=entries(range(300, 304), DIM)))
    opened.file.close()
    back_up(RealFiles(), tmp_path / "data", tmp_path / "backup")
    put_back(RealFiles(), tmp_path / "restored", tmp_path / "backup")
    assert file_of(tmp_path / "restored").read_bytes().startswith(bytes(100_000))
    queries = units(5, DIM, seed=3)
    assert_agrees(answers_of_runtime(tmp_path / "restored", queries, tmp_path), queries, range(304))

    change = json.dumps({"delete": [7, 30], "compact": compact})
    run_reference(rewrite_script(), file_of(tmp_path / "restored"), change)

    opened = ours(tmp_path / "restored").open(USER)
    alive = {row[0].id for row in Expected.of(opened.file.load()).rows}
    opened.file.close()
    assert alive == {record_id(row) for row in range(304) if row not in (7, 30)}


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


def rewrite(opened: Opened, rewriting: Rewriting | None) -> None:
    assert rewriting is not None
    assert rewriting.prepare()
    opened.file.finish(rewriting)


@pytest.mark.parametrize("by_runtime", [{"delete": [7, 300]}, {"delete": [7, 300], "compact": True}])
def test_what_the_reference_runtime_does_to_sealed_rows_is_read_and_mended(
    tmp_path: Path, by_runtime: dict[str, object]
) -> None:
    opened = filled(tmp_path / "data", 400, 100)
    opened.file.compact()
    opened.file.commit(Batch(entries=entries([400, 401], DIM), deleted=[record_id(5)]))
    before = Expected.of(opened.file.load())
    opened.file.close()

    run_reference(rewrite_script(), file_of(tmp_path / "data"), json.dumps(by_runtime))

    kept = tuple(row for row in before.rows if row[0].id not in (record_id(7), record_id(300)))
    opened = ours(tmp_path / "data").open(USER)
    assert Expected.of(opened.file.load()).rows == kept
    opened.file.compact()
    opened.file.commit(Batch(entries=entries([402], DIM)))
    assert len(opened.file.load().sealed) == 1
    opened.file.close()
    assert ours(tmp_path / "data").verify(USER) == []
    queries = units(5, DIM, seed=3)
    said = answers_of_runtime(tmp_path / "data", queries, tmp_path)
    assert_agrees(said, queries, [row for row in range(403) if row not in (5, 7, 300)])


def test_the_reference_runtime_searches_the_graph_of_a_memory_that_was_folded_and_added_to(tmp_path: Path) -> None:
    model = ModelInfo("small", LINKED_DIM, "ab" * 32)
    opened = ours(tmp_path / "data", model).open(USER)
    for start in range(0, 2_000, 500):
        opened.file.commit(Batch(entries=entries(range(start, start + 500), LINKED_DIM)))
        while (folding := opened.file.fold()) is not None:
            rewrite(opened, folding)
    rewrite(opened, opened.file.linking())
    opened.file.commit(
        Batch(entries=entries(range(2_000, 2_050), LINKED_DIM), deleted=[record_id(3), record_id(2_001)])
    )
    opened.file.close()
    path = file_of(tmp_path / "data")
    alive = [row for row in range(2_050) if row not in (3, 2_001)]
    vectors = np.stack([entry.vector for entry in entries(alive, LINKED_DIM)])
    queries = units(50, LINKED_DIM, seed=4)
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps({"queries": [{"vector": query.tolist(), "k": K} for query in queries]}))

    said = run_reference(check_script(), path, asked)

    answers = cast("list[dict[str, list[dict[str, float]]]]", said["answers"])
    best = np.array(alive)[np.argsort(-(queries @ vectors.T), axis=1)[:, :K]]
    right = sum(
        len({int(hit["id"]) for hit in answer["hits"]} & set(rows))
        for answer, rows in zip(answers, best.tolist(), strict=True)
    )
    assert right >= 0.99 * best.size
    assert ours(tmp_path / "data", model).verify(USER) == []


def test_the_reference_runtime_reads_a_memory_that_has_branches_and_a_branch_that_was_exported(tmp_path: Path) -> None:
    opened = filled(tmp_path / "data", 300, 50)
    opened.file.close()
    memories = ours(tmp_path / "data")
    memories.branch(USER, TRIAL, MAIN)
    opened = memories.open(USER)
    opened.file.commit(Batch(entries=entries([300], DIM), deleted=[record_id(n) for n in range(20)]))
    opened.file.compact(erases=True)  # what the branch still sees stays in the file, deleted
    opened.file.close()
    memories.switch(USER, TRIAL, Seq(0))
    opened = memories.open(USER)
    opened.file.commit(Batch(entries=entries([400], DIM), deleted=[record_id(250)]))
    opened.file.close()
    queries = units(5, DIM, seed=5)

    assert_agrees(answers_of_runtime(tmp_path / "data", queries, tmp_path), queries, [*range(20, 301)])

    index = memories.look(USER, TRIAL).index
    with standalone(file_of(tmp_path / "exported")) as out:
        page: int | None = 0
        while page is not None:
            records, vectors, page = index.page(page, 100)
            found = [replace_embedding(memories.decode(r), v) for r, v in zip(records, vectors, strict=True)]
            out.add(Exported(records=tuple(found), model=MODEL.name, model_sha256=MODEL.sha256, next=page))
    held = [*(n for n in range(300) if n != 250), 400]
    said = answers_of_runtime(tmp_path / "exported", queries, tmp_path)
    rows = dict(enumerate(held))
    for answer in cast("list[dict[str, list[dict[str, float]]]]", said["answers"]):
        for hit in answer["hits"]:
            hit["id"] = rows[int(hit["id"])]
    assert_agrees(said, queries, held)


TRIAL = BranchName("trial")


def replace_embedding(record: MemoryRecord, vector: Vectors) -> MemoryRecord:
    return msgspec.structs.replace(record, embedding=vector.tobytes())


LINKED_ROWS = 2500
LINKED_DIM = 32
LINKED_IDS = np.arange(LINKED_ROWS, dtype=np.uint64) * 3 + 5  # with gaps, so that no id is an ordinal


@cache
def linked_vectors() -> Vectors:
    return units(LINKED_ROWS, LINKED_DIM, seed=1)


def links(rows: int = LINKED_ROWS) -> Adjacency:
    """Return the links of our graph over the first rows."""
    return Graph.over(Blocks(linked_vectors()), rows).adjacency()


def without_links_of(whole: Adjacency, left_out: Sequence[bool]) -> Adjacency:
    """Return a graph over the same rows that leads neither to nor from some of them."""
    lists = np.repeat(np.arange(len(whole.counts)), whole.counts)
    rows = np.repeat(np.arange(len(whole.layers)), whole.layers)[lists]
    kept = ~(np.asarray(left_out)[rows] | np.asarray(left_out)[whole.neighbours])
    counts = np.bincount(lists[kept], minlength=len(whole.counts))
    return replace(whole, counts=counts, neighbours=whole.neighbours[kept])


def written_with_index(path: Path, index: bytes) -> bytes:
    """Write a file of rows and an INDEX segment, and nothing of ours; return its bytes."""
    data, directory = b"", []
    payloads = ((rvf.VEC, rvf.pack_vec(LINKED_IDS, linked_vectors())), (rvf.INDEX, index))
    for segment_id, (kind, payload) in enumerate(payloads, start=1):
        directory.append((segment_id, len(data), len(payload), kind))
        data += rvf.pack_segment(kind, segment_id, payload)
    listed = np.array(directory, rvf.ENTRY)
    manifest = rvf.Manifest(1, LINKED_DIM, LINKED_ROWS, listed, rvf.NO_ROWS, rvf.Identity(bytes(range(16))))
    data += rvf.pack_segment(rvf.MANIFEST, len(directory) + 1, rvf.pack_manifest(manifest))
    path.write_bytes(data)
    return data


def found_by_graph(path: Path, queries: Vectors) -> list[list[int]]:
    """Open a file for writing in the runtime, ask without a filter, close; return the rows it found."""
    asked = path.with_suffix(".json")
    asked.write_text(json.dumps({"queries": [{"vector": query.tolist(), "k": K} for query in queries]}))
    said = run_reference(check_script(), path, asked, "--rw")
    answers = cast("list[dict[str, list[dict[str, float]]]]", said["answers"])
    return [[int((hit["id"] - 5) // 3) for hit in answer["hits"]] for answer in answers]


def recall(found: Sequence[Sequence[int]], queries: Vectors) -> float:
    best = np.argsort(-(queries @ linked_vectors().T), axis=1, kind="stable")[:, :K]
    return sum(len(set(rows) & set(right)) for rows, right in zip(found, best.tolist(), strict=True)) / best.size


def test_the_reference_runtime_searches_our_graph_and_builds_none(tmp_path: Path) -> None:
    path = tmp_path / "linked.rvf"
    before = written_with_index(path, pack_adjacency(LINKED_IDS, links()))
    queries = units(50, LINKED_DIM, seed=2)

    found = found_by_graph(path, queries)

    assert recall(found, queries) >= 0.99
    assert path.read_bytes() == before  # on closing it writes a graph that it built or changed


def test_the_reference_runtime_goes_where_our_graph_leads_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "half.rvf"
    whole = links()
    assert whole.entry is not None
    left_out = np.arange(LINKED_ROWS) % 2 != whole.entry % 2  # not the entry, or it would find nothing and scan
    before = written_with_index(path, pack_adjacency(LINKED_IDS, without_links_of(whole, left_out)))
    queries = units(50, LINKED_DIM, seed=2)

    found = found_by_graph(path, queries)

    assert not left_out[np.array(found)].any()
    assert recall(found, queries) < 0.7
    assert path.read_bytes() == before


def test_the_reference_runtime_builds_a_graph_where_ours_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "damaged.rvf"
    before = written_with_index(path, pack_adjacency(LINKED_IDS, links())[:-1])
    queries = units(50, LINKED_DIM, seed=2)

    found = found_by_graph(path, queries)

    assert recall(found, queries) >= 0.9
    assert len(path.read_bytes()) > len(before)


def test_the_reference_runtime_adds_rows_that_our_graph_does_not_hold_yet(tmp_path: Path) -> None:
    path = tmp_path / "behind.rvf"
    graph = links(LINKED_ROWS - 100)
    written_with_index(path, pack_adjacency(LINKED_IDS[:-100], graph))
    queries = np.concatenate((units(50, LINKED_DIM, seed=2), linked_vectors()[-100:]))

    found = found_by_graph(path, queries)

    assert recall(found, queries) >= 0.99
    assert [rows[0] for rows in found[50:]] == list(range(LINKED_ROWS - 100, LINKED_ROWS))
