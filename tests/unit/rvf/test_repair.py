"""What follows from records and vectors is made anew; what those say themselves is never guessed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.interfaces import Batch
from memoryd.rvf import format as rvf
from memoryd.rvf import ledger
from memoryd.rvf.reader import find_state
from memoryd.rvf.snapshot import read_snapshot
from memoryd.vectors.graph import link
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import (
    CODED,
    FILE,
    ROOT,
    SECTIONS,
    USER,
    Expected,
    codebook,
    entries,
    record_id,
    store,
    trajectory,
)

if TYPE_CHECKING:
    from memoryd.rvf.store import RvfMemoryStore

DERIVED = ("rows", "sums", "keys", "time_us", "session", "kind", "source", "codes")


def memories(disk: FaultDisk) -> RvfMemoryStore:
    return store(disk, model=CODED, book=codebook(), link=link)


@cache
def written() -> tuple[bytes, Expected]:
    """Return a file with sealed rows, deleted ones among them, trajectories, codes and a graph, and what it holds."""
    disk = FaultDisk()
    disk.put(ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_LINKED_ROWS", 200)
        file = memories(disk).open(USER).file
        file.commit(Batch(entries=entries(range(300), CODED.dim), trajectories=[trajectory(1)], moment_us=3))
        folding = file.fold(is_quiet=True)
        assert folding is not None
        folding.prepare()
        file.finish(folding)
        linking = file.linking()
        assert linking is not None
        linking.prepare()
        file.finish(linking)
        file.commit(Batch(entries=entries([300], CODED.dim), deleted=[record_id(7)], moment_us=4))
        expected = Expected.of(file.load())
        file.close()
    return disk.content(FILE), expected


def damaged(at: int) -> FaultDisk:
    """Return a disk with that file, of which one byte is another."""
    content = bytearray(written()[0])
    content[at] ^= 4
    return with_content(bytes(content))


def with_content(content: bytes) -> FaultDisk:
    disk = FaultDisk()
    disk.put(ROOT)
    disk.put(FILE, content)
    return disk


def place_of(section: str) -> int:
    (part,) = read_snapshot(with_content(written()[0]).open(FILE, writable=False), FILE).parts
    found = part.head.sections[SECTIONS.index(section)]
    return part.private.offset + rvf.HEADER_SIZE + found.offset + found.length // 2


def is_whole(disk: FaultDisk) -> bool:
    opened = memories(disk).open(USER)
    found = Expected.of(opened.file.load())
    opened.file.close()
    return found == written()[1]


@pytest.mark.parametrize("section", DERIVED)
def test_a_section_that_follows_from_records_and_vectors_is_made_anew(section: str) -> None:
    disk = damaged(place_of(section))
    assert memories(disk).verify(USER)

    assert memories(disk).repair(USER) == ["memory.rvf"]

    assert memories(disk).verify(USER) == []
    assert is_whole(disk)


def test_a_graph_is_made_anew() -> None:
    file = with_content(written()[0]).open(FILE, writable=False)
    (graph,) = find_state(file, FILE).of_type(rvf.INDEX)
    disk = damaged(graph.offset + rvf.HEADER_SIZE + 100)
    assert memories(disk).verify(USER)

    assert memories(disk).repair(USER) == ["memory.rvf"]

    assert memories(disk).verify(USER) == []
    assert is_whole(disk)


@pytest.mark.parametrize("section", sorted({*SECTIONS} - {*DERIVED}))
def test_what_follows_from_nothing_else_is_left_as_it_is(section: str) -> None:
    disk = damaged(place_of(section))
    before = disk.content(FILE)

    assert memories(disk).repair(USER) == []

    assert disk.content(FILE) == before
    assert memories(disk).verify(USER)


def test_a_damaged_vector_is_left_as_it_is() -> None:
    (part,) = read_snapshot(with_content(written()[0]).open(FILE, writable=False), FILE).parts
    assert part.vec is not None
    disk = damaged(part.vec.offset + rvf.HEADER_SIZE + 50)

    assert memories(disk).repair(USER) == []

    assert memories(disk).verify(USER)


def test_a_sound_file_is_not_touched() -> None:
    disk = with_content(written()[0])

    assert memories(disk).repair(USER) == []

    assert disk.content(FILE) == written()[0]
