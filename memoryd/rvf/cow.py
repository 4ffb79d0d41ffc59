"""What makes a file a branch of another: COW_MAP and MEMBERSHIP (docs/rvf-format.md, section 12).

    COW_MAP     "MCVR" | version u16 = 1 | map format u8 = 0 | compression u8 = 0 | cluster size u32 | cluster rows u32
                parent id, 16 | parent hash, 32 | row bytes u32 | frozen u8 | frozen epoch u32
                path length u32 | map length u32 | path of the parent, UTF-8
                format u8 = 0 | clusters u32 | clusters x (1 = in the parent u8, offset u64)

    MEMBERSHIP  "BMVR" | version u16 = 1 | type u8 = 0, a bitmap | mode u8 = 0, the set ones | bound u64 | members u64
                offset u64 | bytes u32 | generation u32 | fold hash, 32 | bloom filter u64, u32 | zeros, 12 | bitmap

Little-endian. A branch shows the rows of its parent whose bit is set, and its own on top. memoryd writes neither.
Decoding raises ValueError with the reason.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memoryd.rvf.format import Ids

COW_MAP: Final = 0x20  # part of the file format
MEMBERSHIP: Final = 0x22  # part of the file format
FOLDED: Final = 1 << 16  # part of the file format: the hash of a parent is that of so many bytes at its end

_COW_MAGIC: Final = b"MCVR"  # part of the file format
_COW_HEAD: Final = struct.Struct("<4sHBBII16s32sIBIII")  # part of the file format
_COW_MAP_HEAD: Final = struct.Struct("<BI")  # part of the file format
_CLUSTER: Final = np.dtype([("place", "u1"), ("offset", "<u8")])  # part of the file format
_IN_PARENT: Final = 1  # part of the file format
_MEMBERS_MAGIC: Final = b"BMVR"  # part of the file format
_MEMBERS_HEAD: Final = struct.Struct("<4sHBBQQQII32sQI12s")  # part of the file format
_FOLD_BYTES: Final = 32  # part of the file format
_FOLD_STEP: Final = 13  # part of the file format
_KNOWN: Final = (1, 0, 0)  # part of the file format: version, format, and compression or mode


@dataclass(frozen=True, slots=True)
class Origin:
    """Which file a branch is of; `path` is relative to the folder of the branch."""

    parent_id: bytes
    parent_hash: bytes
    path: str


@dataclass(frozen=True, slots=True)
class Members:
    """Which rows of its parent a branch shows: those below `bound` whose bit is set; `count` of them."""

    count: int
    bound: int
    bitmap: NDArray[np.uint8]

    def hold(self, ids: Ids) -> NDArray[np.bool_]:
        """Return which of these rows are members, bool [n]."""
        found = np.zeros(len(ids), bool)
        inside = np.flatnonzero(ids < self.bound)
        reached = ids[inside].astype(np.int64)
        found[inside] = self.bitmap[reached >> 3] >> (reached & 7) & 1
        return found


def unpack_cow_map(payload: bytes) -> Origin:
    """Return the parent that a COW_MAP names. Raises ValueError."""
    if len(payload) < _COW_HEAD.size:
        raise ValueError("map of a branch cut short")
    magic, *known, _, _, parent_id, parent_hash, _, _, _, path_length, map_length = _COW_HEAD.unpack_from(payload)
    if magic != _COW_MAGIC or tuple(known) != _KNOWN:
        raise ValueError("map of a branch of an unknown kind")
    at = _COW_HEAD.size + path_length
    if at + map_length > len(payload) or map_length < _COW_MAP_HEAD.size:
        raise ValueError("map of a branch cut short")
    kind, count = _COW_MAP_HEAD.unpack_from(payload, at)
    at += _COW_MAP_HEAD.size
    if _COW_MAP_HEAD.size + count * _CLUSTER.itemsize > map_length:
        raise ValueError("map of a branch cut short")
    # Rows that are kept in another way than as rows would be missing from the answers.
    if kind != 0 or (np.frombuffer(payload, _CLUSTER, count, at)["place"] != _IN_PARENT).any():
        raise ValueError("map of a branch that keeps rows in an unknown way")
    try:
        path = payload[_COW_HEAD.size : _COW_HEAD.size + path_length].decode()
    except UnicodeDecodeError as error:
        raise ValueError("path of the parent is not UTF-8") from error
    return Origin(parent_id, parent_hash, path)


def unpack_members(payload: bytes) -> Members:
    """Return which rows of the parent a MEMBERSHIP lists. Raises ValueError."""
    if len(payload) < _MEMBERS_HEAD.size:
        raise ValueError("rows of the parent cut short")
    magic, *known, bound, count, offset, size, _, _, _, _, _ = _MEMBERS_HEAD.unpack_from(payload)
    if magic != _MEMBERS_MAGIC or tuple(known) != _KNOWN:
        raise ValueError("rows of the parent in an unknown kind of list")
    if offset < _MEMBERS_HEAD.size or offset + size > len(payload) or bound > 8 * size:
        raise ValueError("rows of the parent cut short")
    bitmap = payload[offset : offset + size]
    if int.from_bytes(bitmap, "little").bit_count() != count:
        raise ValueError("other rows of the parent than it counts")
    return Members(count, bound, np.frombuffer(bitmap, np.uint8))


def fold_hash(data: bytes) -> bytes:
    """Return the 32 bytes by which a branch knows its parent again; quick enough for 64 KiB."""
    folded = bytearray(_FOLD_BYTES)
    for place, byte in enumerate(data):
        at = place % _FOLD_BYTES
        folded[at] = total = (folded[at] + byte) & 0xFF
        other = (at + _FOLD_STEP) % _FOLD_BYTES
        folded[other] = (folded[other] + (total << 3 & 0xFF | total >> 5)) & 0xFF
    return bytes(folded)
