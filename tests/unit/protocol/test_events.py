"""Payloads: plain JSON that fits every frame it will travel in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.events import MAX_JSON_DEPTH, Event, checked_json
from memoryd.protocol.records import Draft


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"a": float("nan")}, "NaN or infinity"),
        ({"a": [1.0, float("inf")]}, "NaN or infinity"),
        ({"a": 1 << 64}, "number out of range"),
        ({"a": -(1 << 63) - 1}, "number out of range"),
        ({"a": "\ud800"}, "text is not valid Unicode"),
        ({"\ud800": 1}, "text is not valid Unicode"),
        ({"a": {1, 2}}, "not JSON"),
        (nested(MAX_JSON_DEPTH + 1), "nested too deep"),
    ],
)
def test_a_payload_that_could_not_travel_is_refused_by_name(payload: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        Event(id="e1", type="chat.user_msg", timestamp=datetime.now(UTC), payload=payload)

    assert (refused.value.message, refused.value.field) == (message, "payload")
    assert refused.value.hint


def test_metadata_follows_the_same_rule() -> None:
    with pytest.raises(InvalidMessage) as refused:
        Draft(text="x", metadata={"a": float("nan")})

    assert refused.value.field == "metadata"


def test_everything_json_can_say_within_the_limits_is_accepted() -> None:
    payload = {"a": [None, True, 1, -1.5, "ü", {"b": []}], "n": (1 << 64) - 1, "deep": nested(MAX_JSON_DEPTH - 1)}

    assert checked_json(payload, "payload") == payload
