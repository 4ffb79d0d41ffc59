"""`memoryd import` of `.rvf` files: memories of ours, and the stores of other programs with their texts."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from memoryd.cli import group
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.files import RealFiles
from memoryd.protocol.events import Event
from memoryd.protocol.ids import EventId
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.records import MemoryRecord
from memoryd.rvf import format as rvf
from memoryd.rvf import rewriting
from memoryd.rvf.reader import find_state
from tests.helpers.daemon import NOON, House, exported, running
from tests.helpers.foreign import cow_map, members, store_bytes, vec
from tests.helpers.interop import golden_folder
from tests.helpers.memories import USER, record, record_id, store, units

if TYPE_CHECKING:
    from pathlib import Path

DIM = 8
SMALL = HashingEmbedder(dim=DIM)  # of the dimension of the golden files


async def call(house: House, *arguments: object) -> Result:
    """Run `memoryd` with some arguments against the house."""
    runner = CliRunner(env={"MEMORYD_SOCKET": str(house.daemon.socket), "MEMORYD_TOKEN": ""})
    return await asyncio.to_thread(
        runner.invoke, group, list(map(str, arguments)), prog_name="memoryd", catch_exceptions=False
    )


def lines(path: Path, *texts: object) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in texts))
    return path


def a_memory(root: Path, count: int, embedder: HashingEmbedder = SMALL) -> Path:
    """Write a memory of sealed rows, one of them deleted, with two newer ones behind; return its file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewriting, "SEALED_ROWS", 8)
        memory = store(RealFiles(), root, embedder.model).open(USER).file
        vectors = units(count + 2, embedder.model.dim)
        memory.commit(Batch(entries=[Entry(record(n), vectors[n]) for n in range(count)]))
        memory.compact()
        behind = [Entry(record(n), vectors[n]) for n in (count, count + 1)]
        memory.commit(Batch(entries=behind, deleted=[record_id(3)]))
        memory.close()
    return root / USER / "memory.rvf"


# --- a memory of memoryd ---


async def test_a_memory_is_brought_in_whole_while_its_daemon_goes_on_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        run = [
            Event(
                id=EventId("a"),
                type="conductor.run.started",
                timestamp=NOON,
                run_id="r",
                payload={"objective": "mend it"},
            ),
            Event(
                id=EventId("b"), type="conductor.run.completed", timestamp=NOON, run_id="r", payload={"summary": "done"}
            ),
        ]
        await house.memory.publish(run, user="alice", ack="committed")
        await house.memory.remember(
            "by hand", user="alice", session_id="s", quality_score=0.25, metadata={"n": [1, None]}
        )

        first = await call(house, "import", "--user", "bob", house.file("alice"))
        again = await call(house, "import", "--user", "bob", house.file("alice"))

        whole = await exported(house.memory, "alice")
        assert first.exit_code == again.exit_code == 0
        assert (
            first.stdout == f"imported for bob: {len(whole)} memories, 0 duplicate, 0 rejected\nthe vectors were kept\n"
        )
        assert again.stdout.startswith(f"imported for bob: 0 memories, {len(whole)} duplicate, 0 rejected\n")
        assert await exported(house.memory, "bob") == whole
        assert {each.quality_score for each in whole} == {0.25, 0.8}


async def test_sealed_and_newer_rows_are_brought_in_and_deleted_ones_are_not(tmp_path: Path) -> None:
    path = a_memory(tmp_path / "other", 300)
    before = path.read_bytes()
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        result = await call(house, "import", "--user", "bob", path)

        assert "imported for bob: 301 memories, 0 duplicate, 0 rejected" in result.stdout
        found = {each.id: each for each in await exported(house.memory, "bob")}
        vectors = units(302)
        assert set(found) == {record_id(n) for n in range(302) if n != 3}
        for number in (0, 299, 300, 301):
            assert found[record_id(number)] == msgspec.structs.replace(
                record(number), embedding=vectors[number].tobytes()
            )
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["memory.rvf"]


@pytest.mark.parametrize("is_asked_for", [False, True])
async def test_the_texts_of_another_model_are_embedded_anew_and_that_is_said(
    tmp_path: Path, *, is_asked_for: bool
) -> None:
    other = SMALL if is_asked_for else HashingEmbedder(dim=12)
    path = a_memory(tmp_path / "other", 10, other)
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        options = ["--without-vectors"] * is_asked_for

        first = await call(house, "import", "--user", "bob", *options, path)
        again = await call(house, "import", "--user", "bob", *options, path)

        assert first.stdout.startswith(
            "imported for bob: 11 memories, 0 duplicate, 0 rejected\nthe texts were embedded anew"
        )
        assert ("hashing-test (12 dimensions)" in first.stdout) is not is_asked_for
        assert again.stdout.startswith("imported for bob: 0 memories, 11 duplicate, 0 rejected\n")
        for each in await exported(house.memory, "bob"):
            assert each.embedding == SMALL.embed([each.text]).vectors[0].tobytes()
            assert msgspec.structs.replace(each, embedding=b"", signs=b"") == record(int(each.id))


async def test_vectors_that_another_program_added_to_a_memory_are_counted_as_left_out(tmp_path: Path) -> None:
    path = a_memory(tmp_path / "other", 5)
    with closing(RealFiles().open(path, writable=True)) as file:
        state = find_state(file, path)
        segment = rvf.pack_segment(rvf.VEC, 90, vec([900], units(1))[1])
        line = np.array([(90, state.end, len(segment) - rvf.HEADER_SIZE, rvf.VEC)], rvf.ENTRY)
        held = state.manifest
        newer = replace(held, held=held.held + 1, directory=np.concatenate([held.directory, line]))
        file.append(segment + rvf.pack_segment(rvf.MANIFEST, 91, rvf.pack_manifest(newer)))
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        result = await call(house, "import", "--user", "bob", path)

    assert result.exit_code == 65
    assert "6 memories, 0 duplicate, 0 rejected" in result.stdout
    assert "left out, since they have no text: 1 rows" in result.stdout


async def test_a_memory_needs_no_texts_and_knows_its_model(tmp_path: Path) -> None:
    path = a_memory(tmp_path / "other", 5)
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        for option, field in ((["--texts", "x"], "--texts"), (["--same-model"], "--same-model")):
            result = await call(house, "import", *option, path)

            assert result.exit_code == 64
            assert f"field: {field}" in result.stderr
            assert "leave --texts and --same-model out" in result.stderr


# --- the store of another program ---


async def test_rows_with_texts_become_memories_that_say_where_they_came_from(tmp_path: Path) -> None:
    path = shutil.copy(golden_folder() / "l2-8-20.rvf", tmp_path / "notes")  # its bytes say what it is, not its name
    told = json.loads((golden_folder() / "l2-8-20.json").read_text())
    texts = lines(
        tmp_path / "texts.jsonl",
        *({"id": row["id"], "text": f"note {row['id']}"} for row in told["vectors"][1:]),
        {
            "id": told["vectors"][0]["id"],
            "text": "the first",
            "kind": "pattern",
            "source": "user_input",
            "session_id": "s",
            "timestamp": "2026-03-01T12:00:00Z",
            "metadata": {"a": 1},
            "quality_score": 0.5,
        },
    )
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        first = await call(house, "import", "--user", "bob", path, "--texts", texts)
        again = await call(house, "import", "--user", "bob", path, "--texts", texts)
        found = await exported(house.memory, "bob")

    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.splitlines() == [
        "imported for bob: 20 memories, 0 duplicate, 0 rejected",
        "notes has 20 rows of 8 dimensions, l2; its vectors were left aside, and the texts embedded",
    ]
    assert "0 memories, 20 duplicate, 0 rejected" in again.stdout
    by_text = {each.text: each for each in found}
    assert by_text["the first"] == MemoryRecord(
        id=by_text["the first"].id,
        text="the first",
        kind="pattern",
        source="user_input",
        session_id="s",
        timestamp=NOON,
        quality_score=0.5,
        metadata={"a": 1, "rvf_file_id": told["status_after_open"]["fileId"], "rvf_row": told["vectors"][0]["id"]},
        embedding=SMALL.embed(["the first"]).vectors[0].tobytes(),
        signs=SMALL.embed(["the first"]).signs[0],
    )
    assert all(each.embedding == SMALL.embed([each.text]).vectors[0].tobytes() for each in found)


async def test_with_the_same_model_the_vectors_of_the_store_are_taken_at_unit_length(tmp_path: Path) -> None:
    path = golden_folder() / "ip-8-20.rvf"
    told = json.loads(path.with_suffix(".json").read_text())["vectors"]
    texts = lines(tmp_path / "texts", *({"id": row["id"], "text": f"note {row['id']}"} for row in told))
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        result = await call(house, "import", "--user", "bob", path, "--texts", texts, "--same-model")
        again = await call(house, "import", "--user", "bob", path, "--texts", texts, "--same-model")
        found = {each.metadata["rvf_row"]: each for each in await exported(house.memory, "bob")}

    assert "imported for bob: 20 memories, 0 duplicate, 0 rejected" in result.stdout
    assert "inner product; its vectors were taken, at unit length" in result.stdout
    assert "0 memories, 20 duplicate, 0 rejected" in again.stdout
    for row in told:
        vector = np.array(row["vector"])
        read = np.frombuffer(found[row["id"]].embedding, "<f4")
        np.testing.assert_allclose(read, vector / np.linalg.norm(vector), atol=1e-6)


async def test_a_store_without_texts_is_refused_with_the_mend_and_nothing_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        result = await call(house, "import", "--user", "bob", golden_folder() / "l2-8-20.rvf")

        assert result.exit_code == 64
        assert "it has vectors, and no texts to remember" in result.stderr
        assert "--texts FILE" in result.stderr
        assert not house.file("bob").exists()


async def test_what_is_wrong_with_the_texts_is_told_line_by_line_and_rows_without_one_are_counted(
    tmp_path: Path,
) -> None:
    texts = lines(
        tmp_path / "texts",
        "nonsense",
        {"id": 1, "text": "good"},
        {"id": 1, "text": "again"},
        {"id": 99, "text": "of no row"},
        {"id": -1, "text": "of no row"},
        {"id": (1 << 64) - 1, "text": "of no row"},
        {"id": "1", "text": "no number"},
        {"text": "of nothing"},
        {"id": 3, "text": "  "},
        {"id": 3, "text": "x", "colour": "red"},
        {"id": 3, "text": "better"},
        "",
    )
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        result = await call(house, "import", "--user", "bob", golden_folder() / "parent-8.rvf", "--texts", texts)
        found = await exported(house.memory, "bob")

    assert result.exit_code == 65
    assert "imported for bob: 2 memories, 0 duplicate, 9 rejected" in result.stdout
    assert "left out, since they have no text: 7 rows" in result.stdout
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        f"line {number}" for number in (1, 3, 4, 5, 6, 7, 8, 9, 10)
    ]
    assert "line 3: row 1 has a text already (id)" in result.stderr
    assert "line 4: no row 99 in parent-8.rvf (id)" in result.stderr
    assert "line 9: empty text (text)" in result.stderr
    assert [each.text for each in found] == ["good", "better"]


async def test_a_vector_without_a_direction_is_rejected_by_its_row_and_the_others_are_kept(tmp_path: Path) -> None:
    vectors = np.array(units(6))
    vectors[1] = 0
    vectors[2, 3] = np.nan
    vectors[3, 0] = -np.inf
    vectors[4] = np.finfo(np.float32).max  # whose length no float32 can hold
    vectors[5] = 1e-45
    path = tmp_path / "odd.rvf"
    path.write_bytes(store_bytes(vec(range(10, 16), vectors), held=6))
    texts = lines(tmp_path / "texts", *({"id": row, "text": f"note {row}"} for row in range(10, 16)))
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        result = await call(house, "import", "--user", "bob", path, "--texts", texts, "--same-model")
        found = await exported(house.memory, "bob")
        embedded = await call(house, "import", "--user", "carol", path, "--texts", texts)

    assert result.exit_code == 65
    assert "imported for bob: 3 memories, 0 duplicate, 3 rejected" in result.stdout
    assert "line 2: nothing but zeros in the vector of row 11 (vector)" in result.stderr
    assert "line 3: NaN or infinity in the vector of row 12 (vector)" in result.stderr
    assert "line 4: NaN or infinity in the vector of row 13 (vector)" in result.stderr
    assert [each.text for each in found] == ["note 10", "note 14", "note 15"]
    # Where the vectors are not used, they are not in the way either.
    assert "imported for carol: 6 memories, 0 duplicate, 0 rejected" in embedded.stdout


async def test_vectors_of_another_dimension_are_refused(tmp_path: Path) -> None:
    texts = lines(tmp_path / "texts", {"id": 100, "text": "x"})
    async with running(tmp_path, listen=True) as house:
        path = golden_folder() / "cosine-8-20.rvf"

        result = await call(house, "import", "--user", "bob", path, "--texts", texts, "--same-model")

        assert result.exit_code == 78
        assert "have 8 dimensions, those of this daemon's model 384" in result.stderr
        assert "leave --same-model out" in result.stderr
        assert not house.file("bob").exists()


async def test_the_rows_that_a_branch_shows_of_its_parent_are_the_parents(tmp_path: Path) -> None:
    for name in ("branch-8", "parent-8"):
        shutil.copy(golden_folder() / f"{name}.rvf", tmp_path / f"{name}.rvf")
    texts = lines(tmp_path / "texts", *({"id": row, "text": f"note {row}"} for row in (1, 3, 50)))
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        branch = await call(house, "import", "--user", "bob", tmp_path / "branch-8.rvf", "--texts", texts)
        parent = await call(house, "import", "--user", "bob", tmp_path / "parent-8.rvf", "--texts", texts)
        (tmp_path / "parent-8.rvf").unlink()
        alone = await call(house, "import", "--user", "bob", tmp_path / "branch-8.rvf", "--texts", texts)
        found = await exported(house.memory, "bob")

    assert "imported for bob: 3 memories, 0 duplicate, 0 rejected" in branch.stdout
    assert "9 rows of 8 dimensions, cosine, with those of parent-8.rvf" in branch.stdout
    # Row 1 is another one in the branch, row 3 is the same, and row 50 is not in the parent.
    assert "imported for bob: 1 memories, 1 duplicate, 1 rejected" in parent.stdout
    assert alone.exit_code == 74
    assert "is a branch of" in alone.stderr
    assert [each.metadata["rvf_row"] for each in found] == [1, 3, 50, 1]
    assert len({each.metadata["rvf_file_id"] for each in found}) == 2


async def test_a_parent_is_found_whatever_way_the_branch_is_named(tmp_path: Path) -> None:
    parent = store_bytes(vec([1], units(1)), held=1)
    (tmp_path / "below" / "inner").mkdir(parents=True)
    (tmp_path / "parent.rvf").write_bytes(parent)
    branch = store_bytes(cow_map(parent, bytes(16), "../parent.rvf"), members([1]), held=0)
    (tmp_path / "below" / "branch.rvf").write_bytes(branch)
    (tmp_path / "link").symlink_to(tmp_path / "below" / "inner")
    texts = lines(tmp_path / "texts", {"id": 1, "text": "one"})
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        for way in ("below", "below/inner/..", "link/.."):
            result = await call(house, "import", "--user", "bob", f"{tmp_path}/{way}/branch.rvf", "--texts", texts)

            assert result.exit_code == 0, result.stderr
        assert len(await exported(house.memory, "bob")) == 1


async def test_a_store_without_an_identity_is_known_again_by_its_vectors_wherever_it_lies(tmp_path: Path) -> None:
    texts = lines(
        tmp_path / "texts", {"id": 10, "text": "ten"}, {"id": 12, "text": "twelve"}, {"id": 50, "text": "fifty"}
    )
    moved = shutil.copy(golden_folder() / "foreign-ext-8.rvf", tmp_path / "moved.rvf")
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        path = golden_folder() / "foreign-ext-8.rvf"
        first = await call(house, "import", "--user", "bob", path, "--texts", texts)
        again = await call(house, "import", "--user", "bob", moved, "--texts", texts, "--same-model")
        found = await exported(house.memory, "bob")

    assert "3 memories, 0 duplicate, 0 rejected" in first.stdout
    assert "0 memories, 3 duplicate, 0 rejected" in again.stdout
    assert [each.metadata for each in found] == [{"rvf_row": row} for row in (10, 12, 50)]


async def test_a_large_store_is_brought_in_by_batches(tmp_path: Path) -> None:
    count = 2_000
    path = tmp_path / "large.rvf"
    path.write_bytes(store_bytes(vec(range(count), units(count)), held=count, file_id=b"x" * 16))
    texts = lines(tmp_path / "texts", *({"id": row, "text": f"note {row}"} for row in reversed(range(count))))
    async with running(tmp_path, listen=True, embedder=SMALL) as house:
        result = await call(house, "import", "--user", "bob", path, "--texts", texts, "--same-model")
        found = await exported(house.memory, "bob")

    assert "2,000 memories, 0 duplicate, 0 rejected" in result.stdout
    assert {each.text for each in found} == {f"note {row}" for row in range(count)}
    vectors = units(count)
    for each in found[::97]:
        np.testing.assert_allclose(np.frombuffer(each.embedding, "<f4"), vectors[each.metadata["rvf_row"]], atol=1e-6)


# --- what does not go together ---


@pytest.mark.parametrize("options", [["--texts", "x"], ["--same-model"]])
async def test_options_of_a_store_are_refused_for_lines(tmp_path: Path, options: list[str]) -> None:
    given = lines(tmp_path / "some.jsonl", {"text": "embed me"})
    async with running(tmp_path, listen=True) as house:
        result = await call(house, "import", given, *options)

    assert result.exit_code == 64
    assert "are for an .rvf file" in result.stderr


async def test_vectors_cannot_be_taken_and_left_aside(tmp_path: Path) -> None:
    options = ["--texts", "x", "--same-model", "--without-vectors"]
    async with running(tmp_path, listen=True) as house:
        result = await call(house, "import", golden_folder() / "l2-8-20.rvf", *options)

    assert result.exit_code == 64
    assert "give one of both" in result.stderr


@pytest.mark.parametrize("arguments", [["gone.rvf"], [str(golden_folder() / "l2-8-20.rvf"), "--texts", "gone.jsonl"]])
async def test_a_file_that_is_not_there_is_told(tmp_path: Path, arguments: list[str]) -> None:
    async with running(tmp_path, listen=True) as house:
        result = await call(house, "import", *arguments)

    assert result.exit_code == 64
    assert "no such file" in result.stderr
