"""Records, trajectories and the private segment (type 0xF0) in which a commit writes them.

    0  magic "MEMD"    4  version u16 = 3    6  codec u8    7  mask u8    8  plain length u32    12  body

The body is a msgpack array, see `Body`, packed with Zstandard (codec 2; RFC 8878). User text must not be able to carry
"SFVR", which would look like a segment to every reader that scans for a manifest: when the packed bytes hold it, each of
them is XORed with the smallest `mask` under which they do not. The head cannot hold it either: its last byte is below
0x53. Little-endian.

Programs that compact the file keep private segments as they are, in order, also those they should not have seen. So
each one says which generation of the file it belongs to and its number in it, and how many others there were beside it,
with a sum of their hashes; a missing or foreign one shows.
"""

from __future__ import annotations

import struct
import threading
from typing import Annotated, Final

import msgspec
import zstandard

from memoryd.protocol.ids import Seq, TrajectoryId
from memoryd.protocol.interfaces import ModelInfo
from memoryd.protocol.records import Attributes, MemoryRecord, Trajectory
from memoryd.rvf import format as rvf

MAGIC: Final = b"MEMD"  # part of the file format
VERSION: Final = 3  # part of the file format
LOG: Final = 2  # part of the file format: a body
SEALED: Final = 3  # part of the file format: see sealed.py
ORIGIN: Final = 4  # part of the file format: see origin.py
HEAD: Final = struct.Struct("<4sHBBI")  # part of the file format

# A reader allocates no more than this for one body; a writer begins a new segment long before.
MAX_BODY: Final = 1 << 27

# Level 1: nearly as small as the default on the texts of agent runs, in half the time.
_LEVEL: Final = 1
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)  # what decoding raises


Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # what columns hold


class Body(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What the private segment of a commit says; the order of the fields is part of the file format.

    It stands for the private segments `first` to `number`, which are the same unless several commits were folded.
    `others` counts the other private segments of the state this one was written into, and `census` is the XOR of their
    hashes. `rows[i]` is the row id whose vector belongs to `records[i]`. `next_row` is the smallest row id never used,
    and `linked_to` the last one in the graph of the file, -1 without one. What was deleted up to `erased_us` may not stand
    in the file any more. Moments are microseconds since 1970.
    `added_us[i]` is when that was applied. `dropped` names trajectories that are gone; then
    `trajectories`, encoded like the records and told at `told_us`, replace earlier ones. `deleted` are rows that are gone since `deleted_us`.
    """

    generation: Number
    first: Number
    number: Number
    others: Number
    census: int
    model: ModelInfo
    applied_seq: Annotated[Seq, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    next_row: Number
    linked_to: int
    erased_us: Number
    rows: list[Number]
    records: list[bytes]
    added_us: list[Number]
    dropped: list[TrajectoryId]
    trajectories: list[bytes]
    told_us: list[Number]
    deleted: list[Number]
    deleted_us: list[Number]


class _Named(msgspec.Struct, frozen=True):
    """The one field of a trajectory that a file looks at."""

    id: TrajectoryId


_of_thread: Final = threading.local()
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Body)
_record_decoder: Final = msgspec.msgpack.Decoder(MemoryRecord)
_attributes_decoder: Final = msgspec.msgpack.Decoder(Attributes)
_named_decoder: Final = msgspec.msgpack.Decoder(_Named)
_trajectory_decoder: Final = msgspec.msgpack.Decoder(Trajectory)


def encode_record(record: MemoryRecord) -> bytes:
    """Return a record as it is kept, without its embedding, which stands in the vector segments."""
    return _encoder.encode(msgspec.structs.replace(record, embedding=b"") if record.embedding else record)


def decode_record(data: bytes) -> MemoryRecord:
    """Return the record that `encode_record` made `data` of."""
    return _record_decoder.decode(data)


def attributes_of(data: bytes) -> Attributes:
    """Return what an encoded record is found and filtered by."""
    return _attributes_decoder.decode(data)


def encode_trajectory(trajectory: Trajectory) -> bytes:
    """Return a trajectory as it is kept."""
    return _encoder.encode(trajectory)


def decode_trajectory(data: bytes) -> Trajectory:
    """Return the trajectory that `encode_trajectory` made `data` of."""
    return _trajectory_decoder.decode(data)


def trajectory_id(data: bytes) -> TrajectoryId:
    """Return the id of an encoded trajectory."""
    return _named_decoder.decode(data).id


def pack_body(body: Body) -> bytes:
    """Return the payload of a private segment."""
    plain = _encoder.encode(body)
    if len(plain) > MAX_BODY:
        raise ValueError("private segment too long")
    packed = pack(plain)
    mask = mask_for(packed)
    return HEAD.pack(MAGIC, VERSION, LOG, mask, len(plain)) + masked(packed, mask)


def is_ours(payload: bytes) -> bool:
    """Whether this private segment was written by memoryd; other programs may use the same type."""
    return payload.startswith(MAGIC)


def is_of(codec: int, head: bytes) -> bool:
    """Whether the first bytes of a private segment say that it is one of ours, of this kind."""
    return len(head) >= HEAD.size and is_ours(head) and HEAD.unpack_from(head)[2] == codec


def unpack_head(payload: bytes) -> tuple[int, int, int]:
    """Return codec, mask and length of a private segment of ours. Raises ValueError."""
    if len(payload) < HEAD.size:
        raise ValueError("private segment cut short")
    _, version, codec, mask, length = HEAD.unpack_from(payload)
    if version != VERSION or codec not in (LOG, SEALED, ORIGIN):
        raise rvf.UnknownVersion("private segment of an unknown version")
    return codec, mask, length


def unpack_body(payload: bytes) -> Body:
    """Return what the private segment of a commit says. Raises ValueError."""
    codec, mask, length = unpack_head(payload)
    if codec != LOG:
        raise ValueError("private segment of another kind")
    try:
        body = _decoder.decode(unpack(masked(payload[HEAD.size :], mask), length))
    except UNREADABLE as error:
        raise ValueError(f"private segment cannot be decoded ({type(error).__name__})") from error
    lengths = [len(body.records), len(body.added_us)], [len(body.told_us)], [len(body.deleted_us)]
    if lengths != ([len(body.rows)] * 2, [len(body.trajectories)], [len(body.deleted)]):
        raise ValueError("columns of a private segment do not belong together")
    if any(a >= b for a, b in zip(body.rows, body.rows[1:], strict=False)):
        raise ValueError("rows of a private segment out of order")
    return body


def pack(plain: bytes) -> bytes:
    """Return `plain` as a Zstandard frame that says how long it is."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(plain)


def unpack(packed: bytes | memoryview, length: int) -> bytes:
    """Return the `length` bytes in a Zstandard frame; nothing is allocated before it says the same. Raises ValueError."""
    if length > MAX_BODY:
        raise ValueError("private segment too long")
    try:
        if zstandard.frame_content_size(packed) != length:
            raise ValueError("private segment of another length than it says")
        return _unpacker().decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"private segment cannot be unpacked ({error})") from error


def _unpacker() -> zstandard.ZstdDecompressor:
    """Return the one of this thread: to make it costs more than to unpack a block of texts."""
    known: zstandard.ZstdDecompressor | None = getattr(_of_thread, "unpacker", None)
    if known is None:
        known = _of_thread.unpacker = zstandard.ZstdDecompressor()
    return known


def mask_for(data: bytes) -> int:
    """Return the smallest byte under which `data` holds no magic of a segment."""
    # 256 masks cannot all fail: text would need to hold 256 given sequences, most of which are not valid UTF-8.
    return next(mask for mask in range(256) if masked(rvf.MAGIC, mask) not in data)


def masked(data: bytes, mask: int) -> bytes:
    """Return `data` with each byte XORed; the same again gives it back."""
    return data.translate(bytes(value ^ mask for value in range(256))) if mask else data
