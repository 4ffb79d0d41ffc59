"""Where a branch came from: a private segment of its file that names its ancestors and what it sees of each.

    payload   "MEMD" | version u16 | codec u8 = 4 | mask u8 | plain length u32 | body

The body is a msgpack array, see `Origin`, packed with Zstandard (RFC 8878). Row ids are never used again and stay when a file
is compacted, so "the rows below this one, but for those" means the same rows however the ancestor goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from memoryd.rvf.records import (
    HEAD,
    MAGIC,
    ORIGIN,
    UNREADABLE,
    VERSION,
    Number,
    mask_for,
    masked,
    pack,
    unpack,
    unpack_head,
)

if TYPE_CHECKING:
    from memoryd.rvf.format import Ids


class Ancestor(msgspec.Struct, frozen=True, array_like=True):
    """A file whose rows below `below` the branch sees, but for `hidden`: uint64 little-endian, ascending.

    There were so many `rows` when it began.
    """

    name: str
    file_id: bytes
    below: Number
    hidden: bytes
    rows: Number

    @property
    def hidden_rows(self) -> Ids:
        return np.frombuffer(self.hidden, "<u8")


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """When a branch began, in microseconds since 1970, and its ancestors, the oldest first."""

    created_us: Number
    ancestors: list[Ancestor]

    @property
    def first_row(self) -> int:
        """The first row that can stand in the branch's own file."""
        return self.ancestors[-1].below


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Origin)


def pack_origin(origin: Origin) -> bytes:
    """Return the payload of the segment."""
    plain = _encoder.encode(origin)
    packed = pack(plain)
    mask = mask_for(packed)
    return HEAD.pack(MAGIC, VERSION, ORIGIN, mask, len(plain)) + masked(packed, mask)


def unpack_origin(payload: bytes) -> Origin:
    """Return what `pack_origin` made a payload of. Raises ValueError."""
    _, mask, length = unpack_head(payload)
    try:
        origin = _decoder.decode(unpack(masked(payload[HEAD.size :], mask), length))
    except UNREADABLE as error:
        raise ValueError(f"origin of a branch cannot be decoded ({type(error).__name__})") from error
    if not origin.ancestors or any(len(one.hidden) % 8 for one in origin.ancestors):
        raise ValueError("origin of a branch with impossible numbers")
    return origin
