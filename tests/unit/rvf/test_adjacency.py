"""The graph of an INDEX segment: read as the reference runtime wrote it, written as it writes, refused where it is not whole."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoryd.files import RealFiles
from memoryd.protocol.interfaces import Adjacency
from memoryd.rvf import reader
from memoryd.rvf.adjacency import pack_adjacency, unpack_adjacency
from memoryd.rvf.format import INDEX, MAX_ROW_ID
from tests.helpers.interop import golden_folder

if TYPE_CHECKING:
    from memoryd.rvf.format import Ids

NO_ENTRY = (1 << 64) - 1


@pytest.fixture(scope="module")
def payload() -> bytes:
    """Return the graph over 1,200 rows that the reference runtime built."""
    path = golden_folder() / "l2-8-1200-indexed.rvf"
    file = RealFiles().open(path, writable=False)
    try:
        (entry,) = reader.find_state(file, path).of_type(INDEX)
        return reader.read_segment(file, path, entry)
    finally:
        file.close()


def one_by_one(payload: bytes) -> list[list[list[int]]]:
    """Return the neighbours of every row in every layer, read in the plainest way."""
    rows = struct.unpack_from("<Q", payload, 8)[0]
    restarts = struct.unpack_from("<I", payload, 68)[0]
    at: int = -(-(72 + 4 * restarts) // 64) * 64

    def number() -> int:
        nonlocal at
        found = shift = 0
        while True:
            octet = payload[at]
            at += 1
            found |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return found

    graph = []
    for row in range(rows):
        layers = []
        for _ in range(number()):
            listed: list[int] = []
            for place in range(number()):
                step = number()
                listed.append(step if place == 0 or row % 64 == 0 else listed[-1] + step)
            layers.append(listed)
        graph.append(layers)
    return graph


def as_lists(graph: Adjacency) -> list[list[list[int]]]:
    found, at, place = [], 0, 0
    for deep in graph.layers:
        layers = []
        for count in graph.counts[at : at + deep]:
            layers.append(graph.neighbours[place : place + count].tolist())
            place += int(count)
        at += int(deep)
        found.append(layers)
    return found


def from_lists(graph: list[list[list[int]]], *, m: int = 16, entry: int | None = None) -> Adjacency:
    lists = [listed for layers in graph for listed in layers]
    return Adjacency(
        layers=np.array([len(layers) for layers in graph], np.int64),
        counts=np.array([len(listed) for listed in lists], np.int64),
        neighbours=np.array([row for listed in lists for row in listed], np.int64),
        m=m,
        m0=2 * m,
        ef_construction=200,
        entry=entry,
    )


def random_graph(rows: int, seed: int) -> list[list[list[int]]]:
    """Return a graph of several layers, lists of up to 16 rows, empty ones among them."""
    rng = np.random.default_rng(seed)
    deep = np.minimum(rng.geometric(0.6, rows), 8)
    standing = [np.flatnonzero(deep > level) for level in range(8)]
    return [
        [
            np.sort(rng.choice(standing[level], rng.integers(0, min(len(standing[level]), 16) + 1), False)).tolist()
            for level in range(layers)
        ]
        for layers in deep
    ]


def entry_of(graph: list[list[list[int]]]) -> int | None:
    """Return a row of the top layer."""
    return max(range(len(graph)), key=lambda row: len(graph[row])) if graph else None


def random_ids(rows: int, gap: int, seed: int) -> Ids:
    return np.cumsum(np.random.default_rng(seed).integers(1, gap, rows, np.uint64), dtype=np.uint64)


def assert_same(found: tuple[Ids, Adjacency], ids: Ids, graph: Adjacency) -> None:
    read_ids, read = found
    assert read_ids.dtype == np.uint64
    np.testing.assert_array_equal(read_ids, ids)
    for name in ("layers", "counts", "neighbours"):
        assert getattr(read, name).dtype == np.int64
        np.testing.assert_array_equal(getattr(read, name), getattr(graph, name))
    for name in ("m", "m0", "ef_construction", "entry"):
        assert getattr(read, name) == getattr(graph, name)


def varint(number: int) -> bytes:
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])


def packed(graph: list[list[list[int]]], ids: list[int], *, entry: int = 0, interval: int = 64) -> bytes:
    """Return an INDEX payload, written in the plainest way."""
    data, restarts = bytearray(), []
    for row, layers in enumerate(graph):
        if row % interval == 0:
            restarts.append(len(data))
        data += varint(len(layers))
        for listed in layers:
            data += varint(len(listed))
            for place, each in enumerate(listed):
                data += varint(each if place == 0 or row % interval == 0 else each - listed[place - 1])
    table = struct.pack(f"<II{len(restarts)}I", interval, len(restarts), *restarts)
    head = struct.pack("<BBHIQ48x", 0, 2, 16, 200, len(graph)) + table
    top = max(map(len, graph), default=1) - 1
    steps = [each - before for each, before in zip(ids, [0, *ids], strict=False)]
    trailer = struct.pack("<HHIQQ", 1, 32, top, entry, len(ids)) + b"".join(map(varint, steps))
    body = b"".join(part + bytes(-len(part) % 64) for part in (head, bytes(data)))
    return body + trailer + struct.pack("<I4s", len(trailer), b"RVIX")


def test_the_graph_of_the_reference_runtime_is_read_as_it_stands(payload: bytes) -> None:
    ids, graph = unpack_adjacency(payload)

    assert as_lists(graph) == one_by_one(payload)
    assert ids.tolist() == sorted(set(ids.tolist()))
    assert len(ids) == 1200
    assert graph.counts.max() <= graph.m0 == 2 * graph.m
    assert graph.entry is not None
    assert graph.layers[graph.entry] == graph.layers.max()


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[list[list[int]]], list[int]]:
    rows = draw(st.integers(0, 150))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    graph = [
        [sorted(rng.choice(rows, rng.integers(0, min(rows, 9) + 1), replace=False).tolist()) for _ in range(deep)]
        for deep in rng.geometric(0.7, rows).tolist()
    ]
    ids = np.cumsum(rng.integers(1, draw(st.sampled_from([2, 200, 1 << 40])), rows)).tolist()
    return graph, ids


@given(graphs(), st.sampled_from([1, 7, 64]))
def test_any_graph_is_read_as_it_was_written(written: tuple[list[list[list[int]]], list[int]], interval: int) -> None:
    graph, ids = written

    read_ids, found = unpack_adjacency(packed(graph, ids, interval=interval))

    assert as_lists(found) == graph
    assert read_ids.tolist() == ids


def test_the_graph_of_the_reference_runtime_is_written_byte_for_byte_as_it_wrote_it(payload: bytes) -> None:
    ids, graph = unpack_adjacency(payload)

    assert pack_adjacency(ids, graph) == payload


@pytest.mark.parametrize("rows", [0, 1, 2, 63, 64, 65, 128, 1000])
@pytest.mark.parametrize("gap", [2, 300, 1 << 40])
def test_a_graph_is_written_as_the_format_says_and_reads_back_the_same(rows: int, gap: int) -> None:
    lists = random_graph(rows, seed=rows)
    graph, ids = from_lists(lists, entry=entry_of(lists)), random_ids(rows, gap, seed=rows)
    entry = NO_ENTRY if graph.entry is None else graph.entry

    payload = pack_adjacency(ids, graph)

    assert payload == packed(lists, ids.tolist(), entry=entry)
    assert_same(unpack_adjacency(payload), ids, graph)


@given(
    rows=st.integers(0, 200),
    seed=st.integers(0, 1 << 32),
    gap=st.sampled_from([2, 200, 1 << 40]),
    is_entered=st.booleans(),
)
def test_any_graph_that_is_written_reads_back_the_same(rows: int, seed: int, gap: int, *, is_entered: bool) -> None:
    lists = random_graph(rows, seed)
    graph = from_lists(lists, entry=entry_of(lists) if is_entered else None)
    ids = random_ids(rows, gap, seed)

    assert_same(unpack_adjacency(pack_adjacency(ids, graph)), ids, graph)


def test_the_largest_row_id_is_written() -> None:
    ids = np.array([0, MAX_ROW_ID], np.uint64)
    graph = from_lists([[[1]], [[0]]], entry=1)

    assert_same(unpack_adjacency(pack_adjacency(ids, graph)), ids, graph)


IDS = [5, 6, 9]
SOUND = from_lists([[[1, 2], [2]], [[0, 2]], [[0, 1], [0]]], m=2, entry=2)


def array(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("ids", "graph", "why"),
    [
        ([5, 6], SOUND, "other rows"),
        ([5, 9, 6], SOUND, "not ascending"),
        ([5, 6, 6], SOUND, "not ascending"),
        ([5, 6, MAX_ROW_ID + 1], SOUND, "too large"),
        (IDS, replace(SOUND, layers=array(2, 0, 3)), "without a layer"),
        (IDS, replace(SOUND, layers=array(2, 1, 65)), "too many"),
        (IDS, replace(SOUND, layers=array(2, 2, 2)), "lists than"),
        (IDS, replace(SOUND, counts=array(2, 1, 2, 2, 2)), "neighbours than"),
        (IDS, replace(SOUND, counts=array(2, -1, 4, 2, 1)), "neighbours than"),
        (IDS, replace(SOUND, m=1, m0=1), "longer"),
        (IDS, replace(SOUND, m=0), "longer"),
        (IDS, replace(SOUND, m=1 << 16), "out of range"),
        (IDS, replace(SOUND, m0=-1), "out of range"),
        (IDS, replace(SOUND, ef_construction=1 << 32), "out of range"),
        (IDS, replace(SOUND, neighbours=array(1, 3, 2, 0, 2, 0, 1, 0)), "does not hold"),
        (IDS, replace(SOUND, neighbours=array(-1, 2, 2, 0, 2, 0, 1, 0)), "does not hold"),
        (IDS, replace(SOUND, neighbours=array(1, 2, 1, 0, 2, 0, 1, 0)), "not stand"),
        (IDS, replace(SOUND, neighbours=array(2, 1, 2, 0, 2, 0, 1, 0)), "not ascending"),
        (IDS, replace(SOUND, neighbours=array(1, 2, 2, 0, 2, 1, 1, 0)), "not ascending"),
        (IDS, replace(SOUND, entry=3), "entry"),
        (IDS, replace(SOUND, entry=-1), "entry"),
        (IDS, replace(SOUND, entry=1), "top layer"),
    ],
)
def test_a_graph_that_breaks_its_promises_is_not_written(ids: list[int], graph: Adjacency, why: str) -> None:
    assert_same(unpack_adjacency(pack_adjacency(np.array(IDS, np.uint64), SOUND)), np.array(IDS, np.uint64), SOUND)

    with pytest.raises(ValueError, match=why):
        pack_adjacency(np.array(ids, np.uint64), graph)


def test_a_graph_that_is_cut_short_is_refused(payload: bytes) -> None:
    for length in range(0, len(payload), 7):
        with pytest.raises(ValueError, match="index"):
            unpack_adjacency(payload[:length])


@given(st.integers(0), st.integers(0, 255))
def test_a_changed_byte_gives_a_reason_or_a_graph_within_its_bounds(at: int, octet: int) -> None:
    four: list[list[list[int]]] = [[[1, 2], [2]], [[0, 2]], [[0, 1], [0]], [[]]]
    graph = four * 20
    damaged = bytearray(packed(graph, list(range(3, 83))))
    damaged[at % len(damaged)] = octet
    try:
        ids, found = unpack_adjacency(bytes(damaged))
    except ValueError:
        return
    assert found.layers.sum() == len(found.counts)
    assert found.counts.sum() == len(found.neighbours)
    assert (found.neighbours < len(ids)).all()


@pytest.mark.parametrize(
    ("place", "layout", "number"),
    [(8, "<Q", 1 << 62), (8, "<Q", 1201), (64, "<I", 0), (68, "<I", 1 << 31), (0, "<B", 1), (72, "<I", 5)],
)
def test_counts_that_promise_more_than_there_is_are_refused(
    payload: bytes, place: int, layout: str, number: int
) -> None:
    forged = bytearray(payload)
    struct.pack_into(layout, forged, place, number)

    with pytest.raises(ValueError, match=r"index|number"):
        unpack_adjacency(bytes(forged))


ROWS = [[[1]], [[0, 2]], [[0]]]


def with_ids(data: bytes) -> bytes:
    """Return an INDEX payload whose row ids are these bytes."""
    sound = packed(ROWS, IDS)
    end = len(sound) - 8
    trailer = sound[: end - len(IDS)] + data
    return trailer + struct.pack("<I4s", 24 + len(data), b"RVIX")


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (with_ids(varint((1 << 63) - 1) + b"\x01\x01"), "too large"),
        (with_ids(b"\x05\x01\x83"), "cut short"),
        (with_ids(b"\x05\x01" + b"\x80" * 9 + b"\x01"), "too long"),
        (with_ids(b"\x05\x00\x01"), "not ascending"),
        (with_ids(b"\x05\x01"), "not as many"),
        (packed([[[1]], [[2, 4]], [[0]]], IDS), "does not hold"),
        (packed([[[1]], [[3]], [[0]]], IDS), "does not hold"),
        (packed([[[1]], [], [[0]]], IDS), "without a layer"),
        (packed(ROWS, IDS, entry=3), "trailer"),
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(broken: bytes, why: str) -> None:
    assert as_lists(unpack_adjacency(with_ids(b"\x05\x01\x03"))[1]) == ROWS

    with pytest.raises(ValueError, match=why):
        unpack_adjacency(broken)


def test_a_list_that_is_shorter_than_its_group_is_refused() -> None:
    payload = bytearray(packed([[[1, 2]], [[0]], [[0]]], IDS, interval=1))
    assert payload[128:132] == bytes([1, 2, 1, 2])  # one layer of two neighbours
    payload[129] = 1

    with pytest.raises(ValueError, match="overlap"):
        unpack_adjacency(bytes(payload))
