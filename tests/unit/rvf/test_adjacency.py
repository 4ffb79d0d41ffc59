"""The graph of an INDEX segment: read as the reference runtime wrote it, and refused where it is not whole."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoryd.files import RealFiles
from memoryd.rvf import reader
from memoryd.rvf.adjacency import Adjacency, unpack_adjacency
from memoryd.rvf.inspect import INDEX
from tests.helpers.interop import golden_folder


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

    rows = struct.unpack_from("<Q", payload, 8)[0]
    restarts = struct.unpack_from("<I", payload, 68)[0]
    at = -(-(72 + 4 * restarts) // 64) * 64
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
    graph = unpack_adjacency(payload)

    assert as_lists(graph) == one_by_one(payload)
    assert graph.ids.tolist() == sorted(set(graph.ids.tolist()))
    assert len(graph.ids) == 1200
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

    found = unpack_adjacency(packed(graph, ids, interval=interval))

    assert as_lists(found) == graph
    assert found.ids.tolist() == ids


def test_a_graph_that_is_cut_short_is_refused(payload: bytes) -> None:
    for length in range(0, len(payload), 7):
        with pytest.raises(ValueError, match="index"):
            unpack_adjacency(payload[:length])


@given(st.integers(0), st.integers(0, 255))
def test_a_changed_byte_gives_a_reason_or_a_graph_within_its_bounds(at: int, octet: int) -> None:
    graph = [[[1, 2], [2]], [[0, 2]], [[0, 1], [0]], [[]]] * 20
    damaged = bytearray(packed(graph, list(range(3, 83))))
    damaged[at % len(damaged)] = octet
    try:
        found = unpack_adjacency(bytes(damaged))
    except ValueError:
        return
    assert found.layers.sum() == len(found.counts)
    assert found.counts.sum() == len(found.neighbours)
    assert (found.neighbours < len(found.ids)).all()


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
IDS = [5, 6, 9]


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
    assert as_lists(unpack_adjacency(with_ids(b"\x05\x01\x03"))) == ROWS

    with pytest.raises(ValueError, match=why):
        unpack_adjacency(broken)


def test_a_list_that_is_shorter_than_its_group_is_refused() -> None:
    payload = bytearray(packed([[[1, 2]], [[0]], [[0]]], IDS, interval=1))
    assert payload[128:132] == bytes([1, 2, 1, 2])  # one layer of two neighbours
    payload[129] = 1

    with pytest.raises(ValueError, match="overlap"):
        unpack_adjacency(bytes(payload))
