"""Sealed rows by themselves: what comes back, what is noticed when a byte is wrong, and what a forged head can do."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol.errors import Damaged
from memoryd.protocol.ids import RecordId, TrajectoryId, record_of_key
from memoryd.protocol.interfaces import ModelInfo
from memoryd.protocol.keys import keys_of
from memoryd.protocol.records import MemoryKind, MemoryRecord, MemorySource, microseconds
from memoryd.rvf import format as rvf
from memoryd.rvf import sealed as sealed_module
from memoryd.rvf.reader import Entry
from memoryd.rvf.records import (
    HEAD,
    MAX_BODY,
    encode_record,
    encode_trajectory,
    mask_for,
    masked,
    pack,
    unpack_head,
)
from memoryd.rvf.sealed import (
    Changes,
    Head,
    Rows,
    SealedPart,
    Section,
    Span,
    agrees,
    pack_sealed,
    read_head,
    slots_for,
)
from memoryd.rvf.sight import Sight
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import CODED, COLUMNS, MODEL, NOON, SECTIONS, codebook, record, record_id, trajectory, units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memoryd.files import Mapping

PATH = Path("/data/alice/memory.rvf")
RUNS = Changes([TrajectoryId("run 9")], [encode_trajectory(trajectory(1, quality=0.5))], [9], [4], [6])


@dataclass(frozen=True)
class Written:
    """What was sealed, and the two payloads it became."""

    rows: Rows
    records: list[MemoryRecord]
    payload: bytes
    vec: bytes
    changes: Changes

    @property
    def head(self) -> Head:
        return read_head(memoryview(self.payload))[0]


def written(
    records: Sequence[MemoryRecord],
    model: ModelInfo = MODEL,
    changes: Changes = RUNS,
    ids: Sequence[int] | None = None,
) -> Written:
    numbers = range(5, 5 + 2 * len(records), 2) if ids is None else ids
    rows = Rows(
        np.array(numbers, np.uint64),
        [encode_record(one) for one in records],
        units(len(records), model.dim, seed=3),
        np.arange(len(records)) * 1_000,
    )
    vec = rvf.pack_vec(rows.ids, rows.vectors)
    book = codebook() if model == CODED else None
    payload = pack_sealed(Span(4, 7, 9, model), rows, vec, changes, book)
    return Written(rows, list(records), payload, vec, changes)


def mapped(payload: bytes, vec: bytes, behind: bytes = b"") -> tuple[Mapping, Entry, Entry]:
    """Return a mapped file of these two segments, and what stands behind them."""
    first = rvf.pack_segment(rvf.PRIVATE, 1, payload)
    disk = FaultDisk()
    disk.put(PATH, first + rvf.pack_segment(rvf.VEC, 2, vec) + behind)
    entries = Entry(1, 0, len(payload), rvf.PRIVATE), Entry(2, len(first), len(vec), rvf.VEC)
    return disk.open(PATH, writable=False).map(), *entries


def part_of(payload: bytes, vec: bytes, dead: Sequence[int] = ()) -> SealedPart:
    mapping, private, entry = mapped(payload, vec)
    part = SealedPart(PATH, mapping, private)
    part.attach(entry, Sight(np.array(dead, np.uint64)))
    return part


def ours(what: Written, dead: Sequence[int] = ()) -> SealedPart:
    return part_of(what.payload, what.vec, dead)


def record_in(part: SealedPart, slot: int) -> bytes:
    (record,) = part.records(np.array([slot]))
    return record


def everything(part: SealedPart) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each thing that can be asked of sealed rows."""
    for name in COLUMNS:
        yield name, lambda name=name: part.column(name).tobytes()
    yield "codes", lambda: bytes(part.codes)
    yield "ids", part.ids
    yield "alive", lambda: part.alive().tolist()
    yield "changes", part.changes
    for slot in range(part.count):
        yield f"record {slot}", lambda slot=slot: record_in(part, slot)
        yield f"vector {slot}", lambda slot=slot: part.vectors(np.array([slot])).tobytes()
    yield "records", part.records
    yield "vectors", lambda: part.vectors(slice(0, part.slots)).tobytes()
    yield "names", lambda: (part.kinds, part.sources, part.sessions)
    yield "find", lambda: part.find(keys_of([record_id(number) for number in range(9)])).tolist()
    yield "check", part.check
    yield "vectors again", lambda: part.vectors(slice(0, part.slots)).tobytes()


def answers(payload: bytes, vec: bytes) -> dict[str, object]:
    """Return what sealed rows say to everything; what is damaged is left out. Any other error is one of ours."""
    found: dict[str, object] = {}
    with suppress(Damaged):
        for name, ask in everything(part_of(payload, vec)):
            with suppress(Damaged):
                found[name] = ask()
    return found


# --- what comes back ---

LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - bounds without a zone are what it takes


@st.composite
def some_records(draw: st.DrawFn) -> list[MemoryRecord]:
    """Return records of which a few differ in everything, around the sizes of a group."""
    count = draw(st.sampled_from([1, 2, 31, 32, 33, 64, 65]))
    texts = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300), min_size=1))
    sessions = draw(st.lists(LABELS, min_size=1, max_size=5))
    moments = draw(st.lists(MOMENTS, min_size=1, max_size=5))
    kinds = draw(st.lists(st.sampled_from(MemoryKind), min_size=1, max_size=5))
    sources = draw(st.lists(st.sampled_from(MemorySource), min_size=1, max_size=5))
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    keys = {b"\x7f" * 16, bytes(16), *(bytes([chance.integers(128), *chance.bytes(15)]) for _ in range(count))}
    return [
        MemoryRecord(
            id=record_of_key(key),
            text=texts[n % len(texts)],
            kind=kinds[n % len(kinds)],
            source=sources[n % len(sources)],
            timestamp=moments[n % len(moments)],
            session_id=sessions[n % len(sessions)],
            metadata={"n": n} if n % 2 else {},
        )
        for n, key in enumerate(sorted(keys, key=hash)[:count])
    ]


@settings(deadline=None, max_examples=60)
@given(some_records(), st.sampled_from([MODEL, CODED]), st.sampled_from([RUNS, Changes()]), st.data())
def test_what_is_sealed_comes_back(
    records: list[MemoryRecord], model: ModelInfo, changes: Changes, data: st.DataObject
) -> None:
    what = written(records, model, changes)
    count, slots = len(records), -(-len(records) // 32) * 32
    dead = data.draw(st.sets(st.sampled_from(what.rows.ids.tolist()), max_size=3))

    part = ours(what, sorted(dead | {4, 1 << 40}))

    assert rvf.MAGIC not in what.payload
    assert (part.count, part.slots, part.dim) == (count, slots, model.dim)
    assert (part.head.generation, part.head.first, part.head.number, part.head.model) == (4, 7, 9, model)
    assert part.rows.tolist() == what.rows.ids.tolist() + [0] * (slots - count)
    assert part.alive().tolist() == [row not in dead for row in what.rows.ids.tolist()] + [False] * (slots - count)
    assert list(part.ids()) == [one.id for one in records]
    assert part.time_us[:count].tolist() == [microseconds(one.timestamp) for one in records]
    assert [part.kinds[number] for number in part.kind[:count]] == [one.kind for one in records]
    assert [part.sources[number] for number in part.source[:count]] == [one.source for one in records]
    assert [part.sessions[number] for number in part.session[:count]] == [one.session_id for one in records]
    assert [record_in(part, slot) for slot in range(count)] == part.records() == list(what.rows.records)
    assert part.changes() == what.changes
    padded = np.concatenate([what.rows.vectors, np.zeros((slots - count, model.dim), np.float32)])
    assert part.vectors(slice(0, slots)).tobytes() == padded.tobytes()
    chosen = np.flatnonzero(np.random.default_rng(count).random(slots) < 0.4)
    assert part.vectors(chosen).tobytes() == padded[chosen].tobytes()
    assert part.codes.tobytes() == (codebook().encode(padded) if model == CODED else b"")
    assert part.codebook == (codebook().sha256 if model == CODED else "")
    part.check()
    assert agrees(part, part.records())
    assert part.vectors(chosen).tobytes() == padded[chosen].tobytes()


@pytest.mark.parametrize(("count", "slots"), [(1, 32), (31, 32), (32, 32), (33, 64), (64, 64), (65, 96)])
def test_slots_come_in_groups(count: int, slots: int) -> None:
    assert slots_for(count) == slots


def test_many_texts_stand_in_several_blocks_and_long_ones_in_one() -> None:
    chance = np.random.default_rng(5)
    lengths = [0, 9_000, 1, 70_000, 3, *chance.integers(0, 3_000, 40).tolist()]
    records = [record(n, text=chance.bytes(length // 2).hex() + "x") for n, length in enumerate(lengths)]

    part = ours(written(records))

    assert part.head.sections[-2].length > 24 * 8
    assert [record_in(part, slot) for slot in range(part.count)] == [encode_record(one) for one in records]
    assert part.records() == [encode_record(one) for one in records]


def test_sections_stand_where_numbers_are_read_quickest() -> None:
    what = written([record(n) for n in range(40)], CODED)

    assert all((section.offset + rvf.HEADER_SIZE) % 64 == 0 for section in what.head.sections)
    # Two bytes behind a multiple of 64 the vectors of the segment that follows begin at a multiple of 4.
    assert (rvf.HEADER_SIZE + len(what.payload)) % 64 == 2


def test_records_are_found_by_their_ids_and_their_rows_while_they_are_alive() -> None:
    part = ours(written([record(n) for n in (3, 1, 4, 15, 9)], ids=[10, 20, 30, 40, 50]), dead=[20])

    assert part.find(keys_of([record_id(n) for n in (9, 1, 7, 4)])).tolist() == [1, 2, 4]
    assert part.rows_of(keys_of([record_id(15), record_id(1), record_id(1)])) == [40]
    assert part.find(keys_of([])).tolist() == []
    assert part.find(keys_of([RecordId("no ulid"), RecordId("")])).tolist() == []
    assert part.find(keys_of([RecordId("no ulid"), record_id(3)])).tolist() == [0]
    assert part.rows_of(keys_of([record_id(0)])) == []  # what the empty slots hold


def test_ids_that_differ_in_one_half_only_are_told_apart() -> None:
    keys = [bytes([high, *[0] * 14, low]) for high in (1, 2) for low in (1, 2)]
    part = ours(written([record(n, id=record_of_key(key)) for n, key in enumerate(keys)]))

    for slot, key in enumerate(keys):
        assert part.find(keys_of([record_of_key(key)])).tolist() == [slot]
    assert part.find(keys_of([record_of_key(bytes([1, *[0] * 14, 3]))])).tolist() == []
    # The halves of two wanted ids, put together crosswise, are a third one.
    crossed = ours(written([record(0, id=record_of_key(bytes([1, *[0] * 14, 2])))]))
    assert crossed.find(keys_of([record_of_key(keys[0]), record_of_key(keys[3])])).tolist() == []


# --- what must not look like a segment ---

MAGIC_MOMENT = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int.from_bytes(b"\0\0SFVR\5\0", "little"))


@pytest.mark.parametrize(
    ("fields", "ids", "mask"),
    [
        ({"session_id": "SFVR"}, [1], 1),
        ({"session_id": "SFVR and RGWS"}, [1], 2),
        ({"session_id": "SFVR RGWS QDTP"}, [1], 3),
        ({"timestamp": MAGIC_MOMENT}, [1], 1),
        ({"id": record_of_key(bytes(8) + b"\0RVFS\0\0\0")}, [1], 1),
        ({}, [int.from_bytes(b"SFVR", "little")], 1),
    ],
)
def test_what_would_look_like_a_segment_is_masked_and_comes_back(
    fields: dict[str, object], ids: list[int], mask: int
) -> None:
    what = written([record(1, None, **fields)], CODED, ids=ids)

    part = ours(what)

    assert rvf.MAGIC not in what.payload
    assert unpack_head(what.payload)[1] == mask
    part.check()
    assert part.ids() == [what.records[0].id]
    assert part.rows_of(keys_of([what.records[0].id])) == ids
    assert part.time_us[0] == microseconds(what.records[0].timestamp)
    assert (part.sessions, record_in(part, 0)) == ([what.records[0].session_id], what.rows.records[0])
    assert part.vectors(slice(0, 1)).tobytes() == what.rows.vectors.tobytes()
    assert part.codes.tobytes() == ours(written([record(1)], CODED)).codes.tobytes()
    assert part.changes() == RUNS


# --- what is noticed ---


def assert_never_wrong(what: Written, payload: bytes, vec: bytes, told: dict[str, object], where: int) -> None:
    """Whatever such sealed rows say must be what was written; what they pass as whole must be whole."""
    said = answers(payload, vec)
    wrong = [name for name, answer in said.items() if answer != told[name]]
    assert wrong == [], f"byte {where}"
    assert "check" not in said or said == told, f"byte {where} is broken, and a check does not find it"


@pytest.mark.parametrize("session", ["session", "SFVR"])
def test_no_byte_can_change_without_being_noticed_or_doing_no_harm(session: str) -> None:
    what = written([record(n, session_id=session) for n in range(3)], CODED)
    told = answers(what.payload, what.vec)
    assert len(told) == len(list(everything(ours(what))))
    noise = np.random.default_rng(8)
    harmless = 0

    for at in range(len(what.payload)):
        broken = bytearray(what.payload)
        broken[at] ^= int(noise.integers(1, 256))
        assert_never_wrong(what, bytes(broken), what.vec, told, at)
        with suppress(Damaged):
            part_of(bytes(broken), what.vec).check()
            harmless += 1

    room = len(what.payload) - sum(section.length for section in what.head.sections)
    assert harmless < room


def test_no_byte_of_a_vector_can_change_without_being_noticed() -> None:
    what = written([record(n) for n in range(3)])
    told = answers(what.payload, what.vec)
    row = rvf.row_dtype(MODEL.dim).itemsize

    for at in range(len(what.vec)):
        broken = bytearray(what.vec)
        broken[at] ^= 1 + at % 255
        assert_never_wrong(what, what.payload, bytes(broken), told, at)
        is_number = at >= rvf.VEC_HEAD_SIZE and (at - rvf.VEC_HEAD_SIZE) % row >= 8
        assert ("vectors" in answers(what.payload, bytes(broken))) != is_number


def test_what_is_cut_short_is_noticed_at_every_length() -> None:
    what = written([record(n) for n in range(3)], CODED)
    told = answers(what.payload, what.vec)
    texts = what.head.sections[-1]

    for length in range(len(what.payload)):
        assert_never_wrong(what, what.payload[:length], what.vec, told, length)
        if length < texts.offset + texts.length:
            with pytest.raises(Damaged):
                part_of(what.payload[:length], what.vec)


def test_vectors_that_are_cut_short_are_noticed_at_every_length() -> None:
    what = written([record(n) for n in range(3)])

    for length in range(len(what.vec)):
        with pytest.raises(Damaged, match="vectors of sealed rows cut short"):
            part_of(what.payload, what.vec[:length])


def test_damage_is_told_when_it_is_touched_and_not_before() -> None:
    records = [record(n, text=np.random.default_rng(n).bytes(3_000).hex()) for n in range(10)]
    what = written(records, CODED)
    texts, times = what.head.sections[-1], what.head.sections[COLUMNS.index("time_us")]
    broken = bytearray(what.payload)
    broken[texts.offset + texts.length - 1] ^= 1
    broken[times.offset] ^= 1
    vec = bytearray(what.vec)
    vec[-1] ^= 1

    part = part_of(bytes(broken), bytes(vec))

    assert record_in(part, 0) == what.rows.records[0]
    assert part.ids() == [one.id for one in records]
    assert part.vectors(np.arange(9)).tobytes() == what.rows.vectors[:9].tobytes()
    for ask, reason in (
        (lambda: record_in(part, 9), "checksum of texts fails"),
        (lambda: part.time_us, "checksum of time_us fails"),
        (lambda: part.vectors(np.arange(10)), "checksum of the vector of row 23 fails"),
        (part.check, "checksum of time_us fails"),
        (part.records, "checksum of texts fails"),
    ):
        with pytest.raises(Damaged, match=reason) as told:
            ask()
        assert told.value.hint == "memoryd verify --user alice"
    assert record_in(part, 0) == what.rows.records[0]


def test_the_place_of_a_damaged_text_is_told() -> None:
    what = written([record(n, text=np.random.default_rng(n).bytes(3_000).hex()) for n in range(10)])
    texts = what.head.sections[-1]
    broken = bytearray(what.payload)
    broken[texts.offset] ^= 1

    with pytest.raises(Damaged) as told:
        record_in(part_of(bytes(broken), what.vec), 0)

    assert told.value.details["offset"] == rvf.HEADER_SIZE + texts.offset


@pytest.mark.parametrize("last", [5 + 2 * 39, 0x7F7F_FFFF, 0x7F80_0000, 0x7FC0_0001, 1 << 40])
def test_rows_are_looked_at_where_they_stand_when_what_stands_between_them_is_a_number(last: int) -> None:
    what = written([record(n) for n in range(40)], CODED, ids=[*range(39), last])
    mapping, private, vec = mapped(what.payload, what.vec, rvf.pack_segment(rvf.PRIVATE, 3, b"a manifest"))
    part = SealedPart(PATH, mapping, private)
    part.attach(vec, Sight())
    assert part.matrix is None

    part.check()

    if last >= 0x7F80_0000:
        assert part.matrix is None
    else:
        assert part.matrix is not None
        np.testing.assert_array_equal(part.matrix[:, : part.dim], what.rows.vectors)
        assert np.isfinite(part.matrix).all()


@pytest.mark.parametrize(
    ("sight", "alive", "is_looked_at"),
    [
        (Sight(), 40, False),
        (Sight(np.array([3, 4, 84, 200], np.uint64)), 40, False),
        (Sight(np.array([3, 9, 83], np.uint64)), 38, True),
        (Sight(below=84), 40, False),
        (Sight(below=83), 39, True),
        (Sight(until_us=5_000), 6, True),
    ],
)
def test_which_rows_there_are_is_looked_at_only_when_some_are_not_seen(
    sight: Sight, alive: int, *, is_looked_at: bool
) -> None:
    part = ours(written([record(n) for n in range(40)], CODED))  # rows 5 to 83

    part.look(sight)

    assert np.count_nonzero(part.alive()) == alive
    assert part.alive()[40:].any() is np.False_
    assert ("rows" in vars(part)) is is_looked_at


@pytest.mark.parametrize("behind", [b"", bytes(7), b"\xff" * 8])
def test_rows_at_the_end_of_a_file_or_before_what_is_no_number_are_copied(behind: bytes) -> None:
    what = written([record(n) for n in range(40)], CODED)
    mapping, private, vec = mapped(what.payload, what.vec)
    end = vec.offset + rvf.HEADER_SIZE + len(what.vec)
    mapping.data = memoryview(bytes(mapping.data[:end]) + behind)
    part = SealedPart(PATH, mapping, private)
    part.attach(vec, Sight())
    part.check()

    assert part.matrix is None
    np.testing.assert_array_equal(part.vectors(np.arange(40)), what.rows.vectors)


def test_what_was_checked_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    part = ours(written([record(n) for n in range(40)], CODED))
    sums: list[int] = []

    def counted(data: object) -> int:
        sums.append(1)
        return xxhash.xxh3_64_intdigest(cast("bytes", data))

    class Counting:
        xxh3_64_intdigest = staticmethod(counted)

    monkeypatch.setattr(sealed_module, "xxhash", Counting)

    assert part.kind is part.kind
    assert len(sums) == 1
    part.vectors(np.arange(5))
    assert len(sums) == 1 + 1 + 5  # the column of sums, and five vectors
    part.check()
    after = len(sums)
    part.vectors(slice(0, 40))
    assert (part.kind, part.codes, part.time_us) is not None
    assert len(sums) <= after + 2  # columns nobody had looked at


# --- what somebody made to mislead ---


def forged(what: Written, change: Callable[[Head], Head], sections: dict[str, bytes] | None = None) -> bytes:
    """Return the payload with another head, and other sections, all sums being right."""
    head, mask = read_head(memoryview(what.payload))
    assert mask == 0
    payload, placed = bytearray(what.payload), list(head.sections)
    for name, content in (sections or {}).items():
        at = len(payload)
        payload += content
        placed[SECTIONS.index(name)] = Section(
            at, len(content), 0 if name == "texts" else xxhash.xxh3_64_intdigest(content)
        )
    packed = msgspec.msgpack.encode(change(msgspec.structs.replace(head, sections=placed)))
    start = min(section.offset for section in head.sections)
    body = struct.pack("<Q", xxhash.xxh3_64_intdigest(packed)) + packed
    assert HEAD.size + len(body) <= start
    payload[HEAD.size : HEAD.size + len(body)] = body
    mask = mask_for(bytes(payload[HEAD.size :]))
    return HEAD.pack(b"MEMD", 3, 3, mask, len(packed)) + masked(bytes(payload[HEAD.size :]), mask)


def with_section(name: str, **fields: int) -> Callable[[Head], Head]:
    """Return a change of where a section stands."""

    def change(head: Head) -> Head:
        sections = list(head.sections)
        sections[SECTIONS.index(name)] = msgspec.structs.replace(sections[SECTIONS.index(name)], **fields)
        return msgspec.structs.replace(head, sections=sections)

    return change


def with_fields(**fields: object) -> Callable[[Head], Head]:
    return lambda head: msgspec.structs.replace(head, **fields)


@pytest.fixture
def three() -> Written:
    return written([record(n) for n in range(3)])


def test_a_head_that_is_only_written_again_is_believed(three: Written) -> None:
    assert answers(forged(three, lambda head: head), three.vec) == answers(three.payload, three.vec)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_fields(count=0), "impossible numbers"),
        (with_fields(count=-1), "impossible numbers"),
        (with_fields(count=1 << 62), "impossible numbers"),
        (with_fields(count=1 << 62, last_row=1 << 63), "another length"),
        (with_fields(count=33, last_row=99), "another length"),
        (with_fields(last_row=-1), "impossible numbers"),
        (with_fields(last_row=1), "impossible numbers"),
        (with_fields(first=8, number=7), "impossible numbers"),
        (with_fields(first=-1), "impossible numbers"),
        (with_fields(sections=[]), "other sections"),
        (with_fields(codebook="ab"), "column of sealed rows of another length"),
        (lambda head: msgspec.structs.replace(head, sections=head.sections[:-1]), "other sections"),
        (with_section("keys", offset=1 << 62), "outside of their segment"),
        (with_section("keys", offset=-64), "outside of their segment"),
        (with_section("texts", length=1 << 62), "outside of their segment"),
        (with_section("texts", length=-1), "outside of their segment"),
        (with_section("texts", offset=(1 << 64) - 1, length=1), "outside of their segment"),
        (with_section("rows", length=0), "column of sealed rows of another length"),
        (with_section("session", length=8), "column of sealed rows of another length"),
    ],
)
def test_a_head_that_cannot_be_true_is_refused(three: Written, change: Callable[[Head], Head], reason: str) -> None:
    payload = forged(three, change)
    mapping, private, _ = mapped(payload, three.vec)

    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match=reason):
            SealedPart(PATH, mapping, private)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dim", [0, -1, 7, 9, 1 << 20, 1 << 40])
def test_a_head_of_another_dimension_is_refused(three: Written, dim: int) -> None:
    other = ModelInfo(MODEL.name, dim, MODEL.sha256)

    with pytest.raises(Damaged):
        part_of(forged(three, with_fields(model=other)), three.vec).check()


@pytest.mark.parametrize(
    "change",
    [
        with_fields(text_bytes=0),
        with_fields(text_bytes=1 << 62),
        with_fields(text_bytes=-1),
        with_section("blocks", length=0),
        with_section("blocks", length=25),
        with_section("texts", length=0),
        with_section("texts", offset=0),
        with_section("trajectories", offset=0),
        with_section("trajectories", length=3),
        with_section("sums", sum=0),
    ],
)
def test_a_head_that_is_wrong_about_its_sections_is_noticed_in_use(
    three: Written, change: Callable[[Head], Head]
) -> None:
    told = answers(three.payload, three.vec)

    tracemalloc.start()
    said = answers(forged(three, change), three.vec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(said) < len(told)
    assert all(answer == told[name] for name, answer in said.items())
    assert peak < 4 << 20


def directory(*lines: tuple[int, int, int]) -> bytes:
    """Return a directory of texts: where each begins before and behind packing, and its sum."""
    return np.array(list(lines), [("plain", "<u8"), ("packed", "<u8"), ("sum", "<u8")]).tobytes()


def frame_that_says(length: int) -> bytes:
    """Return a frame of nothing that claims to unpack to so many bytes."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(1 << 17)))
    at = frame.index((1 << 17).to_bytes(4, "little"))
    frame[at : at + 4] = length.to_bytes(4, "little")
    assert zstandard.frame_content_size(bytes(frame)) == length
    return bytes(frame)


@pytest.mark.parametrize(
    "says",
    [
        (pack(bytes(1 << 24)), 300),  # a bomb that tells the truth, in a directory that does not
        (frame_that_says(300), 300),  # a bomb that lies, in a directory that believes it
        (frame_that_says(MAX_BODY + 1), MAX_BODY + 1),
        (frame_that_says((1 << 32) - 1), (1 << 32) - 1),
        (b"", 300),
        (b"no frame", 300),
    ],
)
def test_texts_that_unpack_to_more_than_was_said_are_not_unpacked(three: Written, says: tuple[bytes, int]) -> None:
    packed, plain = says
    lines = directory((0, 0, xxhash.xxh3_64_intdigest(packed)), (plain, len(packed), 0))
    ends = np.zeros(32, "<u4")
    ends[:3] = [10, 20, min(plain, (1 << 32) - 1)]
    payload = forged(three, with_fields(text_bytes=plain), {"blocks": lines, "texts": packed, "ends": ends.tobytes()})
    part = part_of(payload, three.vec)

    tracemalloc.start()
    try:
        for ask in (part.records, part.check, lambda: record_in(part, 0), lambda: record_in(part, 2)):
            with pytest.raises(Damaged):
                ask()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "lines",
    [
        [(0, 0, 0), (400, 10, 0), (300, 20, 0)],
        [(0, 10, 0), (300, 0, 0)],
        [(0, 0, 0), (1 << 63, 0, 0)],
        [(0, 0, 0), (300, (1 << 64) - 1, 0)],
        [(0, 0, 0)],
    ],
)
def test_a_directory_of_texts_out_of_order_is_noticed(three: Written, lines: list[tuple[int, int, int]]) -> None:
    part = part_of(forged(three, lambda head: head, {"blocks": directory(*lines)}), three.vec)

    for ask in (part.records, part.check, lambda: record_in(part, 0), lambda: record_in(part, 2)):
        with pytest.raises(Damaged, match="directory of texts out of order"):
            ask()


@pytest.mark.parametrize("first", [1, 10_000])
def test_a_directory_that_does_not_begin_with_the_first_text_is_noticed(three: Written, first: int) -> None:
    old = three.head
    last = (old.text_bytes, old.sections[-1].length, 0)
    lines = directory((min(first, old.text_bytes), 0, 0), last)

    with pytest.raises(Damaged):
        record_in(part_of(forged(three, lambda head: head, {"blocks": lines}), three.vec), 0)


def test_a_record_behind_all_blocks_is_noticed(three: Written) -> None:
    column = np.zeros(32, "<u4")
    column[:3] = [10, three.head.text_bytes, three.head.text_bytes]
    part = part_of(forged(three, lambda head: head, {"ends": column.tobytes()}), three.vec)

    with pytest.raises(Damaged, match="behind all blocks"):
        part.records()


@pytest.mark.parametrize("ends", [[200, 100, 300], [0, 0, 0], [1, 2, (1 << 32) - 1]])
def test_ends_of_records_out_of_order_are_noticed(three: Written, ends: list[int]) -> None:
    column = np.zeros(32, "<u4")
    column[:3] = ends

    part = part_of(forged(three, lambda head: head, {"ends": column.tobytes()}), three.vec)

    for slot in range(3):
        with pytest.raises(Damaged, match="ends of records out of order"):
            record_in(part, slot)


def test_many_blocks_that_are_bombs_together_are_not_all_unpacked(three: Written) -> None:
    """Each block may be long; all of them together may not be longer than the ends of records tell."""
    bomb = pack(bytes(1 << 20))
    total, count = xxhash.xxh3_64_intdigest(bomb), 64
    lines = directory(*((n << 20, n * len(bomb), total) for n in range(count)), (count << 20, count * len(bomb), 0))
    payload = forged(three, with_fields(text_bytes=count << 20), {"blocks": lines, "texts": count * bomb})
    part = part_of(payload, three.vec)

    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match="ends of records out of order"):
            part.records()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "packed",
    [
        b"short",
        struct.pack("<Q", 1 << 63) + pack(b"x"),
        struct.pack("<Q", 1) + pack(b"\xc1"),
        struct.pack("<Q", 1 << 24) + pack(bytes(1 << 20)),
        struct.pack("<Q", 3) + b"no frame",
    ],
)
def test_trajectories_that_cannot_be_read_are_noticed(three: Written, packed: bytes) -> None:
    part = part_of(forged(three, lambda head: head, {"trajectories": packed}), three.vec)

    with pytest.raises(Damaged, match="trajectories of sealed rows cannot be decoded"):
        part.changes()
    assert record_in(part, 2) == three.rows.records[2]


@pytest.mark.parametrize("name", ["keys", "time_us", "session", "kind", "source"])
def test_columns_that_say_other_than_the_records_are_told_apart(name: str) -> None:
    what = written([record(n) for n in range(3)])
    column = bytearray(ours(what).column(name).tobytes())
    column[0] ^= 1

    part = part_of(forged(what, lambda head: head, {name: bytes(column)}), what.vec)

    part.check()
    assert not agrees(part, part.records())
    assert agrees(ours(what), ours(what).records())


@pytest.mark.parametrize("names", [{"kinds": ["x"]}, {"sources": []}, {"sessions": ["a", "b", "c"]}])
def test_names_that_say_other_than_the_records_are_told_apart(three: Written, names: dict[str, object]) -> None:
    part = part_of(forged(three, with_fields(**names)), three.vec)

    assert not agrees(part, part.records())


def test_a_head_that_is_none_is_refused(three: Written) -> None:
    for content in (b"\xc1", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode({"count": 3})):
        body = struct.pack("<Q", xxhash.xxh3_64_intdigest(content)) + content
        payload = HEAD.pack(b"MEMD", 3, 3, 0, len(content)) + body
        with pytest.raises(Damaged, match="head of sealed rows cannot be decoded"):
            part_of(payload, three.vec)


def test_a_head_longer_than_its_segment_is_refused(three: Written) -> None:
    payload = three.payload[:8] + b"\xff\xff\xff\xff" + three.payload[12:]

    with pytest.raises(Damaged, match="head of sealed rows cut short"):
        part_of(payload, three.vec)


def test_noon_is_what_columns_count_from_1970() -> None:
    assert ours(written([record(0)])).time_us[0] == NOON.timestamp() * 1e6
