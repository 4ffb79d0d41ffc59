"""Events: what systems of agents publish."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from memoryd.protocol import ids
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.ids import EventId, Seq, UserId

Moment = Annotated[datetime, Meta(tz=True)]
JsonObject = dict[str, object]

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
