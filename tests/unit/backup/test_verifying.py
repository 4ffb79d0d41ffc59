"""Damage in a backup is found, with its place; and nothing that is forged reaches outside."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard

from memoryd.backup import format as layout
from memoryd.backup.format import MAX_OBJECT, Omitted, Piece, Snapshot, Stored, StoredFile
from memoryd.backup.repository import Repository
from memoryd.files import RealFiles
from memoryd.protocol.errors import Damaged, InvalidMessage, NotFound, StorageFault
from memoryd.protocol.ids import Seq, UserId
from memoryd.protocol.interfaces import Batch
from tests.helpers.backups import REPOSITORY, RESTORED, back_up, put_back, verified
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import USER, entries, store

if TYPE_CHECKING:
    from collections.abc import Iterator

PACK = REPOSITORY / "packs" / "000001.pack"
SNAPSHOT = REPOSITORY / "snapshots" / "000001.snapshot"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FORGED = [
    "../outside",
    "alice/../../outside",
    "/outside",
    "alice//x",
    "alice/.",
    "alice/",
    "alice",
    "",
    "_other/memory.rvf",
    "events.sqlite/x",
    "al\u0456ce/memory.rvf",
    "alice/a\x00b",
    "alice/" + "x" * 256,
    "alice/" + "/".join("abcdefghi"),
]


def flipped(disk: FaultDisk, path: Path, offset: int) -> None:
    content = bytearray(disk.content(path))
    content[offset] ^= 0x10
    disk.put(path, bytes(content))


def empty(**fields: object) -> Snapshot:
    known: dict[str, object] = {
        "created_at": NOON,
        "version": "1",
        "model": None,
        "last_seq": 1_000,
        "files": [],
        "omitted": [],
    }
    return Snapshot(**(known | fields))


@pytest.fixture
def backup(disk: FaultDisk) -> FaultDisk:
    """A backup with two snapshots, of which the second brought a user."""
    back_up(disk)
    memory = store(disk).open(UserId("bob")).file
    memory.commit(Batch(entries=entries(range(1, 40))))
    memory.close()
    back_up(disk)
    return disk


def unpacked(pack: bytes, stored: list[Stored]) -> list[bytes] | None:
    """What its objects hold, None if one of them or what stands around them is damaged."""
    first, behind = stored[0].offset, stored[-1].offset + stored[-1].packed
    try:
        found = [zstandard.decompress(pack[each.offset : each.offset + each.packed]) for each in stored]
    except zstandard.ZstdError:
        return None
    return [pack[:first], *found, pack[behind:]]


def objects(disk: FaultDisk, number: int) -> list[Stored]:
    repository = Repository(REPOSITORY, disk)
    try:
        return [*repository.index_of(number)]
    finally:
        repository.close()


def test_a_sound_backup_shows_its_snapshots_and_nothing_else(backup: FaultDisk) -> None:
    found = verified(backup)

    assert found.findings == []
    assert [(s.snapshot, s.users, s.files, s.omitted, s.last_seq) for s in found.snapshots] == [
        (1, 1, 2, 0, 1_000),
        (2, 2, 3, 0, 1_000),
    ]
    assert [s.new_bytes for s in found.snapshots] == [sum(o.packed for o in objects(backup, n)) for n in (1, 2)]
    assert backup.list(Path("/scratch")) == []


def test_every_byte_of_a_pack_that_is_changed_is_found(backup: FaultDisk) -> None:
    path = REPOSITORY / "packs" / "000002.pack"
    content, stored = backup.content(path), objects(backup, 2)
    said = unpacked(content, stored)

    for offset in range(0, len(content), 7):
        flipped(backup, path, offset)

        found = verified(backup).findings

        # Two bytes of the head say nothing, and a Zstandard frame has bits without which it says the same.
        is_harmless = 6 <= offset < 8 or unpacked(backup.content(path), stored) == said
        assert bool(found) or is_harmless, offset
        assert all(each.name.startswith(("packs/000002.pack", "bob/")) for each in found)
        backup.put(path, content)


def test_a_damaged_object_is_told_with_its_place_and_with_all_that_needs_it(backup: FaultDisk) -> None:
    broken = objects(backup, 1)[0]
    flipped(backup, PACK, broken.offset + broken.packed - 1)

    found = verified(backup).findings

    assert (found[0].name, found[0].offset, found[0].snapshots) == ("packs/000001.pack", broken.offset, [])
    # It is a segment of Alice's, whose file is the same in both snapshots, and so is named once.
    assert [(each.name, each.snapshots) for each in found[1:]] == [("alice/memory.rvf", [1, 2])]
    with pytest.raises(Damaged) as refused:
        put_back(backup)
    assert refused.value.details["offset"] == broken.offset
    assert not backup.exists(RESTORED)


def test_a_lost_pack_is_told_by_everything_that_needs_it(backup: FaultDisk) -> None:
    backup.unlink(REPOSITORY / "packs" / "000002.pack")

    assert {each.name for each in verified(backup).findings} == {"bob/memory.rvf"}
    assert verified(backup, number=1).findings == []
    put_back(backup, number=1)
    with pytest.raises(Damaged, match="missing"):
        put_back(backup, Path("/second"))


@pytest.mark.parametrize("offset", [0, 5, 10, 45, -1])
def test_a_changed_snapshot_is_told_and_not_restored(backup: FaultDisk, offset: int) -> None:
    flipped(backup, SNAPSHOT, offset)

    found = verified(backup)

    assert [each.name for each in found.findings] == ["snapshots/000001.snapshot"]
    assert [seen.snapshot for seen in found.snapshots] == [2]
    with pytest.raises(Damaged):
        put_back(backup, number=1)


def test_of_one_snapshot_only_what_it_needs_is_read(backup: FaultDisk) -> None:
    bobs = objects(backup, 2)[0]
    flipped(backup, REPOSITORY / "packs" / "000002.pack", bobs.offset + bobs.packed - 1)

    assert verified(backup, number=1).findings == []
    assert verified(backup, number=2).findings != []
    with pytest.raises(NotFound, match="there are 1, 2"):
        verified(backup, number=3)


def test_a_memory_that_was_wrong_already_is_told_as_verify_tells_it(disk: FaultDisk) -> None:
    # Sound segments that disagree: what `memoryd verify` would find where it came from.
    memory = store(disk).open(USER).file
    memory.commit(Batch(entries=entries([90])))
    memory.close()
    path = Path("/data/alice/memory.rvf")
    from memoryd.rvf import format as rvf
    from memoryd.rvf.reader import find_state

    file = disk.open(path, writable=True)
    manifest = find_state(file, path).manifest
    worse = rvf.Manifest(
        manifest.epoch + 1, manifest.dim, manifest.held, manifest.directory, manifest.deleted, None, metric=0
    )
    file.append(rvf.pack_segment(rvf.MANIFEST, 99, rvf.pack_manifest(worse)))
    here = [each.what for each in store(disk).verify(USER)]

    assert back_up(disk).omitted_files == 0

    assert here == ["metric is not cosine", "file has no identity"]
    assert [each.what for each in verified(disk).findings] == here


def test_a_memory_that_is_ahead_of_its_event_log_is_told(disk: FaultDisk) -> None:
    memory = store(disk).open(USER).file
    memory.commit(Batch(applied_seq=Seq(1_001)))
    memory.close()
    back_up(disk)

    (finding,) = verified(disk).findings

    assert finding.name == "snapshots/000001.snapshot"
    assert "has come to event 1001, the snapshot to 1000" in finding.what


# --- forged ---


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_name_never_reaches_outside_of_the_target(tmp_path: Path, name: str) -> None:
    files = RealFiles()
    data = tmp_path / "data" / "alice"
    data.mkdir(parents=True)
    (data / "HEAD").write_bytes(b"main\n")
    back_up(files, tmp_path / "data", tmp_path / "backup", _NoLog())
    path = tmp_path / "backup" / "snapshots" / "000001.snapshot"
    snapshot = layout.unpack_snapshot(path.read_bytes())
    forged = [msgspec.structs.replace(snapshot.files[0], name=name)]
    path.write_bytes(layout.pack_snapshot(msgspec.structs.replace(snapshot, files=forged)))

    with pytest.raises(Damaged, match="outside"):
        put_back(files, tmp_path / "target", tmp_path / "backup")

    assert not (tmp_path / "target").exists()
    assert {each.name for each in tmp_path.iterdir()} == {"data", "backup"}


class _NoLog:
    """Lets nothing be copied, as if the log were damaged."""

    def hold(self) -> dict[str, Seq]:
        return {}

    def release(self) -> None:
        pass

    def copy(self, *_: object) -> Seq:
        raise Damaged("no log here")


def wrong_files() -> Iterator[tuple[str, list[StoredFile]]]:
    digest = bytes(32)
    yield "twice", [StoredFile("alice/a", 0, []), StoredFile("alice/a", 0, [])]
    yield "no file", [StoredFile("alice/a", 5, [Piece(digest, 0, 6)])]
    yield "no file", [StoredFile("alice/a", 9, [Piece(digest, 4, 2), Piece(digest, 0, 2)])]
    yield "no file", [StoredFile("alice/a", 9, [Piece(digest, 0, 4), Piece(digest, 3, 2)])]
    yield "no file", [StoredFile("alice/a", 9, [Piece(digest, -4, 4)])]
    yield "no file", [StoredFile("alice/a", 9, [Piece(digest, 0, 0)])]
    yield "no file", [StoredFile("alice/a", 1 << 40, [Piece(digest, 0, MAX_OBJECT + 1)])]
    yield "no file", [StoredFile("alice/a", 9, [Piece(b"short", 0, 4)])]
    yield "impossible size", [StoredFile("alice/a", -1, [])]
    yield "impossible size", [StoredFile("alice/a", 1 << 63, [])]


@pytest.mark.parametrize(("said", "files"), [*wrong_files()])
def test_a_snapshot_whose_pieces_make_no_file_is_refused(said: str, files: list[StoredFile]) -> None:
    with pytest.raises(ValueError, match=said):
        layout.unpack_snapshot(layout.pack_snapshot(empty(files=files)))


def test_a_snapshot_that_is_cut_or_of_another_kind_is_refused() -> None:
    content = layout.pack_snapshot(empty(omitted=[Omitted("../what", 0, "why")]))

    assert layout.unpack_snapshot(content).omitted[0].name == "../what"  # it is shown and never opened
    for wrong in (b"", content[:20], content[:-1], content + b"x", b"MEMX" + content[4:]):
        with pytest.raises(ValueError, match="snapshot"):
            layout.unpack_snapshot(wrong)


@pytest.mark.parametrize(
    "stored",
    [
        Stored(bytes(32), 0, 5, 5),
        Stored(bytes(32), 8, 500, 5),
        Stored(bytes(32), 8, -1, 5),
        Stored(bytes(31), 8, 5, 5),
        Stored(bytes(32), 8, 5, 0),
        Stored(bytes(32), 8, 5, MAX_OBJECT + 1),
    ],
)
def test_an_index_that_points_elsewhere_or_promises_too_much_is_refused(stored: Stored) -> None:
    index = msgspec.msgpack.encode([stored])

    with pytest.raises(ValueError, match="cannot be there"):
        layout.unpack_index(index, layout.digest_of(index), end=100)


def test_a_folder_that_is_no_backup_is_not_found(disk: FaultDisk) -> None:
    with pytest.raises(NotFound, match="not a backup"):
        Repository(Path("/data"), disk)
    disk.put(REPOSITORY / layout.MARK, b"memoryd backup 2\n")
    with pytest.raises(Damaged):
        Repository(REPOSITORY, disk)


# --- restoring ---


def test_a_restore_goes_only_where_nothing_is(backup: FaultDisk) -> None:
    backup.put(RESTORED / "letters.txt", b"dear")

    with pytest.raises(InvalidMessage) as refused:
        put_back(backup)

    assert refused.value.field == "to"
    assert backup.list(RESTORED) == ["letters.txt"]


def test_a_folder_that_is_being_restored_is_not_served(backup: FaultDisk) -> None:
    from memoryd.stores.datadir import RESTORING, DataDir

    put_back(backup)
    DataDir.take(RESTORED, backup).release()
    backup.put(RESTORED / RESTORING, b"")

    with pytest.raises(StorageFault, match="did not come to its end"):
        DataDir.take(RESTORED, backup)


def test_a_user_who_is_not_in_the_snapshot_is_not_found(backup: FaultDisk) -> None:
    with pytest.raises(NotFound) as refused:
        put_back(backup, number=1, user=UserId("bob"))

    assert refused.value.field == "user"
    assert not backup.exists(RESTORED)
