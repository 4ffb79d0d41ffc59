"""The strict reader, on files of the reference runtime and on files made to mislead it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from memoryd.files import File, RealFiles
from memoryd.protocol.errors import Damaged
from memoryd.rvf import format as rvf
from memoryd.rvf.reader import Entry, find_state, read_rows, read_segment
from tests.helpers.faultfs import FaultDisk
from tests.helpers.interop import golden_folder
from tests.helpers.memories import units

# The rows of a branch that are not edits stand in its parent, and the member of a derived file in no file at all.
GOLDEN = (
    "cosine-384-40",
    "cosine-8-20",
    "cosine-8-batches-deletes",
    "cosine-8-compacted",
    "cosine-8-metadata",
    "derived-8",
    "empty-8-l2",
    "foreign-ext-8",
    "ip-8-20",
    "l2-8-1200-indexed",
    "l2-8-20",
    "l2-8-embedded",
    "l2-8-overwrite",
    "parent-8",
    "torn-tail-8",
)
PATH = Path("/some/where.rvf")


def opened(content: bytes) -> File:
    disk = FaultDisk()
    disk.put(PATH, content)
    return disk.open(PATH, writable=False)


def a_file(*, ids: tuple[int, ...] = (0, 1), offset: int = 0, kind: int = rvf.VEC) -> bytes:
    """Return a file of one VEC segment and a manifest that may lie about it."""
    vec = rvf.pack_segment(rvf.VEC, 1, rvf.pack_vec(np.array(ids, np.uint64), units(len(ids))))
    entry = (1, offset, len(vec) - rvf.HEADER_SIZE, kind)
    return vec + manifest(directory=[entry], held=len(ids))


def manifest(directory: list[tuple[int, int, int, int]], held: int = 0) -> bytes:
    content = rvf.Manifest(1, 8, held, np.array(directory, rvf.ENTRY), rvf.NO_ROWS, None)
    return rvf.pack_segment(rvf.MANIFEST, 9, rvf.pack_manifest(content))


def rows_of(file: File) -> tuple[rvf.Ids, rvf.Vectors]:
    """Read every vector segment that the file lists."""
    state = find_state(file, PATH)
    return read_rows(file, PATH, state, state.of_type(rvf.VEC))


@pytest.mark.parametrize("name", GOLDEN)
def test_a_file_of_the_reference_runtime_is_read_as_the_runtime_reads_it(name: str) -> None:
    path = golden_folder() / f"{name}.rvf"
    told = json.loads(path.with_suffix(".json").read_text())
    file = RealFiles().open(path, writable=False)

    state = find_state(file, path)
    ids, vectors = read_rows(file, path, state, state.of_type(rvf.VEC))
    file.close()

    status = told["status_after_open"]
    assert (state.manifest.epoch, state.manifest.dim) == (status["epoch"], status["dims"])
    assert state.manifest.metric == ("l2", "inner_product", "cosine").index(status["metric"])
    identity = state.manifest.identity or rvf.Identity(bytes(16))
    assert identity.file_id.hex() == status["fileId"]
    assert identity.depth == status["lineageDepth"]
    alive = ~np.isin(ids, state.manifest.deleted)
    assert alive.sum() == status["count"]
    expected = {row["id"]: row["vector"] for row in told["vectors"]}
    read = dict(zip(ids.tolist(), vectors, strict=True))
    for row in ids[alive].tolist():
        np.testing.assert_allclose(read[row], expected[row], rtol=1e-6)


def test_the_directory_of_a_branch_is_read_and_its_own_rows_are_found() -> None:
    path = golden_folder() / "branch-8.rvf"
    file = RealFiles().open(path, writable=False)

    state = find_state(file, path)

    assert {entry.type for entry in state.entries} >= {rvf.VEC, 0x20, 0x22}
    assert all(read_segment(file, path, entry) for entry in state.entries)
    file.close()


@pytest.mark.parametrize("behind", [0, 1 << 10, (1 << 16) + 7, (1 << 20) + 7, (1 << 24) + 7])
def test_a_manifest_is_found_however_far_from_the_end_it_stands(behind: int) -> None:
    content = a_file()

    state = find_state(opened(content + b"\xa5" * behind), PATH)

    assert state.end == len(content)
    assert len(read_rows(opened(content), PATH, state, state.of_type(rvf.VEC))[0]) == 2


@pytest.mark.parametrize("shift", range(-70, 71, 7))
def test_a_manifest_that_stands_across_the_first_window_is_found(shift: int) -> None:
    content = a_file()
    at = len(content) - len(manifest([(1, 0, 0, rvf.VEC)]))
    behind = (1 << 16) - (len(content) - at) + shift

    assert find_state(opened(content + bytes(behind)), PATH).segment.offset == at


def test_no_manifest_is_damage() -> None:
    for content in (b"", b"SFVR", bytes(1000)):
        with pytest.raises(Damaged, match=r"no valid manifest in some/where\.rvf at byte 0"):
            find_state(opened(content), PATH)


def test_a_manifest_without_a_hash_is_not_believed() -> None:
    content = bytearray(a_file())
    at = bytes(content).rfind(rvf.MAGIC)
    content[at + 0x28 : at + 0x38] = bytes(16)

    with pytest.raises(Damaged, match="no valid manifest"):
        find_state(opened(bytes(content)), PATH)


@pytest.mark.parametrize("offset", [1 << 20, (1 << 64) - 64])
def test_a_directory_that_points_behind_its_manifest_is_damage(offset: int) -> None:
    with pytest.raises(Damaged, match="directory entry outside the file"):
        find_state(opened(a_file(offset=offset)), PATH)


def test_a_sound_manifest_with_nonsense_in_it_is_damage() -> None:
    content = rvf.pack_segment(rvf.MANIFEST, 1, bytes(10))

    with pytest.raises(Damaged, match="manifest head cut short"):
        find_state(opened(content), PATH)


def test_a_segment_that_is_not_where_it_should_be_is_damage() -> None:
    content = a_file()
    file = opened(content)
    state = find_state(file, PATH)
    vec = state.entries[0]

    for wrong, what in [
        (Entry(1, 3, vec.length, rvf.VEC), "no segment"),
        (Entry(1, 0, vec.length, rvf.PRIVATE), "segment differs from its directory entry"),
        (Entry(1, 0, vec.length - 1, rvf.VEC), "segment differs from its directory entry"),
    ]:
        with pytest.raises(Damaged, match=what):
            read_segment(file, PATH, wrong)


def test_of_a_row_that_was_overwritten_the_last_one_counts() -> None:
    file = opened(a_file(ids=(5, 3, 5)))

    ids, vectors = rows_of(file)

    assert ids.tolist() == [3, 5]
    assert vectors.tobytes() == units(3)[[1, 2]].tobytes()


def test_only_those_segments_are_read_that_are_asked_for() -> None:
    vecs = [
        rvf.pack_segment(rvf.VEC, row, rvf.pack_vec(np.array([row], np.uint64), units(1, seed=row))) for row in (1, 2)
    ]
    lines = [
        (1, 0, len(vecs[0]) - rvf.HEADER_SIZE, rvf.VEC),
        (2, len(vecs[0]), len(vecs[1]) - rvf.HEADER_SIZE, rvf.VEC),
    ]
    broken = bytearray(vecs[0])
    broken[-1] ^= 1
    file = opened(bytes(broken) + vecs[1] + manifest(lines))
    state = find_state(file, PATH)

    ids, vectors = read_rows(file, PATH, state, state.of_type(rvf.VEC)[1:])

    assert ids.tolist() == [2]
    assert vectors.tobytes() == units(1, seed=2).tobytes()


def test_a_vector_that_is_not_finite_is_damage() -> None:
    bad = np.full((1, 8), np.nan, np.float32)
    vec = rvf.pack_segment(rvf.VEC, 1, rvf.pack_vec(np.array([1], np.uint64), bad))
    file = opened(vec + manifest([(1, 0, len(vec) - rvf.HEADER_SIZE, rvf.VEC)], held=1))

    with pytest.raises(Damaged, match="not finite"):
        rows_of(file)


def test_rows_of_another_dimension_are_damage() -> None:
    vec = rvf.pack_segment(rvf.VEC, 1, rvf.pack_vec(np.array([1], np.uint64), units(1, dim=9)))
    file = opened(vec + manifest([(1, 0, len(vec) - rvf.HEADER_SIZE, rvf.VEC)], held=1))

    with pytest.raises(Damaged, match="another dimension"):
        rows_of(file)
