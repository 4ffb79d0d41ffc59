from __future__ import annotations

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol.ids import RecordId, Seq
from memoryd.protocol.records import microseconds
from memoryd.rvf import format as rvf
from memoryd.rvf import records
from memoryd.rvf.records import (
    SEALED,
    Body,
    attributes_of,
    decode_record,
    decode_trajectory,
    encode_record,
    encode_trajectory,
    is_of,
    is_ours,
    mask_for,
    masked,
    pack,
    pack_body,
    trajectory_id,
    unpack,
    unpack_body,
)
from tests.helpers.memories import NOON, body, record, trajectory

# Zstandard finds nothing to shorten here, and stores the bytes as they are; long enough to fill blocks of its own.
INCOMPRESSIBLE = np.random.default_rng(1).bytes(400_000)


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=300), max_size=10),
    st.integers(0, 2**53),
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 99), st.integers(0, 2**32 - 1)),
)
def test_a_body_survives_a_round_trip(texts: list[bytes], seq: int, place: tuple[int, int, int, int]) -> None:
    first, more, others, census = place
    written = body(
        first=first,
        number=first + more,
        others=others,
        census=census,
        rows=list(range(len(texts))),
        records=texts,
        added_us=[*range(len(texts))],
        applied_seq=Seq(seq),
    )

    payload = pack_body(written)

    assert unpack_body(payload) == written
    assert is_ours(payload)
    assert not is_of(SEALED, payload)
    assert rvf.MAGIC not in payload


def tricky(*hidden: bytes) -> Body:
    """Return a body whose packed form holds `hidden` as it is."""
    found = body(
        rows=[1], added_us=[0], records=[b"".join([INCOMPRESSIBLE[:200_000], *hidden, INCOMPRESSIBLE[200_000:]])]
    )
    packed = pack(msgspec.msgpack.encode(found))
    assert all(each in packed for each in hidden)
    return found


def test_text_never_carries_the_magic_of_a_segment_into_the_file() -> None:
    written = tricky(b"SFVR\x01\x05")

    payload = pack_body(written)

    assert rvf.MAGIC not in payload
    assert unpack_body(payload) == written


def test_a_mask_that_would_make_a_magic_is_not_taken() -> None:
    written = tricky(*(bytes(byte ^ mask for byte in rvf.MAGIC) for mask in (0, 1, 2)))

    payload = pack_body(written)

    assert payload[7] == 3
    assert rvf.MAGIC not in payload
    assert unpack_body(payload) == written


@given(st.binary(max_size=64), st.integers(0, 3))
def test_what_is_masked_holds_no_magic_and_comes_back(data: bytes, hidden: int) -> None:
    whole = data + b"".join(masked(rvf.MAGIC, mask) for mask in range(hidden)) + data

    mask = mask_for(whole)

    assert mask >= hidden
    assert rvf.MAGIC not in masked(whole, mask)
    assert masked(masked(whole, mask), mask) == whole


def test_a_record_is_kept_without_its_embedding() -> None:
    whole = record(1, metadata={"a": [1, None, {"b": "c"}]}, quality_score=0.25)

    kept = encode_record(msgspec.structs.replace(whole, embedding=b"\x01" * 32))

    assert decode_record(kept) == whole
    assert b"\x01" * 32 not in kept


def test_what_a_record_is_filtered_by_is_read_without_the_rest() -> None:
    whole = record(4, metadata={"a": 1}, quality_score=0.25)

    found = attributes_of(encode_record(whole))

    assert (found.id, found.kind, found.source) == (whole.id, whole.kind, whole.source)
    assert (found.timestamp, found.session_id) == (whole.timestamp, whole.session_id)
    assert microseconds(NOON) == int(NOON.timestamp()) * 1_000_000


def test_a_trajectory_comes_back_and_its_id_is_read_without_the_rest() -> None:
    run = msgspec.structs.replace(trajectory(7, quality=0.5), shown=(RecordId("x"),), run_id="r")

    kept = encode_trajectory(run)

    assert decode_trajectory(kept) == run
    assert trajectory_id(kept) == run.id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda payload: payload[:11], "cut short"),
        (lambda payload: payload[:4] + b"\x01" + payload[5:], "unknown version"),
        (lambda payload: payload[:6] + b"\x09" + payload[7:], "unknown version"),
        (lambda payload: payload[:6] + b"\x03" + payload[7:], "another kind"),
        (lambda payload: payload[:8] + b"\xff\xff\xff\xff" + payload[12:], "too long"),
        (lambda payload: payload[:8] + b"\x01\x00\x00\x00" + payload[12:], "another length"),
        (lambda payload: payload[:-1], "cannot be unpacked"),
        (lambda payload: payload + b"x", "cannot be unpacked"),
        (lambda payload: payload[:12], "cannot be unpacked"),
        (lambda payload: payload[:12] + b"\x00" + payload[13:], "cannot be unpacked"),
    ],
)
def test_a_private_segment_that_is_not_whole_is_refused(change, reason: str) -> None:
    payload = pack_body(body(rows=[1], added_us=[0], records=[b"text"]))

    with pytest.raises(ValueError, match=reason):
        unpack_body(change(payload))


def test_a_body_that_is_none_is_refused() -> None:
    other = msgspec.msgpack.encode(["another", "array"])
    payload = pack_body(body())[:8] + len(other).to_bytes(4, "little") + pack(other)

    with pytest.raises(ValueError, match="cannot be decoded"):
        unpack_body(payload)


def bomb(says: int) -> bytes:
    """Return a frame of 16 MiB whose own head says another length."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(1 << 24)))
    at = frame.index((1 << 24).to_bytes(4, "little"))
    frame[at : at + 4] = says.to_bytes(4, "little")
    assert zstandard.frame_content_size(bytes(frame)) == says
    return bytes(frame)


@pytest.mark.parametrize("packed", [zstandard.ZstdCompressor().compress(bytes(1 << 24)), bomb(100_000)])
def test_what_unpacks_to_more_than_it_says_is_not_unpacked(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"another length|cannot be unpacked"):
        unpack(packed, 100_000)


def test_a_frame_that_does_not_say_its_length_is_not_unpacked() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(b"text")

    with pytest.raises(ValueError, match="another length"):
        unpack(silent, 4)


def test_a_body_that_readers_would_refuse_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_BODY", 10)

    with pytest.raises(ValueError, match="too long"):
        pack_body(body())


@pytest.mark.parametrize("fields", [{"rows": [1]}, {"rows": [2, 1], "records": [b"", b""]}])
def test_rows_and_records_must_belong_together(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        unpack_body(pack_body(body(**fields)))
