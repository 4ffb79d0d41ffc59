"""Lines that others wrote, and the events they become."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol.errors import Damaged, InvalidMessage, MemorydError, NotFound, StorageFault, TooLarge
from memoryd.sources import lines
from memoryd.sources.lines import parse_line, read_events
from memoryd.sources.parsed import Parsed

if TYPE_CHECKING:
    from pathlib import Path

TEN = datetime(2026, 3, 11, 10, tzinfo=UTC)
OURS = b'{"id":"e1","type":"chat.user_msg","timestamp":"2026-03-11T10:00:00Z","payload":{"text":"hi"}}'
ROW = (
    b'{"seq":41,"event_id":"01K","timestamp":"2026-03-11T10:00:00Z","actor_id":"conductor:01KRUN",'
    b'"event_type":"conductor.run.started","user_id":"system","payload":{"run_id":"01KRUN"}}'
)
WRAPPED = (
    b'{"id":"%s","event_type":{"custom":"conductor.run.started"},"topic":"conductor.run.started","payload":'
    b'{"run_id":"01KRUN","committed_event":{"seq":41,"event_id":"01K","event_type":"conductor.run.started",'
    b'"timestamp":"2026-03-11T10:00:00Z","actor_id":"conductor:01KRUN","user_id":"system"}},'
    b'"timestamp":"2026-03-12T00:00:00Z","source":"conductor:01KRUN","correlation_id":null}'
)
WINTERMUTE = b'{"event_type":"message.received","data":{"thread_id":"t1","text":"hi"},"timestamp":1773223200.5}'


def read(content: bytes) -> list[Parsed]:
    return list(read_events(io.BytesIO(content)))


def test_a_line_of_our_own_is_read_as_it_is() -> None:
    (event,) = parse_line(
        b'{"id":"e1","type":"t","timestamp":"2026-03-11T12:00:00+02:00","actor":"a","session_id":"s","run_id":"r",'
        b'"payload":{"n":1}}'
    )

    assert (event.id, event.type, event.timestamp, event.payload) == ("e1", "t", TEN, {"n": 1})
    assert (event.actor, event.session_id, event.run_id) == ("a", "s", "r")


def test_a_line_may_be_a_text() -> None:
    assert parse_line(OURS.decode()) == parse_line(OURS)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b'{"id":"e1","type":"t","timestamp":0,"colour":"red"}', "colour"),
        (b'{"id":"e1","type":"t"}', "timestamp"),
        (b'{"id":"e1","type":"t","timestamp":"2026-03-11T10:00:00"}', "timestamp"),
        (b'{"id":"e1","type":"t","timestamp":1e300}', "timestamp"),
        (b'{"id":"e1","type":"t","timestamp":true}', "timestamp"),
        (b'{"id":"e1","timestamp":0}', "type"),
        (b'{"id":"e1","type":"not a type","timestamp":0}', "type"),
        (b'{"id":"","type":"t","timestamp":0}', "id"),
        (b'{"id":7,"type":"t","timestamp":0}', "id"),
        (b'{"id":"e1","type":"t","timestamp":0,"payload":[]}', "payload"),
        (b'{"id":"e1","type":"t","timestamp":0,"actor":null}', "actor"),
        (b"[]", "line"),
        (b'{"event_type":"t","timestamp":0}', "payload"),
        (b'{"event_type":7,"timestamp":0,"payload":{}}', "event_type"),
        (b'{"event_type":"t","payload":{}}', "timestamp"),
        (b'{"event_type":"t","data":7,"timestamp":0}', "data"),
        (b'{"instance_id":"i","messages":7}', "messages"),
        (b'{"instance_id":"i","messages":[]}', "messages.created"),
        (b'{"instance_id":7,"messages":[{"created":0}]}', "instance_id"),
        (b'{"task_id":-1,"trial":0,"messages":[]}', "task_id"),
        (b'{"task_id":0,"trial":0,"messages":[],"reward":"good"}', "reward"),
    ],
)
def test_a_line_that_breaks_a_rule_is_refused_naming_the_field(line: bytes, field: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        parse_line(line)

    assert refused.value.field == field


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b'{"a":',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 40 + b"}",
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 16 + b"]" * 16 + b"}",
        b"[" * 100_000,
        '{"a":"\ud800"}',
    ],
)
def test_what_is_not_sound_json_is_refused(line: bytes | str) -> None:
    with pytest.raises(InvalidMessage):
        parse_line(line)


def test_eight_levels_of_payload_are_accepted() -> None:
    line = b'{"id":"e","type":"t","timestamp":0,"payload":{"a":' + b"[" * 7 + b"]" * 7 + b"}}"

    assert len(parse_line(line)) == 1


def test_of_a_key_that_is_there_twice_the_last_one_counts() -> None:
    (event,) = parse_line(b'{"id":"e1","id":"e2","type":"t","timestamp":0}')

    assert event.id == "e2"


def test_a_choiros_row_keeps_its_own_id_and_loses_its_user() -> None:
    (event,) = parse_line(ROW)

    assert (event.id, event.type, event.timestamp) == ("01K", "conductor.run.started", TEN)
    assert (event.actor, event.payload) == ("conductor:01KRUN", {"run_id": "01KRUN"})
    assert "system" not in repr(event)


def test_a_row_and_all_its_copies_on_the_choiros_bus_are_the_same_event() -> None:
    assert parse_line(WRAPPED % b"01A") == parse_line(WRAPPED % b"01B") == parse_line(ROW)


def test_a_wintermute_event_is_read_with_its_clock_of_seconds() -> None:
    (event,) = parse_line(WINTERMUTE)

    assert (event.type, event.session_id) == ("message.received", "t1")
    assert event.timestamp == datetime(2026, 3, 11, 10, 0, 0, 500_000, tzinfo=UTC)
    assert event.payload == {"thread_id": "t1", "text": "hi"}


def test_reading_an_input_again_gives_the_same_ids() -> None:
    content = b"\n".join([WINTERMUTE, WINTERMUTE, OURS.replace(b'"id":"e1",', b"")])

    first, second = read(content), read(content)

    assert first == second
    assert len({event.id for parsed in first for event in parsed.events}) == 3


def test_the_order_of_keys_does_not_change_an_id() -> None:
    turned = b'{"timestamp":1773223200.5,"data":{"text":"hi","thread_id":"t1"},"event_type":"message.received"}'

    assert parse_line(turned) == parse_line(WINTERMUTE)


def test_a_bad_line_is_reported_in_its_place_and_stops_nothing() -> None:
    parsed = read(OURS + b"\n\n  \nnot json\r\n" + ROW + b"\r\n")

    assert [one.position for one in parsed] == [1, 4, 5]
    assert [len(one.events) for one in parsed] == [1, 0, 1]
    assert isinstance(parsed[1].error, InvalidMessage)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert [one.error for one in read(b"\xef\xbb\xbf" + OURS)] == [None]


def test_an_empty_input_holds_nothing() -> None:
    assert read(b"") == []
    assert read(gzip.compress(b"")) == []


def test_a_line_too_long_is_passed_over_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)

    parsed = read(OURS + b"\n" + b"x" * 1000 + b"\n" + OURS + b"\n" + b"y" * 101)

    assert [type(one.error) for one in parsed] == [type(None), TooLarge, type(None), TooLarge]
    with pytest.raises(TooLarge):
        parse_line(b"x" * 101)


def test_compressed_input_is_recognised_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    path.write_bytes(gzip.compress(OURS + b"\n" + ROW))

    assert list(read_events(path)) == read(OURS + b"\n" + ROW)


@pytest.mark.parametrize("damage", [lambda c: c[:-12], lambda c: c[:20] + b"\x00\xff" * 20 + c[60:]])
def test_compressed_input_that_breaks_off_ends_with_an_error(damage: object) -> None:
    content = gzip.compress(OURS + b"\n" + bytes(range(256)).hex().encode() * 50)
    assert callable(damage)

    assert isinstance(read(damage(content))[-1].error, Damaged)


def test_a_missing_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list(read_events(tmp_path / "no.jsonl"))
    with pytest.raises(StorageFault):
        list(read_events(tmp_path))


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.sampled_from([OURS, ROW, WRAPPED, WINTERMUTE]).flatmap(
        lambda line: st.tuples(st.integers(0, len(line)), st.binary(max_size=3)).map(
            lambda cut: line[: cut[0]] + cut[1] + line[cut[0] + 1 :]
        )
    )
)
def test_no_line_can_raise_anything_but_our_own_errors(line: bytes) -> None:
    try:
        parse_line(line)
    except MemorydError:
        return


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "id",
    "type",
    "timestamp",
    "payload",
    "event_type",
    "data",
    "topic",
    "event_id",
    "actor_id",
    "messages",
    "instance_id",
    "task_id",
    "trial",
    "reward",
    "policy",
    "role",
    "content",
    "created",
    "tool_calls",
    "function",
    "committed_event",
    "resolved",
    "usage",
]


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        json | st.lists(st.dictionaries(st.sampled_from(KEYS), json, max_size=4), max_size=3),
        max_size=7,
    )
)
def test_no_json_object_can_raise_anything_but_our_own_errors(fields: dict[str, object]) -> None:
    try:
        parse_line(msgspec.json.encode(fields), Counter())
    except MemorydError:
        return
