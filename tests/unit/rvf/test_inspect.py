"""What `inspect` says of our files, of those of the reference runtime, and of broken ones."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from memoryd.cli import group
from memoryd.clock import SystemClock
from memoryd.files import RealFiles
from memoryd.protocol.errors import Damaged
from memoryd.protocol.ids import UserId
from memoryd.protocol.interfaces import Batch
from memoryd.rvf import format as rvf
from memoryd.rvf import rewriting
from memoryd.rvf.inspect import Inspection, inspect
from memoryd.rvf.store import RvfMemoryStore
from memoryd.vectors.index import VectorIndex
from tests.helpers.interop import golden_folder
from tests.helpers.memories import CODED, MODEL, USER, codebook, entries, record_id, store


def inspected(path: Path) -> Inspection:
    file = RealFiles().open(path, writable=False)
    try:
        return inspect(file, path)
    finally:
        file.close()


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Return a file of two commits, the second of which deletes a record."""
    opened = RvfMemoryStore(tmp_path, MODEL, RealFiles(), SystemClock(), VectorIndex).open(UserId("alice"))
    opened.file.commit(Batch(entries=entries(range(5))))
    opened.file.commit(Batch(entries=entries([5]), deleted=[record_id(2)]))
    opened.file.close()
    (path,) = tmp_path.glob("alice/*.rvf")
    return path


def test_our_own_file_is_described_from_the_first_byte_to_the_last(ours: Path) -> None:
    found = inspected(ours)

    assert (found.bytes, found.vectors, found.deleted, found.metric) == (ours.stat().st_size, 6, 1, "cosine")
    assert [each.name for each in found.segments] == ["0xF0", "VEC", "MANIFEST"] * 2
    assert [each.state for each in found.segments] == ["live", "live", "not listed", "live", "live", "live"]
    assert all(each.is_sound for each in found.segments)
    assert sum(each.bytes for each in found.segments) == found.bytes
    assert found.segments[0].says == "5 records, generation 1, events up to 0"
    assert found.segments[1].says == f"5 vectors of {MODEL.dim} dimensions"
    assert found.lineage is not None
    assert found.lineage.depth == 0


@pytest.mark.parametrize("has_codes", [False, True])
def test_sealed_rows_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_codes: bool) -> None:
    monkeypatch.setattr(rewriting, "SEALED_ROWS", 3)
    codes = f"codes of {codebook().sha256[:12]}" if has_codes else "no codes"
    memory = store(RealFiles(), tmp_path, CODED, codebook() if has_codes else None).open(USER).file
    memory.commit(Batch(entries=entries(range(5), CODED.dim)))
    memory.compact()
    memory.close()

    found = inspected(tmp_path / USER / "memory.rvf")

    assert [each.name for each in found.segments] == ["0xF0", "VEC", "0xF0", "MANIFEST"]
    assert found.segments[0].says == f"5 sealed rows, generation 2, {codes}"
    assert all(each.is_sound and each.state == "live" for each in found.segments)
    assert sum(each.bytes for each in found.segments) == found.bytes


def test_texts_are_not_shown(ours: Path) -> None:
    said = CliRunner().invoke(group, ["inspect", str(ours)], prog_name="memoryd", catch_exceptions=False).output

    assert "6 vectors" in said
    assert "memory 3" not in said


def test_files_of_the_reference_runtime_are_described() -> None:
    paths = sorted(golden_folder().glob("*.rvf"))
    assert len(paths) == 16
    for path in paths:
        found = inspected(path)

        said = json.loads(path.with_suffix(".json").read_text())["status_after_open"]
        assert (found.dimension, found.epoch) == (said["dims"], said["epoch"]), path.stem
        assert found.metric == {"l2": "l2", "cosine": "cosine", "inner_product": "inner product"}[said["metric"]]
        assert (found.lineage.file_id if found.lineage else "00" * 16) == said["fileId"], path.stem
        assert sum(each.bytes for each in found.segments) == path.stat().st_size
        assert all(each.is_sound for each in found.segments) or path.stem == "torn-tail-8"
        assert not any("cannot be read" in each.says for each in found.segments)


def test_the_graph_of_an_indexed_file_is_described() -> None:
    (index,) = [s for s in inspected(golden_folder() / "l2-8-1200-indexed.rvf").segments if s.name == "INDEX"]

    assert index.says.startswith("HNSW of 1,200 rows, M 8, ")


def test_a_branch_names_its_parent() -> None:
    found = inspected(golden_folder() / "branch-8.rvf")

    assert "branch of parent-8.rvf" in [each.says for each in found.segments]
    assert Counter(each.name for each in found.segments)["MEMBERSHIP"] >= 1
    assert found.lineage is not None
    assert found.lineage.depth == 1


def test_what_is_broken_is_shown_where_it_is(ours: Path, tmp_path: Path) -> None:
    content = bytearray(ours.read_bytes())
    first = inspected(ours).segments[0]
    content[first.offset + 70] ^= 1
    content += b"torn"
    broken = tmp_path / "broken.rvf"
    broken.write_bytes(content)

    found = inspected(broken)

    assert [(each.offset, each.says) for each in found.segments if not each.is_sound] == [
        (first.offset, "content hash fails"),
        (len(content) - 4, "segment header cut short"),
    ]
    assert found.segments[-1].state == "behind"


def test_what_is_no_rvf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.rvf"
    shutil.copyfile(Path(__file__), path)

    with pytest.raises(Damaged, match="no valid manifest") as refused:
        inspected(path)
    assert "no .rvf file" in (refused.value.hint or "")


def test_a_program_gets_json(ours: Path) -> None:
    said = CliRunner().invoke(group, ["inspect", str(ours), "--json"], prog_name="memoryd", catch_exceptions=False)

    assert json.loads(said.output)["segments"][1]["name"] == "VEC"


def test_what_other_programs_wrote_is_shown_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    segments = [
        rvf.pack_segment(rvf.VEC, 1, b"?"),
        rvf.pack_segment(rvf.PRIVATE, 2, b"theirs"),
        rvf.pack_segment(0x33, 3, b""),
    ]
    manifest = rvf.Manifest(1, 8, 0, np.empty(0, rvf.ENTRY), rvf.NO_ROWS, None, metric=9)
    path = tmp_path / "theirs.rvf"
    path.write_bytes(b"".join([b"junk", *segments, rvf.pack_segment(rvf.MANIFEST, 4, rvf.pack_manifest(manifest))]))

    found = inspected(path)

    assert [(each.name, each.says) for each in found.segments[:4]] == [
        ("-", "no segment"),
        ("VEC", "cannot be read: vector head cut short"),
        ("0xF0", "of another program"),
        ("0x33", ""),
    ]
    assert (found.lineage, found.metric) == (None, "l2")
