"""The graph that stands in a file: an index takes it from there instead of making it, and keeps it while it can."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.protocol.interfaces import Batch, Entry, ModelInfo
from memoryd.protocol.records import ANY
from memoryd.rvf import format as rvf
from memoryd.rvf import ledger, rewriting
from memoryd.rvf.reader import find_state
from memoryd.rvf.records import decode_record
from memoryd.vectors.codes import Codebook
from memoryd.vectors.graph import Graph, link
from memoryd.vectors.index import EXACT_ROWS, VectorIndex
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import FILE, ROOT, USER, clustered, nearest, record, record_id, store, units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memoryd.protocol.interfaces import Contents, MemoryFile, Rewriting, Vectors
    from memoryd.vectors.blocks import Blocks

DIM = 48
MODEL = ModelInfo("linked-model", DIM, "1d" * 32)
PARTS = (range(700), range(700, 2_155))
LINKED = 2_155
BEHIND = range(LINKED, LINKED + 60)


@cache
def rows() -> Vectors:
    return clustered(6_000, DIM, each=50)


@cache
def codebook() -> Codebook:
    return Codebook.train(rows())


@cache
def queries() -> Vectors:
    asked = rows()[-40:] + np.float32(0.3) * units(40, DIM, seed=6)
    found: Vectors = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    return found


@pytest.fixture
def small() -> Iterator[None]:
    """Let every fold make a sealed part, however few rows it has, and let none be folded again."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (ledger, rewriting):
            patch.setattr(module, "SEALED_ROWS", 1)
        patch.setattr(ledger, "_FOLD_ROWS", 1)
        patch.setattr(ledger, "_MERGES", ())
        yield


def finished(memory: MemoryFile, rewriting: Rewriting | None) -> None:
    assert rewriting is not None
    assert rewriting.prepare()
    memory.finish(rewriting)


def added(memory: MemoryFile, numbers: Iterable[int]) -> None:
    """Commit these rows and fold them into a part of their own."""
    memory.commit(Batch(entries=[Entry(record(number), rows()[number]) for number in numbers]))
    finished(memory, memory.fold())


@pytest.fixture
def disk() -> FaultDisk:
    disk = FaultDisk()
    disk.put(ROOT)
    return disk


@pytest.fixture
def memory(disk: FaultDisk, small: None) -> MemoryFile:
    """Return a file of two parts, with a graph over both, and rows behind them."""
    memory = store(disk, model=MODEL, link=link).open(USER).file
    for numbers in PARTS:
        added(memory, numbers)
    finished(memory, memory.linking())
    memory.commit(Batch(entries=[Entry(record(number), rows()[number]) for number in BEHIND]))
    return memory


@pytest.fixture
def contents(memory: MemoryFile) -> Contents:
    return memory.load()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many rows each graph was made of that was made from nothing."""
    over = Graph.over
    calls: list[int] = []

    def counted(vectors: Blocks, rows: int) -> Graph:
        calls.append(rows)
        return over(vectors, rows)

    monkeypatch.setattr(Graph, "over", counted)
    return calls


def answers(index: VectorIndex, path: str, k: int = 10) -> list[list[tuple[int, float]]]:
    found = []
    for query in queries():
        hits = index.view().search(query, k=k, where=ANY)
        assert hits.path == path
        found.append([(int(decode_record(hit.record).id), hit.score) for hit in hits.hits])
    return found


def expected(numbers: Sequence[int], k: int = 10) -> list[list[tuple[int, float]]]:
    found = [nearest(query, rows()[list(numbers)], k) for query in queries()]
    return [
        [(numbers[row], score) for row, score in zip(places.tolist(), scores.tolist(), strict=True)]
        for scores, places in found
    ]


def recall(found: list[list[tuple[int, float]]], best: list[list[tuple[int, float]]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, best, strict=True)]))


def test_an_index_takes_the_graph_of_the_file_and_answers_as_that_graph_does(
    contents: Contents, made: list[int]
) -> None:
    index = VectorIndex(contents, graph_above=100)
    assert index.wants_sealing()

    index.seal()()

    assert made == []
    assert not index.wants_sealing()
    links = link(rows()[:LINKED], None, lambda: True)
    assert links is not None
    plain = VectorIndex(contents, graph_above=100)
    plain._graph = Graph.continued(links, plain._table.vectors, np.r_[0:700, 704:2_159], plain._table.mapped)
    assert answers(index, "hnsw") == answers(plain, "hnsw")
    assert recall(answers(index, "hnsw"), expected(range(BEHIND.stop))) >= 0.99


def test_what_the_graph_of_the_file_lacks_is_added(memory: MemoryFile, made: list[int]) -> None:
    added(memory, range(BEHIND.stop, 3_000))
    index = VectorIndex(memory.load(), graph_above=100)

    index.seal()()

    assert made == []
    assert index._graph is not None
    assert index._graph.rows == index._table.mapped == sum(part.slots for part in memory.load().sealed)
    assert recall(answers(index, "hnsw"), expected(range(3_000))) >= 0.99


def test_a_deleted_row_in_the_graph_is_passed_over(memory: MemoryFile, made: list[int]) -> None:
    gone = {number for number, _ in expected(range(BEHIND.stop), 3)[0]}
    memory.commit(Batch(deleted=[record_id(number) for number in gone]))
    index = VectorIndex(memory.load(), graph_above=100)

    index.seal()()

    assert made == []
    left = [number for number in range(BEHIND.stop) if number not in gone]
    assert recall(answers(index, "hnsw"), expected(left)) >= 0.99
    assert not gone & {number for found in answers(index, "hnsw") for number, _ in found}


def test_a_graph_stays_when_the_file_grows_behind_it(memory: MemoryFile, made: list[int]) -> None:
    index = VectorIndex(memory.load(), graph_above=100)
    index.seal()()
    graph = index._graph

    added(memory, range(BEHIND.stop, 2_400))
    index.rebased(memory.load())()

    assert index._graph is graph is not None
    assert recall(answers(index, "hnsw"), expected(range(2_400))) >= 0.99
    assert made == []


def test_a_graph_over_rows_that_moved_goes(memory: MemoryFile, made: list[int]) -> None:
    index = VectorIndex(memory.load(), graph_above=100)
    index.seal()()

    memory.compact()
    index.rebased(memory.load())()

    assert index._graph is None
    assert answers(index, "exact") == expected(range(BEHIND.stop))
    index.seal()()
    assert made == [index._table.mapped]  # the new file holds none yet


@pytest.mark.parametrize("is_there", [False, True])
def test_where_the_file_holds_no_graph_of_use_one_is_made(
    disk: FaultDisk, memory: MemoryFile, made: list[int], *, is_there: bool
) -> None:
    contents = memory.load()
    if is_there:  # but a byte of it was changed
        (entry,) = find_state(disk.open(FILE, writable=False), FILE).of_type(rvf.INDEX)
        content = bytearray(disk.content(FILE))
        content[entry.offset + rvf.HEADER_SIZE + 200] ^= 1
        disk.put(FILE, bytes(content))
    else:
        memory.compact()
        contents = memory.load()
    index = VectorIndex(contents, graph_above=100)

    index.seal()()

    assert made == [index._table.mapped]
    assert recall(answers(index, "hnsw"), expected(range(BEHIND.stop))) >= 0.99


@pytest.mark.parametrize("wrong", ["others", "more"])
def test_a_graph_over_other_rows_is_not_used(contents: Contents, made: list[int], wrong: str) -> None:
    found = contents.graph()
    assert found is not None
    ids, links = found
    others = ids + np.uint64(1) if wrong == "others" else np.arange(9_000, dtype=np.uint64)
    index = VectorIndex(replace(contents, graph=lambda: (others, links)), graph_above=100)

    index.seal()()

    assert made == [index._table.mapped]


def test_with_codes_a_graph_answers_only_while_few_rows_are_behind_it(disk: FaultDisk, small: None) -> None:
    memory = store(disk, model=MODEL, book=codebook(), link=link).open(USER).file
    added(memory, range(2_500))
    finished(memory, memory.linking())
    index = VectorIndex(memory.load(), codebook(), graph_above=100)
    while index.wants_sealing():
        index.seal()()
    answers(index, "hnsw")

    more = range(2_500, 2_501 + EXACT_ROWS)
    index.add([store(disk).encode(record(number)) for number in more], rows()[list(more)])

    assert recall(answers(index, "codes"), expected(range(more.stop))) >= 0.99
