"""Identifiers, validated once at the border and trusted afterwards.

The only module that draws randomness.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING, NewType

from memoryd.protocol.errors import InvalidMessage

if TYPE_CHECKING:
    from datetime import datetime

UserId = NewType("UserId", str)
EventId = NewType("EventId", str)
RecordId = NewType("RecordId", str)
TrajectoryId = NewType("TrajectoryId", str)
Seq = NewType("Seq", int)
BranchName = NewType("BranchName", str)

BEFORE_ALL = Seq(0)  # sequence numbers start at 1
MAIN = BranchName("main")  # every user has it, and nobody can drop it

_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_EVENT = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}", re.ASCII)
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)
_LABEL_MAX = 256

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_BASE32 = str.maketrans(_CROCKFORD, "0123456789ABCDEFGHIJKLMNOPQRSTUV")  # the digits `int` knows


def user_id(text: str) -> UserId:
    """Return `text` as a UserId, which is safe as one part of a path. Raises InvalidMessage."""
    if not _USER.fullmatch(text):
        raise InvalidMessage(
            "not a user id",
            field="user",
            hint="use 1 to 64 letters, digits, '-' or '_', beginning with a letter or digit",
        )
    return UserId(text)


def is_branch_name(text: str) -> bool:
    """Whether `text` can name a branch beside the main line."""
    return _USER.fullmatch(text) is not None and text != MAIN


def branch_name(text: str) -> BranchName:
    """Return `text` as a BranchName, which is safe as one part of a path. Raises InvalidMessage."""
    if not _USER.fullmatch(text):
        raise InvalidMessage(
            "not a name of a branch",
            field="branch",
            hint="use 1 to 64 letters, digits, '-' or '_', beginning with a letter or digit",
        )
    return BranchName(text)


def event_id(text: str) -> EventId:
    """Return `text` as an EventId. Raises InvalidMessage."""
    if not _EVENT.fullmatch(text):
        raise InvalidMessage(
            "not an event id", field="id", hint="use 1 to 128 printable ASCII characters without spaces"
        )
    return EventId(text)


def event_type(text: str) -> str:
    """Return `text` when it can name a type of event. Raises InvalidMessage."""
    if not _TYPE.fullmatch(text):
        raise InvalidMessage(
            "not an event type", field="type", hint="use 1 to 128 letters, digits, '.', '_', '-' or ':'"
        )
    return text


def is_record_id(text: str) -> bool:
    """Whether `text` is a ULID."""
    return _ULID.fullmatch(text) is not None


def record_id(text: str) -> RecordId:
    """Return `text` as a RecordId (a ULID). Raises InvalidMessage."""
    if not is_record_id(text):
        raise InvalidMessage("not a record id", field="id", hint="record ids are ULIDs of 26 characters")
    return RecordId(text)


def record_key(record: RecordId) -> bytes | None:
    """Return the 128 bits of a record's id, big-endian; None when it is no ULID, so that no record has it."""
    if not is_record_id(record):
        return None
    return int(record.translate(_TO_BASE32), 32).to_bytes(16, "big")


def record_of_key(key: bytes) -> RecordId:
    """Return the id that has these 16 bytes."""
    rest = int.from_bytes(key, "big")
    return RecordId("".join(_CROCKFORD[rest >> shift & 31] for shift in range(125, -1, -5)))


def label(text: str, field: str) -> str:
    """Return `text` when it can stand as a session, run or actor name: short, printable. Raises InvalidMessage."""
    if len(text) > _LABEL_MAX or not (text == "" or text.isprintable()):
        raise InvalidMessage("not a usable name", field=field, hint=f"use at most {_LABEL_MAX} printable characters")
    return text


def new_ulid(when: datetime) -> str:
    """Return a ULID of the moment `when` with 80 random bits (https://github.com/ulid/spec)."""
    return _ulid(when, secrets.token_bytes(10))


def derived_record_id(when: datetime, event: EventId, part: int) -> RecordId:
    """Return the ULID that record number `part` of an event always gets, so that a replay cannot double it.

    The 80 random bits of a ULID are replaced by a hash of the event's id and the part.
    """
    return RecordId(_ulid(when, hashlib.blake2b(f"{event}\x00{part}".encode(), digest_size=10).digest()))


def _ulid(when: datetime, tail: bytes) -> str:
    # Imported here because it costs a client 60 ms that mostly never makes an id.
    from ulid import ULID

    milliseconds = max(0, int(when.timestamp() * 1000)) & ((1 << 48) - 1)
    return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + tail))
