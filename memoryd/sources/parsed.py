"""What the sources have in common: what one piece of their input became, and how a foreign value is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from memoryd.protocol import ids
from memoryd.protocol.errors import InvalidMessage

if TYPE_CHECKING:
    from memoryd.protocol.errors import MemorydError
    from memoryd.protocol.events import Event

# A line wraps the payload, and what of it becomes one is checked again by the event itself.
MAX_DEPTH: Final = 16
_MAX_BITS: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one line or row became: events, or the error that says why it became none.

    `position` is the number of the line, or what to go on after in a table.
    """

    position: int
    events: tuple[Event, ...] = ()
    error: MemorydError | None = None


def decoded(text: str | bytes) -> object:
    """Return the JSON value that `text` holds. Raises InvalidMessage.

    Not accepted: NaN and infinities, numbers beyond 64 bits, invalid UTF-8, nesting beyond 16. Of a key that is there
    twice the last one counts.
    """
    try:
        value = msgspec.json.decode(text)
    except UnicodeError:
        raise InvalidMessage("not UTF-8", hint="write the file as UTF-8") from None
    except msgspec.DecodeError as error:
        raise InvalidMessage("not JSON", hint=str(error)) from None
    except RecursionError:
        raise InvalidMessage("nested too deeply", hint=f"use at most {MAX_DEPTH} levels") from None
    _check(value, MAX_DEPTH)
    return value


def digest(value: object) -> str:
    """Return a short name for a JSON value that does not depend on the order of its keys."""
    return blake2b(msgspec.json.encode(value, order="sorted"), digest_size=16).hexdigest()


def moment(value: object, field: str, *, naive_is_utc: bool = False) -> datetime:
    """Return the moment that an ISO 8601 text or a number of seconds since 1970 means. Raises InvalidMessage."""
    try:
        match value:
            case bool():
                pass
            case int() | float() if math.isfinite(value):
                return _EPOCH + timedelta(seconds=value)
            case str():
                read = datetime.fromisoformat(value)
                if read.tzinfo is not None:
                    # An offset may push it out of the years that exist.
                    read.astimezone(UTC)
                    return read
                if naive_is_utc:
                    return read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    hint = "use ISO 8601 with a time zone, such as 2026-03-11T10:00:00Z, or seconds since 1970"
    raise InvalidMessage("not a moment", field=field, hint=hint)


def label(value: object) -> str:
    """Return `value` when it can name a session, run or actor, else nothing: a foreign name is not worth an event."""
    try:
        return ids.label(value, "") if isinstance(value, str) else ""
    except InvalidMessage:
        return ""


def required_text(value: object, field: str) -> str:
    """Return `value` when it is a text with content. Raises InvalidMessage."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidMessage("missing, or not a text", field=field, hint="give it as a text that is not empty")
    return value


def json_object(value: object, field: str) -> dict[str, object]:
    """Return `value` when it is a JSON object. Raises InvalidMessage."""
    if not isinstance(value, dict):
        raise InvalidMessage("missing, or not an object", field=field, hint="give it as a JSON object")
    return value


def _check(value: object, levels: int) -> None:
    match value:
        case dict() | list():
            if levels == 0:
                raise InvalidMessage("nested too deeply", hint=f"use at most {MAX_DEPTH} levels")
            for item in value.values() if isinstance(value, dict) else value:
                _check(item, levels - 1)
        case int() if value.bit_length() > _MAX_BITS:
            raise InvalidMessage("number out of range", hint="use numbers of at most 64 bits, or texts")
        case _:
            pass
