"""A disk without room: reading goes on, writing is refused by name, and resumes by itself when there is room again."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from memoryd import app
from memoryd.actors import knowledge, writer
from memoryd.files import File, RealFiles, storage_fault
from memoryd.protocol.errors import DiskFull, MemorydError
from memoryd.protocol.records import Draft
from tests.helpers.daemon import House, event, events, exported, running, texts, until


class FullDisk(RealFiles):
    """The machine's files, on a disk that can be filled and emptied.

    As on a real one, what is there can be read and removed, and an empty file finds its place.
    """

    def __init__(self) -> None:
        self.is_full = False
        self.refuses_new = "nothing"  # the end of the names of files for which there is no room

    def open(self, path: Path, *, writable: bool) -> File:
        return _FullFile(self, super().open(path, writable=writable), path)

    def create(self, path: Path) -> File:
        if path.name.endswith(self.refuses_new):
            raise storage_fault(OSError(errno.ENOSPC, ""), "create", path)
        return _FullFile(self, super().create(path), path)

    def check(self, operation: str, path: Path) -> None:
        if self.is_full:
            raise storage_fault(OSError(errno.ENOSPC, ""), operation, path)


class _FullFile:
    """A file of a `FullDisk`."""

    def __init__(self, disk: FullDisk, file: File, path: Path) -> None:
        self._disk = disk
        self._file = file
        self._path = path

    def append(self, data: bytes) -> None:
        if self._disk.is_full:
            self._file.append(data[: len(data) // 2])  # what still fits is there
        self._disk.check("write", self._path)
        self._file.append(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    disk = FullDisk()
    monkeypatch.setattr(app, "RealFiles", lambda: disk)
    monkeypatch.setattr(writer, "RETRY_FULL_DISK_S", 0.05)
    monkeypatch.setattr(knowledge, "REOPEN_S", 0.05)
    return disk


async def remembers_again(house: House, text: str, user: str) -> None:
    """Remember as soon as it is accepted."""
    accepted = []

    async def attempt() -> None:
        try:
            accepted.append(await house.memory.remember(text, user=user))
        except DiskFull:
            return

    while not accepted:
        await attempt()
        await until(lambda: True)


async def test_on_a_full_disk_recalls_go_on_and_remembering_is_refused_and_resumes(
    tmp_path: Path, disk: FullDisk
) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("before", user="alice")

        disk.is_full = True
        for _ in range(3):
            with pytest.raises(DiskFull) as refused:
                await house.memory.remember("while it was full", user="alice")
            assert refused.value.hint
        assert texts(await house.memory.recall("before", user="alice")) == ["before"]

        disk.is_full = False
        await remembers_again(house, "after", "alice")
        assert house.user_slot("alice").incarnations == 1

    async with running(tmp_path) as house:
        assert [record.text for record in await exported(house.memory, "alice")] == ["before", "after"]


async def test_events_that_were_stored_are_committed_when_there_is_room_again(tmp_path: Path, disk: FullDisk) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(3), user="alice", ack="committed")

        disk.is_full = True
        await house.memory.publish(events(3, first=3), user="alice", ack="stored")
        await until(lambda: house.daemon.residents.states()["alice"].applied_seq == 6)
        assert len(texts(await house.memory.recall("message", user="alice", top_k=10))) == 6
        assert (await house.memory.status()).lag_events == 3

        disk.is_full = False
        await house.settled()

    async with running(tmp_path) as house:
        assert len(await exported(house.memory, "alice")) == 6


async def test_who_waits_for_a_commit_on_a_full_disk_is_told_or_gets_it_later(tmp_path: Path, disk: FullDisk) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("before", user="alice")

        disk.is_full = True
        with pytest.raises(MemorydError):
            await house.memory.publish([event("e1", "waited for")], user="alice", ack="committed", within=0.2)

        disk.is_full = False
        receipts = await house.memory.publish([event("e1", "waited for")], user="alice", ack="committed")
        assert [receipt.status for receipt in receipts] == ["duplicate"]
        assert [record.text for record in await exported(house.memory, "alice")] == ["before", "waited for"]


async def test_a_batch_that_found_no_room_is_not_half_there(tmp_path: Path, disk: FullDisk) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("before", user="alice")

        disk.is_full = True
        with pytest.raises(DiskFull):
            await house.memory.remember_many([Draft(text=f"part {n}") for n in range(5)], user="alice")
        assert texts(await house.memory.recall("part", user="alice", top_k=10)) == ["before"]
        disk.is_full = False
        await remembers_again(house, "after", "alice")

        assert [record.text for record in await exported(house.memory, "alice")] == ["before", "after"]


async def test_who_remembers_again_what_an_event_says_takes_nothing_from_it_when_it_is_refused(
    tmp_path: Path, disk: FullDisk
) -> None:
    async with running(tmp_path, memory={"commit_after_s": 60.0}) as house:
        await house.memory.remember("before", user="alice")
        await house.memory.publish([event("e1", "stored")], user="alice", ack="stored")
        await until(lambda: house.daemon.residents.states()["alice"].applied_seq == 1)
        (found,) = [each.record for each in (await house.memory.recall("stored", user="alice", top_k=1)).memories]
        assert found.text == "stored"

        disk.is_full = True
        with pytest.raises(DiskFull):
            await house.memory.remember_many([Draft(id=found.id, text="stored")], user="alice")
        assert texts(await house.memory.recall("stored", user="alice", top_k=1)) == ["stored"]

        disk.is_full = False
        await house.settled()

    async with running(tmp_path) as house:
        assert sorted(record.text for record in await exported(house.memory, "alice")) == ["before", "stored"]


async def test_a_new_user_is_refused_by_name_and_accepted_when_there_is_room(tmp_path: Path, disk: FullDisk) -> None:
    async with running(tmp_path) as house:
        disk.is_full = True
        with pytest.raises(DiskFull) as refused:
            await house.memory.remember("first words", user="bob")
        assert refused.value.hint

        disk.is_full = False
        await remembers_again(house, "first words", "bob")


async def test_forgetting_on_a_full_disk_is_refused_at_once_and_claims_nothing(tmp_path: Path, disk: FullDisk) -> None:
    async with running(tmp_path) as house:
        record = await house.memory.remember("to be forgotten", user="alice")
        disk.is_full = True
        with pytest.raises(DiskFull):
            await house.memory.remember("fills it", user="alice")

        with pytest.raises(DiskFull):
            await house.memory.forget(ids=[record.id], user="alice")

        assert texts(await house.memory.recall("forgotten", user="alice")) == ["to be forgotten"]
        disk.is_full = False
        await remembers_again(house, "after", "alice")
        assert (await house.memory.forget(ids=[record.id], user="alice")).records == 1


async def test_forgetting_is_not_answered_before_there_was_room_to_write_the_file_without_the_bytes(
    tmp_path: Path, disk: FullDisk
) -> None:
    async with running(tmp_path) as house:
        record = await house.memory.remember("the word is swordfish", user="alice")
        vector = house.user_slot("alice").actor._index.vectors([record.id]).tobytes()

        disk.refuses_new = ".compact.tmp"
        with pytest.raises(DiskFull):
            await house.memory.forget(ids=[record.id], user="alice", now=True)

        assert texts(await house.memory.recall("swordfish", user="alice")) == []
        assert vector in house.file("alice").read_bytes()
        disk.refuses_new = "nothing"
        await until(lambda: vector not in house.file("alice").read_bytes())
        assert (await house.memory.forget(ids=[record.id], user="alice", now=True)).records == 0


async def test_a_trajectory_is_refused_on_a_full_disk_and_ends_when_there_is_room(
    tmp_path: Path, disk: FullDisk
) -> None:
    async with running(tmp_path) as house:
        run = await house.memory.begin_trajectory("how to fix it", user="alice")
        disk.is_full = True
        with pytest.raises(DiskFull):
            await house.memory.remember("fills it", user="alice")

        with pytest.raises(DiskFull):
            await house.memory.add_step(run, action="edit")
        with pytest.raises(DiskFull):
            await house.memory.end_trajectory(run, quality=1.0)

        disk.is_full = False
        await remembers_again(house, "after", "alice")
        assert (await house.memory.end_trajectory(run, quality=1.0)).quality == 1.0


async def test_publishing_for_everybody_on_a_full_disk_harms_neither_the_tree_nor_the_store(
    tmp_path: Path, disk: FullDisk
) -> None:
    async with running(tmp_path) as house:
        first = await house.memory.remember("shared mutex", user="alice")
        second = await house.memory.remember("shared semaphore", user="alice")
        await house.memory.publish_global([first.id], user="alice")

        disk.is_full = True
        for _ in range(5):
            with pytest.raises(DiskFull):
                await house.memory.publish_global([second.id], user="alice")
        assert (await house.memory.status()).restarts == 0
        assert texts(await house.memory.recall("shared", user="alice"))

        disk.is_full = False
        recalled = await house.memory.recall("shared", user="bob")
        while recalled.partial:
            recalled = await house.memory.recall("shared", user="bob")
        assert texts(recalled) == ["shared mutex"]
        await house.memory.publish_global([second.id], user="alice")
        assert sorted(texts(await house.memory.recall("shared", user="bob"))) == ["shared mutex", "shared semaphore"]


async def test_a_full_event_log_refuses_publishers_and_nobody_else_and_resumes(tmp_path: Path) -> None:
    def small(daemon: app.Daemon) -> None:
        daemon._events._writer.execute("PRAGMA max_page_count = 40")  # the log's own way of being full

    long = [event(f"l{n}", f"long {n}", payload={"more": "x" * 4_000}) for n in range(100)]
    async with running(tmp_path, before_start=small) as house:
        await house.memory.publish(events(3), user="alice", ack="committed")

        with pytest.raises(DiskFull) as refused:
            await house.memory.publish(long, user="alice")
        assert refused.value.hint
        assert texts(await house.memory.recall("e message 1", user="alice", top_k=1)) == ["e message 1"]
        await house.memory.remember("not by way of the log", user="alice")

        house.daemon._events._writer.execute("PRAGMA max_page_count = 100000")
        receipts = await house.memory.publish(long, user="alice", ack="committed")
        assert {receipt.status for receipt in receipts} <= {"committed", "duplicate"}
        assert len(await exported(house.memory, "alice")) == 104
        assert (await house.memory.status()).restarts == 0
