"""A memory as it stood at an earlier moment, as far back as the file keeps what was deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.protocol.ids import MAIN, BranchName, Seq
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.records import microseconds
from memoryd.rvf import ledger
from memoryd.rvf.records import decode_record
from memoryd.rvf.store import RvfMemoryStore
from memoryd.vectors.index import VectorIndex
from tests.helpers.memories import MODEL, ROOT, USER, record, record_id, trajectory, units

if TYPE_CHECKING:
    from tests.helpers.faultfs import FaultDisk

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = 86_400.0
PLAN_B = BranchName("plan-b")


class HandClock:
    """A clock that stands where it was put: so many days after the start."""

    def __init__(self) -> None:
        self.day = 0.0

    def now(self) -> datetime:
        return at(self.day)


def at(day: float) -> datetime:
    return START + timedelta(days=day)


class Diary:
    """One user's memory, written to on given days."""

    def __init__(self, disk: FaultDisk, keeps_days: float) -> None:
        self.clock = HandClock()
        self.store = RvfMemoryStore(
            ROOT,
            MODEL,
            disk,
            self.clock,
            VectorIndex,
            random_bytes=lambda n: bytes(range(n)),
            history_s=keeps_days * DAY,
        )

    def write(self, day: float, *numbers: int, deleted: tuple[int, ...] = (), quality: float | None = None) -> None:
        self.clock.day = day
        moment = microseconds(at(day))
        file = self.store.open(USER).file
        entries = [Entry(record(number), units(1, seed=number)[0], moment) for number in numbers]
        runs = [] if quality is None else [trajectory(1, quality=quality)]
        gone = [record_id(number) for number in deleted]
        file.commit(Batch(entries=entries, deleted=gone, trajectories=runs, moment_us=moment))
        while (folding := file.fold(is_quiet=True)) is not None:
            folding.prepare()
            file.finish(folding)
        file.close()

    def compact(self, day: float, *, erases: bool = False) -> None:
        self.clock.day = day
        file = self.store.open(USER).file
        file.compact(erases=erases)
        file.close()

    def stood(self, day: float, branch: str = MAIN) -> list[int]:
        """Return the numbers of the records that were there then, each with its own vector."""
        index = self.store.look(USER, BranchName(branch), microseconds(at(day))).index
        records, vectors, _ = index.page(0, 1_000)
        numbers = [int(decode_record(each).id) for each in records]
        for number, vector in zip(numbers, vectors, strict=True):
            np.testing.assert_array_equal(vector, units(1, seed=number)[0])
        return sorted(numbers)

    def has_lost(self, day: float) -> bool:
        return self.store.look(USER, MAIN, microseconds(at(day))).has_lost

    def erasable(self) -> int:
        file = self.store.open(USER).file
        try:
            return file.status().erasable
        finally:
            file.close()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SEALED_ROWS", 4)
    monkeypatch.setattr("memoryd.rvf.rewriting.SEALED_ROWS", 4)
    monkeypatch.setattr(ledger, "_FOLD_ROWS", 8)


@pytest.fixture(params=["commits", "sealed"])
def diary(request: pytest.FixtureRequest, disk: FaultDisk) -> Diary:
    """Return a memory of a few days, whose rows are in commits or sealed."""
    found = Diary(disk, keeps_days=7)
    extra = [] if request.param == "commits" else list(range(100, 112))
    found.write(1, 1, 2, *extra)
    found.write(2, 3)
    found.write(3, deleted=(1, *extra))
    found.write(4, 1, 4)
    found.write(5, deleted=(2, 3))
    return found


def without_extra(numbers: list[int]) -> list[int]:
    return [number for number in numbers if number < 100]


@pytest.mark.parametrize("compacts", [False, True])
def test_each_day_is_as_it_was(diary: Diary, *, compacts: bool) -> None:
    if compacts:
        diary.compact(6)

    days = {day: without_extra(diary.stood(day)) for day in (0.5, 1, 1.5, 2, 3, 4, 5, 9)}

    assert days == {0.5: [], 1: [1, 2], 1.5: [1, 2], 2: [1, 2, 3], 3: [2, 3], 4: [1, 2, 3, 4], 5: [1, 4], 9: [1, 4]}
    assert not any(diary.has_lost(day) for day in days)


def test_what_went_long_ago_is_erased_and_that_is_said(diary: Diary, disk: FaultDisk) -> None:
    assert diary.erasable() == 0
    diary.clock.day = 10.5  # what went on the third day is older than a week, what went on the fifth is not
    assert diary.erasable() > 0

    diary.compact(10.5)

    assert without_extra(diary.stood(4.5)) == [1, 2, 3, 4]
    assert without_extra(diary.stood(2)) == [2, 3]
    assert (diary.has_lost(2), diary.has_lost(3), diary.has_lost(4.5)) == (True, False, False)
    assert diary.erasable() == 0


def test_erasing_leaves_nothing_to_look_back_at(diary: Diary, disk: FaultDisk) -> None:
    diary.compact(6, erases=True)

    assert without_extra(diary.stood(4.5)) == [1, 4]
    assert diary.has_lost(4.5)
    assert units(1, seed=3)[0].tobytes() not in disk.content(ROOT / USER / "memory.rvf")


def test_an_outcome_is_not_known_before_it_was_told(disk: FaultDisk) -> None:
    diary = Diary(disk, keeps_days=7)
    diary.write(1, 1)
    diary.write(2, quality=0.5)

    told = [[one.quality for one in diary.store.look(USER, MAIN, microseconds(at(day))).trajectories] for day in (1, 2)]

    assert told == [[], [0.5]]


def test_a_branch_remembers_its_parents_past_and_its_own(disk: FaultDisk) -> None:
    diary = Diary(disk, keeps_days=7)
    diary.write(1, 1, 2)
    diary.write(2, 3, deleted=(1,))
    diary.clock.day = 3
    diary.store.branch(USER, PLAN_B, MAIN)
    diary.write(4, 4)
    diary.store.switch(USER, PLAN_B, Seq(0))
    diary.write(5, 5, deleted=(2,))
    diary.write(6, 6)

    days = [diary.stood(day, PLAN_B) for day in (1, 2, 3.5, 4.5, 5, 6)]

    assert days == [[1, 2], [2, 3], [2, 3], [2, 3], [3, 5], [3, 5, 6]]


def test_rows_that_another_program_deleted_were_never_there(disk: FaultDisk) -> None:
    diary = Diary(disk, keeps_days=7)
    diary.write(1, 1, 2)
    file = diary.store.open(USER).file
    file.commit(Batch(deleted=[record_id(2)]))  # without a moment, as another program does it
    file.close()

    assert diary.stood(1) == [1]


def test_what_a_branch_has_forgotten_and_its_parent_erased_is_said_to_be_lost(disk: FaultDisk) -> None:
    diary = Diary(disk, keeps_days=7)
    diary.write(1, 1, 2)
    diary.clock.day = 2
    diary.store.branch(USER, PLAN_B, MAIN)
    diary.store.switch(USER, PLAN_B, Seq(0))
    diary.write(3, deleted=(1,))
    diary.store.switch(USER, MAIN, Seq(0))
    diary.write(4, 3, 4, deleted=(1,))

    diary.compact(5)
    assert diary.stood(2.5, PLAN_B) == [1, 2]
    diary.compact(5, erases=True)

    assert diary.stood(2.5, PLAN_B) == [2]
    assert diary.store.look(USER, PLAN_B, microseconds(at(2.5))).has_lost
    assert not diary.store.look(USER, PLAN_B, microseconds(at(3.5))).has_lost
