from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from memoryd.rvf import format as rvf
from tests.helpers.memories import units

# docs/rvf-format.md, section 13: one vector, id 7 = [1.0, -0.5], cosine.
SMALLEST = bytes.fromhex(
    "53465652010100000100000000000000 16000000000000000000000000000000 0000000000000000c12ef87878c12ef8"
    "f878c12e2ef878c10000000000000000 02000100000007000000000000000000 803f000000bf53465652010500000200"
    "00000000000033000000000000000000 00000000000000000000000000001e0b"
    "f861611e0bf8f8611e0b0bf8611e0000 00000000000001000000020001000000 00000000010000000002000001000000"
    "00000000000000000000000016000000 000000000100000000"
)

row_ids = st.integers(0, rvf.MAX_ROW_ID)


def a_manifest(**fields: object) -> rvf.Manifest:
    known: dict[str, object] = {
        "epoch": 3,
        "dim": 8,
        "held": 2,
        "directory": np.array([(1, 0, 22, rvf.VEC)], rvf.ENTRY),
        "deleted": np.array([4, 9], np.uint64),
        "identity": rvf.Identity(bytes(range(16))),
    }
    return rvf.Manifest(**(known | fields))


def test_the_smallest_file_of_the_format_is_what_we_write() -> None:
    vec = rvf.pack_vec(np.array([7], np.uint64), np.array([[1.0, -0.5]], np.float32))
    manifest = rvf.Manifest(1, 2, 1, np.array([(1, 0, len(vec), rvf.VEC)], rvf.ENTRY), rvf.NO_ROWS, None)

    written = rvf.pack_segment(rvf.VEC, 1, vec) + rvf.pack_segment(rvf.MANIFEST, 2, rvf.pack_manifest(manifest))

    assert written == SMALLEST


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_the_content_hash_is_the_crc_rotated_by_whole_bytes(payload: bytes) -> None:
    crc = struct.pack("<I", zlib.crc32(payload))

    assert rvf.content_hash(payload) == b"".join(crc[-turn:] + crc[:-turn] if turn else crc for turn in range(4))


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(5)), elements=st.floats(-1, 1, width=32)),
    st.lists(row_ids, min_size=20, max_size=20),
)
def test_rows_survive_a_round_trip(vectors: rvf.Vectors, ids: list[int]) -> None:
    rows = np.array(ids[: len(vectors)], np.uint64)

    found, read = rvf.unpack_vec(rvf.pack_vec(rows, vectors), 5)

    assert found.tolist() == rows.tolist()
    assert read.tobytes() == vectors.tobytes()


@settings(deadline=None)
@given(
    st.lists(st.tuples(row_ids, row_ids, row_ids, st.integers(0, 255)), max_size=20),
    st.lists(row_ids, max_size=20),
    st.one_of(st.none(), st.binary(min_size=16, max_size=16).map(rvf.Identity)),
    st.integers(0, 2**32 - 1),
)
def test_a_manifest_survives_a_round_trip(
    entries: list[tuple[int, int, int, int]], deleted: list[int], identity: rvf.Identity | None, epoch: int
) -> None:
    manifest = a_manifest(
        epoch=epoch,
        directory=np.array(entries, rvf.ENTRY),
        deleted=np.array(deleted, np.uint64),
        identity=identity,
    )

    read = rvf.unpack_manifest(rvf.pack_manifest(manifest))

    assert read.directory.tolist() == entries
    assert read.deleted.tolist() == deleted
    assert (read.epoch, read.dim, read.held, read.identity, read.metric) == (epoch, 8, 2, identity, rvf.COSINE)


def test_deleted_rows_and_identity_may_be_absent() -> None:
    payload = rvf.pack_manifest(a_manifest())

    without = rvf.unpack_manifest(payload[: 22 + rvf.ENTRY.itemsize])

    assert without.deleted.tolist() == []
    assert without.identity is None


def test_bytes_behind_the_last_row_are_ignored() -> None:
    vectors = units(2)

    ids, read = rvf.unpack_vec(rvf.pack_vec(np.array([1, 2], np.uint64), vectors) + b"more", vectors.shape[1])

    assert ids.tolist() == [1, 2]
    assert read.tobytes() == vectors.tobytes()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x08\x00", "head cut short"),
        (struct.pack("<HI", 9, 0), "another dimension"),
        (struct.pack("<HI", 8, 0xFFFFFFFF), "rows cut short"),
    ],
)
def test_a_count_of_rows_is_not_believed(payload: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rvf.unpack_vec(payload, 8)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (bytes(21), "head cut short"),
        (struct.pack("<IHQIBBH", 1, 8, 2**63, 0xFFFFFFFF, 0, 2, 0), "directory cut short"),
        (struct.pack("<IHQIBBHI", 1, 8, 0, 0, 0, 2, 0, 0xFFFFFFFF), "deleted rows cut short"),
    ],
)
def test_a_count_in_a_manifest_is_not_believed(payload: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rvf.unpack_manifest(payload)


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [(0, b"X", "no segment"), (4, b"\x02", "unknown segment version"), (0x13, b"\xff", "too long")],
)
def test_a_header_that_is_not_one_is_refused(at: int, value: bytes, reason: str) -> None:
    header = bytearray(SMALLEST[: rvf.HEADER_SIZE])
    header[at : at + 1] = value

    with pytest.raises(ValueError, match=reason):
        rvf.unpack_header(bytes(header))


def test_a_header_that_is_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match="header cut short"):
        rvf.unpack_header(SMALLEST[:63])


def test_a_payload_that_other_readers_refuse_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rvf, "MAX_PAYLOAD", 10)

    with pytest.raises(ValueError, match="too long"):
        rvf.pack_segment(rvf.VEC, 1, bytes(11))
