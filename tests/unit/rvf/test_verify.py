from __future__ import annotations

import struct
from dataclasses import replace
from zlib import crc32

import msgspec
import numpy as np
import pytest
import xxhash

from memoryd.protocol.interfaces import Batch, ModelInfo
from memoryd.rvf import format as rvf
from memoryd.rvf.reader import find_state
from memoryd.rvf.records import HEAD, encode_record, pack_body, unpack_body
from memoryd.rvf.sealed import SealedPart, Section
from memoryd.rvf.snapshot import read_snapshot
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import (
    COLUMNS,
    FILE,
    MODEL,
    ROOT,
    USER,
    body,
    entries,
    record,
    record_id,
    store,
    trajectory,
    units,
)


def sound() -> FaultDisk:
    disk = FaultDisk()
    disk.put(ROOT)
    memory = store(disk).open(USER).file
    memory.commit(Batch(entries=entries([1, 2])))
    memory.commit(Batch(entries=entries([3]), deleted=[record_id(1)]))
    memory.close()
    return disk


def said(disk: FaultDisk, model: ModelInfo = MODEL) -> list[str]:
    """Return what is found wrong; looking changes nothing."""
    before = disk.content(FILE)
    found = [finding.what for finding in store(disk, model=model).verify(USER)]
    assert disk.content(FILE) == before
    return found


def rewritten(disk: FaultDisk, vectors: rvf.Vectors, ids: list[int], **fields: object) -> FaultDisk:
    """Let another program put one VEC segment and a manifest of its own behind ours."""
    file = disk.open(FILE, writable=True)
    state = find_state(file, FILE)
    vec = rvf.pack_segment(rvf.VEC, 90, rvf.pack_vec(np.array(ids, np.uint64), vectors))
    kept = [(e.id, e.offset, e.length, e.type) for e in state.of_type(rvf.PRIVATE)]
    directory = np.array([*kept, (90, state.end, len(vec) - rvf.HEADER_SIZE, rvf.VEC)], rvf.ENTRY)
    known: dict[str, object] = {"deleted": rvf.NO_ROWS, "identity": state.manifest.identity}
    manifest = rvf.Manifest(9, MODEL.dim, len(ids), directory, **(known | fields))
    file.append(vec + rvf.pack_segment(rvf.MANIFEST, 91, rvf.pack_manifest(manifest)))
    return disk


def test_a_sound_file_has_no_findings() -> None:
    assert said(sound()) == []


def test_every_damaged_segment_is_named_not_only_the_first() -> None:
    disk = sound()
    entries_of = find_state(disk.open(FILE, writable=False), FILE).entries
    content = bytearray(disk.content(FILE))
    for entry in entries_of:
        content[entry.offset + rvf.HEADER_SIZE] ^= 1
    disk.put(FILE, bytes(content))

    assert said(disk) == [f"content hash fails in alice/memory.rvf at byte {entry.offset}" for entry in entries_of]


def test_a_file_without_a_manifest_is_named() -> None:
    disk = FaultDisk()
    disk.put(FILE, b"something else")

    assert said(disk) == ["no valid manifest in alice/memory.rvf at byte 0"]


def test_another_model_is_named_with_its_mend() -> None:
    other = ModelInfo("other", 8, "00")

    (finding,) = store(sound(), model=other).verify(USER)

    assert "was made with test-model" in finding.what
    assert finding.hint == "memoryd reembed --user alice"


def test_vectors_and_records_that_do_not_agree_are_counted() -> None:
    disk = rewritten(sound(), units(2), [2, 77])

    assert said(disk) == ["1 vectors without a record", "2 records without a vector"]
    assert store(disk).open(USER).file.status().records == 1


def test_a_manifest_that_counts_other_rows_is_named() -> None:
    disk = rewritten(sound(), units(2), [2, 2])

    at = find_state(disk.open(FILE, writable=False), FILE).segment.offset
    assert said(disk) == [f"manifest counts other rows than there are in alice/memory.rvf at byte {at}"]


def test_vectors_that_are_no_directions_are_counted() -> None:
    assert said(rewritten(sound(), 2 * units(3), [0, 1, 2])) == ["3 vectors that are not of unit length"]


def test_what_another_program_changed_about_the_file_is_named() -> None:
    disk = rewritten(sound(), units(3), [0, 1, 2], metric=0, identity=None)

    assert said(disk) == ["metric is not cosine", "file has no identity"]
    memory = store(disk).open(USER).file
    memory.commit(Batch(entries=entries([9])))
    assert said(disk) == []


def test_segments_of_an_older_generation_and_records_nobody_can_read_are_named() -> None:
    disk = sound()
    file = disk.open(FILE, writable=True)
    state = find_state(file, FILE)
    bodies = [
        body(applied_seq=0, next_row=1),
        # What it is filtered by can be read, and nothing else.
        body(
            generation=2,
            applied_seq=0,
            next_row=1,
            rows=[0],
            added_us=[0],
            records=[encode_record(record(1)).replace(b"text", b"tex?")],
        ),
    ]
    directory, end = [], state.end
    vec = state.of_type(rvf.VEC)[0]
    for each in bodies:
        segment = rvf.pack_segment(rvf.PRIVATE, 7, pack_body(each))
        directory.append((7, end, len(segment) - rvf.HEADER_SIZE, rvf.PRIVATE))
        file.append(segment)
        end += len(segment)
    listed = np.array([(1, vec.offset, vec.length, rvf.VEC), *directory], rvf.ENTRY)
    manifest = rvf.Manifest(9, 8, 2, listed, rvf.NO_ROWS, state.manifest.identity)
    file.append(rvf.pack_segment(rvf.MANIFEST, 8, rvf.pack_manifest(manifest)))

    assert said(disk) == [
        "private segment that another one stands for",
        "1 vectors without a record",
        "record of row 0 cannot be decoded",
    ]


def sealed() -> tuple[FaultDisk, SealedPart, int]:
    """Return a file of 300 sealed rows and a commit behind them, the part, and where its payload begins."""
    disk = FaultDisk()
    disk.put(ROOT)
    memory = store(disk).open(USER).file
    memory.commit(Batch(entries=entries(range(300)), trajectories=[trajectory(1)]))
    memory.compact()
    memory.commit(Batch(entries=entries([300]), deleted=[record_id(7)]))
    memory.close()
    (part,) = read_snapshot(disk.open(FILE, writable=False), FILE).parts
    return disk, part, part.private.offset + rvf.HEADER_SIZE


def resealed(disk: FaultDisk, part: SealedPart, change: dict[int, bytes]) -> FaultDisk:
    """Change bytes of the private segment and give it the hash of what it is now, as a forger would."""
    content = bytearray(disk.content(FILE))
    start, end = part.private.offset + rvf.HEADER_SIZE, part.private.offset + part.private.size
    for at, data in change.items():
        content[start + at : start + at + len(data)] = data
    content[start - 24 : start - 8] = rvf.content_hash(bytes(content[start:end]))
    disk.put(FILE, bytes(content))
    return disk


def test_a_sound_file_with_sealed_rows_has_no_findings() -> None:
    assert said(sealed()[0]) == []


@pytest.mark.parametrize("section", [*range(9), 11, 12])  # there are no codes, and no trajectories
def test_a_changed_byte_in_sealed_rows_is_found_in_whatever_section_it_is(section: int) -> None:
    disk, part, start = sealed()
    place = part.head.sections[section]
    content = bytearray(disk.content(FILE))
    content[start + place.offset + place.length // 2] ^= 4

    disk.put(FILE, bytes(content))

    assert said(disk) == [f"content hash fails in alice/memory.rvf at byte {part.private.offset}"]


def test_a_changed_vector_of_sealed_rows_is_found() -> None:
    disk, part, _ = sealed()
    assert part.vec is not None
    content = bytearray(disk.content(FILE))
    content[part.vec.offset + rvf.HEADER_SIZE + 50] ^= 4

    disk.put(FILE, bytes(content))

    assert said(disk) == [f"content hash fails in alice/memory.rvf at byte {part.vec.offset}"]


@pytest.mark.parametrize("section", [*range(9), 11, 12])  # there are no codes, and no trajectories
def test_what_a_segment_hash_hides_is_found_by_the_sum_of_the_section(section: int) -> None:
    disk, part, start = sealed()
    place = part.head.sections[section]
    byte = disk.content(FILE)[start + place.offset]

    (finding,) = store(resealed(disk, part, {place.offset: bytes([byte ^ 4])})).verify(USER)

    assert "private segments are missing, or not of this file" in finding.what


def test_columns_that_differ_from_their_records_are_named() -> None:
    disk, part, _ = sealed()
    place = part.head.sections[COLUMNS.index("kind")]
    other = (part.column("kind") ^ 1).tobytes()
    sections = list(part.head.sections)
    sections[COLUMNS.index("kind")] = Section(place.offset, place.length, xxhash.xxh3_64_intdigest(other))
    head = msgspec.msgpack.encode(msgspec.structs.replace(part.head, sections=sections))
    opening = HEAD.pack(b"MEMD", 3, 3, 0, len(head)) + struct.pack("<Q", xxhash.xxh3_64_intdigest(head)) + head
    disk = resealed(disk, part, {0: opening, place.offset: other})
    # The commit behind knows the sum of what it stands behind: it is written anew.
    disk = with_census(disk)

    assert said(disk) == ["columns of sealed rows differ from their records"]


def with_census(disk: FaultDisk) -> FaultDisk:
    """Write the newest commit again as one that knows the private segments as they are now."""
    file = disk.open(FILE, writable=True)
    state = find_state(file, FILE)
    *before, last = state.of_type(rvf.PRIVATE)
    census = 0
    for line in before:
        census ^= crc32(file.read(line.offset + rvf.HEADER_SIZE, line.length))
    body = unpack_body(file.read(last.offset + rvf.HEADER_SIZE, last.length))
    private = rvf.pack_segment(rvf.PRIVATE, 70, pack_body(msgspec.structs.replace(body, census=census)))
    lines = [(e.id, e.offset, e.length, e.type) for e in state.entries if e != last]
    lines.append((70, state.end, len(private) - rvf.HEADER_SIZE, rvf.PRIVATE))
    manifest = replace(state.manifest, directory=np.array(lines, rvf.ENTRY))
    file.append(private + rvf.pack_segment(rvf.MANIFEST, 71, rvf.pack_manifest(manifest)))
    return disk
