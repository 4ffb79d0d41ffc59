from __future__ import annotations

import numpy as np

from memoryd.protocol.interfaces import Batch, ModelInfo
from memoryd.rvf import format as rvf
from memoryd.rvf.reader import find_state
from memoryd.rvf.records import Body, encode_record, pack_body
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import FILE, MODEL, ROOT, USER, entries, record, record_id, store, units


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
    manifest = rvf.Manifest(9, MODEL.dim, len(ids), directory, **(known | fields))  # type: ignore[arg-type]
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
    known = {
        "first": 0,
        "number": 0,
        "others": 0,
        "census": 0,
        "model": MODEL,
        "applied_seq": 0,
        "next_row": 1,
        "dropped": [],
        "trajectories": [],
    }
    bodies = [
        Body(generation=1, rows=[], records=[], **known),  # type: ignore[arg-type]
        # What it is filtered by can be read, and nothing else.
        Body(generation=2, rows=[0], records=[encode_record(record(1)).replace(b"text", b"tex?")], **known),  # type: ignore[arg-type]
    ]
    directory, end = [], state.end
    vec = state.of_type(rvf.VEC)[0]
    for body in bodies:
        segment = rvf.pack_segment(rvf.PRIVATE, 7, pack_body(body))
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
