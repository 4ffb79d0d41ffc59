"""A writer on a disk with faults: what it folds, links and compacts beside its commits loses nothing either."""

from __future__ import annotations

import asyncio
import errno
import random
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from memoryd.actors import writer
from memoryd.actors.context import TaskFailed
from memoryd.actors.writer import CommitDue, TidyDue
from memoryd.protocol.errors import DiskFull, StorageFault
from memoryd.rvf.rewriting import Compaction, Folding, Linking
from tests.faults.workloads import REWRITINGS
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import FILE, USER, Expected
from tests.helpers.writing import Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from memoryd.protocol.interfaces import Batch

WORKLOAD = replace(REWRITINGS, batches=REWRITINGS.batches[:8])
STATES = WORKLOAD.states
FORGETS = frozenset({4, 7})  # those who are behind these batches wait until the bytes are gone
LOOKS = frozenset({"open", "read", "size", "map", "exists", "list", "is at", "lock"})
PATIENCE_S = 20.0
MOST_FAULTS = 12  # far more than any fault here should cost
TURNS = 200  # of the event loop, after which there is room again
PARTS = 4  # of the operations, each in a test of its own
SHARE = 5  # one in so many operations that only look is made to fail, another one each time


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a few rows do what thousands do otherwise, and nothing wait for a time."""
    monkeypatch.setattr(writer, "SMALLEST_WASTE", 6_000)
    for name in ("QUIET_AFTER_S", "RETRY_FULL_DISK_S", "RETRY_REWRITING_S"):
        monkeypatch.setattr(writer, name, 0.0)
    with WORKLOAD.setting():
        yield


class User:
    """Writers of one user, each the successor of one that failed; batches come as events do, again if need be."""

    def __init__(self, disk: FaultDisk) -> None:
        self.disk = disk
        self.faults: list[StorageFault] = []
        self.begun: set[str] = set()
        self.lives = 0

    async def lives_through(self) -> None:
        """Apply all batches, however many writers that takes; each sees to it that the disk is mended behind its end."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.faults) < MOST_FAULTS:
                try:
                    async with self._writer() as desk:
                        await self._apply_all(desk)
                        return
                except StorageFault as fault:
                    self.faults.append(fault)
                    if len(self.faults) > 1:
                        self.disk.heal()
        raise AssertionError(f"it does not end: {self.faults[-1]}")

    @asynccontextmanager
    async def _writer(self) -> AsyncIterator[Desk]:
        desk = Desk(self.disk, WORKLOAD.make_store(self.disk))
        self.lives += 1
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mail = asyncio.create_task(self._read_mail(desk))
        try:
            yield desk
            await desk.writer.finish()
            await self._while_it_works(desk.ctx.finish())
        finally:
            mail.cancel()
            await desk.ctx.close()
            await desk.writer.close()
            self._failure.cancel()

    async def _read_mail(self, desk: Desk) -> None:
        """Do what an agent does with the messages of its writer."""
        while True:
            match (await desk.mailbox.get()).message:
                case CommitDue():
                    try:
                        await desk.writer.due()
                    except StorageFault as fault:
                        self._fail(fault)
                case TidyDue():
                    desk.writer.tidy_if_quiet()
                case TaskFailed(cause):
                    self._fail(cause)
            if (rewriting := desk.writer._rewriting) is not None:
                self.begun.add(type(rewriting).__name__)

    def _fail(self, cause: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(cause)

    async def _apply_all(self, desk: Desk) -> None:
        done = desk.writer.applied_seq
        assert shown(desk) == STATES[done].rows
        for number, batch in enumerate(WORKLOAD.batches[done:], done + 1):
            self._apply(desk, batch)
            await self._committed(desk, forgets=number in FORGETS)
            if number in FORGETS:
                assert_gone(self.disk, number)
            await self._is_tidy(desk)
            assert shown(desk) == STATES[number].rows

    def _apply(self, desk: Desk, batch: Batch) -> None:
        desk.index.discard(batch.deleted)
        desk.writer.delete(tuple(batch.deleted))
        for trajectory in batch.dropped:
            desk.writer.drop(trajectory)
        for entry in batch.entries:
            desk.add(entry)
        for trajectory in batch.trajectories:
            desk.writer.keep(trajectory)
        desk.writer.advance(batch.applied_seq)

    async def _committed(self, desk: Desk, *, forgets: bool) -> None:
        """Wait for the commit as an agent does; over a full disk again, since what the log has too is kept."""
        while True:
            if forgets:
                desk.writer.compact_soon()
            try:
                await self._while_it_works(desk.writer.durable())
                desk.writer.refuse_when_full()
            except DiskFull as fault:
                self.faults.append(fault)
                self.disk.heal()
            else:
                return

    async def _is_tidy(self, desk: Desk) -> None:
        """Wait until nothing is written beside, and nothing more is offered."""
        for _ in range(3):
            desk.writer.tidy_if_quiet()
            for turn in count():
                await self._while_it_works(asyncio.sleep(0))
                if not desk.ctx.is_busy and not desk.writer._disk_is_full:
                    break
                if turn == TURNS:  # it is tried again and again
                    self.faults.append(DiskFull("no room for what is written beside"))
                    self.disk.heal()

    async def _while_it_works(self, work: object) -> None:
        working = asyncio.ensure_future(work)
        await asyncio.wait({working, self._failure}, return_when=asyncio.FIRST_COMPLETED)
        if self._failure.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            self._failure.result()
        return await working


def shown(desk: Desk) -> tuple[tuple[object, bytes], ...]:
    """Return the rows of the index in the form of the model."""
    records, vectors, _ = desk.index.page(0, 1_000)
    return tuple((desk.memories.decode(one), vector.tobytes()) for one, vector in zip(records, vectors, strict=True))


def assert_gone(disk: FaultDisk, number: int) -> None:
    """Nothing of the rows that the batch of this number deleted or replaced is in the file."""
    held = {vector for _, vector in STATES[number].rows}
    gone = [vector for _, vector in STATES[number - 1].rows if vector not in held]
    content = disk.content(FILE)
    assert not any(vector in content for vector in gone)


def assert_all_is_there(disk: FaultDisk) -> None:
    """Nobody has a descriptor or trusted one too long; the file is sound and whole, and so is what a crash leaves."""
    disk.heal()  # who tidies up last does not hear of a failure
    assert (disk.open_files, disk.trusted_again) == (0, 0)
    for found in (disk, disk.after_crash(0.0)):
        opened = WORKLOAD.make_store(found).open(USER)
        assert Expected.of(opened.file.load()) == STATES[-1]
        opened.file.close()
        assert WORKLOAD.make_store(found).verify(USER) == []


async def operations() -> list[str]:
    """Return what a sound disk is asked to do."""
    disk = FaultDisk()
    await User(disk).lives_through()
    return disk.operations


async def test_without_a_fault_one_writer_folds_links_and_compacts() -> None:
    disk = FaultDisk()
    user = User(disk)

    await user.lives_through()

    assert user.lives == 1
    assert user.begun == {Folding.__name__, Linking.__name__, Compaction.__name__}
    assert_all_is_there(disk)


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("part", range(PARTS))
async def test_after_any_operation_that_fails_the_next_writer_goes_on(part: int, *, for_good: bool) -> None:
    looked_at = random.randrange(SHARE)
    points = [n for n, asked in enumerate(await operations(), 1) if asked not in LOOKS or n % SHARE == looked_at]
    for n in points[part::PARTS]:
        disk = FaultDisk(fail_at=n, for_good=for_good)
        user = User(disk)

        await user.lives_through()

        assert_all_is_there(disk)
        assert user.lives <= 1 + len(user.faults)
        assert all(isinstance(fault, StorageFault) for fault in user.faults)


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("part", range(PARTS))
async def test_on_a_disk_that_is_full_at_any_operation_the_same_writer_goes_on_when_there_is_room(
    part: int, *, for_good: bool
) -> None:
    def is_change(operation: str, _path: Path) -> bool:
        return operation not in LOOKS

    asked = [operation for operation in await operations() if is_change(operation, FILE)]
    for n in range(part + 1, len(asked) + 1, PARTS):
        disk = FaultDisk(fail_at=n, for_good=for_good, error=errno.ENOSPC, only=is_change)
        user = User(disk)

        await user.lives_through()

        assert_all_is_there(disk)
        assert all(isinstance(fault, DiskFull) for fault in user.faults)
        assert user.lives == 1
