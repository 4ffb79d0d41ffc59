"""Branches: what they see of their ancestors, whatever becomes of these, and how they are made, compared and dropped."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.protocol.errors import Damaged, InvalidMessage, Locked, NotFound
from memoryd.protocol.ids import MAIN, BranchName, Seq
from memoryd.protocol.interfaces import Batch
from memoryd.protocol.records import ANY
from memoryd.rvf import ledger
from memoryd.rvf.records import decode_record
from tests.helpers.faultfs import Crash, FaultDisk
from tests.helpers.memories import FILE, ROOT, USER, entries, record_id, store, trajectory, units

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memoryd.protocol.interfaces import MemoryFile
    from memoryd.rvf.store import RvfMemoryStore

PLAN_B, DEEPER = BranchName("plan-b"), BranchName("deeper")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal and fold few rows already."""
    monkeypatch.setattr(ledger, "SEALED_ROWS", 4)
    monkeypatch.setattr("memoryd.rvf.rewriting.SEALED_ROWS", 4)
    monkeypatch.setattr(ledger, "_FOLD_ROWS", 8)


@pytest.fixture
def memories(disk: FaultDisk) -> RvfMemoryStore:
    return store(disk)


def commit(memories: RvfMemoryStore, *batches: Batch, compacts: bool = False) -> None:
    """Write to the branch in use."""
    file = memories.open(USER).file
    for batch in batches:
        file.commit(batch)
        fold(file)
    if compacts:
        file.compact(erases=True)
    file.close()


def fold(file: MemoryFile) -> None:
    while (folding := file.fold(is_quiet=True)) is not None:
        folding.prepare()
        file.finish(folding)


def added(*numbers: int) -> Batch:
    return Batch(entries=entries(numbers))


def gone(*numbers: int) -> Batch:
    return Batch(deleted=[record_id(number) for number in numbers], moment_us=1)


def held(memories: RvfMemoryStore, branch: str = MAIN) -> list[int]:
    """Return the numbers of the records of a branch, as a search finds them, each with its own vector."""
    index = memories.look(USER, BranchName(branch)).index
    hits = index.view().search(units(1)[0], k=100, where=ANY).hits
    found = [decode_record(hit.record) for hit in hits]
    assert index.vectors([one.id for one in found]).shape == (len(found), 8)
    for one in found:
        np.testing.assert_array_equal(index.vectors([one.id])[0], units(1, seed=int(one.id))[0])
    return sorted(int(one.id) for one in found)


def names(memories: RvfMemoryStore) -> list[str]:
    return [each.name for each in memories.branches(USER)]


def sound(memories: RvfMemoryStore) -> bool:
    return [one.what for one in memories.verify(USER) if "behind the newest commit" not in one.what] == []


def test_a_branch_holds_what_its_parent_held_when_it_began(memories: RvfMemoryStore) -> None:
    commit(memories, added(*range(10)), gone(3), added(10, 11))

    memories.branch(USER, PLAN_B, MAIN)

    assert held(memories, PLAN_B) == held(memories) == [0, 1, 2, *range(4, 12)]
    status = {each.name: each for each in memories.branches(USER)}
    assert (status[PLAN_B].parent, status[PLAN_B].records, status[PLAN_B].own_records) == (MAIN, 11, 0)
    assert (status[MAIN].parent, status[MAIN].is_current, status[PLAN_B].is_current) == (None, True, False)
    assert status[PLAN_B].file_bytes < 1_000
    assert sound(memories)


@pytest.mark.parametrize("compacts", [False, True])
def test_a_parent_that_goes_on_changes_nothing_for_its_branch(memories: RvfMemoryStore, *, compacts: bool) -> None:
    commit(memories, added(*range(12)), gone(3))
    memories.branch(USER, PLAN_B, MAIN)

    commit(memories, added(20, 21), gone(1, 5, 20), added(*range(30, 40)), compacts=compacts)

    assert held(memories, PLAN_B) == [0, 1, 2, *range(4, 12)]
    assert held(memories) == [0, 2, 4, *range(6, 12), 21, *range(30, 40)]
    assert sound(memories)


@pytest.mark.parametrize("compacts", [False, True])
def test_a_branch_goes_on_by_itself(memories: RvfMemoryStore, *, compacts: bool) -> None:
    commit(memories, added(*range(12)))
    memories.branch(USER, PLAN_B, MAIN)
    memories.switch(USER, PLAN_B, Seq(7))

    commit(memories, added(50, 51), gone(2, 50), added(*range(60, 70)), added(4), compacts=compacts)

    assert held(memories, PLAN_B) == [0, 1, *range(3, 12), 51, *range(60, 70)]
    assert held(memories) == list(range(12))
    assert memories.open(USER).applied_seq == 7
    assert sound(memories)


def test_a_branch_of_a_branch_sees_all_its_ancestors(memories: RvfMemoryStore) -> None:
    commit(memories, added(*range(6)))
    memories.branch(USER, PLAN_B, MAIN)
    memories.switch(USER, PLAN_B, Seq(0))
    commit(memories, added(10, 11, 12), gone(0, 10))
    memories.branch(USER, DEEPER, PLAN_B)
    commit(memories, gone(1, 11), added(13), compacts=True)
    memories.switch(USER, MAIN, Seq(0))
    commit(memories, gone(2), added(20), compacts=True)
    memories.switch(USER, DEEPER, Seq(0))
    commit(memories, added(30), gone(3, 12), compacts=True)

    assert held(memories, DEEPER) == [1, 2, 4, 5, 11, 30]
    assert held(memories, PLAN_B) == [2, 3, 4, 5, 12, 13]
    assert held(memories) == [0, 1, 3, 4, 5, 20]
    assert sound(memories)


def test_what_nobody_sees_any_more_is_erased(memories: RvfMemoryStore, disk: FaultDisk) -> None:
    commit(memories, added(*range(12)))
    memories.branch(USER, PLAN_B, MAIN)
    vector = units(1, seed=5)[0].tobytes()

    commit(memories, gone(5), compacts=True)
    assert vector in disk.content(FILE)
    memories.drop(USER, PLAN_B)
    commit(memories, compacts=True)

    assert vector not in disk.content(FILE)
    assert names(memories) == [MAIN]
    assert sound(memories)


def test_trajectories_go_along(memories: RvfMemoryStore) -> None:
    commit(memories, Batch(entries=entries([1]), trajectories=[trajectory(1), trajectory(2, quality=1.0)], moment_us=5))

    memories.branch(USER, PLAN_B, MAIN)
    memories.switch(USER, PLAN_B, Seq(0))
    commit(memories, Batch(trajectories=[trajectory(1, quality=0.5)], moment_us=9))

    qualities = {one.id: one.quality for one in memories.look(USER, PLAN_B).trajectories}
    assert qualities == {"run 1": 0.5, "run 2": 1.0}
    assert {one.id: one.quality for one in memories.look(USER, MAIN).trajectories} == {"run 1": None, "run 2": 1.0}


def ids(numbers: Iterable[int]) -> list[str]:
    return [record_id(number) for number in numbers]


def compared(memories: RvfMemoryStore, name: str, other: str) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    found = memories.compare(USER, BranchName(name), BranchName(other))
    return sorted(found.lacking), sorted(found.added), sorted(found.removed)


def test_branches_are_compared_with_each_other_and_with_where_they_parted(memories: RvfMemoryStore) -> None:
    commit(memories, added(*range(10)))
    memories.branch(USER, PLAN_B, MAIN)
    commit(memories, added(20, 21), gone(1, 2))
    memories.switch(USER, PLAN_B, Seq(0))
    commit(memories, added(30, 31), gone(2, 3))

    assert compared(memories, PLAN_B, MAIN) == (ids([1, 30, 31]), ids([30, 31]), ids([3]))
    assert compared(memories, MAIN, PLAN_B) == (ids([3, 20, 21]), ids([20, 21]), ids([1]))
    assert compared(memories, MAIN, MAIN) == ([], [], [])


def test_siblings_parted_where_the_first_of_them_began(memories: RvfMemoryStore) -> None:
    commit(memories, added(*range(6)))
    memories.branch(USER, PLAN_B, MAIN)
    commit(memories, added(7), gone(0))
    memories.branch(USER, DEEPER, MAIN)
    memories.switch(USER, PLAN_B, Seq(0))
    commit(memories, added(8))

    assert compared(memories, DEEPER, PLAN_B) == (ids([7]), ids([7]), ids([0]))
    assert compared(memories, PLAN_B, DEEPER) == (ids([0, 8]), ids([8]), [])


def test_what_a_branch_in_between_had_deleted_is_merged_too(memories: RvfMemoryStore) -> None:
    commit(memories, added(1, 2))
    memories.branch(USER, PLAN_B, MAIN)
    memories.switch(USER, PLAN_B, Seq(0))
    commit(memories, gone(1), added(3))
    memories.branch(USER, DEEPER, PLAN_B)

    assert compared(memories, DEEPER, MAIN) == (ids([3]), ids([3]), ids([1]))


def test_branches_that_began_at_the_same_row_parted_when_the_first_of_them_did(memories: RvfMemoryStore) -> None:
    commit(memories, added(1, 2))
    memories.branch(USER, PLAN_B, MAIN)
    commit(memories, gone(2))
    memories.branch(USER, DEEPER, MAIN)

    assert compared(memories, DEEPER, PLAN_B) == ([], [], ids([2]))
    assert compared(memories, PLAN_B, DEEPER) == (ids([2]), [], [])


def test_copies_that_somebody_puts_beside_branches_are_none(memories: RvfMemoryStore, disk: FaultDisk) -> None:
    commit(memories, added(1, 2), gone(2))
    memories.branch(USER, PLAN_B, MAIN)
    content = disk.content(FILE.parent / "branches" / "plan-b.rvf")
    for name in ("plan-b.bak.rvf", "plan b copy.rvf", "main.rvf"):
        disk.put(FILE.parent / "branches" / name, content)

    assert names(memories) == [MAIN, PLAN_B]
    commit(memories, gone(1))
    assert sound(memories)


def test_a_branch_that_is_in_use_or_has_heirs_is_not_dropped(memories: RvfMemoryStore) -> None:
    commit(memories, added(1))
    memories.branch(USER, PLAN_B, MAIN)
    memories.branch(USER, DEEPER, PLAN_B)

    with pytest.raises(InvalidMessage, match="in use"):
        memories.drop(USER, MAIN)
    with pytest.raises(InvalidMessage, match=r"other branches come from this one.*deeper"):
        memories.drop(USER, PLAN_B)
    memories.switch(USER, DEEPER, Seq(0))
    with pytest.raises(InvalidMessage, match="in use"):
        memories.drop(USER, DEEPER)
    memories.switch(USER, MAIN, Seq(0))
    memories.drop(USER, DEEPER)
    memories.drop(USER, PLAN_B)

    assert names(memories) == [MAIN]


def test_names_that_cannot_be(memories: RvfMemoryStore) -> None:
    commit(memories, added(1))
    memories.branch(USER, PLAN_B, MAIN)

    for name in ("../bob", "", "a/b", "a" * 65, ".hidden"):
        with pytest.raises(InvalidMessage, match="not a name of a branch"):
            memories.branch(USER, BranchName(name), MAIN)
    for name in (MAIN, PLAN_B):
        with pytest.raises(InvalidMessage, match="there already"):
            memories.branch(USER, name, MAIN)
    for call in (memories.drop, memories.look, lambda user, name: memories.branch(user, DEEPER, name)):
        with pytest.raises(NotFound, match="no branch nobody"):
            call(USER, BranchName("nobody"))
    with pytest.raises(NotFound, match="no branch nobody"):
        memories.switch(USER, BranchName("nobody"), Seq(0))


def test_who_is_open_is_not_switched(memories: RvfMemoryStore) -> None:
    commit(memories, added(1))
    memories.branch(USER, PLAN_B, MAIN)
    file = memories.open(USER).file

    with pytest.raises(Locked):
        memories.switch(USER, PLAN_B, Seq(0))

    file.close()
    assert memories.current(USER) == MAIN


def test_a_head_that_names_nothing_is_damage(memories: RvfMemoryStore, disk: FaultDisk) -> None:
    commit(memories, added(1))
    disk.put(FILE.with_name("HEAD"), b"../x\n")

    with pytest.raises(Damaged, match="HEAD names no branch"):
        memories.open(USER)


def test_another_file_in_the_place_of_a_parent_is_damage(memories: RvfMemoryStore, disk: FaultDisk) -> None:
    commit(memories, added(*range(6)))
    old = disk.content(FILE)
    commit(memories, added(7))
    memories.branch(USER, PLAN_B, MAIN)
    disk.put(FILE, old)

    with pytest.raises(Damaged, match="another file, or an old one, is in the place of main"):
        memories.look(USER, PLAN_B)
    assert any(
        "in the place of main" in one.what and one.file == "branches/plan-b.rvf" for one in memories.verify(USER)
    )


def test_rows_that_a_parent_lost_are_found(memories: RvfMemoryStore, disk: FaultDisk) -> None:
    commit(memories, added(*range(12)))
    memories.branch(USER, PLAN_B, MAIN)
    branch = disk.content(FILE.parent / "branches" / "plan-b.rvf")
    memories.drop(USER, PLAN_B)
    commit(memories, gone(3, 4), compacts=True)
    disk.put(FILE.parent / "branches" / "plan-b.rvf", branch)

    assert [one.what for one in memories.verify(USER)] == ["2 memories that main should still hold are not there"]


def test_a_branch_that_cannot_be_read_keeps_everything(memories: RvfMemoryStore, disk: FaultDisk) -> None:
    commit(memories, added(*range(12)))
    memories.branch(USER, PLAN_B, MAIN)
    path = FILE.parent / "branches" / "plan-b.rvf"
    branch = disk.content(path)
    disk.put(path, b"torn")

    commit(memories, gone(3), compacts=True)
    disk.put(path, branch)

    assert held(memories, PLAN_B) == list(range(12))
    assert sound(memories)


SCENES = {
    "branch": lambda memories: memories.branch(USER, DEEPER, PLAN_B),
    "switch": lambda memories: memories.switch(USER, PLAN_B, Seq(9)),
    "drop": lambda memories: memories.drop(USER, PLAN_B),
}


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scene", SCENES)
def test_a_crash_leaves_branches_as_they_were_or_as_they_were_to_be(scene: str, survives: float) -> None:
    whole = set_up(FaultDisk())
    before = len(whole.operations)
    SCENES[scene](store(whole))
    outcomes = set()

    for step in range(before + 1, len(whole.operations) + 2):
        disk = FaultDisk(crash_at=step, seed=step)
        with suppress(Crash):
            SCENES[scene](store(set_up(disk)))
        found = store(disk.after_crash(survives))
        assert all(held(found, name) == [0, 1, 3, 4, 5] for name in names(found))
        assert sound(found)
        outcomes.add((tuple(names(found)), found.current(USER)))
        commit(found, added(77))

    assert len(outcomes) == 2


def set_up(disk: FaultDisk) -> FaultDisk:
    disk.put(ROOT)
    memories = store(disk)
    commit(memories, added(*range(6)), gone(2))
    memories.branch(USER, PLAN_B, MAIN)
    return disk
