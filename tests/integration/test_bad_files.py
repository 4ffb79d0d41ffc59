"""Files that are not what they should be: every command that reads one says what is wrong, where, and what to do."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from memoryd import reading
from memoryd.cli import stores
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.files import RealFiles
from memoryd.protocol.errors import MemorydError
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.records import ANY
from memoryd.rvf import format as rvf
from memoryd.rvf import verify
from memoryd.rvf.inspect import inspect
from memoryd.rvf.reader import find_state
from memoryd.rvf.records import VERSION, encode_record, pack_body
from tests.fuzz.reader import signed
from tests.helpers.daemon import running
from tests.helpers.foreign import store_bytes, vec
from tests.helpers.memories import USER, body, record, store, units
from tests.integration.test_import import call

EMBEDDER = HashingEmbedder(dim=8)
MiB = 1 << 20
LARGE = 300 * MiB  # more than a segment may be

Change = Callable[[bytearray], object]


def a_memory(root: Path, *texts: str, embedder: HashingEmbedder = EMBEDDER) -> Path:
    """Write a memory of one commit for each text; return its file."""
    memory = store(RealFiles(), root, embedder.model).open(USER).file
    for number, text in enumerate(texts):
        entry = Entry(record(number, text), units(len(texts), embedder.model.dim)[number])
        memory.commit(Batch(entries=[entry]))
    memory.close()
    return root / USER / "memory.rvf"


def starts(content: bytes, kind: int) -> list[int]:
    """Return where the payloads of this type begin."""
    found, at = [], 0
    while at < len(content):
        header = rvf.unpack_header(content[at : at + rvf.HEADER_SIZE])
        at += rvf.HEADER_SIZE
        if header.type == kind:
            found.append(at)
        at += header.length
    return found


def number(kind: int, offset: int, form: str, value: int) -> Change:
    """Return what puts a number into the last payload of a type, from its end when `offset` is negative."""

    def change(content: bytearray) -> None:
        at = starts(bytes(content), kind)[-1]
        header = rvf.unpack_header(bytes(content[at - rvf.HEADER_SIZE : at]))
        struct.pack_into(form, content, at + (offset if offset >= 0 else header.length + offset), value)
        signed(content)

    return change


def newer(*kinds: int) -> Change:
    """Return what makes all segments of these types those of a newer version."""

    def change(content: bytearray) -> None:
        for at in [at for kind in kinds for at in starts(bytes(content), kind)]:
            content[at - rvf.HEADER_SIZE + 4] = 2

    return change


def newer_commit(content: bytearray) -> None:
    lie = bytearray(store_bytes(held=0))
    lie[4] = 2
    content += lie


DELETED_AT = rvf._MANIFEST_HEAD.size + 2 * rvf.ENTRY.itemsize  # of a manifest that lists two segments

BAD: dict[str, tuple[Change, str]] = {
    "empty": (lambda content: content.clear(), "no valid manifest"),
    "another format": (lambda content: content.__setitem__(slice(None), b"SQLite format 3\0" * 40), "no valid manifest"),
    "newer segments": (newer(rvf.VEC), "unknown segment version"),
    "a newer file": (newer(rvf.PRIVATE, rvf.VEC, rvf.MANIFEST), "a commit of the unknown version 2"),
    "a newer commit": (newer_commit, "a commit of the unknown version 2"),
    "newer records": (number(rvf.PRIVATE, 4, "<H", VERSION + 1), "private segment of an unknown version"),
    "a count of vectors": (number(rvf.VEC, 2, "<I", 0xFFFFFFFF), "vector rows cut short"),
    "a dimension": (number(rvf.VEC, 0, "<H", 0xFFFF), "vectors of another dimension"),
    "a count of rows": (number(rvf.MANIFEST, 6, "<Q", 1 << 63), "manifest counts other rows"),
    "a count of segments": (number(rvf.MANIFEST, 14, "<I", 0xFFFFFFFF), "manifest directory cut short"),
    "a count of deleted rows": (number(rvf.MANIFEST, DELETED_AT, "<I", 0xFFFFFFFF), "list of deleted rows cut short"),
    "a place in the directory": (number(rvf.MANIFEST, 22 + 8, "<Q", 1 << 62), "directory entry outside the file"),
    "a length of records": (number(rvf.PRIVATE, 8, "<I", 0xFFFFFFFF), "private segment too long"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _our_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxEmbedder, "open", lambda *_args, **_options: EMBEDDER)


@pytest.mark.parametrize("what", BAD)
async def test_every_command_names_the_fault_of_a_bad_file_with_place_and_mend(tmp_path: Path, what: str) -> None:
    change, reason = BAD[what]
    path = a_memory(tmp_path / "data", "one")
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    async with running(tmp_path, listen=True, embedder=EMBEDDER) as house:
        tracemalloc.start()
        imported = await call(house, "import", path)
        recalled = await call(house, "recall", "--read-only", path, "one")
        verified = await call(house, "verify", "--user", USER)
        inspected = await call(house, "inspect", path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    for result in (imported, recalled):
        assert result.exit_code == 74
        assert f"memoryd: {reason}" in result.stderr
        assert f"in {USER}/memory.rvf at byte " in result.stderr
        assert ("newer" if "version" in reason else "restore it from a copy") in result.stderr.partition("hint:")[2]
    assert verified.exit_code == 74
    assert reason in verified.stdout
    assert ("newer" if "version" in reason else "restore the file from a copy") in verified.stdout
    if inspected.exit_code == 0:  # it shows a file as far as it can be read
        # Counts that only disagree with one another stand there side by side.
        is_told = "✘" in inspected.stdout or "cannot be read" in inspected.stdout
        assert is_told is (what != "a count of rows")
    else:
        assert inspected.exit_code == 74
        assert f"memoryd: {reason}" in inspected.stderr
        assert "hint:" in inspected.stderr
    assert most < 64 * MiB
    assert path.read_bytes() == content


async def test_a_segment_of_300_mib_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "data" / USER / "memory.rvf"
    path.parent.mkdir(parents=True)
    header = bytearray(rvf.pack_segment(rvf.VEC, 1, b""))
    struct.pack_into("<Q", header, 0x10, LARGE)
    manifest = rvf.Manifest(1, 8, 1, np.array([(1, 0, LARGE, rvf.VEC)], rvf.ENTRY), rvf.NO_ROWS, None)
    with path.open("wb") as file:
        file.write(header)
        file.seek(LARGE, 1)
        file.write(rvf.pack_segment(rvf.MANIFEST, 2, rvf.pack_manifest(manifest)))
    async with running(tmp_path, listen=True, embedder=EMBEDDER) as house:
        tracemalloc.start()
        imported = await call(house, "import", path, "--texts", path)
        recalled = await call(house, "recall", "--read-only", path, "one")
        verified = await call(house, "verify", "--user", USER)
        inspected = await call(house, "inspect", path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert imported.exit_code == verified.exit_code == recalled.exit_code == 74
    assert f"memoryd: segment payload too long in {USER}/memory.rvf at byte 0" in imported.stderr
    assert "restore it from a copy" in imported.stderr
    assert "no records of memoryd" in recalled.stderr
    assert "segment payload too long" in verified.stdout
    assert inspected.exit_code == 0
    assert "segment payload too long" in inspected.stdout
    assert most < 64 * MiB


async def test_a_record_that_cannot_be_decoded_is_told_and_the_others_are_brought_in(tmp_path: Path) -> None:
    path = tmp_path / "data" / USER / "memory.rvf"
    path.parent.mkdir(parents=True)
    # What it is filtered by can be read, and nothing else.
    records = [encode_record(record(0)).replace(b"text", b"tex?"), encode_record(record(1))]
    said = body(model=EMBEDDER.model, applied_seq=0, rows=[0, 1], records=records, added_us=[0, 0])
    path.write_bytes(store_bytes((rvf.PRIVATE, pack_body(said)), vec([0, 1], units(2)), held=2, file_id=b"x" * 16))
    async with running(tmp_path, listen=True, embedder=EMBEDDER) as house:
        imported = await call(house, "import", "--user", "bob", path)
        recalled = await call(house, "recall", "--read-only", path, "memory")
        verified = await call(house, "verify", "--user", USER)

    assert imported.exit_code == 65
    assert "imported for bob: 1 memories, 0 duplicate, 1 rejected" in imported.stdout
    assert "record 1: it cannot be decoded; a newer memoryd may have written it" in imported.stderr
    assert recalled.exit_code == verified.exit_code == 74
    assert "a record that cannot be decoded in alice/memory.rvf" in recalled.stderr
    assert "record of row 0 cannot be decoded" in verified.stdout


async def test_the_store_of_another_program_is_no_memory_to_recall_from(tmp_path: Path) -> None:
    path = tmp_path / "notes.rvf"
    path.write_bytes(store_bytes(vec([1], units(1)), held=1))
    async with running(tmp_path, listen=True, embedder=EMBEDDER) as house:
        result = await call(house, "recall", "--read-only", path, "one")

    assert result.exit_code == 74
    assert "no records of memoryd" in result.stderr
    assert "memoryd import" in result.stderr


async def test_a_memory_of_another_model_answers_nobody_else(tmp_path: Path) -> None:
    path = a_memory(tmp_path / "data", "one", embedder=HashingEmbedder(dim=12))
    async with running(tmp_path, listen=True, embedder=EMBEDDER) as house:
        recalled = await call(house, "recall", "--read-only", path, "one")
        verified = await call(house, "verify", "--user", USER)

    assert recalled.exit_code == 78
    assert "was made with hashing-test (12 dimensions" in recalled.stderr
    assert f"memoryd reembed --user {USER}" in recalled.stderr
    assert verified.exit_code == 74
    assert f"memoryd reembed --user {USER}" in " ".join(verified.stdout.split())


def seen(path: Path) -> list[str] | None:
    """Read a file in every way there is; return its texts, None when it was refused. All ways must agree."""
    with closing(RealFiles().open(path, writable=False)) as file:
        findings = [each.what for each in verify.findings(file, path, EMBEDDER.model)]
    texts: list[str] | None = None
    try:
        found = reading.recall(path, "x", EMBEDDER, top_k=100, where=ANY)
        texts = sorted(each.record.text for each in found.memories)
    except MemorydError as error:
        told(error)
        assert findings
    try:
        with stores.opened(str(path), None, same_model=False, without_vectors=False) as source:
            assert source.total == len(texts or ())
    except MemorydError as error:
        told(error)
        assert texts is None
    try:
        with closing(RealFiles().open(path, writable=False)) as file:
            inspect(file, path)
    except MemorydError as error:
        told(error)
        assert texts is None
    return texts


def told(error: MemorydError) -> None:
    assert error.hint
    assert str(error.details["path"]).endswith("memory.rvf")
    assert isinstance(error.details["offset"], int)


def test_a_memory_cut_at_any_length_shows_a_commit_or_is_refused(tmp_path: Path) -> None:
    path = a_memory(tmp_path, "one", "two", "three")
    content = path.read_bytes()
    states = []

    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        states.append(seen(path))

    changes = [now for before, now in zip([None, *states], states, strict=False) if now != before]
    assert changes == [["one"], ["one", "two"], ["one", "three", "two"]]


def a_lie() -> str:
    """Return a text that is, byte for byte, a commit of a file without rows."""
    for epoch in range(1 << 20):
        manifest = rvf.Manifest(epoch, 8, 0, np.empty(0, rvf.ENTRY), rvf.NO_ROWS, None)
        content = rvf.pack_segment(rvf.MANIFEST, 1, rvf.pack_manifest(manifest))
        if content.isascii():
            return content.decode()
    raise AssertionError("no such text")


def test_a_text_that_looks_like_a_commit_is_a_text_wherever_the_file_is_cut(tmp_path: Path) -> None:
    path = a_memory(tmp_path, "one", f"before{a_lie()}behind")
    content = path.read_bytes()
    with closing(RealFiles().open(path, writable=False)) as file:
        assert find_state(file, path).end == len(content)

    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        assert seen(path) in (None, ["one"], ["before" + a_lie() + "behind", "one"])

    assert seen(path) == ["before" + a_lie() + "behind", "one"]
