"""The private segment (type 0xF0): texts, trajectories and the cursor that belong to the vectors of a commit.

    0  magic "MEMD"    4  version u16 = 1    6  codec u8    7  mask u8    8  plain length u32    12  body

The body is a msgpack array, see `Body`, compressed with zlib (codec 1). User text must not be able to carry "SFVR",
which would look like a segment to every reader that scans for a manifest: when the compressed bytes hold it, each of
them is XORed with the smallest `mask` under which they do not. The head cannot hold it either: its last byte is below
0x53. Little-endian.

Programs that compact the file keep private segments as they are, in order, also those they should not have seen. So
each one says which generation of the file it belongs to, its place in it, and the CRC-32 of the payload before it; a
missing or foreign link shows.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from memoryd.protocol.ids import BEFORE_ALL, RecordId, Seq, TrajectoryId
from memoryd.protocol.interfaces import ModelInfo
from memoryd.protocol.records import MemoryRecord, Trajectory
from memoryd.rvf import format as rvf
from memoryd.rvf.reader import damaged, read_segment

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.files import File
    from memoryd.rvf.reader import State

MAGIC: Final = b"MEMD"  # part of the file format
VERSION: Final = 1  # part of the file format
_ZLIB: Final = 1  # part of the file format
_HEAD: Final = struct.Struct("<4sHBBI")  # part of the file format

# A reader allocates no more than this for one body; a writer begins a new segment long before.
MAX_BODY: Final = 1 << 27


class Body(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What one private segment says; the order of the fields is part of the file format.

    `rows[i]` is the row id whose vector belongs to `records[i]`. `next_row` is the smallest row id never used.
    `dropped` names trajectories that are gone; then `trajectories`, encoded like the records, replace earlier ones.
    """

    generation: int
    number: int
    previous: int
    model: ModelInfo
    applied_seq: Seq
    next_row: int
    rows: list[int]
    records: list[bytes]
    dropped: list[TrajectoryId]
    trajectories: list[bytes]


class _OnlyId(msgspec.Struct, frozen=True):
    """The one field of a record that a file looks at."""

    id: RecordId


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Body)
_record_decoder: Final = msgspec.msgpack.Decoder(MemoryRecord)
_id_decoder: Final = msgspec.msgpack.Decoder(_OnlyId)
_trajectory_decoder: Final = msgspec.msgpack.Decoder(Trajectory)


def encode_record(record: MemoryRecord) -> bytes:
    """Return a record as it is kept, without its embedding, which stands in the vector segments."""
    return _encoder.encode(msgspec.structs.replace(record, embedding=b"") if record.embedding else record)


def decode_record(data: bytes) -> MemoryRecord:
    """Return the record that `encode_record` made `data` of."""
    return _record_decoder.decode(data)


def record_id(data: bytes) -> RecordId:
    """Return the id of an encoded record."""
    return _id_decoder.decode(data).id


def encode_trajectory(trajectory: Trajectory) -> bytes:
    """Return a trajectory as it is kept."""
    return _encoder.encode(trajectory)


def pack_body(body: Body) -> bytes:
    """Return the payload of a private segment."""
    plain = _encoder.encode(body)
    if len(plain) > MAX_BODY:
        raise ValueError("private segment too long")
    # Level 1: three times as fast as the default, and a tenth larger, on the texts of agent runs.
    packed = zlib.compress(plain, 1)
    # 256 masks cannot all fail: text would need to hold 256 given sequences, most of which are not valid UTF-8.
    mask = next(mask for mask in range(256) if _masked(rvf.MAGIC, mask) not in packed)
    return _HEAD.pack(MAGIC, VERSION, _ZLIB, mask, len(plain)) + _masked(packed, mask)


def is_ours(payload: bytes) -> bool:
    """Whether this private segment was written by memoryd; other programs may use the same type."""
    return payload.startswith(MAGIC)


def unpack_body(payload: bytes) -> Body:
    """Return what a private segment of ours says. Raises ValueError."""
    if len(payload) < _HEAD.size:
        raise ValueError("private segment cut short")
    _, version, codec, mask, length = _HEAD.unpack_from(payload)
    if (version, codec) != (VERSION, _ZLIB):
        raise ValueError("private segment of an unknown version")
    if length > MAX_BODY:
        raise ValueError("private segment too long")
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(_masked(payload[_HEAD.size :], mask), length + 1)
        if len(plain) != length or not unpacker.eof or unpacker.unused_data:
            raise ValueError("private segment of another length than it says")
        body = _decoder.decode(plain)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"private segment cannot be decoded ({type(error).__name__})") from error
    if len(body.rows) != len(body.records) or any(a >= b for a, b in zip(body.rows, body.rows[1:], strict=False)):
        raise ValueError("rows and records of a private segment do not belong together")
    return body


def checksum(payload: bytes) -> int:
    """Return the CRC-32 by which the next private segment refers to this one."""
    return zlib.crc32(payload)


@dataclass(slots=True)
class History:
    """What all private segments of the newest generation say together.

    `rows`, `ids` and `records` belong together, by ascending row id. `segments` counts the private segments of the
    generation, `checksum` is that of the last one. `trajectory_sizes` are the encoded bytes of those that are kept,
    `trajectory_bytes` those of all that were ever written. `stale` lists the offsets of segments of older generations.
    """

    model: ModelInfo
    generation: int
    segments: int = 0
    checksum: int = 0
    applied_seq: Seq = BEFORE_ALL
    next_row: int = 0
    rows: list[int] = field(default_factory=list)
    ids: list[RecordId] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    trajectories: dict[TrajectoryId, Trajectory] = field(default_factory=dict)
    trajectory_sizes: dict[TrajectoryId, int] = field(default_factory=dict)
    trajectory_bytes: int = 0
    stale: list[int] = field(default_factory=list)


def read_history(file: File, path: Path, state: State) -> History:
    """Read every private segment the state lists. Raises Damaged when one does not hold or a link is missing."""
    found: list[tuple[Body, int, int]] = []
    for entry in state.of_type(rvf.PRIVATE):
        payload = read_segment(file, path, entry)
        if not is_ours(payload):
            continue
        try:
            found.append((unpack_body(payload), checksum(payload), entry.offset))
        except ValueError as error:
            raise damaged(path, entry.offset, str(error)) from error
    if not found:
        raise damaged(path, state.segment.offset, "no records of memoryd")
    generation = max(body.generation for body, _, _ in found)
    history = History(found[0][0].model, generation)
    for body, crc, offset in sorted(found, key=lambda item: item[0].number):
        if body.generation != generation:
            history.stale.append(offset)
            continue
        _link(history, body, path, offset)
        history.checksum = crc
    return history


def _link(history: History, body: Body, path: Path, offset: int) -> None:
    """Add the next segment of the chain to `history`. Raises Damaged when it is not the next one."""
    if (body.number, body.previous) != (history.segments, history.checksum):
        raise damaged(path, offset, "broken chain of private segments")
    if body.rows and (body.rows[0] <= (history.rows or [-1])[-1] or body.rows[-1] >= body.next_row):
        raise damaged(path, offset, "row ids out of order")
    history.model = body.model
    history.segments += 1
    history.applied_seq = body.applied_seq
    history.next_row = body.next_row
    history.rows += body.rows
    history.records += body.records
    try:
        history.ids += [record_id(record) for record in body.records]
        trajectories = [_trajectory_decoder.decode(trajectory) for trajectory in body.trajectories]
    except msgspec.MsgspecError as error:
        raise damaged(path, offset, "a record or trajectory cannot be decoded") from error
    for trajectory in body.dropped:
        history.trajectories.pop(trajectory, None)
        history.trajectory_sizes.pop(trajectory, None)
    for kept, encoded in zip(trajectories, body.trajectories, strict=True):
        history.trajectories[kept.id] = kept
        history.trajectory_sizes[kept.id] = len(encoded)
        history.trajectory_bytes += len(encoded)


def _masked(data: bytes, mask: int) -> bytes:
    return data.translate(bytes(value ^ mask for value in range(256))) if mask else data
