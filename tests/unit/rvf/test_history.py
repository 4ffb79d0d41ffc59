"""What private segments say together, whatever order they stand in, and what is noticed about them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pytest

from memoryd.protocol.errors import Damaged
from memoryd.rvf import format as rvf
from memoryd.rvf.history import History, read_history
from memoryd.rvf.reader import find_state
from memoryd.rvf.records import encode_record, encode_trajectory, pack_body
from memoryd.rvf.sealed import Changes, Rows, Span, pack_sealed
from tests.helpers import memories
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import MODEL, record, trajectory, units

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memoryd.protocol.records import Trajectory

PATH = Path("/data/alice/memory.rvf")


def body(number: int, before: Sequence[bytes], fields: dict[str, object]) -> bytes:
    """Return the private segment of a commit, written into a file in which `before` stood."""
    census = 0
    for payload in before:
        census ^= crc32(payload)
    known = {"first": number, "number": number, "others": len(before), "census": census}
    return pack_body(memories.body(**(known | fields)))


def rows(*numbers: int) -> dict[str, object]:
    records = [encode_record(record(number)) for number in numbers]
    return {"rows": list(numbers), "records": records, "added_us": [7 * number for number in numbers]}


def told_of(*trajectories: Trajectory) -> dict[str, object]:
    return {"trajectories": [encode_trajectory(each) for each in trajectories], "told_us": [5] * len(trajectories)}


def sealed(
    first: int, number: int, numbers: Sequence[int], changes: Changes | None = None, generation: int = 1
) -> bytes:
    """Return the private segment of sealed rows, which stands for the segments `first` to `number`."""
    found = Rows(
        np.array(numbers, np.uint64),
        [encode_record(record(n)) for n in numbers],
        units(len(numbers)),
        np.full(len(numbers), 7),
    )
    place = Span(generation, first, number, MODEL)
    return pack_sealed(place, found, rvf.pack_vec(found.ids, found.vectors), changes or Changes(), None)


def told(*commits: dict[str, object]) -> list[bytes]:
    """Return the private segments of commits, one after the other."""
    payloads: list[bytes] = []
    for number, fields in enumerate(commits):
        payloads.append(body(number, payloads, fields))
    return payloads


def history(payloads: Iterable[bytes]) -> History:
    """Read a file that lists these private segments."""
    content, directory = b"", []
    for payload in payloads:
        directory.append((1, len(content), len(payload), rvf.PRIVATE))
        content += rvf.pack_segment(rvf.PRIVATE, 1, payload)
    manifest = rvf.Manifest(1, 8, 0, np.array(directory, rvf.ENTRY), rvf.NO_ROWS, None)
    disk = FaultDisk()
    disk.put(PATH, content + rvf.pack_segment(rvf.MANIFEST, 1, rvf.pack_manifest(manifest)))
    file = disk.open(PATH, writable=False)
    return read_history(file, PATH, find_state(file, PATH))


def test_commits_tell_one_story_in_whatever_order_their_segments_stand() -> None:
    first, last = trajectory(1), trajectory(1, quality=1.0)
    payloads = told(
        rows(1, 3) | told_of(first, trajectory(2)),
        rows(4),
        rows(5) | told_of(last) | {"dropped": ["run 2"], "applied_seq": 9},
    )

    for order in itertools.permutations(payloads):
        found = history(order)

        assert found.rows == [1, 3, 4, 5]
        assert found.ids == [memories.record_id(number) for number in (1, 3, 4, 5)]
        assert [*found.trajectories.values()] == [last]
        assert found.trajectory_sizes == {last.id: len(encode_trajectory(last))}
        assert found.trajectory_bytes == sum(len(encode_trajectory(t)) for t in (first, trajectory(2), last))
        assert (found.applied_seq, found.next_row, found.number) == (9, 10, 2)
        assert [piece.number for piece in found.pieces] == [0, 1, 2]


def test_sealed_rows_stand_before_the_commits_behind_them_and_tell_of_trajectories() -> None:
    run = encode_trajectory(trajectory(1))
    old = sealed(0, 6, [1, 2, 3], Changes([], [run, encode_trajectory(trajectory(2))], [5, 5]))
    new = sealed(7, 8, [5, 6], Changes([trajectory(1).id]))
    last = body(9, [old, new], rows(7))

    for order in itertools.permutations((old, new, last)):
        found = history(order)

        assert [part.head.count for part in found.parts] == [3, 2]
        assert [part.ids()[0] for part in found.parts] == [memories.record_id(1), memories.record_id(5)]
        assert (found.rows, found.number, found.stale) == ([7], 9, [])
        assert [*found.trajectories] == [trajectory(2).id]


def test_older_generations_and_segments_of_others_do_not_count() -> None:
    (old,), new = told(rows(1)), body(0, [], rows(2) | {"generation": 2})

    found = history([old, b"another program's", new])

    assert (found.rows, found.generation, len(found.pieces)) == ([2], 2, 1)
    assert found.stale == [0]


@pytest.mark.parametrize("is_sealed", [False, True])
def test_what_a_folded_piece_stands_for_does_not_count_when_it_is_brought_back(*, is_sealed: bool) -> None:
    one, two = told(rows(1), rows(2))
    folded = sealed(0, 1, [1, 2]) if is_sealed else body(1, [], rows(1, 2) | {"first": 0})
    last = body(2, [folded], rows(3))

    for order in itertools.permutations((one, two, folded, last)):
        found = history(order)

        assert [(piece.first, piece.number) for piece in found.pieces] == [(0, 1), (2, 2)]
        assert len(found.stale) == 2
        assert [part.count for part in found.parts] == ([2] if is_sealed else [])


def test_a_segment_that_is_missing_or_of_another_file_shows() -> None:
    one, two, three = told(rows(1), rows(2), rows(3))
    other = body(1, [one], rows(2) | {"applied_seq": 8})

    for broken in ([one, three], [two], [two, three], [one, other, three], [one, two, two], [one, one, two]):
        with pytest.raises(Damaged, match="private segments are missing, or not of this file"):
            history(broken)


def test_sealed_rows_that_are_missing_show() -> None:
    old = sealed(0, 3, [1, 2])
    last = body(5, [old, sealed(4, 4, [3, 4])], {})

    with pytest.raises(Damaged, match="private segments are missing, or not of this file"):
        history([old, last])


def test_two_that_hide_one_another_from_the_sum_show() -> None:
    """Equal hashes cancel each other out; their number does not."""
    one, two = told(rows(1), rows(2))
    extra = body(7, [], {})

    with pytest.raises(Damaged, match="private segments are missing"):
        history([one, extra, extra, two])


def test_a_file_whose_newest_piece_is_no_commit_is_damage() -> None:
    one = told(rows(1))

    with pytest.raises(Damaged, match="no records of memoryd"):
        history([*one, sealed(1, 2, [2, 3])])


@pytest.mark.parametrize("second", [rows(2), rows(3), rows(10)])
def test_row_ids_that_were_given_before_or_are_beyond_the_next_show(second: dict[str, object]) -> None:
    with pytest.raises(Damaged, match="row ids out of order"):
        history(told(rows(2, 3), second))


@pytest.mark.parametrize(
    "fields", [{"rows": [1], "records": [b"\xc1"], "added_us": [0]}, {"trajectories": [b"\xc1"], "told_us": [0]}]
)
def test_what_cannot_be_decoded_is_damage(fields: dict[str, object]) -> None:
    with pytest.raises(Damaged, match=r"cannot be decoded in alice/memory\.rvf at byte 0"):
        history(told(fields))


@pytest.mark.parametrize(
    "payload", [b"MEMD", b"MEMD\x03\x00\x03\x00\x00\x00\x00", b"MEMD\x03\x00\x03\x00\xff\xff\xff\xff"]
)
def test_a_segment_of_ours_that_is_not_whole_is_damage(payload: bytes) -> None:
    with pytest.raises(Damaged, match="cut short"):
        history([payload])


@pytest.mark.parametrize("payloads", [[], [b"another program's"], [b""]])
def test_a_file_without_records_of_ours_is_not_a_memory(payloads: list[bytes]) -> None:
    with pytest.raises(Damaged, match="no records of memoryd"):
        history(payloads)


def test_the_head_of_sealed_rows_must_agree_with_the_directory() -> None:
    payload = sealed(0, 0, [1, 2])
    content = rvf.pack_segment(rvf.PRIVATE, 1, payload)
    lines = np.array([(1, 0, len(payload) - 64, rvf.PRIVATE)], rvf.ENTRY)
    manifest = rvf.Manifest(1, 8, 0, lines, rvf.NO_ROWS, None)
    disk = FaultDisk()
    disk.put(PATH, content + rvf.pack_segment(rvf.MANIFEST, 1, rvf.pack_manifest(manifest)))
    file = disk.open(PATH, writable=False)

    with pytest.raises(Damaged, match="segment differs from its directory entry"):
        read_history(file, PATH, find_state(file, PATH))
