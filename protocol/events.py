"""Events: what systems of agents publish."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from memoryd.protocol import ids
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.ids import EventId, Seq, UserId

Moment = Annotated[datetime, Meta(tz=True)]
JsonObject = dict[str, object]

# A frame may nest 16 levels; the answer with the most around a value puts 6 of them there.
MAX_JSON_DEPTH: Final = 8

Ack = Literal["queued", "stored", "committed"]


def checked_moment(moment: datetime | None, field: str) -> datetime | None:
    """Return `moment` when it is None, or carries its time zone and has a place in UTC. Raises InvalidMessage."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidMessage("time without a time zone", field=field, hint="use an aware datetime, such as UTC")
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise InvalidMessage("time out of range", field=field, hint="use the years 1 to 9999 of UTC") from None
    return moment


def checked_json(value: JsonObject, field: str) -> JsonObject:  # noqa: C901 - a table
    """Return `value` when it is plain JSON that fits every frame. Raises InvalidMessage.

    At most MAX_JSON_DEPTH levels, integers of 64 bits, finite numbers, texts that can be encoded.
    """
    level: list[object] = [value]
    for depth in range(MAX_JSON_DEPTH + 1):
        inner: list[object] = []
        for each in level:
            match each:
                case dict() | list() | tuple() if depth == MAX_JSON_DEPTH:
                    _require(False, "nested too deep", field, f"nest at most {MAX_JSON_DEPTH} levels")
                case dict():
                    inner += each
                    inner += each.values()
                case list() | tuple():
                    inner += each
                case str() if each.isascii():
                    pass
                case str():
                    _require(_is_encodable(each), "text is not valid Unicode", field, "remove lone surrogates")
                case None | bool():
                    pass
                case int():
                    _require(-(1 << 63) <= each < 1 << 64, "number out of range", field, "use 64 bits, or a text")
                case float():
                    _require(math.isfinite(each), "NaN or infinity", field, "use null")
                case _:
                    _require(False, "not JSON", field, "use texts, numbers, lists and objects")
        level = inner
    return value


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require(holds: bool, message: str, field: str, hint: str) -> None:  # noqa: FBT001 - private
    if not holds:
        raise InvalidMessage(message, field=field, hint=hint)


class Event(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that happened in a system of agents.

    `id` makes publishing idempotent. The user it belongs to is never part of it: that comes from the credential.
    Raises InvalidMessage when a field breaks its rule.
    """

    id: EventId
    type: str
    timestamp: Moment
    actor: str = ""
    session_id: str = ""
    run_id: str = ""
    payload: JsonObject = {}

    def __post_init__(self) -> None:
        ids.event_id(self.id)
        ids.event_type(self.type)
        checked_moment(self.timestamp, "timestamp")
        ids.label(self.actor, "actor")
        ids.label(self.session_id, "session_id")
        ids.label(self.run_id, "run_id")
        checked_json(self.payload, "payload")


def weight_of(events: Iterable[Event]) -> int:
    """Guess the bytes of some events; an exact count would cost more than the bound it serves."""
    return sum(256 + sum(len(value) for value in event.payload.values() if isinstance(value, str)) for event in events)


class StoredEvent(Event, frozen=True, kw_only=True):
    """An event with its place in the log and the user it belongs to."""

    seq: Seq
    user: UserId


class Receipt(Struct, frozen=True, kw_only=True):
    """What became of one published event.

    `seq` is None only for `queued`, which is accepted in memory and not yet numbered.
    """

    event_id: EventId
    seq: Seq | None
    status: Literal["queued", "stored", "committed", "duplicate"]
