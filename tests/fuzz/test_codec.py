"""Whatever bytes come, the codec says one of our errors or gives a valid message; never anything else."""

from __future__ import annotations

import contextlib
import struct

import msgpack
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memoryd.protocol import wire
from memoryd.protocol.errors import MemorydError
from memoryd.protocol.messages import REPLIES, REQUESTS, Ask

# The same examples every time: a failure must not depend on the day.
fuzzed = settings(
    max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from(
        [
            "", "../x", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "2026-03-01T12:00:00Z", "2026-03-01T12:00:00",
            "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "*", "chat.*", "finding", "user_input", "stored",
        ]
    ),
)  # fmt: skip
KEYS = st.one_of(
    st.text(max_size=8),
    st.binary(max_size=4),
    st.sampled_from(
        ["user", *{field.name for message in REQUESTS.values() for field in msgspec.structs.fields(message)}]
    ),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, dict[object, object]]:
    """Draw a kind and a body that has mostly the fields of that kind, with values that mostly do not fit."""
    kind = draw(st.sampled_from(sorted(REQUESTS)))
    names = [field.name for field in msgspec.structs.fields(REQUESTS[kind])]
    body: dict[object, object] = {name: draw(VALUES) for name in names if draw(st.booleans())}
    return kind, body | draw(st.dictionaries(KEYS, VALUES, max_size=2))


@fuzzed
@given(st.binary(max_size=300), st.integers(1, 50))
def test_the_decoder_takes_any_bytes_in_any_pieces(data: bytes, piece: int) -> None:
    decoder = wire.Decoder()

    with contextlib.suppress(MemorydError):
        for at in range(0, len(data), piece):
            for frame in decoder.feed(data[at : at + piece]):
                assert isinstance(frame.body, dict)


@fuzzed
@given(st.binary(max_size=300))
def test_a_payload_of_any_bytes_is_a_frame_or_one_of_our_errors(payload: bytes) -> None:
    with contextlib.suppress(MemorydError):
        wire.decode_frame(payload)


@fuzzed
@given(VALUES)
def test_a_payload_of_any_value_is_a_frame_or_one_of_our_errors(value: object) -> None:
    with contextlib.suppress(MemorydError):
        wire.decode_frame(msgpack.packb(value))


@fuzzed
@given(bodies(), st.integers(0, 40), st.binary(min_size=1, max_size=3))
def test_a_frame_with_bytes_changed_is_another_frame_or_one_of_our_errors(
    drawn: tuple[str, dict[object, object]], place: int, change: bytes
) -> None:
    kind, body = drawn
    payload = bytearray(msgpack.packb([kind, 1, 0, body]))
    place %= len(payload)
    payload[place : place + len(change)] = change

    with contextlib.suppress(MemorydError):
        wire.request_of(wire.decode_frame(bytes(payload)))


@fuzzed
@given(bodies())
def test_any_body_is_a_valid_message_or_one_of_our_errors_with_a_place(drawn: tuple[str, dict[object, object]]) -> None:
    kind, body = drawn

    frame = wire.decode_frame(msgpack.packb(["status", 1, 0, {}]))
    refused, message = None, None
    with contextlib.suppress(MemorydError):
        frame = wire.decode_frame(msgpack.packb([kind, 1, 0, body]))
    try:
        _, message = wire.request_of(frame)
    except MemorydError as error:
        refused = error

    if refused is not None:
        assert refused.field
        assert refused.hint
    else:
        assert isinstance(message, Ask)
        again = wire.from_body(wire.to_body(message), type(message))
        assert again == message or "nan" in repr(message)  # which is not even equal to itself


@fuzzed
@given(st.sampled_from(sorted(REPLIES.values(), key=repr)), st.dictionaries(KEYS, VALUES, max_size=6))
def test_a_client_takes_any_reply_for_what_it_is_or_says_one_of_our_errors(
    reply: type[msgspec.Struct], body: dict[object, object]
) -> None:
    with contextlib.suppress(MemorydError):
        wire.from_body(body, reply)


def test_a_frame_of_nothing_but_promises_costs_no_memory() -> None:
    promises = b"\xdd\x00\x01\x00\x00" * 5_000
    frame = struct.pack(">I", len(promises)) + promises

    with contextlib.suppress(MemorydError):
        list(wire.Decoder().feed(frame))
