"""The bytes of a backup, and what a snapshot says.

    FOLDER/memoryd.backup              says that this folder is one
    FOLDER/packs/000001.pack           what the first snapshot brought
    FOLDER/snapshots/000001.snapshot   the first snapshot

    pack       "MEMP" | version u16 = 1 | zeros, 2 | object | object | ... | index | footer
    object     a Zstandard frame (RFC 8878) that says its length
    index      msgpack array: for each object [SHA-256 before packing, offset, packed length, length]
    footer     offset of the index u64 | SHA-256 of the index, 32 | "MEMP"

    snapshot   "MEMS" | version u16 = 1 | zeros, 2 | SHA-256 of the body, 32 | body: a msgpack array, see `Snapshot`

Little-endian. A file in a snapshot is a list of pieces, each the name of an object and where its bytes stand in the file;
between pieces there are zeros. Numbers of packs and snapshots count upwards and agree; a snapshot that brought nothing has
no pack. Decoding raises ValueError with the reason; nothing is allocated from a length that was not checked.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
import zstandard

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.ids import user_id
from memoryd.protocol.interfaces import ModelInfo
from memoryd.stores.datadir import EVENTS, GLOBAL

MARK: Final = "memoryd.backup"  # part of the file format
MARKED: Final = b"memoryd backup 1\n"  # part of the file format
PACKS: Final = "packs"  # part of the file format
SNAPSHOTS: Final = "snapshots"  # part of the file format
MAX_OBJECT: Final = 4 << 20  # part of the file format: a reader allocates no more for one

VERSION: Final = 1  # part of the file format
PACK_HEAD: Final = struct.Struct("<4sH2x")  # part of the file format
PACK_MAGIC: Final = b"MEMP"  # part of the file format
FOOTER: Final = struct.Struct("<Q32s4s")  # part of the file format
_SNAPSHOT_HEAD: Final = struct.Struct("<4sH2x32s")  # part of the file format
_SNAPSHOT_MAGIC: Final = b"MEMS"  # part of the file format
_DIGEST: Final = 32
_MAX_DEPTH: Final = 8  # folders in each other
_MAX_NAME: Final = 255  # what Linux gives a file
_MAX_SIZE: Final = (1 << 63) - 1  # the same

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """Where an object stands in its pack; `packed` are its bytes there, `length` those before packing."""

    digest: bytes
    offset: int
    packed: int
    length: int


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """The object whose bytes a file has from `offset` on."""

    digest: bytes
    offset: int
    length: int


class StoredFile(msgspec.Struct, frozen=True, array_like=True):
    """A file by its name below the data directory; `pieces` by ascending offset, none over another."""

    name: str
    size: int
    pieces: list[Piece]

    @property
    def folder(self) -> str:
        """The user's folder, or that of the global store; empty for the event log."""
        return self.name.rpartition("/")[0].partition("/")[0]

    @property
    def live_bytes(self) -> int:
        """How many bytes of it are in the backup."""
        return sum(piece.length for piece in self.pieces)


class Omitted(msgspec.Struct, frozen=True, array_like=True):
    """A file that could not be read to its end, and so is not in the snapshot."""

    name: str
    offset: int
    what: str


class Snapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One data directory at one moment; the order of the fields is part of the file format.

    `version` is that of the memoryd that wrote it, `model` the one that ran there, if it is known. `last_seq` is the last
    number in the event log, None when there is no log in it. A snapshot that has `omitted` files is partial.
    """

    created_at: datetime
    version: str
    model: ModelInfo | None
    last_seq: int | None
    files: list[StoredFile]
    omitted: list[Omitted]

    @property
    def folders(self) -> list[str]:
        """The folders of users and of the global store."""
        return sorted({file.folder for file in self.files if file.folder})

    @property
    def users(self) -> int:
        return len(set(self.folders) - {GLOBAL})

    @property
    def live_bytes(self) -> int:
        return sum(file.live_bytes for file in self.files)


_encoder: Final = msgspec.msgpack.Encoder()
_index_decoder: Final = msgspec.msgpack.Decoder(list[Stored])
_snapshot_decoder: Final = msgspec.msgpack.Decoder(Snapshot)


def digest_of(data: bytes) -> bytes:
    """Return the name of an object."""
    return hashlib.sha256(data).digest()


def unpack_object(packed: bytes, stored: Stored) -> bytes:
    """Return an object from its frame. Raises ValueError unless it is the one that is named."""
    try:
        if zstandard.frame_content_size(packed) != stored.length:
            raise ValueError("object of another length than its index says")
        data = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"object cannot be unpacked ({error})") from error
    if digest_of(data) != stored.digest:
        raise ValueError("hash of an object fails")
    return data


def pack_end(objects: Sequence[Stored], offset: int) -> bytes:
    """Return index and footer of a pack whose objects end at `offset`."""
    index = _encoder.encode(objects)
    return index + FOOTER.pack(offset, digest_of(index), PACK_MAGIC)


def unpack_index(index: bytes, digest: bytes, end: int) -> list[Stored]:
    """Return the objects of a pack, which end at `end` at the latest. Raises ValueError."""
    if digest_of(index) != digest:
        raise ValueError("hash of the index fails")
    try:
        objects = _index_decoder.decode(index)
    except UNREADABLE as error:
        raise ValueError(f"index cannot be decoded ({type(error).__name__})") from error
    for each in objects:
        is_inside = PACK_HEAD.size <= each.offset and each.packed >= 0 and each.offset + each.packed <= end
        if len(each.digest) != _DIGEST or not is_inside or not 0 < each.length <= MAX_OBJECT:
            raise ValueError("index names an object that cannot be there")
    return objects


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """Return the content of a snapshot's file."""
    body = _encoder.encode(snapshot)
    return _SNAPSHOT_HEAD.pack(_SNAPSHOT_MAGIC, VERSION, digest_of(body)) + body


def unpack_snapshot(content: bytes) -> Snapshot:
    """Return what a snapshot says. Raises ValueError, also for names that do not stay below a data directory."""
    if len(content) < _SNAPSHOT_HEAD.size:
        raise ValueError("snapshot cut short")
    magic, version, digest = _SNAPSHOT_HEAD.unpack_from(content)
    body = content[_SNAPSHOT_HEAD.size :]
    if magic != _SNAPSHOT_MAGIC or version != VERSION:
        raise ValueError("no snapshot, or of an unknown version")
    if digest_of(body) != digest:
        raise ValueError("hash of the snapshot fails")
    try:
        snapshot = _snapshot_decoder.decode(body)
    except UNREADABLE as error:
        raise ValueError(f"snapshot cannot be decoded ({type(error).__name__})") from error
    _check_names([file.name for file in snapshot.files])
    for file in snapshot.files:
        _check_pieces(file)
    return snapshot


def is_folder(name: str) -> bool:
    """Whether this is the folder of a user or of the global store."""
    if name == GLOBAL:
        return True
    try:
        user_id(name)
    except InvalidMessage:
        return False
    return True


def is_name(name: str) -> bool:
    """Whether this names the event log, or a file of a user or of the global store, and nothing outside."""
    folder, *rest = name.split("/")
    return name == EVENTS or (is_folder(folder) and 1 <= len(rest) <= _MAX_DEPTH and all(map(_is_part, rest)))


def _is_part(name: str) -> bool:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return False
    return name not in {"", ".", ".."} and "\0" not in name and length <= _MAX_NAME


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError("snapshot names a file twice")
    if not all(map(is_name, names)):
        raise ValueError("snapshot names a file outside of a data directory")


def _check_pieces(file: StoredFile) -> None:
    if not 0 <= file.size <= _MAX_SIZE:
        raise ValueError("snapshot names a file of an impossible size")
    ends = [0, *(piece.offset + piece.length for piece in file.pieces)]
    begins = [*(piece.offset for piece in file.pieces), file.size]
    is_whole = all(len(piece.digest) == _DIGEST and 0 < piece.length <= MAX_OBJECT for piece in file.pieces)
    if not is_whole or any(end > begin for end, begin in zip(ends, begins, strict=True)):
        raise ValueError("snapshot has pieces that make no file")
