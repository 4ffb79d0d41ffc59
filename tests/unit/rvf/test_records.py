from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol.errors import Damaged
from memoryd.protocol.ids import Seq
from memoryd.rvf import format as rvf
from memoryd.rvf import records
from memoryd.rvf.reader import find_state
from memoryd.rvf.records import (
    Body,
    History,
    checksum,
    decode_record,
    encode_record,
    encode_trajectory,
    is_ours,
    pack_body,
    read_history,
    record_id,
    unpack_body,
)
from tests.helpers import memories
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import MODEL, record, trajectory

if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = Path("/data/alice/memory.rvf")
# Deflate finds nothing to shorten here, and stores the bytes as they are; long enough to fill blocks of its own.
INCOMPRESSIBLE = np.random.default_rng(1).bytes(100_000)


def body(**fields: object) -> Body:
    known: dict[str, object] = {
        "generation": 1,
        "number": 0,
        "previous": 0,
        "model": MODEL,
        "applied_seq": Seq(3),
        "next_row": 10,
        "rows": [],
        "records": [],
        "dropped": [],
        "trajectories": [],
    }
    return Body(**(known | fields))  # type: ignore[arg-type]


def rows(*numbers: int) -> dict[str, object]:
    return {"rows": list(numbers), "records": [encode_record(record(number)) for number in numbers]}


def history(payloads: Sequence[bytes]) -> History:
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


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=10), st.integers(0, 2**53), st.integers(0, 2**32 - 1))
def test_a_body_survives_a_round_trip(texts: list[bytes], seq: int, previous: int) -> None:
    written = body(rows=list(range(len(texts))), records=texts, applied_seq=Seq(seq), previous=previous)

    payload = pack_body(written)

    assert unpack_body(payload) == written
    assert is_ours(payload)
    assert rvf.MAGIC not in payload


def tricky(*hidden: bytes) -> Body:
    """Return a body whose compressed form holds `hidden` as it is."""
    found = body(rows=[1], records=[b"".join([INCOMPRESSIBLE[:50_000], *hidden, INCOMPRESSIBLE[50_000:]])])
    compressed = zlib.compress(msgspec.msgpack.encode(found), 1)
    assert all(each in compressed for each in hidden)
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


def test_a_record_is_kept_without_its_embedding() -> None:
    whole = record(1, metadata={"a": [1, None, {"b": "c"}]}, quality_score=0.25)

    kept = encode_record(msgspec.structs.replace(whole, embedding=b"\x01" * 32))

    assert decode_record(kept) == whole
    assert record_id(kept) == whole.id
    assert b"\x01" * 32 not in kept


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda payload: payload[:11], "cut short"),
        (lambda payload: payload[:4] + b"\x02" + payload[5:], "unknown version"),
        (lambda payload: payload[:6] + b"\x09" + payload[7:], "unknown version"),
        (lambda payload: payload[:8] + b"\xff\xff\xff\xff" + payload[12:], "too long"),
        (lambda payload: payload[:8] + b"\x01\x00\x00\x00" + payload[12:], "another length"),
        (lambda payload: payload[:-1], "another length"),
        (lambda payload: payload + b"x", "another length"),
        (lambda payload: payload[:12] + b"\x00" + payload[13:], "cannot be decoded"),
    ],
)
def test_a_private_segment_that_is_not_whole_is_refused(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    payload = pack_body(body(rows=[1], records=[b"text"]))

    with pytest.raises(ValueError, match=reason):
        unpack_body(change(payload))


def test_a_body_that_unpacks_to_more_than_it_says_is_not_unpacked() -> None:
    bomb = pack_body(body())[:8] + (100).to_bytes(4, "little") + zlib.compress(bytes(1 << 24))

    with pytest.raises(ValueError, match="another length"):
        unpack_body(bomb)


def test_a_body_that_readers_would_refuse_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_BODY", 10)

    with pytest.raises(ValueError, match="too long"):
        pack_body(body())


@pytest.mark.parametrize("fields", [{"rows": [1]}, {"rows": [2, 1], "records": [b"", b""]}])
def test_rows_and_records_must_belong_together(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        unpack_body(pack_body(body(**fields)))


def chain(*bodies: dict[str, object]) -> list[bytes]:
    """Return private segments that follow one another."""
    payloads: list[bytes] = []
    for number, fields in enumerate(bodies):
        previous = checksum(payloads[-1]) if payloads else 0
        payloads.append(pack_body(body(**({"number": number, "previous": previous} | fields))))
    return payloads


def test_a_chain_of_segments_tells_one_story_in_whatever_order_they_stand() -> None:
    first, last = trajectory(1), trajectory(1, quality=1.0)
    payloads = chain(
        rows(1, 3) | {"trajectories": [encode_trajectory(first), encode_trajectory(trajectory(2))]},
        rows(4) | {"trajectories": [encode_trajectory(last)], "dropped": ["run 2"], "applied_seq": 9},
    )

    for order in (payloads, payloads[::-1]):
        found = history(order)

        assert found.rows == [1, 3, 4]
        assert found.ids == [memories.record_id(number) for number in (1, 3, 4)]
        assert list(found.trajectories.values()) == [last]
        assert found.trajectory_sizes == {last.id: len(encode_trajectory(last))}
        assert (found.applied_seq, found.next_row, found.segments) == (9, 10, 2)
        assert found.checksum == checksum(payloads[1])


def test_older_generations_and_segments_of_others_do_not_count() -> None:
    (old,), (new,) = chain(rows(1)), chain(rows(2) | {"generation": 2})

    found = history([old, b"another program's", new])

    assert (found.rows, found.generation, found.segments) == ([2], 2, 1)
    assert found.stale == [0]


def test_a_segment_that_is_missing_or_foreign_to_the_chain_shows() -> None:
    one, two, three = chain(rows(1), rows(2), rows(3))
    other = pack_body(body(number=1, previous=7))

    for broken in ([one, three], [two], [one, other], [one, two, two]):
        with pytest.raises(Damaged, match="broken chain"):
            history(broken)


@pytest.mark.parametrize("second", [rows(2), rows(10)])
def test_row_ids_that_were_given_before_or_are_beyond_the_next_show(second: dict[str, object]) -> None:
    with pytest.raises(Damaged, match="row ids out of order"):
        history(chain(rows(2, 3), second))


@pytest.mark.parametrize("fields", [{"rows": [1], "records": [b"\xc1"]}, {"trajectories": [b"\xc1"]}])
def test_what_cannot_be_decoded_is_damage(fields: dict[str, object]) -> None:
    with pytest.raises(Damaged, match=r"cannot be decoded in alice/memory\.rvf at byte 0"):
        history(chain(fields))


def test_a_segment_of_ours_that_is_not_whole_is_damage() -> None:
    with pytest.raises(Damaged, match="cut short"):
        history([b"MEMD"])


def test_a_file_without_records_of_ours_is_not_a_memory() -> None:
    with pytest.raises(Damaged, match="no records of memoryd"):
        history([b"another program's"])
