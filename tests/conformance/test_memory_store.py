"""What every `MemoryStore` must do, whatever disk it stands on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from memoryd.files import RealFiles
from memoryd.protocol.errors import InvalidMessage, Locked, ModelMismatch, StorageFault
from memoryd.protocol.ids import Seq, TrajectoryId, UserId
from memoryd.protocol.interfaces import Batch, Entry, ModelInfo
from memoryd.protocol.records import ANY
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import (
    MODEL,
    ROOT,
    USER,
    Expected,
    entries,
    history,
    record,
    record_id,
    store,
    trajectory,
    units,
)

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.files import FileSystem
    from memoryd.protocol.interfaces import MemoryStore

BATCHES = (
    Batch(entries=entries([1, 2, 3]), trajectories=[trajectory(1), trajectory(2)], applied_seq=Seq(3)),
    Batch(entries=entries([4]), deleted=[record_id(2)], dropped=[TrajectoryId("run 2")], applied_seq=Seq(5)),
    Batch(trajectories=[trajectory(1, quality=0.5)]),
)


class MakeStore(Protocol):
    """Opens the same disk again, perhaps as another daemon with another model."""

    def __call__(self, model: ModelInfo = MODEL) -> MemoryStore: ...


@pytest.fixture(params=["real files", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileSystem, Path]:
    """A disk, and the folder of all users on it."""
    if request.param == "real files":
        return RealFiles(), tmp_path / "data"
    disk = FaultDisk()
    disk.put(ROOT)
    return disk, ROOT


@pytest.fixture
def make(place: tuple[FileSystem, Path]) -> MakeStore:
    files, root = place
    return lambda model=MODEL: store(files, root, model)


def test_a_user_has_no_memory_before_the_first_commit(make: MakeStore) -> None:
    memories = make()
    assert list(memories.users()) == []

    opened = memories.open(USER)

    assert (len(opened.index), opened.trajectories, opened.applied_seq) == (0, [], 0)
    assert not memories.exists(USER)
    opened.file.commit(BATCHES[0])
    assert memories.exists(USER)
    assert list(memories.users()) == [USER]
    opened.file.close()


def test_every_commit_is_found_by_the_next_daemon(make: MakeStore) -> None:
    for batch, expected in zip(BATCHES, history(BATCHES)[1:], strict=True):
        opened = make().open(USER)
        opened.file.commit(batch)
        opened.file.close()

        opened = make().open(USER)

        assert Expected.of(opened.file.load()) == expected
        assert {(one.id, one.quality) for one in opened.trajectories} == expected.trajectories
        assert opened.applied_seq == expected.applied_seq
        assert len(opened.index) == len(expected.rows)
        opened.file.close()


def test_a_memory_opened_again_answers_by_its_vectors(make: MakeStore) -> None:
    memories = make()
    opened = memories.open(USER)
    opened.file.commit(BATCHES[0])
    opened.file.close()

    opened = memories.open(USER)
    (hit,) = opened.index.view().search(units(1, seed=2)[0], k=1, where=ANY).hits

    assert memories.decode(hit.record) == record(2)
    assert hit.score == pytest.approx(1.0, abs=1e-6)
    opened.file.close()


def test_a_memory_has_one_writer(make: MakeStore) -> None:
    opened = make().open(USER)

    with pytest.raises(Locked, match="the memory of alice is locked"):
        make().open(USER)
    with pytest.raises(Locked):
        make().erase(USER)

    opened.file.close()
    make().open(USER).file.close()


@pytest.mark.parametrize("was_there", [True, False])
def test_a_batch_deletes_before_it_adds(make: MakeStore, *, was_there: bool) -> None:
    opened = make().open(USER)
    if was_there:
        opened.file.commit(Batch(entries=entries([1, 2]), trajectories=[trajectory(1)]))
    new = Entry(record(1, text="said again"), units(1, seed=9)[0])

    opened.file.commit(
        Batch(
            entries=[new],
            deleted=[record_id(1), record_id(2)],
            trajectories=[trajectory(1, quality=1.0)],
            dropped=[TrajectoryId("run 1")],
        )
    )
    opened.file.close()

    opened = make().open(USER)
    expected = Expected(((new.record, new.vector.tobytes()),), frozenset({("run 1", 1.0)}))
    assert Expected.of(opened.file.load()) == expected
    assert len(opened.index) == opened.file.status().records == 1
    opened.file.close()


def test_who_never_committed_leaves_nothing_behind(make: MakeStore, place: tuple[FileSystem, Path]) -> None:
    files, root = place
    for _ in range(2):
        opened = make().open(USER)
        assert Expected.of(opened.file.load()) == Expected()

        opened.file.close()
        opened.file.close()

        assert files.list(root) == []


def test_who_committed_even_nothing_but_a_cursor_stays(make: MakeStore, place: tuple[FileSystem, Path]) -> None:
    files, root = place
    opened = make().open(USER)
    opened.file.commit(Batch(applied_seq=Seq(1)))
    opened.file.close()

    make().open(USER).file.close()

    assert files.list(root / USER) == ["memory.rvf"]


def test_what_others_put_beside_a_memory_that_was_never_committed_stays(
    make: MakeStore, place: tuple[FileSystem, Path]
) -> None:
    files, root = place
    opened = make().open(USER)
    files.create(root / USER / "words.sqlite").close()

    opened.file.close()

    assert files.list(root / USER) == ["words.sqlite"]


def test_users_do_not_see_each_other(make: MakeStore) -> None:
    memories = make()
    alice, bob = memories.open(USER), memories.open(UserId("bob"))

    alice.file.commit(BATCHES[0])
    bob.file.commit(Batch(entries=entries([9])))

    assert Expected.of(alice.file.load()).rows == history(BATCHES)[1].rows
    assert Expected.of(bob.file.load()).rows == Expected().after(Batch(entries=entries([9]))).rows
    assert list(memories.users()) == [USER, "bob"]
    alice.file.close()
    bob.file.close()


def test_compaction_changes_nothing_that_can_be_seen(make: MakeStore) -> None:
    opened = make().open(USER)
    for batch in BATCHES:
        opened.file.commit(batch)
    before = opened.file.status()

    after = opened.file.compact()

    assert Expected.of(opened.file.load()) == history(BATCHES)[-1]
    assert after.file_bytes < before.file_bytes
    assert (after.deleted, after.dead_bytes, after.records) == (0, 0, before.records)
    opened.file.close()
    assert make().verify(USER) == []


def test_erasing_a_user_leaves_nothing_and_nobody_else_is_touched(make: MakeStore) -> None:
    memories = make()
    for user in (USER, UserId("bob")):
        opened = memories.open(user)
        opened.file.commit(BATCHES[0])
        opened.file.close()

    memories.erase(USER)
    memories.erase(USER)

    assert list(memories.users()) == ["bob"]
    opened = memories.open(USER)
    assert len(opened.index) == 0
    opened.file.close()


def test_another_model_is_refused_and_the_memory_stays_free(make: MakeStore) -> None:
    opened = make().open(USER)
    opened.file.commit(BATCHES[0])
    opened.file.close()

    with pytest.raises(ModelMismatch, match="memoryd reembed --user alice"):
        make(ModelInfo("another", 8, "00")).open(USER)

    make().open(USER).file.close()


def test_a_name_that_is_no_user_id_never_becomes_a_path(make: MakeStore) -> None:
    memories = make()

    for name in ("..", "../bob", "/etc", "", "a/b", ".hidden", "\N{FULLWIDTH LATIN SMALL LETTER A}lice"):
        for use in (memories.open, memories.exists, memories.erase, memories.verify):
            with pytest.raises(InvalidMessage):
                use(UserId(name))


def test_a_memory_that_is_not_there_cannot_be_verified(make: MakeStore) -> None:
    with pytest.raises(StorageFault, match="no such file"):
        make().verify(USER)


def test_a_memory_can_be_verified_while_it_is_open(make: MakeStore) -> None:
    opened = make().open(USER)
    opened.file.commit(BATCHES[0])

    assert make().verify(USER) == []

    opened.file.close()


def test_a_record_survives_encoding(make: MakeStore) -> None:
    memories = make()
    whole = record(7, text="é\N{CRAB}\x00", metadata={"n": 2**60, "list": [1.5, None, True]}, quality_score=1.0)

    assert memories.decode(memories.encode(whole)) == whole


def test_what_does_not_look_like_a_user_is_no_user(tmp_path: Path) -> None:
    memories = store(RealFiles(), tmp_path)
    for name in ("_global", ".trash", "empty", "memoryd.lock"):
        (tmp_path / name).mkdir()
    (tmp_path / "_global" / "memory.rvf").touch()

    assert list(memories.users()) == []


def test_a_link_in_the_place_of_a_user_is_not_followed(tmp_path: Path) -> None:
    memories = store(RealFiles(), tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / USER).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageFault):
        memories.open(USER)

    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_user_that_was_erased_in_part_is_still_there_to_be_erased_again(tmp_path: Path) -> None:
    files = RealFiles()
    memories = store(files, tmp_path)
    opened = memories.open(USER)
    opened.file.commit(BATCHES[0])
    opened.file.close()
    for name in ("sona.json", "words.sqlite"):
        (tmp_path / USER / name).touch()

    memories.erase(USER)

    assert list(tmp_path.iterdir()) == []
