"""The short form of `python -m tests.faults.damage`, on another sixteenth of the large file each time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.errors import Damaged
from memoryd.rvf import format as rvf
from memoryd.rvf.history import read_history
from memoryd.rvf.reader import find_state
from memoryd.rvf.sealed import SealedPart, read_head
from tests.faults.damage import APPENDED, HOWS, Segment, Task, append, commits, everything, segments
from tests.helpers.memories import FILE, USER, Expected

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.damage import Sample

SHARE = 16


@pytest.fixture
def start() -> int:
    """Where to begin: pytest-randomly says by which seed it was chosen, and a finding names its place."""
    return random.randrange(SHARE)


def test_the_large_file_holds_everything_that_is_written() -> None:
    sample = everything()
    file = sample.disk(sample.content).open(FILE, writable=False)
    state = find_state(file, FILE)
    history = read_history(file, FILE, state)

    assert len(sample.content) >= 1 << 16
    assert {entry.type for entry in state.entries} == {rvf.PRIVATE, rvf.VEC, rvf.INDEX}
    assert len(state.manifest.deleted) > 0
    whole, folded, *logs = [piece.content for piece in history.pieces]
    assert isinstance(whole, SealedPart)
    assert isinstance(folded, SealedPart)
    assert len(logs) >= 3
    assert whole.codebook == folded.codebook != ""
    assert folded.head.first < folded.head.number
    assert history.generation == 2  # compacted
    assert history.trajectories
    payload = memoryview(sample.content)[folded.private.offset + rvf.HEADER_SIZE :][: folded.private.length]
    assert read_head(payload)[1] != 0  # masked
    assert folded.changes().trajectories
    assert folded.changes().dropped
    assert any(not part.is_live for part in segments(sample))


@pytest.mark.parametrize("how", HOWS)
def test_no_byte_of_a_large_file_is_believed_when_it_is_another(how: str, start: int) -> None:
    task = Task(everything, how, seed=start)

    became, findings = task.do(range(start, task.places(), SHARE))

    assert findings == []
    assert became.total() == len(range(start, task.places(), SHARE))


@pytest.mark.parametrize("seed", [1, 2])
def test_no_changed_byte_of_a_small_file_is_believed(seed: int) -> None:
    task = Task(commits, "change", seed)

    became, findings = task.do(range(task.places()))

    assert findings == []
    assert set(became) == {"refused", "harmless", "torn"}


def test_a_small_file_cut_at_any_length_holds_the_last_whole_commit_or_is_refused() -> None:
    task = Task(commits, "cut", 0)

    became, findings = task.do(range(task.places()))

    assert findings == []
    assert set(became) == {"refused", "whole"}


@pytest.mark.parametrize("sample", [commits, everything], ids=["small", "large"])
def test_a_file_cut_beside_the_borders_of_its_segments_holds_the_last_whole_commit(
    sample: Callable[[], Sample],
) -> None:
    task = Task(sample, "cut", 0)
    borders = {part.start for part in segments(sample())} | {part.payload for part in segments(sample())}

    _, findings = task.do(sorted({at + shift for at in borders for shift in range(-3, 4) if at + shift >= 0}))

    assert findings == []


@pytest.mark.parametrize("junk", [b"\xa5" * 777, b"SFVR\x01\x05" * 100, b"SFVR", bytes(APPENDED)])
def test_what_stands_behind_the_last_commit_is_cut(junk: bytes) -> None:
    sample = commits()
    append(commits, junk)

    disk = sample.disk(sample.content + junk)
    sample.store(disk).open(USER)

    assert disk.content(FILE) == sample.content


def test_damage_in_an_old_commit_is_never_answered_with_an_older_state() -> None:
    sample = commits()
    second: Segment = [part for part in segments(sample) if part.kind == rvf.PRIVATE][1]
    changed = bytearray(sample.content)
    changed[second.payload + 6] ^= 0xFF
    disk = sample.disk(bytes(changed))

    with pytest.raises(Damaged) as damage:
        sample.store(disk).open(USER)

    assert damage.value.details["offset"] == second.start
    assert damage.value.details["what"] == "content hash fails"
    assert disk.content(FILE) == bytes(changed)
    assert sample.store(disk).verify(USER)[0].offset == second.start


def test_every_state_of_the_files_is_known_from_what_was_committed() -> None:
    for sample in (commits(), everything()):
        for end, expected in sample.states.items():
            opened = sample.store(sample.disk(sample.content[:end])).open(USER)
            assert Expected.of(opened.file.load()) == expected
        assert max(sample.states) == len(sample.content)
