"""Sans-IO codec of the socket: bytes in, frames out.

    frame   = length (4 bytes, big-endian) | msgpack [kind, correlation, deadline_ms, body]

A request's body is `{"user": name or absent, ...fields of the message}`. A reply has kind `ok` or `error`, and a stream
sends kind `event`, and `end` if it has one. `deadline_ms` counts from the moment the frame arrives; 0 means the server's own limit. The first
frame a client sends is `hello`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, TypeVar

import msgpack
import msgspec

from memoryd.protocol.errors import BadFrame, Detail, InvalidMessage, MemorydError, TooLarge, Unsupported, rebuild
from memoryd.protocol.messages import REQUESTS, Ask

VERSION: Final = 1
MAX_FRAME: Final = 1 << 20  # bytes after the length
MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 1 << 16

_LENGTH = struct.Struct(">I")
_CONTAINERS: Final = (list, tuple, dict)
S = TypeVar("S")


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first frame of a client."""

    version: int
    token: str = ""


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a hello: who the server is and which user a request without one means."""

    version: int
    server: str
    user: str
    model: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame; `body` is plain data within the limits."""

    kind: str
    correlation: int
    deadline_ms: int
    body: dict[str, Any]
    size: int = 0  # bytes on the wire


class Decoder:
    """Cuts a stream of bytes into frames. After BadFrame or TooLarge the connection must be closed."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take what arrived and return an iterator over every frame that is now whole."""
        self._buffer += data
        return iter(self.take, None)

    def take(self) -> Frame | None:
        """Cut off the next frame, None when it is not whole yet. Raises BadFrame or TooLarge."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_FRAME:
            raise TooLarge("frame too large", field="length", hint=f"send at most {MAX_FRAME} bytes", size=length)
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return decode_frame(payload)


def decode_frame(payload: bytes) -> Frame:
    """Decode the bytes after the length. Raises BadFrame or TooLarge."""
    try:
        value = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            ext_hook=_no_extension,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except UnicodeDecodeError as error:
        raise BadFrame("text is not UTF-8", field="body", hint="encode text as UTF-8") from error
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise BadFrame("not a msgpack value within the limits", field="frame", hint="see docs/protocol.md") from error
    _check_size(value)
    match value:
        case [str(kind), int(correlation), int(deadline_ms), dict(body)] if 0 <= deadline_ms < 1 << 32:
            return Frame(kind, correlation, deadline_ms, body, len(payload))
    raise BadFrame("not [kind, correlation, deadline_ms, body]", field="frame", hint="see docs/protocol.md")


def encode_frame(kind: str, correlation: int, deadline_ms: int, body: dict[str, Any]) -> bytes:
    """Encode one frame with its length. Raises TooLarge for what the other side would refuse."""
    payload: bytes = msgpack.packb([kind, correlation, deadline_ms, body])
    if len(payload) > MAX_FRAME:
        raise TooLarge(
            "message too large", field="body", hint=f"keep a message under {MAX_FRAME} bytes", size=len(payload)
        )
    _check_size([body])
    return _LENGTH.pack(len(payload)) + payload


def to_body(value: msgspec.Struct) -> dict[str, Any]:
    """Turn a message or a reply into plain data."""
    body: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return body


def from_body(body: dict[str, Any], into: type[S]) -> S:
    """Build an `into` from plain data. Raises Unsupported for unknown fields, InvalidMessage for wrong ones."""
    try:
        return msgspec.convert(body, into)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        if what.startswith("Object contains unknown field"):
            name = what.partition("`")[2].rstrip("`")
            path = f"{where.rstrip('`').lstrip('.')}.{name}".lstrip(".") or "body"
            raise Unsupported("unknown field", field=path, hint="remove it, or use a newer daemon") from None
        if what.startswith("Object missing required field"):
            where = f"{where.rstrip('`')}.{what.partition('`')[2].rstrip('`')}"
        field = where.rstrip("`").lstrip(".") or "body"
        raise InvalidMessage(_lower(what), field=field, hint="see docs/protocol.md for the type") from None


def request_of(frame: Frame) -> tuple[str | None, Ask[object]]:
    """Return the user a request names, if any, and its message. Raises Unsupported or InvalidMessage."""
    message = REQUESTS.get(frame.kind)
    if message is None:
        raise Unsupported("unknown kind of request", field="kind", hint="one of " + ", ".join(REQUESTS))
    body = dict(frame.body)
    user = body.pop("user", None)
    if user is not None and not isinstance(user, str):
        raise InvalidMessage("user is not a text", field="user", hint="send the name of a user or leave it out")
    return user, from_body(body, message)


def error_body(error: MemorydError) -> dict[str, Any]:
    """Turn an error into the body of an `error` frame, under the nearest name that the other side knows."""
    known = next(each.__name__ for each in type(error).__mro__ if each.__module__ == MemorydError.__module__)
    return {
        "error": known,
        "message": error.message,
        "field": error.field,
        "hint": error.hint,
        "details": dict(error.details),
    }


def error_of(body: dict[str, Any]) -> MemorydError:
    """Turn the body of an `error` frame into the error it was."""
    details: dict[str, Detail] = {str(k): v for k, v in dict(body.get("details") or {}).items()}
    return rebuild(str(body.get("error")), str(body.get("message", "")), body.get("field"), body.get("hint"), details)


def _no_extension(_code: int, _data: bytes) -> object:
    raise ValueError("extension types are not part of the protocol")


def _check_size(value: object) -> None:
    """Refuse what is nested too deep or has too many items; iterative, so that depth cannot hurt it."""
    items = 0
    level = [value] if isinstance(value, _CONTAINERS) and value else []
    for _ in range(MAX_DEPTH):
        items += sum(map(len, level))
        if items > MAX_ITEMS:
            raise TooLarge("too many items", field="body", hint=f"send at most {MAX_ITEMS} items in a frame")
        children = chain.from_iterable(each.values() if isinstance(each, dict) else each for each in level)
        level = [each for each in children if isinstance(each, _CONTAINERS) and each]
        if not level:
            return
    raise TooLarge("nested too deep", field="body", hint=f"nest at most {MAX_DEPTH} levels")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
