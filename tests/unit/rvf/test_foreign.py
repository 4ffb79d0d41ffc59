"""Stores of other programs and branches: what they show, and what is refused instead of shown wrongly."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.files import Missing, RealFiles
from memoryd.protocol.errors import Damaged, StorageFault
from memoryd.rvf import format as rvf
from memoryd.rvf.cow import FOLDED, fold_hash, unpack_cow_map, unpack_members
from memoryd.rvf.foreign import MAX_GENERATIONS, ForeignStore, committed, is_memory
from memoryd.rvf.reader import read_segment
from tests.helpers.faultfs import FaultDisk
from tests.helpers.foreign import Segment, answers, cow_map, members, store_bytes, vec, vectors_of
from tests.helpers.interop import golden_folder
from tests.helpers.memories import units

if TYPE_CHECKING:
    from collections.abc import Callable

HOME = Path("/stores/here")
PATH = HOME / "branch.rvf"
PARENT = HOME / "parent.rvf"
PARENT_ID = b"the parent of it"
GOLDEN = sorted(path.stem for path in golden_folder().glob("*.rvf"))


def disk_with(**contents: bytes) -> FaultDisk:
    disk = FaultDisk()
    for name, content in contents.items():
        disk.put(HOME / f"{name}.rvf", content)
    return disk


def shown(disk: FaultDisk, path: Path = PATH) -> list[int]:
    with ForeignStore.open(disk, path) as store:
        assert len(vectors_of(store)) == len(store.ids)
        return list(map(int, store.ids))


def a_parent(
    ids: tuple[int, ...] = (1, 2, 3, 5), *, deleted: tuple[int, ...] = (), file_id: bytes = PARENT_ID
) -> bytes:
    return store_bytes(vec(ids, units(len(ids))), held=len(ids), deleted=deleted, file_id=file_id)


def a_branch(
    parent: bytes, *segments: Segment, path: str | bytes = "parent.rvf", rows: tuple[int, ...] = (1, 3)
) -> bytes:
    return store_bytes(cow_map(parent, PARENT_ID, path), members(rows), *segments, held=0)


# --- the files of the reference runtime ---


def test_there_are_sixteen_golden_files() -> None:
    assert len(GOLDEN) == 16


@pytest.mark.parametrize("name", GOLDEN)
def test_every_answer_of_the_reference_runtime_follows_from_what_is_read(name: str) -> None:
    path = golden_folder() / f"{name}.rvf"
    told = json.loads(path.with_suffix(".json").read_text())

    with ForeignStore.open(RealFiles(), path) as store:
        assert store.metric == told["status_after_open"]["metric"].replace("_", " ")
        assert [parent.name for parent in store.parents] == ["parent-8.rvf"] * (name == "branch-8")
        for query in told["queries"]:
            # What was given as metadata is in no file, so nothing equals it.
            k = 0 if query.get("filter", {}).get("op") == "eq" else query["k"]
            found = answers(store, query["vector"], k)
            expected = [(hit["id"], hit["distance"]) for hit in query["expect"]]
            assert [row for row, _ in found] == [row for row, _ in expected]
            assert [distance for _, distance in found] == pytest.approx(
                [distance for _, distance in expected], abs=1e-5
            )


@pytest.mark.parametrize("name", GOLDEN)
def test_every_row_of_a_file_of_the_reference_runtime_is_read(name: str) -> None:
    path = golden_folder() / f"{name}.rvf"
    told = json.loads(path.with_suffix(".json").read_text())
    expected = {row["id"]: row["vector"] for row in told["vectors"] if row["id"] not in told.get("deleted", ())}

    with ForeignStore.open(RealFiles(), path) as store:
        assert set(store.ids.tolist()) == set(expected)
        for row, vector in expected.items():
            np.testing.assert_allclose(store.vector(row), vector, rtol=1e-6)


def test_a_row_of_a_branch_says_in_which_file_it_stands() -> None:
    path = golden_folder() / "branch-8.rvf"
    told = {
        name: json.loads((golden_folder() / f"{name}-8.json").read_text())["status_after_open"]["fileId"]
        for name in ("branch", "parent")
    }

    with ForeignStore.open(RealFiles(), path) as store:
        assert store.file_id(1) == store.file_id(50) == told["branch"]
        assert store.file_id(3) == told["parent"]
        with pytest.raises(KeyError):
            store.vector(2)


def test_a_file_without_an_identity_says_none() -> None:
    with ForeignStore.open(RealFiles(), golden_folder() / "foreign-ext-8.rvf") as store:
        assert store.file_id(10) == ""


@pytest.mark.parametrize("name", ["parent-8", "branch-8", "l2-8-overwrite"])
def test_a_file_cut_at_any_length_shows_a_committed_state_or_is_reported(name: str) -> None:
    content = (golden_folder() / f"{name}.rvf").read_bytes()
    disk = FaultDisk()
    disk.put(HOME / "parent-8.rvf", (golden_folder() / "parent-8.rvf").read_bytes())
    path = HOME / f"{name}.rvf"
    states = []

    for length in range(len(content) + 1):
        disk.put(path, content[:length])
        try:
            rows = shown(disk, path)
        except Damaged as told:
            assert told.details["path"] == f"here/{name}.rvf"  # noqa: PT017 - not every length fails
            assert isinstance(told.details["offset"], int)  # noqa: PT017
            assert told.hint  # noqa: PT017
        else:
            if states[-1:] != [rows]:
                states.append(rows)

    ends = {
        "parent-8": [[], list(range(1, 11)), list(range(1, 10))],
        # While it is made, a branch is a file without rows, and then one without rows of its own.
        "branch-8": [[], list(range(1, 10)), [*range(1, 10), 50], [1, *range(3, 10), 50]],
        "l2-8-overwrite": [[], [1, 2]],
    }
    assert states == ends[name]


# --- branches ---


def test_a_branch_shows_its_members_of_the_parent_and_its_own_rows_on_top() -> None:
    parent = a_parent(deleted=(5,))
    own = units(2, seed=9)
    branch = store_bytes(
        cow_map(parent, PARENT_ID, "parent.rvf"), members([1, 2, 3]), vec([2, 40], own), held=2, deleted=[3]
    )

    with ForeignStore.open(disk_with(parent=parent, branch=branch), PATH) as store:
        assert store.ids.tolist() == [1, 2, 40]
        assert vectors_of(store).tobytes() == np.stack([units(4)[0], *own]).tobytes()


def test_of_several_maps_and_lists_the_last_one_counts() -> None:
    parent = a_parent()
    branch = store_bytes(
        cow_map(b"another", bytes(16), "gone.rvf"),
        members([1, 2]),
        cow_map(parent, PARENT_ID, "parent.rvf"),
        members([5]),
        held=0,
    )

    assert shown(disk_with(parent=parent, branch=branch)) == [5]


def test_a_member_that_the_parent_does_not_have_is_no_row() -> None:
    parent = a_parent(deleted=(5,))

    assert shown(disk_with(parent=parent, branch=a_branch(parent, rows=(1, 4, 5, 900)))) == [1]


def test_a_branch_of_a_branch_is_followed_to_the_first_file() -> None:
    first = a_parent()
    second = store_bytes(
        cow_map(first, PARENT_ID, "first.rvf"), members([1, 2]), vec([9], units(1)), held=1, file_id=b"2" * 16
    )
    third = store_bytes(cow_map(second, b"2" * 16, "second.rvf"), members([2, 9]), held=0)

    with ForeignStore.open(disk_with(first=first, second=second, branch=third), PATH) as store:
        assert store.ids.tolist() == [2, 9]
        assert [parent.name for parent in store.parents] == ["second.rvf", "first.rvf"]
        assert [store.file_id(row) for row in (2, 9)] == [PARENT_ID.hex(), (b"2" * 16).hex()]


def test_a_parent_that_is_missing_is_named_with_where_it_belongs() -> None:
    with pytest.raises(Missing, match=r"here/branch\.rvf is a branch of here/parent\.rvf, which is not there") as told:
        shown(disk_with(branch=a_branch(a_parent())))

    assert "as parent.rvf" in str(told.value.hint)
    assert told.value.details["path"] == "here/parent.rvf"


@pytest.mark.parametrize(
    ("parent", "what"),
    [
        (a_parent() + b"torn", "has changed since"),
        (a_parent((1, 2, 3, 6)), "has changed since"),
        (a_parent(file_id=b"a stranger to it"), "is another file than the one"),
        (a_parent(file_id=b""), "is another file than the one"),
    ],
)
def test_a_parent_that_is_not_as_it_was_is_named_and_nothing_is_shown(parent: bytes, what: str) -> None:
    with pytest.raises(Damaged, match=rf"here/parent\.rvf {what}.*here/branch\.rvf") as told:
        shown(disk_with(parent=parent, branch=a_branch(a_parent())))

    assert "bring it back from a copy" in str(told.value.hint)
    assert told.value.details["path"] == "here/parent.rvf"


def test_a_parent_that_is_damaged_is_named() -> None:
    parent = bytearray(a_parent())
    parent[100] ^= 1

    with pytest.raises(Damaged, match=r"content hash fails in here/parent\.rvf"):
        shown(disk_with(parent=bytes(parent), branch=a_branch(bytes(parent))))


def test_a_parent_of_another_dimension_is_refused() -> None:
    parent = store_bytes(vec([1], units(1, dim=4)), held=1, dim=4, file_id=PARENT_ID)

    with pytest.raises(Damaged, match="another dimension than its parent"):
        shown(disk_with(parent=parent, branch=a_branch(parent)))


@pytest.mark.parametrize("where", ["../parent.rvf", "below/parent.rvf", "./x/../parent.rvf", "../here/parent.rvf"])
def test_a_parent_may_be_beside_below_or_one_folder_up(where: str) -> None:
    parent = a_parent()
    disk = disk_with(branch=a_branch(parent, path=where))
    disk.put({"../parent.rvf": HOME.parent, "below/parent.rvf": HOME / "below"}.get(where, HOME) / "parent.rvf", parent)

    assert shown(disk) == [1, 3]


@pytest.mark.parametrize(
    "where",
    [
        "/stores/here/parent.rvf",
        "//parent.rvf",
        "../../stores/here/parent.rvf",
        "a/../../../x",
        "..",
        ".",
        "",
        "a\0b",
        "\x1b[2J",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused_before_anything_is_opened(where: str) -> None:
    disk = disk_with(parent=a_parent(), branch=a_branch(a_parent(), path=where))

    with pytest.raises(Damaged, match="leads out of the folders of the branch") as told:
        shown(disk)

    assert told.value.hint
    assert disk.operations.count("open") == 1


def of_a_far_parent(name: str, parent: str, filler: bytes) -> bytes:
    """Return a branch whose last 64 KiB do not depend on what its parent is."""
    far = store_bytes((0x0E, filler), held=0, file_id=name.encode() * 16)
    return store_bytes(
        cow_map(far, parent.encode() * 16, f"{parent}.rvf"),
        members([1]),
        (0x0E, filler),
        held=0,
        file_id=name.encode() * 16,
    )


def tail_hashed(content: bytes, parent: bytes) -> bytes:
    """Return a branch that knows its parent by what it is now; its own last 64 KiB stay the same."""
    header = rvf.unpack_header(content[: rvf.HEADER_SIZE])
    payload = bytearray(content[rvf.HEADER_SIZE : rvf.HEADER_SIZE + header.length])
    payload[32:64] = fold_hash(parent[-FOLDED:])
    return rvf.pack_segment(header.type, header.id, bytes(payload)) + content[rvf.HEADER_SIZE + header.length :]


def test_branches_of_one_another_are_refused() -> None:
    filler = bytes(FOLDED + 1000)
    one, other = of_a_far_parent("b", "o", filler), of_a_far_parent("o", "b", filler)
    one, other = tail_hashed(one, other), tail_hashed(other, one)
    disk = FaultDisk()
    disk.put(HOME / "b.rvf", one)
    disk.put(HOME / "o.rvf", other)

    with pytest.raises(Damaged, match="a branch of itself"):
        shown(disk, HOME / "b.rvf")


def test_a_branch_of_itself_is_refused() -> None:
    with pytest.raises(Damaged, match="a branch of itself"):
        shown(disk_with(branch=a_branch(a_parent(), path="branch.rvf")))


@pytest.mark.parametrize(("generations", "is_followed"), [(MAX_GENERATIONS - 1, True), (MAX_GENERATIONS, False)])
def test_generations_are_counted(generations: int, *, is_followed: bool) -> None:
    contents = {"f0": a_parent()}
    for generation in range(1, generations + 1):
        parent = contents[f"f{generation - 1}"]
        contents[f"f{generation}"] = store_bytes(
            cow_map(parent, PARENT_ID, f"f{generation - 1}.rvf"), members([1, 3]), held=0, file_id=PARENT_ID
        )
    disk, path = disk_with(**contents), HOME / f"f{generations}.rvf"

    if is_followed:
        assert shown(disk, path) == [1, 3]
        return
    with pytest.raises(Damaged, match="generations"):
        shown(disk, path)
    assert disk.operations.count("open") == MAX_GENERATIONS


@pytest.mark.parametrize("has_parent", [True, False])
def test_no_file_stays_open(tmp_path: Path, *, has_parent: bool) -> None:
    for name in ("branch-8", *(["parent-8"] * has_parent)):
        shutil.copy(golden_folder() / f"{name}.rvf", tmp_path / f"{name}.rvf")
    before = len(list(Path("/proc/self/fd").iterdir()))

    with suppress(Missing), ForeignStore.open(RealFiles(), tmp_path / "branch-8.rvf") as store:
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 2
        store.close()

    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_map_without_a_list_and_a_list_without_a_map_are_damage(left_out: int) -> None:
    both = [cow_map(a_parent(), PARENT_ID, "parent.rvf"), members([1])]

    with pytest.raises(Damaged, match="without its parent or its rows"):
        shown(disk_with(parent=a_parent(), branch=store_bytes(both[left_out], held=0)))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 2}, "unknown kind"),
        ({"kind": 1}, "unknown kind"),
        ({"place": 2}, "unknown way"),
        ({"place": 0}, "unknown way"),
        ({"clusters": 0xFFFFFFFF}, "cut short"),
        ({"path_length": 0xFFFFFFFF}, "cut short"),
        ({"map_length": 0xFFFFFFFF}, "cut short"),
        ({"map_length": 4}, "cut short"),
    ],
)
def test_a_map_that_cannot_be_believed_is_refused(changed: dict[str, int], reason: str) -> None:
    _, payload = cow_map(a_parent(), PARENT_ID, "parent.rvf", **changed)

    with pytest.raises(ValueError, match=reason):
        unpack_cow_map(payload)


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(Damaged, match="not UTF-8"):
        shown(disk_with(parent=a_parent(), branch=a_branch(a_parent(), path=b"\xff\xfe.rvf")))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 2}, "unknown kind"),
        ({"kind": 1}, "unknown kind"),
        ({"mode": 1}, "unknown kind"),
        ({"count": 1}, "other rows"),
        ({"count": (1 << 64) - 1}, "other rows"),
        ({"bound": 1 << 63}, "cut short"),
        ({"offset": (1 << 64) - 1}, "cut short"),
        ({"offset": 0}, "cut short"),
        ({"size": 0xFFFFFFFF}, "cut short"),
    ],
)
def test_a_list_of_rows_that_cannot_be_believed_is_refused(changed: dict[str, int], reason: str) -> None:
    _, payload = members([1, 3], **changed)

    with pytest.raises(ValueError, match=reason):
        unpack_members(payload)


@pytest.mark.parametrize("unpack", [unpack_cow_map, unpack_members])
def test_what_is_cut_short_is_refused_at_every_length(unpack: Callable[[bytes], object]) -> None:
    for _, payload in (cow_map(a_parent(), PARENT_ID, "parent.rvf"), members([1, 3])):
        for length in range(len(payload)):
            with pytest.raises(ValueError, match=r"cut short|unknown"):
                unpack(payload[:length])


def test_rows_at_and_beyond_the_bound_are_no_members() -> None:
    _, payload = members([0, 7, 8, 63], bound=63)

    found = unpack_members(payload).hold(np.array([0, 1, 7, 8, 63, 64, (1 << 64) - 1], np.uint64))

    assert found.tolist() == [True, False, True, True, False, False, False]


# --- counts, and bytes that look like something ---


def test_rows_are_counted_against_the_manifest() -> None:
    with pytest.raises(Damaged, match="counts other rows"):
        shown(disk_with(branch=store_bytes(vec([1, 2], units(2)), held=(1 << 63) + 1)))


def test_a_segment_that_is_listed_twice_is_refused_and_not_read_twice() -> None:
    content = rvf.pack_segment(rvf.VEC, 1, vec([1], units(1))[1])
    line = (1, 0, len(content) - rvf.HEADER_SIZE, rvf.VEC)
    manifest = rvf.Manifest(1, 8, 1, np.array([line] * 1000, rvf.ENTRY), rvf.NO_ROWS, None)
    content += rvf.pack_segment(rvf.MANIFEST, 2, rvf.pack_manifest(manifest))

    with pytest.raises(Damaged, match="entries overlap"):
        shown(disk_with(branch=content))


def test_what_is_read_takes_no_more_memory_than_a_few_times_the_file() -> None:
    count = 20_000
    content = store_bytes(vec(range(count), units(count)), held=count)
    disk = disk_with(branch=content)
    tracemalloc.start()

    with ForeignStore.open(disk, PATH) as store:
        store.vector(count - 1)
        _, most = tracemalloc.get_traced_memory()

    tracemalloc.stop()
    assert most < 4 * len(content)


def a_lie(*, version: int = rvf.VERSION) -> bytes:
    """Return what looks like a commit of a file without rows."""
    content = bytearray(store_bytes(held=0))
    content[4] = version
    return bytes(content)


@pytest.mark.parametrize("kind", [0x0E, 0x07, rvf.PRIVATE])
def test_a_commit_inside_of_user_bytes_is_not_believed_wherever_the_file_is_cut(kind: int) -> None:
    first = store_bytes(vec([1], units(1)), held=1)
    user_bytes = b"before" + a_lie() + b"behind"
    second = rvf.pack_segment(kind, 7, user_bytes)
    lines = [(1, 0, 6 + 8 + 4 * 8, rvf.VEC), (7, len(first), len(user_bytes), kind)]
    manifest = rvf.Manifest(2, 8, 1, np.array(lines, rvf.ENTRY), rvf.NO_ROWS, None)
    content = first + second + rvf.pack_segment(rvf.MANIFEST, 8, rvf.pack_manifest(manifest))

    for length in range(len(first), len(content) + 1):
        try:
            assert shown(disk_with(branch=content[:length])) == [1], length
        except Damaged as told:
            assert "a commit inside of a segment that is cut short" in told.message  # noqa: PT017 - not every length fails
            assert len(first) < length < len(first) + len(second)
            assert told.details["offset"] == len(first)  # noqa: PT017


def test_a_commit_behind_a_torn_segment_is_found() -> None:
    torn = rvf.pack_segment(0x0E, 1, bytes(200))[:150]
    vector = rvf.pack_segment(rvf.VEC, 2, vec([1, 2, 3], units(3))[1])
    lines = [(2, len(torn), len(vector) - rvf.HEADER_SIZE, rvf.VEC)]
    manifest = rvf.Manifest(2, 8, 3, np.array(lines, rvf.ENTRY), rvf.NO_ROWS, None)
    content = torn + vector + rvf.pack_segment(rvf.MANIFEST, 3, rvf.pack_manifest(manifest))
    assert len(content) > rvf.HEADER_SIZE + 200

    assert shown(disk_with(branch=content)) == [1, 2, 3]


def test_many_torn_segments_that_seem_to_hold_a_commit_are_not_all_read() -> None:
    header = bytearray(rvf.pack_segment(0x0E, 1, b""))
    count = 200
    commit = store_bytes(held=0)
    fakes = b""
    for number in range(count):
        struct.pack_into("<Q", header, 0x10, (count - number - 1) * rvf.HEADER_SIZE + len(commit))
        header[0x28:0x38] = b"\x01" * 16
        fakes += header

    with pytest.raises(Damaged, match="a commit inside of a segment that is cut short"):
        shown(disk_with(branch=fakes + commit))


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_newer_commit_is_never_answered_with_an_older_one(version: int) -> None:
    content = store_bytes(vec([1], units(1)), held=1) + a_lie(version=version)

    with pytest.raises(Damaged, match=f"unknown version {version}") as told:
        shown(disk_with(branch=content))

    assert "newer" in str(told.value.hint)


def test_a_file_of_memoryd_is_told_from_one_of_another_program(tmp_path: Path) -> None:
    for payload, is_ours in ((b"MEMD and more", True), (b"theirs", False), (b"", False)):
        path = tmp_path / "some.rvf"
        path.write_bytes(store_bytes((rvf.PRIVATE, payload), held=0))
        file = RealFiles().open(path, writable=False)
        assert is_memory(file, committed(file, path)) is is_ours
        file.close()


def test_a_file_that_is_cut_while_it_is_read_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "some.rvf"
    path.write_bytes(store_bytes(vec([1, 2], units(2)), held=2))
    with ForeignStore.open(RealFiles(), path) as store:
        path.write_bytes(path.read_bytes()[:100])

        with pytest.raises(Damaged, match="while the file was read"):
            store.vector(2)


def test_a_parent_that_is_a_link_is_refused(tmp_path: Path) -> None:
    for name in ("branch-8", "parent-8"):
        shutil.copy(golden_folder() / f"{name}.rvf", tmp_path / f"{name}.rvf")
    (tmp_path / "parent-8.rvf").rename(tmp_path / "elsewhere.rvf")
    (tmp_path / "parent-8.rvf").symlink_to(tmp_path / "elsewhere.rvf")

    with pytest.raises(StorageFault) as told:
        ForeignStore.open(RealFiles(), tmp_path / "branch-8.rvf")

    assert "symbolic link" in str(told.value.hint)


def test_the_fold_hash_is_the_one_in_the_files_of_the_runtime() -> None:
    path = golden_folder() / "branch-8.rvf"
    file = RealFiles().open(path, writable=False)
    state = committed(file, path)
    (*_, entry) = state.of_type(0x20)

    origin = unpack_cow_map(read_segment(file, path, entry))
    file.close()

    assert origin.parent_hash == fold_hash((golden_folder() / "parent-8.rvf").read_bytes())
    assert origin.path == "parent-8.rvf"
