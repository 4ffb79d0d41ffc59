"""Sealed rows: a private segment with everything but the vectors of many rows, to be mapped and read in place.

    payload   "MEMD" | version u16 | codec u8 | mask u8 | head length u32 | XXH3 of the head u64 | head | zeros | sections

The head is a msgpack array that says where each section stands, and its XXH3. Sections stand at multiples of 64 bytes;
a column has one number for each slot. The VEC segment with the vectors follows at once, and the head knows its hash.
Texts stand in blocks of about 2 KiB, packed with Zstandard (RFC 8878), each with its XXH3; so has every vector, since
the hash of a VEC segment covers all of them. A payload that happens to hold the magic of a segment is masked behind its
first 12 bytes, and then read instead of mapped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import xxhash

from memoryd.protocol.errors import Damaged
from memoryd.protocol.ids import RecordId, TrajectoryId, record_of_key
from memoryd.protocol.interfaces import ModelInfo
from memoryd.protocol.keys import keys_of
from memoryd.protocol.records import microseconds
from memoryd.rvf import format as rvf
from memoryd.rvf.reader import Entry, damaged
from memoryd.rvf.records import (
    HEAD,
    MAGIC,
    SEALED,
    UNREADABLE,
    VERSION,
    Number,
    attributes_of,
    mask_for,
    masked,
    pack,
    unpack,
    unpack_head,
)
from memoryd.rvf.sight import Sight

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

    from memoryd.files import Mapping
    from memoryd.protocol.interfaces import Encoder, Vectors
    from memoryd.protocol.keys import Keys
    from memoryd.rvf.format import Ids

    Slots = NDArray[np.int64]

GROUP: Final = 32  # slots come in groups of so many, as they are searched
_ALIGNMENT: Final = 64
_BEFORE_VECTORS: Final = 2  # a VEC segment that begins so far behind a multiple of 64 has its numbers at multiples of 4
_BLOCK: Final = 2 << 10  # bytes of text that are packed together: 4 us to unpack
_CHECKED_ROWS: Final = 1_024  # are read together to be checked
_FETCHED: Final = 1_024  # rows that are fetched one by one; more of them are read in order anyway
_BITS_A_ROW: Final = 16  # of the filter that excludes ids which do not stand here
_PROBES: Final = np.array([[0], [15], [30], [45]], np.uint64)  # where in an id's random bits the filter's places begin
_LEAST_INFINITE: Final = 0x7F80_0000  # the first row id that is infinite, or no number, to who takes it for a float32
_FEW_SLOTS: Final = 1_000  # are compared one by one with the ids that are looked for
_SUM: Final = struct.Struct("<Q")  # part of the file format
_TEXT_BLOCK: Final = np.dtype([("plain", "<u8"), ("packed", "<u8"), ("sum", "<u8")])  # part of the file format

# Part of the file format: the sections in their order, and the type of a number in a column.
_COLUMNS: Final[dict[str, DTypeLike]] = {
    "rows": "<u8",
    "sums": "<u8",
    "keys": "<u8",  # two for each record: the halves of its id of 128 bits, the higher one first
    "time_us": "<i8",
    "added_us": "<i8",
    "ends": "<u4",
    "session": "<u4",
    "kind": "u1",
    "source": "u1",
}
_OTHERS: Final = ("codes", "trajectories", "blocks", "texts")

_ALWAYS_READ: Final = ("codes", "sums", "ends", "blocks")  # by every search


class Section(msgspec.Struct, frozen=True, array_like=True):
    """Where bytes stand in the payload, and their XXH3; that of the texts is 0, since each block has its own."""

    offset: int
    length: int
    sum: int


class Head(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a sealed segment is; the order of the fields is part of the file format.

    It stands for the private segments `first` to `number`. `kinds`, `sources` and `sessions` are what the numbers in
    those columns mean. `text_bytes` and `trajectory_bytes` are lengths before packing.
    """

    generation: int
    first: int
    number: int
    model: ModelInfo
    count: int
    first_row: int
    last_row: int
    codebook: str
    vec_hash: bytes
    kinds: list[str]
    sources: list[str]
    sessions: list[str]
    text_bytes: int
    trajectory_bytes: int
    sections: list[Section]


class Changes(msgspec.Struct, frozen=True, array_like=True):
    """What else the commits say that a sealed segment stands for: see `Body`."""

    dropped: list[TrajectoryId] = []
    trajectories: list[bytes] = []
    told_us: list[Number] = []
    deleted: list[Number] = []
    deleted_us: list[Number] = []

    def __post_init__(self) -> None:
        if (len(self.told_us), len(self.deleted_us)) != (len(self.trajectories), len(self.deleted)):
            raise ValueError("changes without a moment")


_head_decoder: Final = msgspec.msgpack.Decoder(Head)
_changes_decoder: Final = msgspec.msgpack.Decoder(Changes)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to be written: ids uint64 [n], ascending, encoded records, vectors, float32 [n, dim], and when they were added.

    Moments are int64 [n], microseconds since 1970.
    """

    ids: Ids
    records: Sequence[bytes]
    vectors: Vectors
    added_us: NDArray[np.int64]

    def __getitem__(self, chosen: slice) -> Rows:
        return Rows(self.ids[chosen], self.records[chosen], self.vectors[chosen], self.added_us[chosen])

    @classmethod
    def none(cls, dim: int) -> Rows:
        """Return no rows, of this dimension."""
        return cls(rvf.NO_ROWS, [], np.empty((0, dim), np.float32), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Span:
    """Which private segments a sealed one stands for."""

    generation: int
    first: int
    number: int
    model: ModelInfo


def slots_for(count: int) -> int:
    """Return how many slots so many rows take."""
    return -(-count // GROUP) * GROUP


def pack_sealed(span: Span, rows: Rows, vec_payload: bytes, changes: Changes, encoder: Encoder | None) -> bytes:
    """Return the payload of a sealed segment; `vec_payload` must stand in the segment behind it."""
    count, slots = len(rows.ids), slots_for(len(rows.ids))
    attributes, names = _attributes(rows.records)
    parts = {
        "rows": rows.ids,
        "sums": [xxhash.xxh3_64_intdigest(vector) for vector in np.ascontiguousarray(rows.vectors, "<f4")],
        "added_us": rows.added_us,
        **attributes,
    }
    blocks, texts = _texts(rows.records)
    sections = [_column(parts[name], kind, slots) for name, kind in _COLUMNS.items()]
    sections.append(_codes(rows.vectors, slots, encoder))
    sections.append(_packed(changes))
    sections += [blocks, texts]
    draft = Head(
        generation=span.generation,
        first=span.first,
        number=span.number,
        model=span.model,
        count=count,
        first_row=int(rows.ids[0]),
        last_row=int(rows.ids[-1]),
        codebook=encoder.sha256 if encoder else "",
        vec_hash=rvf.content_hash(vec_payload),
        **names,
        text_bytes=sum(map(len, rows.records)),
        trajectory_bytes=sum(map(len, changes.trajectories)),
        sections=[],
    )
    return _assembled(draft, sections)


def _attributes(records: Sequence[bytes]) -> tuple[dict[str, object], dict[str, list[str]]]:
    """Return the columns that follow from the records, and what the numbers in them mean."""
    found = [attributes_of(record) for record in records]
    kinds, kind = _numbered([one.kind.value for one in found])
    sources, source = _numbered([one.source.value for one in found])
    sessions, session = _numbered([one.session_id for one in found])
    keys = keys_of(one.id for one in found)
    if len(keys) != len(found):
        raise ValueError("a record whose id is no ULID")
    columns: dict[str, object] = {
        "keys": keys,
        "time_us": [microseconds(one.timestamp) for one in found],
        "ends": np.cumsum([len(record) for record in records]),
        "session": session,
        "kind": kind,
        "source": source,
    }
    return columns, {"kinds": kinds, "sources": sources, "sessions": sessions}


def agrees(part: SealedPart, records: Sequence[bytes]) -> bool:
    """Whether the columns of `part` say what its records say."""
    columns, names = _attributes(records)
    if (part.kinds, part.sources, part.sessions) != tuple(names.values()):
        return False
    return all(
        _column(values, _COLUMNS[name], part.slots) == part.column(name).tobytes() for name, values in columns.items()
    )


def _numbered(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the different names in order of appearance, and which of them each is."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return list(number), [number[name] for name in names]


def _places(keys: Keys, size: int) -> NDArray[np.uint64]:
    """Return which bits of a filter of `size`, a power of two, these keys set, uint64 [4, n]."""
    places: NDArray[np.uint64] = keys[:, 1] >> _PROBES & np.uint64(size - 1)
    return places


def _last_bits(keys: Keys) -> NDArray[np.uint16]:
    """Return the last 16 bits of each key, uint64 [n, 2]."""
    return np.ascontiguousarray(keys).view("<u2")[:, 4]


def _column(values: object, kind: DTypeLike, slots: int) -> bytes:
    numbers = np.array(values, kind)
    column = np.zeros((slots, *numbers.shape[1:]), kind)
    column[: len(numbers)] = numbers
    return column.tobytes()


def _codes(vectors: Vectors, slots: int, encoder: Encoder | None) -> bytes:
    if encoder is None:
        return b""
    padded = np.zeros((slots, vectors.shape[1]), np.float32)
    padded[: len(vectors)] = vectors
    return encoder.encode(padded)


def _packed(changes: Changes) -> bytes:
    """Return the changes packed, behind their length; nothing when there are none."""
    if changes == Changes():
        return b""
    plain = msgspec.msgpack.encode(changes)
    return _SUM.pack(len(plain)) + pack(plain)


def _texts(records: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the directory of blocks and the blocks: where each begins before and after packing, and its XXH3."""
    directory, packed, block = [], [], b""
    plain_at = packed_at = 0
    for place, record in enumerate(records):
        block += record
        if len(block) >= _BLOCK or place + 1 == len(records):
            packed.append(pack(block))
            directory.append((plain_at, packed_at, xxhash.xxh3_64_intdigest(packed[-1])))
            plain_at, packed_at, block = plain_at + len(block), packed_at + len(packed[-1]), b""
    directory.append((plain_at, packed_at, 0))
    return np.array(directory, _TEXT_BLOCK).tobytes(), b"".join(packed)


def _assembled(draft: Head, sections: Sequence[bytes]) -> bytes:
    """Return head and sections in one payload."""
    sums = [xxhash.xxh3_64_intdigest(section) for section in sections[:-1]] + [0]
    # Numbers of msgpack grow with their value: the room for the head is found with the largest there can be.
    most = (1 << 64) - 1
    widest = msgspec.structs.replace(draft, sections=[Section(most, most, most)] * len(sections))
    at = _aligned(HEAD.size + _SUM.size + len(msgspec.msgpack.encode(widest)) + rvf.HEADER_SIZE) - rvf.HEADER_SIZE
    start, placed = at, []
    for section, total in zip(sections, sums, strict=True):
        placed.append(Section(at, len(section), total))
        at = _aligned(at + len(section) + rvf.HEADER_SIZE) - rvf.HEADER_SIZE
    head = msgspec.msgpack.encode(msgspec.structs.replace(draft, sections=placed))
    payload = bytearray(at + _BEFORE_VECTORS)
    body = _SUM.pack(xxhash.xxh3_64_intdigest(head)) + head
    payload[HEAD.size : HEAD.size + len(body)] = body
    for section, place in zip(sections, placed, strict=True):
        payload[place.offset : place.offset + place.length] = section
    rest = bytes(payload[HEAD.size :])
    if start < HEAD.size + len(body):
        raise AssertionError("the head of a sealed segment outgrew its room")
    mask = mask_for(rest)
    return HEAD.pack(MAGIC, VERSION, SEALED, mask, len(head)) + masked(rest, mask)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def read_head(payload: memoryview) -> tuple[Head, int]:
    """Return the head of a sealed segment and its mask. Raises ValueError."""
    _, mask, length = unpack_head(bytes(payload[: HEAD.size]))
    if length > len(payload) - HEAD.size - _SUM.size:
        raise ValueError("head of sealed rows cut short")
    packed = masked(bytes(payload[HEAD.size : HEAD.size + _SUM.size + length]), mask)
    if xxhash.xxh3_64_intdigest(packed[_SUM.size :]) != _SUM.unpack_from(packed)[0]:
        raise ValueError("checksum of the head of sealed rows fails")
    try:
        head = _head_decoder.decode(packed[_SUM.size :])
    except UNREADABLE as error:
        raise ValueError(f"head of sealed rows cannot be decoded ({type(error).__name__})") from error
    if reason := _wrong(head, len(payload)):
        raise ValueError(reason)
    return head, mask


def _wrong(head: Head, size: int) -> str:
    """Return why a head cannot be believed, nothing when it can."""
    has_room = 0 < head.count <= head.last_row - head.first_row + 1 and head.first_row >= 0
    if not (has_room and 0 <= head.first <= head.number and 0 < head.model.dim < 1 << 16):
        return "sealed rows with impossible numbers"
    if len(head.sections) != len(_COLUMNS) + len(_OTHERS):
        return "sealed rows with other sections"
    if any(one.offset < 0 or one.length < 0 or one.offset + one.length > size for one in head.sections):
        return "section of sealed rows outside of their segment"
    slots = slots_for(head.count)
    widths = [np.dtype(kind).itemsize * (2 if name == "keys" else 1) for name, kind in _COLUMNS.items()]
    lengths = [slots * width for width in widths] + [slots * head.model.dim // 6 if head.codebook else 0]
    if any(one.length != length for one, length in zip(head.sections, lengths, strict=False)):
        return "column of sealed rows of another length"
    return ""


class SealedPart:
    """A `SealedRows` on a mapped file. Checks a section, a text or a vector when it is first read."""

    def __init__(self, path: Path, mapping: Mapping, private: Entry) -> None:
        """Take the private segment at this place. Raises Damaged."""
        self._path = path
        self._mapping = mapping
        self._at = private.offset
        whole = mapping.data[private.offset + rvf.HEADER_SIZE : private.offset + private.size]
        try:
            self.head, mask = read_head(whole)
        except ValueError as error:
            raise damaged(path, private.offset, error) from error
        self._payload: memoryview | bytes = whole
        if mask:
            self._payload = bytes(HEAD.size) + masked(bytes(whole[HEAD.size :]), mask)
        self.private = private
        self.vec: Entry | None = None
        self.count = self.head.count
        self.slots = slots_for(self.head.count)
        self.dim = self.head.model.dim
        self.codebook = self.head.codebook
        self._is_checked = False
        self._sight = Sight()

    def attach(self, vec: Entry, sight: Sight) -> None:
        """Take the vectors from this segment; rows that `sight` does not see are not alive. Raises Damaged."""
        width = rvf.row_dtype(self.dim).itemsize // 4
        self._vectors_at = vec.offset + rvf.HEADER_SIZE + rvf.VEC_HEAD_SIZE
        if self._vectors_at + 4 * width * self.count > vec.offset + vec.size:
            raise damaged(self._path, vec.offset, "vectors of sealed rows cut short")
        floats = np.frombuffer(self._mapping.data, "<f4", width * self.count, self._vectors_at)
        self._vectors = floats.reshape(self.count, width)[:, width - self.dim :]
        self.vec = vec
        self.look(sight)

    def seen(self, sight: Sight) -> SealedPart:
        """Return the same rows, of which others are alive."""
        other = copy(self)
        other.look(sight)
        return other

    def look(self, sight: Sight) -> None:
        """Let only those rows be alive that `sight` sees."""
        self._sight = sight

    def fetch(self) -> None:
        """Have the disk read what every search looks at, without waiting for it."""
        sections = map(self._place, _ALWAYS_READ)
        self._mapping.will_need([(self._at + rvf.HEADER_SIZE + one.offset, one.length) for one in sections])

    # --- what stands in the file ---

    def alive(self) -> NDArray[np.bool_]:
        alive = np.arange(self.slots) < self.count
        if not self._is_whole():
            alive[: self.count] = self._sight.sees(self.rows[: self.count], lambda: self.added_us[: self.count])
        return alive

    def _is_whole(self) -> bool:
        """Whether every row is alive, so that nobody need look which rows there are."""
        return self._sight.sees_all(self.head.first_row, self.head.last_row)

    @property
    def kinds(self) -> Sequence[str]:
        return self.head.kinds

    @property
    def sources(self) -> Sequence[str]:
        return self.head.sources

    @property
    def sessions(self) -> Sequence[str]:
        return self.head.sessions

    @cached_property
    def rows(self) -> NDArray[np.uint64]:
        """Row ids, uint64 [slots]; those that stand beside the vectors when the column does not hold."""
        try:
            return self.column("rows")
        except Damaged:
            rows = np.zeros(self.slots, np.uint64)
            rows[: self.count] = self._sound_rows()["id"]
            return rows

    @cached_property
    def keys(self) -> Keys:
        return self.column("keys").reshape(-1, 2)

    @cached_property
    def time_us(self) -> NDArray[np.int64]:
        return self.column("time_us")

    @cached_property
    def added_us(self) -> NDArray[np.int64]:
        """When each row was added, int64 [slots], microseconds since 1970."""
        return self.column("added_us")

    @cached_property
    def session(self) -> NDArray[np.uint32]:
        return self.column("session")

    @cached_property
    def kind(self) -> NDArray[np.uint8]:
        return self.column("kind")

    @cached_property
    def source(self) -> NDArray[np.uint8]:
        return self.column("source")

    @cached_property
    def codes(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._section("codes"), np.uint8)

    def changes(self) -> Changes:
        """Return what became of trajectories. Raises Damaged."""
        data = self._section("trajectories")
        if not data:
            return Changes()
        try:
            (length,) = _SUM.unpack_from(data)
            return _changes_decoder.decode(unpack(bytes(data[_SUM.size :]), length))
        except (ValueError, struct.error, msgspec.MsgspecError) as error:
            raise damaged(self._path, self._at, "trajectories of sealed rows cannot be decoded") from error

    def ids(self, slots: Slots | None = None) -> list[RecordId]:
        keys = self.keys[: self.count] if slots is None else self.keys[slots]
        raw = keys.astype(">u8").tobytes()
        return [record_of_key(raw[at : at + 16]) for at in range(0, len(raw), 16)]

    def find(self, wanted: Keys) -> Slots:
        wanted = wanted[self._may_be_here(wanted)]
        if not len(wanted):
            return np.empty(0, np.int64)
        keys = self.keys[: self.count]
        # The last 16 bits of an id are random, so few others have them; all rows are looked up in one small table.
        is_wanted = np.zeros(1 << 16, bool)
        is_wanted[_last_bits(wanted)] = True
        slots = np.flatnonzero(is_wanted[_last_bits(keys)])
        if len(slots) > _FEW_SLOTS:
            slots = slots[np.isin(keys[slots, 1], wanted[:, 1])]
        known = set(map(tuple, wanted.tolist()))
        found: Slots = slots[np.array([key in known for key in map(tuple, keys[slots].tolist())], bool)]
        return found

    def _may_be_here(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which of these keys, uint64 [n, 2], the filter does not exclude."""
        places = _places(keys, 8 * len(self._filter))
        bits = self._filter[places >> np.uint64(3)] << (places & np.uint64(7)) & 0x80
        found: NDArray[np.bool_] = (bits != 0).all(axis=0)
        return found

    @cached_property
    def _filter(self) -> NDArray[np.uint8]:
        """A Bloom filter of the keys, with which one in 400 of those that are not here passes.

        So who asks for records that are new, as every commit does, need not look at all keys.
        """
        is_set = np.zeros(1 << max(3, (_BITS_A_ROW * self.count - 1).bit_length()), bool)
        is_set[_places(self.keys[: self.count], len(is_set))] = True
        return np.packbits(is_set)

    def rows_of(self, wanted: Keys) -> list[int]:
        """Return the row ids of those of these records, whose ids are given as numbers, that stand here alive."""
        slots = self.find(wanted)
        rows: list[int] = self.rows[slots[self.alive()[slots]]].tolist() if len(slots) else []
        return rows

    def records(self, slots: Slots | None = None) -> list[bytes]:
        if slots is None:
            slots = np.arange(self.count)
        ends = self._ends  # says how much there is, before any of it is unpacked
        starts, stops = np.where(slots > 0, ends[slots - 1], 0), ends[slots]
        first = self._block_starts
        blocks = np.searchsorted(first, starts, "right") - 1
        if (blocks + 1 >= len(first)).any():
            raise damaged(self._path, self._at, "a record stands behind all blocks of texts")
        if (stops > first[blocks + 1]).any():
            raise damaged(self._path, self._at, "a record reaches into the next block of texts")
        chosen = blocks.tolist()
        if not self._is_checked:
            self._fetch_blocks(chosen)
        records: list[bytes] = []
        text, begin, unpacked = b"", 0, -1
        for block, start, stop in zip(chosen, starts.tolist(), stops.tolist(), strict=True):
            if block != unpacked:
                text, begin, unpacked = self._block(block), int(first[block]), block
            records.append(text[start - begin : stop - begin])
        return records

    def vectors(self, slots: Slots | slice) -> Vectors:
        if isinstance(slots, slice):
            slots = np.arange(*slots.indices(self.slots))
        real = slots[: np.searchsorted(slots, self.count)]
        found = np.ascontiguousarray(self._vectors[_run(real)]) if self._is_checked else self._checked(real)
        if len(real) == len(slots):
            return found
        return np.concatenate([found, np.zeros((len(slots) - len(real), self.dim), np.float32)])

    @property
    def matrix(self) -> Vectors | None:
        return self._matrix if self._is_checked else None

    def check(self) -> None:
        """Read and check everything; afterwards nothing is checked again.

        Texts and vectors are let go: a search looks at few of them.
        """
        if self._is_checked:
            return
        for name in (*_COLUMNS, *_OTHERS[:-1]):
            self._section(name)
        self._may_be_here(np.empty((0, 2), np.uint64))  # what excludes ids is made now, and no commit waits for it
        for block in range(len(self._blocks) - 1):
            self._block(block)
        texts = self.head.sections[-1]
        self._mapping.let_go(self._at + rvf.HEADER_SIZE + texts.offset, texts.length)
        width = rvf.row_dtype(self.dim).itemsize
        for first in range(0, self.count, _CHECKED_ROWS):
            rows = np.arange(first, min(first + _CHECKED_ROWS, self.count))
            place = self._vectors_at + first * width, len(rows) * width
            self._mapping.will_need([place])
            starts = self._starts(rows).tolist()
            self._compare(rows, (self._mapping.data[start : start + 4 * self.dim] for start in starts))
            self._mapping.let_go(*place)
        self._is_checked = True

    # --- reading and checking ---

    def column(self, name: str) -> NDArray[Any]:
        """Return a column as it stands. Raises Damaged."""
        return np.frombuffer(self._section(name), _COLUMNS[name])

    def _place(self, name: str) -> Section:
        return self.head.sections[[*_COLUMNS, *_OTHERS].index(name)]

    def _section(self, name: str) -> memoryview | bytes:
        section = self._place(name)
        if name not in _ALWAYS_READ:  # or the disk would read page by page what is looked at from begin to end
            self._mapping.will_need([(self._at + rvf.HEADER_SIZE + section.offset, section.length)])
        data = self._payload[section.offset : section.offset + section.length]
        if xxhash.xxh3_64_intdigest(data) != section.sum:
            raise damaged(self._path, self._at, f"checksum of {name} fails")
        return data

    @cached_property
    def _sums(self) -> NDArray[np.uint64]:
        try:
            return self.column("sums")
        except Damaged:
            vectors = np.ascontiguousarray(self._sound_rows()["vector"])
            return np.array([xxhash.xxh3_64_intdigest(vector) for vector in vectors], np.uint64)

    def _sound_rows(self) -> NDArray[np.void]:
        """Return all rows of the vector segment, whose content hash holds. Raises Damaged."""
        if self.vec is None:
            raise damaged(self._path, self._at, "sealed rows without their vectors")
        start = self.vec.offset + rvf.HEADER_SIZE
        payload = self._mapping.data[start : start + self.vec.length]
        if rvf.content_hash(payload) != self.head.vec_hash:
            raise damaged(self._path, self.vec.offset, "content hash fails")
        return np.frombuffer(payload, rvf.row_dtype(self.dim), self.count, rvf.VEC_HEAD_SIZE)

    @cached_property
    def _ends(self) -> NDArray[np.uint32]:
        ends = self.column("ends")[: self.count]
        if (ends[:-1] > ends[1:]).any() or int(ends[-1]) != self.head.text_bytes:
            raise damaged(self._path, self._at, "ends of records out of order")
        return ends

    @cached_property
    def _blocks(self) -> NDArray[np.void]:
        data = self._section("blocks")
        texts = self.head.sections[-1]
        if not len(data) or len(data) % _TEXT_BLOCK.itemsize:
            raise damaged(self._path, self._at, "directory of texts cut short")
        blocks = np.frombuffer(data, _TEXT_BLOCK)
        is_ordered = all((blocks[name][:-1] <= blocks[name][1:]).all() for name in ("plain", "packed"))
        bounds = [(int(blocks[name][0]), int(blocks[name][-1])) for name in ("plain", "packed")]
        if not is_ordered or bounds != [(0, self.head.text_bytes), (0, texts.length)]:
            raise damaged(self._path, self._at, "directory of texts out of order")
        return blocks

    @cached_property
    def _block_starts(self) -> NDArray[np.uint64]:
        """Where each block begins before packing, side by side: numpy would copy them together for every search."""
        return np.ascontiguousarray(self._blocks["plain"])

    def _block(self, block: int) -> bytes:
        """Return a block of texts."""
        plain, start, total = self._blocks[block].item()
        plain_end, end, _ = self._blocks[block + 1].item()
        start += self.head.sections[-1].offset
        end += self.head.sections[-1].offset
        at = self._at + rvf.HEADER_SIZE + start
        if isinstance(self._payload, bytes):  # unmasked already
            packed = self._payload[start:end]
        else:  # a look at the pages themselves would keep them in memory
            (packed,) = self._mapping.copy([(at, end - start)])
        if xxhash.xxh3_64_intdigest(packed) != total:
            raise damaged(self._path, at, "checksum of texts fails")
        try:
            return unpack(packed, plain_end - plain)
        except ValueError as error:
            raise damaged(self._path, at, str(error)) from error

    def _fetch_blocks(self, blocks: Sequence[int]) -> None:
        """Have the disk read these blocks together, like rows."""
        texts = self._at + rvf.HEADER_SIZE + self.head.sections[-1].offset
        chosen = list(dict.fromkeys(blocks))[:_FETCHED]
        starts, ends = (self._blocks["packed"][np.array(chosen, int) + after].tolist() for after in (0, 1))
        self._mapping.will_need([(texts + start, end - start) for start, end in zip(starts, ends, strict=True)])

    def _checked(self, rows: Slots) -> Vectors:
        """Return a copy of these rows, float32 [m, dim]. Raises Damaged."""
        run = _run(rows)
        if isinstance(run, slice) or len(rows) > _FETCHED:
            if isinstance(run, slice):
                width = rvf.row_dtype(self.dim).itemsize
                self._mapping.will_need([(self._vectors_at + run.start * width, len(rows) * width)])
            found: Vectors = np.ascontiguousarray(self._vectors[run])
            self._compare(rows, found)
            return found
        size = 4 * self.dim
        places = [(start, size) for start in self._starts(rows).tolist()]
        self._mapping.will_need(places)  # otherwise the disk would read one after the other
        copies = self._mapping.copy(places)
        self._compare(rows, copies)
        return np.frombuffer(b"".join(copies), "<f4").reshape(-1, self.dim)

    def _starts(self, rows: Slots) -> Slots:
        """Return where in the file the vectors of these rows begin."""
        width = rvf.row_dtype(self.dim).itemsize
        return self._vectors_at + width - 4 * self.dim + width * rows

    @cached_property
    def _matrix(self) -> Vectors | None:
        """All rows from the first number of the first vector on: behind each stands the id of the next row."""
        width = rvf.row_dtype(self.dim).itemsize // 4
        first = int(self._starts(np.zeros(1, np.int64))[0])
        if self.head.last_row >= _LEAST_INFINITE or first + 4 * width * self.count > len(self._mapping.data):
            return None
        rows = np.frombuffer(self._mapping.data, "<f4", width * self.count, first).reshape(self.count, width)
        return rows if np.isfinite(rows[-1, self.dim :]).all() else None

    def _compare(self, rows: Slots, vectors: Iterable[Any]) -> None:
        """Raise Damaged unless each of these vectors is the one that was written."""
        for row, total, vector in zip(rows.tolist(), self._sums[rows].tolist(), vectors, strict=True):
            if xxhash.xxh3_64_intdigest(vector) != total:
                raise damaged(
                    self._path, self._vectors_at, f"checksum of the vector of row {int(self.rows[row])} fails"
                )


def _run(rows: Slots) -> Slots | slice:
    """Return rows that follow each other as a slice, which is fetched and copied at once; others as they are."""
    if not len(rows) or rows[-1] - rows[0] >= len(rows):
        return rows
    return slice(int(rows[0]), int(rows[-1]) + 1)
