"""What a snapshot takes, and what it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memoryd.backup import creating
from memoryd.backup.format import MAX_OBJECT
from memoryd.backup.repository import Repository
from memoryd.protocol.errors import Damaged, InvalidMessage, Locked, NotFound
from memoryd.protocol.ids import Seq, UserId
from memoryd.protocol.interfaces import Batch
from memoryd.rvf.format import HEADER_SIZE
from memoryd.rvf.reader import find_state
from tests.helpers.backups import REPOSITORY, PlainLog, back_up, backups, held, put_back, verified
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import FILE, MODEL, NOON, ROOT, USER, Expected, entries, record, record_id, store, units

if TYPE_CHECKING:
    from memoryd.backup.format import Snapshot

BOB = UserId("bob")
SECRET = "the launch code is tangerine"  # noqa: S105 - that is the point


def commit(disk: FaultDisk, *batches: Batch, user: UserId = USER) -> Expected:
    """Commit, and return what the memory holds then."""
    memory = store(disk).open(user).file
    for batch in batches:
        memory.commit(batch)
    found = Expected.of(memory.load())
    memory.close()
    return found


def snapshot(disk: FaultDisk, number: int | None = None) -> Snapshot:
    repository = Repository(REPOSITORY, disk)
    try:
        return repository.load(repository.choose(number))
    finally:
        repository.close()


def everything(disk: FaultDisk) -> bytes:
    """Return every object of the backup, unpacked."""
    repository = Repository(REPOSITORY, disk)
    repository.load_index()
    try:
        return b"".join(repository.read(digest) for digest in repository.objects)
    finally:
        repository.close()


def test_a_snapshot_says_when_by_whom_and_of_what_it_was_made(disk: FaultDisk) -> None:
    made = back_up(disk)

    found = snapshot(disk)
    assert (found.created_at, found.version, found.model, found.last_seq) == (NOON, "1.2.3", MODEL, 1_000)
    assert [file.name for file in found.files] == ["alice/memory.rvf", "events.sqlite"]
    assert (made.snapshot, made.users, made.files, made.last_seq, made.omitted) == (1, 1, 2, 1_000, ())
    assert made.bytes == found.live_bytes


def test_what_comes_back_is_what_was_there_for_every_snapshot(disk: FaultDisk) -> None:
    first = commit(disk)
    back_up(disk)
    second = commit(disk, Batch(entries=entries([9]), deleted=[record_id(1)], applied_seq=Seq(9)))
    commit(disk, Batch(entries=entries([1], 8)), user=BOB)
    back_up(disk)

    put_back(disk, Path("/one"), number=1)
    put_back(disk, Path("/two"))

    assert held(disk, Path("/one")) == first
    assert held(disk, Path("/two")) == second
    assert store(disk, Path("/two")).verify(USER) == []
    assert [*store(disk, Path("/one")).users()] == [USER]
    assert [*store(disk, Path("/two")).users()] == [USER, BOB]
    assert disk.content(Path("/two/events.sqlite")) == PlainLog(disk).content


def test_a_second_snapshot_of_the_same_adds_itself_and_nothing_else(disk: FaultDisk) -> None:
    back_up(disk)

    again = back_up(disk)

    assert disk.list(REPOSITORY / "packs") == ["000001.pack"]
    assert disk.list(REPOSITORY / "snapshots") == ["000001.snapshot", "000002.snapshot"]
    assert again.bytes_written == len(disk.content(REPOSITORY / "snapshots" / "000002.snapshot"))
    assert verified(disk).findings == []


def test_a_few_more_rows_add_their_own_segments_and_a_manifest(disk: FaultDisk) -> None:
    commit(disk, Batch(entries=entries(range(100, 1_000))))
    back_up(disk)
    before = disk.content(FILE)
    commit(disk, Batch(entries=entries(range(2_000, 2_004))))

    made = back_up(disk)

    assert len(before) > 40_000
    assert len(disk.content(REPOSITORY / "packs" / "000002.pack")) < 3_000
    assert made.bytes > len(before)


def test_what_was_forgotten_but_still_stands_in_the_file_does_not_come_into_a_backup(disk: FaultDisk) -> None:
    memory = store(disk).open(USER).file
    for number in range(10, 80):
        memory.commit(Batch(entries=entries([number])))
    folding = memory.fold()
    assert folding is not None
    assert folding.prepare()
    memory.finish(folding)
    expected = Expected.of(memory.load())
    memory.close()

    made = back_up(disk)

    size = len(disk.content(FILE))
    rvf = snapshot(disk).files[0]
    assert rvf.size == size
    assert rvf.live_bytes < size / 2
    assert made.bytes < size
    put_back(disk, Path("/back"))
    assert held(disk, Path("/back")) == expected
    live = {piece.offset for piece in rvf.pieces}
    content = disk.content(Path("/back") / USER / "memory.rvf")
    # What is dead is zeros, and everything else stands where it stood.
    assert len(content) == size
    assert content[: min(live)] == bytes(min(live))
    assert verified(disk).findings == []


def test_the_text_of_a_forgotten_record_is_in_no_later_pack(disk: FaultDisk) -> None:
    secret = record(50, SECRET)
    entry = entries([50])[0]
    commit(disk, Batch(entries=[type(entry)(secret, entry.vector)]))
    memory = store(disk).open(USER).file
    memory.commit(Batch(deleted=[secret.id]))
    memory.compact()
    memory.close()

    back_up(disk)

    assert SECRET.encode() not in everything(disk)


def test_a_user_whose_file_is_damaged_is_named_with_the_byte_and_harms_nobody_else(disk: FaultDisk) -> None:
    commit(disk, Batch(entries=entries([1])), user=BOB)
    bob = ROOT / BOB / "memory.rvf"
    file = disk.open(bob, writable=True)
    segment = find_state(file, bob).entries[0]
    file.rewrite(segment.offset + HEADER_SIZE + 3, b"\xff")

    made = back_up(disk)

    assert [(each.name, each.offset, each.what) for each in made.omitted] == [
        ("bob/memory.rvf", segment.offset, "content hash fails")
    ]
    found = snapshot(disk)
    assert [each.name for each in found.omitted] == ["bob/memory.rvf"]
    assert [file.name for file in found.files] == ["alice/memory.rvf", "events.sqlite"]
    (finding,) = verified(disk).findings
    assert (finding.name, finding.snapshots, finding.offset) == ("bob/memory.rvf", [1], segment.offset)
    assert [each.name for each in put_back(disk, Path("/back")).omitted] == ["bob/memory.rvf"]
    assert len(held(disk, Path("/back")).rows) == 5


def test_a_file_without_any_manifest_is_named(disk: FaultDisk) -> None:
    disk.put(ROOT / BOB / "memory.rvf", b"no segment at all")

    made = back_up(disk)

    assert [(each.name, each.what) for each in made.omitted] == [("bob/memory.rvf", "no valid manifest")]


def test_a_damaged_event_log_is_named_and_the_memories_are_kept(disk: FaultDisk) -> None:
    class Broken(PlainLog):
        def copy(self, *_: object) -> Seq:
            raise Damaged("the event log is damaged")

    made = back_up(disk, log=Broken(disk))

    assert [each.name for each in made.omitted] == ["events.sqlite"]
    assert made.last_seq is None
    assert disk.list(REPOSITORY) == ["lock", "memoryd.backup", "packs", "snapshots"]


def test_everything_else_in_a_users_folder_comes_along_but_for_locks_and_what_is_made_anew(disk: FaultDisk) -> None:
    commit(disk, Batch(entries=entries([1])), user=BOB)
    branch = disk.content(ROOT / BOB / "memory.rvf")
    disk.put(ROOT / USER / "branches" / "trial.rvf", branch)
    disk.put(ROOT / USER / "HEAD", b"trial\n")
    disk.put(ROOT / USER / "sona.json", b"{" + b" " * (MAX_OBJECT + 5) + b"}")
    for name in ("memory.rvf.lock", "memory.rvf.0.compact.tmp", "words.sqlite", "words.sqlite-wal"):
        disk.put(ROOT / USER / name, b"not to be kept")
    for name in ("notes.txt", "memoryd.lock", "_other/memory.rvf"):
        disk.put(ROOT / name, b"not a memory")
    disk.put(ROOT / "_global" / "global" / "memory.rvf", branch)

    back_up(disk)
    put_back(disk, Path("/back"))

    assert [file.name for file in snapshot(disk).files] == [
        "_global/global/memory.rvf",
        "alice/HEAD",
        "alice/branches/trial.rvf",
        "alice/memory.rvf",
        "alice/sona.json",
        "bob/memory.rvf",
        "events.sqlite",
    ]
    assert disk.content(Path("/back/alice/branches/trial.rvf")) == branch
    assert disk.content(Path("/back/alice/HEAD")) == b"trial\n"
    assert disk.content(Path("/back/alice/sona.json")) == disk.content(ROOT / USER / "sona.json")
    assert snapshot(disk).users == 2
    assert verified(disk).findings == []


def test_files_of_a_user_are_of_one_moment_even_when_one_comes_while_they_are_opened(disk: FaultDisk) -> None:
    class Branching(FaultDisk):
        """Makes a branch, and the file that names it, while the backup opens the first file."""

        def open(self, path: Path, *, writable: bool) -> object:
            if path == FILE and ROOT / USER / "HEAD" not in self._names:
                self.put(ROOT / USER / "HEAD", b"trial\n")
                self.put(ROOT / USER / "branches" / "trial.rvf", self.content(FILE))
            return super().open(path, writable=writable)

    branching = Branching()
    branching._names, branching._durable = disk._names, disk._durable

    back_up(branching)

    names = {file.name for file in snapshot(branching).files}
    assert {"alice/HEAD", "alice/branches/trial.rvf"} <= names


def test_a_file_that_is_rewritten_while_it_is_read_comes_as_it_was_when_it_was_opened(
    disk: FaultDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_STEP_PIECES", 1)
    expected = commit(disk, *(Batch(entries=entries([number])) for number in range(10, 15)))
    memory = store(disk).open(USER).file
    run = backups(disk).begin(REPOSITORY)
    steps = 0
    while run.step().made is None:
        steps += 1
        if steps > 2:  # then the file is open
            memory.commit(Batch(entries=entries([100 + steps]), deleted=[record_id(steps)]))
            memory.compact()
    memory.close()

    put_back(disk, Path("/back"))

    assert steps > 8
    assert held(disk, Path("/back")) == expected
    assert verified(disk).findings == []


def test_names_that_a_snapshot_cannot_hold_are_told(disk: FaultDisk) -> None:
    disk.put(ROOT / USER / "a\udcff", b"x")
    disk.put(ROOT / USER / Path(*"abcdefgh") / "deep", b"x")

    made = back_up(disk)

    assert {each.name for each in made.omitted} == {"alice/a?", "alice/a/b/c/d/e/f/g/h/deep"}
    assert verified(disk, number=1).snapshots[0].files == 2


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(disk: FaultDisk) -> None:
    disk.put(REPOSITORY / "letters.txt", b"dear")

    with pytest.raises(InvalidMessage) as refused:
        back_up(disk)

    assert refused.value.field == "folder"
    assert disk.list(REPOSITORY) == ["letters.txt"]
    disk.put(Path("/file"), b"")
    with pytest.raises(InvalidMessage):
        back_up(disk, folder=Path("/file"))


@pytest.mark.parametrize("folder", [ROOT, ROOT / "alice" / "backup", ROOT.parent])
def test_a_backup_and_its_data_directory_are_not_in_each_other(disk: FaultDisk, folder: Path) -> None:
    with pytest.raises(InvalidMessage):
        backups(disk).begin(folder)


def test_one_backup_at_a_time(disk: FaultDisk) -> None:
    both = backups(disk)
    first, second = both.begin(REPOSITORY), both.begin(Path("/elsewhere"))
    first.step()

    with pytest.raises(Locked):
        second.step()
    with pytest.raises(Locked):  # nor another process into the same folder
        back_up(disk)
    first.abandon()

    assert back_up(disk).snapshot == 1
    assert not disk.exists(Path("/elsewhere"))


def test_an_abandoned_backup_gives_everything_back_and_leaves_nothing(disk: FaultDisk) -> None:
    log = PlainLog(disk)
    run = backups(disk, log=log).begin(REPOSITORY)
    run.step()
    assert log.holds == 1

    run.abandon()
    run.abandon()

    assert log.holds == 0
    assert disk.list(REPOSITORY / "packs") == []
    with pytest.raises(NotFound):
        snapshot(disk)


def test_a_backup_that_was_never_begun_has_taken_nothing(disk: FaultDisk) -> None:
    backups(disk).begin(REPOSITORY).abandon()

    assert not disk.exists(REPOSITORY)


def test_a_large_segment_is_cut_into_pieces_and_comes_back_whole(disk: FaultDisk) -> None:
    rows = MAX_OBJECT // (4 * 512) + 100
    model = type(MODEL)("wide", 512, "aa" * 32)
    memory = store(disk, model=model).open(BOB).file
    vectors = units(rows, 512)
    memory.commit(Batch(entries=[type(entries([1])[0])(record(n), vectors[n]) for n in range(rows)]))
    expected = Expected.of(memory.load())
    memory.close()

    back_up(disk)
    put_back(disk, Path("/back"))

    bobs = next(file for file in snapshot(disk).files if file.name == "bob/memory.rvf")
    assert max(piece.length for piece in bobs.pieces) == MAX_OBJECT
    opened = store(disk, Path("/back"), model=model).open(BOB)
    assert Expected.of(opened.file.load()) == expected
    opened.file.close()
    assert verified(disk).findings == []
