"""Frames: what is read, what is refused, and with which word."""

from __future__ import annotations

import struct

import msgpack
import pytest

from memoryd.protocol import errors, wire
from memoryd.protocol.errors import BadFrame, InvalidMessage, MemorydError, TooLarge, Unsupported
from memoryd.protocol.messages import REPLIES, REQUESTS, Recall, Remember


def framed(value: object) -> bytes:
    payload = msgpack.packb(value)
    return struct.pack(">I", len(payload)) + payload


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_a_frame_that_arrives_byte_by_byte_is_read_once() -> None:
    decoder = wire.Decoder()
    data = wire.encode_frame("recall", 7, 250, {"query": "mutex"})

    found = [frame for at in range(len(data)) for frame in decoder.feed(data[at : at + 1])]

    assert found == [wire.Frame("recall", 7, 250, {"query": "mutex"}, len(data) - 4)]


def test_several_frames_that_arrive_together_keep_their_order() -> None:
    data = b"".join(wire.encode_frame("status", number, 0, {}) for number in range(5))

    found = [frame.correlation for frame in wire.Decoder().feed(data)]

    assert found == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("payload", "error", "field"),
    [
        (b"", BadFrame, "frame"),
        (b"\xc1", BadFrame, "frame"),  # the one byte that msgpack never uses
        (msgpack.packb({"kind": "recall"}), BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 0]), BadFrame, "frame"),
        (msgpack.packb(["recall", "1", 0, {}]), BadFrame, "frame"),
        (msgpack.packb([7, 1, 0, {}]), BadFrame, "frame"),
        (msgpack.packb(["recall", 1, -1, {}]), BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 1 << 32, {}]), BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 0, []]), BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 0, {}]) + b"\x00", BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 0, {"query": "mutex"}])[:-1], BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 0, {"query": msgpack.ExtType(5, b"x")}]), BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 0, {"query": msgpack.ExtType(5, b"")}]), BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 0, {"at": msgpack.Timestamp(1, 2)}]), BadFrame, "frame"),
        (msgpack.packb(["recall", 1, 0, {"query": b"\xff\xfe"}]).replace(b"\xc4\x02", b"\xa2"), BadFrame, "body"),
        (msgpack.packb(["recall", 1, 0, {1: 2}]), BadFrame, "frame"),
        (b"\xdd\xff\xff\xff\xff", BadFrame, "frame"),  # an array that says four billion
        (b"\x91" * 100_000, BadFrame, "frame"),  # deeper than any stack
        (msgpack.packb(["recall", 1, 0, {"query": nested(40)}]), TooLarge, "body"),
        (msgpack.packb(["recall", 1, 0, {"a": [[0] * 60_000, [0] * 60_000]}]), TooLarge, "body"),
    ],
)
def test_what_is_no_frame_is_refused_with_the_place_and_the_mend(
    payload: bytes, error: type[MemorydError], field: str
) -> None:
    with pytest.raises(error) as refused:
        wire.decode_frame(payload)

    assert refused.value.field == field
    assert refused.value.hint


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive() -> None:
    with pytest.raises(TooLarge) as refused:
        list(wire.Decoder().feed(struct.pack(">I", wire.MAX_FRAME + 1)))

    assert refused.value.field == "length"
    assert refused.value.details == {"size": wire.MAX_FRAME + 1}


def test_nesting_up_to_the_limit_is_read() -> None:
    body = {"query": nested(wire.MAX_DEPTH - 3)}

    assert wire.decode_frame(msgpack.packb(["recall", 1, 0, body])).body == body


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(TooLarge) as refused:
        wire.encode_frame("remember", 1, 0, {"text": "x" * (1 << 20)})

    assert refused.value.field == "body"


def test_an_unknown_kind_is_unsupported_and_names_the_known_ones() -> None:
    with pytest.raises(Unsupported) as refused:
        wire.request_of(wire.Frame("dream", 1, 0, {}))

    assert refused.value.field == "kind"
    assert "recall" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("recall", {"query": "mutex", "mood": "good"}, "mood"),
        ("recall", {"query": "mutex", "filter": {"colour": "red"}}, "filter.colour"),
        ("remember", {"drafts": [{"text": "a", "owner": "bob"}]}, "drafts[0].owner"),
        (
            "publish",
            {"events": [{"id": "e", "type": "t", "timestamp": "2026-03-01T12:00:00Z", "user": "bob"}]},
            "events[0].user",
        ),
    ],
)
def test_an_unknown_field_is_unsupported_and_named_by_its_path(kind: str, body: dict[str, object], field: str) -> None:
    with pytest.raises(Unsupported) as refused:
        wire.request_of(wire.Frame(kind, 1, 0, body))

    assert refused.value.field == field
    assert refused.value.hint


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("recall", {}, "query"),
        ("recall", {"query": 7}, "query"),
        ("recall", {"query": "mutex", "top_k": "five"}, "top_k"),
        ("recall", {"query": "mutex", "filter": {"kinds": ["dream"]}}, "filter.kinds[0]"),
        ("recall", {"query": "mutex", "now": "2026-03-01T12:00:00"}, "now"),
        ("remember", {"drafts": [{"text": None}]}, "drafts[0].text"),
        ("remember", {"drafts": [{}]}, "drafts[0].text"),
        ("recall", {"query": "mutex", "user": 7}, "user"),
    ],
)
def test_a_wrong_field_is_invalid_and_named_by_its_path(kind: str, body: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        wire.request_of(wire.Frame(kind, 1, 0, body))

    assert refused.value.field == field
    assert refused.value.hint


def test_a_body_with_keys_that_are_bytes_is_a_typed_refusal() -> None:
    with pytest.raises(MemorydError):
        wire.request_of(wire.decode_frame(msgpack.packb(["recall", 1, 0, {b"query": "mutex"}])))


def test_the_user_of_a_request_stands_beside_its_message() -> None:
    user, message = wire.request_of(wire.Frame("recall", 1, 0, {"query": "mutex", "user": "alice"}))

    assert (user, message) == ("alice", Recall(query="mutex"))


def test_every_kind_of_request_has_one_reply() -> None:
    assert set(REQUESTS.values()) == set(REPLIES)


def test_a_request_is_the_same_on_the_other_side() -> None:
    draft = wire.from_body({"drafts": [{"text": "added a mutex", "session_id": "s"}]}, Remember)

    frame = wire.decode_frame(wire.encode_frame("remember", 1, 0, wire.to_body(draft))[4:])

    assert wire.request_of(frame) == (None, draft)


KNOWN = sorted(name for name, each in errors.type_of.items() if each.__module__ == errors.__name__)


class OwnFault(errors.StorageFault):
    """Known to one side only."""


def test_an_error_that_only_the_daemon_knows_arrives_as_the_nearest_that_is_known() -> None:
    body = wire.error_body(OwnFault("no file has this name", hint="look for it"))

    assert body["error"] == "StorageFault"


@pytest.mark.parametrize("name", KNOWN)
def test_every_error_is_the_same_on_the_other_side(name: str) -> None:
    error = errors.type_of[name]("something is wrong", field="a.b", hint="mend it", after=7, retry_after=0.5)

    again = wire.error_of(wire.error_body(error))

    assert type(again) is type(error)
    assert (again.message, again.field, again.hint, again.details) == (
        error.message,
        error.field,
        error.hint,
        error.details,
    )


def test_an_error_of_an_unknown_class_is_still_one_of_ours() -> None:
    error = wire.error_of({"error": "Melted", "message": "too hot", "field": None, "hint": None, "details": {}})

    assert type(error) is MemorydError
    assert str(error) == "too hot"
