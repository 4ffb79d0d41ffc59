"""The lines of an export."""

import json
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoryd.cli.exchange import from_line, to_line
from memoryd.protocol.errors import InvalidMessage, MemorydError
from memoryd.protocol.ids import RecordId
from memoryd.protocol.records import Draft, MemoryKind, MemoryRecord, MemorySource

DIM = 4
SHA256 = "ab" * 32
UNIT = [1.0, 0.0, 0.0, 0.0]


def record(vector: list[float], text: str = "added a mutex") -> MemoryRecord:
    return MemoryRecord(
        id=RecordId("01JZ8Q4T6V0000000000000000"),
        text=text,
        kind=MemoryKind.STRATEGY,
        source=MemorySource.CONDUCTOR_PLAN,
        timestamp=datetime(2026, 3, 11, 12, 0, 0, 123456, tzinfo=UTC),
        session_id="s1",
        quality_score=0.8,
        metadata={"event_id": "e1", "n": [1, {"a": None}]},
        embedding=np.array(vector, "<f4").tobytes(),
    )


def line(**changes: object) -> bytes:
    fields = json.loads(to_line(record(UNIT), "model", SHA256))
    fields.update(changes)
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def test_a_line_has_the_fields_of_the_format_in_their_order() -> None:
    fields = json.loads(to_line(record(UNIT), "model", SHA256))

    assert list(fields) == [
        "id", "text", "kind", "source", "quality_score", "session_id", "timestamp", "metadata",
        "vector", "model", "model_sha256",
    ]  # fmt: skip


def test_a_memory_comes_back_as_it_was() -> None:
    assert from_line(to_line(record(UNIT, "two\nlines, “quoted”"), "model", SHA256), DIM) == (
        record(UNIT, "two\nlines, “quoted”"),
        SHA256,
    )


def test_the_windows_and_signs_of_a_text_come_back_as_they_were() -> None:
    long = msgspec.structs.replace(record(UNIT), windows=bytes(range(2 * DIM)), signs=bytes(range(8)))

    assert from_line(to_line(long, "model", SHA256), DIM) == (long, SHA256)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=DIM, max_size=DIM))
def test_every_float_comes_back_bit_for_bit(values: list[float]) -> None:
    written = json.loads(to_line(record(values), "model", SHA256))["vector"]

    assert np.array(written, "<f4").tobytes() == np.array(values, "<f4").tobytes()


def test_a_float_is_written_in_the_fewest_digits_of_a_float32() -> None:
    assert b'"vector":[0.1,' in to_line(record([0.1, 0.2, 0.3, 0.4]), "model", SHA256)


def test_a_line_without_a_vector_is_a_text_to_be_embedded() -> None:
    assert from_line(b'{"text": "added a mutex"}', DIM) == Draft(text="added a mutex")


def test_vectors_can_be_left_aside() -> None:
    read = from_line(line(), DIM, without_vectors=True)

    assert isinstance(read, Draft)
    assert read.id == "01JZ8Q4T6V0000000000000000"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"vector": [1.0]}, "vector"),
        ({"vector": [2.0, 0.0, 0.0, 0.0]}, "vector"),
        ({"vector": [1e300, 0.0, 0.0, 0.0]}, "vector"),
        ({"vector": [1.0, 0.0, 0.0, "0"]}, "vector[3]"),
        ({"windows": "AAAA"}, "windows"),
        ({"windows": "not base64"}, "windows"),
        ({"signs": "not base64"}, "signs"),
        ({"id": "x"}, "id"),
        ({"id": ...}, "id"),
        ({"timestamp": ...}, "timestamp"),
        ({"timestamp": "2026-03-11T12:00:00"}, "timestamp"),
        ({"model_sha256": ...}, "model_sha256"),
        ({"kind": "idea"}, "kind"),
        ({"source": "nobody"}, "source"),
        ({"text": ...}, "text"),
        ({"text": "  "}, "text"),
        ({"quality_score": 1.5}, "quality_score"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_field_is_refused_by_its_name(changes: dict[str, object], field: str) -> None:
    with pytest.raises(MemorydError) as refused:
        from_line(line(**changes), DIM)

    assert refused.value.field == field


@pytest.mark.parametrize("bad", [b"", b"nonsense", b"[1]", b'{"text": NaN}', line().replace(b"1.0, 0.0", b"NaN, 0.0")])
def test_what_is_no_json_object_is_refused(bad: bytes) -> None:
    with pytest.raises(InvalidMessage):
        from_line(bad, DIM)
