"""The bytes of an `.rvf` file: segment headers, VEC and MANIFEST payloads (docs/rvf-format.md, sections 2 to 5).

    file      [segment][segment]...[MANIFEST] [segment]...[MANIFEST]      back to back, no padding

    segment   0x00  magic "SFVR"         0x08  segment id u64     0x20  zeros, 8       0x38  zeros, 8
              0x04  version u8 = 1       0x10  payload length u64 0x28  content hash, 16
              0x05  type u8              0x18  zeros, 8           0x40  payload
              0x06  zeros, 2

    VEC       dim u16 | count u32 | count x (row id u64, dim x f32)

    MANIFEST  epoch u32 | dim u16 | rows held u64 | entries u32 | profile u8 | metric u8 | zeros, 2
              entries x (segment id u64, offset u64, payload length u64, type u8)
              deleted u32 | deleted x (row id u64)
              "IDIF" | file id, 16 | parent id, 16 | parent hash, 32 | depth u32

Little-endian throughout. A manifest describes the whole file: what it does not list does not exist. Decoding raises
ValueError with the reason; no count is trusted before it is seen to fit into the bytes that are there.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.uint64]  # [n]
    Vectors = NDArray[np.float32]  # [n, dim]
    Directory = NDArray[np.void]  # [n] of ENTRY

MAGIC: Final = b"SFVR"  # part of the file format
VERSION: Final = 1  # part of the file format
VEC: Final = 0x01  # part of the file format
INDEX: Final = 0x02  # part of the file format
MANIFEST: Final = 0x05  # part of the file format
PRIVATE: Final = 0xF0  # part of the file format: the first type that is free for others
COSINE: Final = 2  # part of the file format
MAX_PAYLOAD: Final = 1 << 28  # part of the file format: the reference runtime refuses more
MAX_ROW_ID: Final = (1 << 53) - 1  # part of the file format: the reference runtime passes ids through a double

_HEADER: Final = struct.Struct("<4sBBHQQQ8s16s8s")  # part of the file format
_VEC_HEAD: Final = struct.Struct("<HI")  # part of the file format
_MANIFEST_HEAD: Final = struct.Struct("<IHQIBBH")  # part of the file format
_COUNT: Final = struct.Struct("<I")  # part of the file format
_IDENTITY: Final = struct.Struct("<4s16s16s32sI")  # part of the file format
_IDENTITY_MAGIC: Final = b"IDIF"  # part of the file format
_ROW_ID: Final = np.dtype("<u8")  # part of the file format
# Part of the file format; 25 bytes, unaligned.
ENTRY: Final = np.dtype([("id", "<u8"), ("offset", "<u8"), ("length", "<u8"), ("type", "u1")])

# Part of the file format: what the metric of a manifest means; any other number means the first.
_METRICS: Final = ("l2", "inner product", "cosine")

HEADER_SIZE: Final = _HEADER.size
VEC_HEAD_SIZE: Final = _VEC_HEAD.size
NO_ROWS: Final = np.empty(0, _ROW_ID)


class UnknownVersion(ValueError):
    """Bytes in a form that only another version of the program knows."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The part of a segment header that says something."""

    type: int
    id: int
    length: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file this is and, for files derived by other programs, from which one it came."""

    file_id: bytes
    parent_id: bytes = bytes(16)
    parent_hash: bytes = bytes(32)
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """One committed state of a file.

    `held` counts the rows in the listed VEC segments, deleted ones included, overwritten ones once. `directory` is an
    array of ENTRY; `deleted` uint64 [d], ascending.
    """

    epoch: int
    dim: int
    held: int
    directory: Directory
    deleted: Ids
    identity: Identity | None
    metric: int = COSINE
    profile: int = 0

    @property
    def metric_name(self) -> str:
        """`l2` for the squared distance, `inner product` for minus the product, `cosine` for 1 less the cosine."""
        return _METRICS[self.metric] if self.metric < len(_METRICS) else _METRICS[0]


def content_hash(payload: bytes | memoryview) -> bytes:
    """Return the 16 bytes that guard `payload`: its CRC-32, four times, rotated by 0, 8, 16 and 24 bits."""
    return hash_of_crc(zlib.crc32(payload))


def hash_of_crc(crc: int) -> bytes:
    """Return the content hash of a payload with this CRC-32."""
    return struct.pack("<4I", *((crc << bits | crc >> (32 - bits)) & 0xFFFFFFFF for bits in (0, 8, 16, 24)))


def pack_segment(kind: int, segment_id: int, payload: bytes) -> bytes:
    """Return a whole segment. Raises ValueError when the payload is longer than other readers accept."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError("segment payload too long")
    header = _HEADER.pack(
        MAGIC, VERSION, kind, 0, segment_id, len(payload), 0, bytes(8), content_hash(payload), bytes(8)
    )
    return header + payload


def unpack_header(data: bytes) -> SegmentHeader:
    """Return what the first 64 bytes of `data` say. Raises ValueError."""
    if len(data) < HEADER_SIZE:
        raise ValueError("segment header cut short")
    magic, version, kind, _, segment_id, length, _, _, digest, _ = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("no segment")
    if version != VERSION:
        raise UnknownVersion("unknown segment version")
    if length > MAX_PAYLOAD:
        raise ValueError("segment payload too long")
    return SegmentHeader(type=kind, id=segment_id, length=length, hash=digest)


def row_dtype(dim: int) -> np.dtype[np.void]:
    """Return the layout of one row of a VEC payload."""
    return np.dtype([("id", _ROW_ID), ("vector", "<f4", (dim,))])


def pack_vec(ids: Ids, vectors: Vectors) -> bytes:
    """Return a VEC payload of row ids, uint64 [n], and vectors, float32 [n, dim]."""
    rows = np.empty(len(ids), row_dtype(vectors.shape[1]))
    rows["id"] = ids
    rows["vector"] = vectors
    return _VEC_HEAD.pack(vectors.shape[1], len(rows)) + rows.tobytes()


def vec_head(payload: bytes) -> tuple[int, int]:
    """Return the dimension of a VEC payload and how many rows it says it has. Raises ValueError."""
    if len(payload) < VEC_HEAD_SIZE:
        raise ValueError("vector head cut short")
    dim, count = _VEC_HEAD.unpack_from(payload)
    return dim, count


def unpack_vec(payload: bytes, dim: int) -> tuple[Ids, Vectors]:
    """Return row ids, uint64 [n], and vectors, float32 [n, dim], as read-only windows on `payload`.

    Raises ValueError when the payload has another dimension or says more rows than it holds.
    """
    found, count = vec_head(payload)
    if found != dim:
        raise ValueError("vectors of another dimension")
    layout = row_dtype(dim)
    if VEC_HEAD_SIZE + count * layout.itemsize > len(payload):
        raise ValueError("vector rows cut short")
    rows = np.frombuffer(payload, layout, count, VEC_HEAD_SIZE)
    return rows["id"], rows["vector"]


def pack_manifest(manifest: Manifest) -> bytes:
    """Return a MANIFEST payload."""
    head = _MANIFEST_HEAD.pack(
        manifest.epoch, manifest.dim, manifest.held, len(manifest.directory), manifest.profile, manifest.metric, 0
    )
    parts = [head, manifest.directory.tobytes(), _COUNT.pack(len(manifest.deleted)), manifest.deleted.tobytes()]
    if manifest.identity is not None:
        it = manifest.identity
        parts.append(_IDENTITY.pack(_IDENTITY_MAGIC, it.file_id, it.parent_id, it.parent_hash, it.depth))
    return b"".join(parts)


def unpack_manifest(payload: bytes) -> Manifest:
    """Return the manifest in `payload`; deleted rows and identity may be absent. Raises ValueError."""
    if len(payload) < _MANIFEST_HEAD.size:
        raise ValueError("manifest head cut short")
    epoch, dim, held, entries, profile, metric, _ = _MANIFEST_HEAD.unpack_from(payload)
    at = _MANIFEST_HEAD.size
    if at + entries * ENTRY.itemsize > len(payload):
        raise ValueError("manifest directory cut short")
    directory = np.frombuffer(payload, ENTRY, entries, at)
    at += directory.nbytes
    deleted = NO_ROWS
    if len(payload) >= at + _COUNT.size:
        (count,) = _COUNT.unpack_from(payload, at)
        at += _COUNT.size
        if at + count * _ROW_ID.itemsize > len(payload):
            raise ValueError("list of deleted rows cut short")
        deleted = np.frombuffer(payload, _ROW_ID, count, at)
        at += deleted.nbytes
    return Manifest(epoch, dim, held, directory, deleted, _unpack_identity(payload, at), metric, profile)


def _unpack_identity(payload: bytes, at: int) -> Identity | None:
    if len(payload) < at + _IDENTITY.size:
        return None
    magic, file_id, parent_id, parent_hash, depth = _IDENTITY.unpack_from(payload, at)
    return Identity(file_id, parent_id, parent_hash, depth) if magic == _IDENTITY_MAGIC else None
