"""What was learned, in its file."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from memoryd.clock import SystemClock
from memoryd.files import RealFiles, storage_fault
from memoryd.protocol.errors import DiskFull, StorageFault
from memoryd.protocol.interfaces import ModelInfo
from memoryd.sona.engine import ASIDE, NAME, Settings, SonaEngine
from tests.helpers.lessons import DIM, Held
from tests.unit.sona.test_boundary import ONE, OTHER, about
from tests.unit.sona.test_learner import runs

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.files import File, FileSystem

MODEL = ModelInfo("test", DIM, "ab" * 32)


def engine(
    folder: Path, *, is_enabled: bool = True, model: ModelInfo = MODEL, files: FileSystem | None = None
) -> SonaEngine:
    return SonaEngine(folder / NAME, files or RealFiles(), model, Settings("balanced", is_enabled), SystemClock())


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def taught(folder: Path, count: int = 5) -> SonaEngine:
    of = engine(folder)
    assert of.open() == ""
    for run in runs(count):
        of.learn(run, Held())
    of.save()
    return of


def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    taught(tmp_path)

    again = engine(tmp_path)

    assert again.open() == ""
    assert [again.lesson(run.id) is not None for run in runs(6)] == [True] * 5 + [False]
    assert again.about(runs(1)[0].intent) is not None
    assert names(tmp_path) == [NAME]


class _Full(RealFiles):
    """A disk on which there is no room for new files."""

    is_full = True

    def create(self, path: Path) -> File:
        if self.is_full:
            raise storage_fault(OSError(errno.ENOSPC, ""), "create", path)
        return super().create(path)


def test_on_a_full_disk_nothing_already_learned_is_lost_and_it_is_saved_when_there_is_room(tmp_path: Path) -> None:
    taught(tmp_path, 3)
    before, disk = (tmp_path / NAME).read_bytes(), _Full()
    of = engine(tmp_path, files=disk)
    assert of.open() == ""
    for run in runs(5)[3:]:
        of.learn(run, Held())

    with pytest.raises(DiskFull):
        of.save()

    assert (tmp_path / NAME).read_bytes() == before
    assert of.about(runs(5)[4].intent) is not None
    disk.is_full = False
    of.save()
    again = engine(tmp_path)
    assert again.open() == ""
    assert all(again.lesson(run.id) is not None for run in runs(5))


def test_runs_that_end_before_those_known_are_learned_as_others_are(tmp_path: Path) -> None:
    of = taught(tmp_path, 5)
    early = replace(runs(6)[5], ended_us=1)

    of.learn(early, Held())
    of.save()

    again = engine(tmp_path)
    assert again.open() == ""
    assert again.lesson(early.id) is not None
    assert not again.may_have_been_learned(1)


def test_nothing_is_written_where_nothing_was_learned(tmp_path: Path) -> None:
    of = engine(tmp_path)
    of.open()

    of.save()

    assert names(tmp_path) == []


def test_runs_of_several_sittings_add_up_to_a_refit(tmp_path: Path) -> None:
    taught(tmp_path, 50)
    later = engine(tmp_path)
    later.open()
    assert not later.is_due  # the guard could not judge it
    assert later.status().due_in == 14

    for run in runs(64)[50:]:
        later.learn(run, Held())

    assert later.is_due
    assert later.status().due_in == 0
    assert later.refit(Held()).outcome == "accepted"
    assert not later.is_due
    assert later.status().due_in == 30


def test_a_refit_is_due_once_when_most_of_the_room_is_taken(tmp_path: Path) -> None:
    of = engine(tmp_path)
    of.choose(enabled=None, profile="edge")  # room for 200, a refit after every 50
    fitted_at = []
    for number, run in enumerate(runs(230), 1):
        of.learn(run, Held())
        if of.is_due:
            of.refit(Held())
            fitted_at.append(number)
        elif number == 157:
            assert of.status().due_in == 3

    assert fitted_at == [64, 114, 160, 210]


def test_a_task_boundary_makes_a_refit_due_over_a_restart_and_once(tmp_path: Path) -> None:
    of, later = engine(tmp_path), about(OTHER, 60, 80)
    of.choose(enabled=None, profile="batch")
    for run in (*about(ONE, 80), *later[:15]):
        of.learn(run, Held())
    of.save()
    again = engine(tmp_path)
    again.open()
    for run in later[15:30]:
        of.learn(run, Held())
        again.learn(run, Held())
    again.save()

    third = engine(tmp_path)
    third.open()

    assert of.is_at_boundary
    assert again.is_at_boundary
    assert third.is_at_boundary
    third.refit(Held())
    third.save()
    fourth = engine(tmp_path)
    fourth.open()
    for run in later[30:]:
        fourth.learn(run, Held())
    assert not fourth.is_due


def test_what_was_forgotten_makes_a_refit_due_over_a_restart(tmp_path: Path) -> None:
    of = taught(tmp_path, 70)
    assert of.refit(Held()).outcome == "accepted"
    of.forget([1_000_000], ())
    of.save()

    again = engine(tmp_path)
    again.open()

    assert again.is_due
    assert again.status().base == 0


def test_a_state_that_cannot_be_used_is_set_aside_and_goes_when_something_is_forgotten(tmp_path: Path) -> None:
    taught(tmp_path)
    (tmp_path / NAME).write_bytes(b"{}")

    of = engine(tmp_path)
    assert "checksum" in of.open()

    assert names(tmp_path) == [NAME + ASIDE]
    assert of.lesson(runs(1)[0].id) is None
    of.forget([1], ())
    assert names(tmp_path) == []


def test_the_state_of_another_embedder_is_set_aside(tmp_path: Path) -> None:
    taught(tmp_path)

    of = engine(tmp_path, model=ModelInfo("other", DIM, "cd" * 32))

    assert "test" in of.open()
    assert names(tmp_path) == [NAME + ASIDE]


class Unreadable(RealFiles):
    """Opens nothing."""

    def open(self, path: Path, *, writable: bool) -> object:
        raise StorageFault(f"cannot open {path.name}: Input/output error", hint="see the disk")


def test_a_state_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    taught(tmp_path)
    before = (tmp_path / NAME).read_bytes()
    of = engine(tmp_path, files=Unreadable())

    assert "Input/output" in of.open()
    of.learn(runs(9)[8], Held())
    of.save()

    assert (tmp_path / NAME).read_bytes() == before
    assert of.about(runs(9)[8].intent) is not None


def test_switched_off_in_the_settings_it_says_nothing_and_keeps_what_it_knows(tmp_path: Path) -> None:
    taught(tmp_path)
    off = engine(tmp_path, is_enabled=False)
    off.open()

    assert not off.is_enabled
    assert off.about(runs(1)[0].intent) is None

    on = engine(tmp_path)
    on.open()
    assert on.about(runs(1)[0].intent) is not None


def test_a_run_that_is_not_held_can_only_have_gone_when_others_had_to_go(tmp_path: Path) -> None:
    of = taught(tmp_path)

    assert not of.may_have_been_learned(0)


def test_a_run_that_is_archived_is_known_and_of_others_it_is_only_said_that_they_may_have_been(tmp_path: Path) -> None:
    of, given = engine(tmp_path), runs(500)
    of.choose(enabled=None, profile="edge")  # room for 200, and 200 more
    before = of.resident_bytes
    for run in given[:400]:
        of.learn(run, Held())

    assert all(of.lesson(run.id) is not None for run in given[:400])
    assert not of.may_have_been_learned(0)
    assert of.resident_bytes - before > 200 * 7_168
    for run in given[400:]:
        of.learn(run, Held())
    assert of.may_have_been_learned(0)
    assert not of.may_have_been_learned(500)


def test_discarded_it_begins_anew(tmp_path: Path) -> None:
    of = taught(tmp_path)

    of.discard()

    assert names(tmp_path) == []
    assert of.about(runs(1)[0].intent) is None


@pytest.mark.parametrize("name", [NAME, NAME + ASIDE])
def test_discarding_removes_what_was_set_aside(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")

    engine(tmp_path).discard()

    assert names(tmp_path) == []
