"""A disk that fails under a living daemon: the agent fails, its successor reads the file anew, and the log replays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from memoryd import app
from memoryd.actors import writer
from tests.faults.workloads import small_pieces
from tests.helpers.daemon import PATIENCE_S, events, exported, running
from tests.helpers.faultfs import FaultDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOKS = frozenset({"open", "read", "size", "map", "exists", "list", "is at", "lock"})
MEMORIES = 60


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a few rows do what thousands do otherwise, and a moment be quiet."""
    monkeypatch.setattr(writer, "SMALLEST_WASTE", 6_000)
    monkeypatch.setattr(writer, "QUIET_AFTER_S", 0.0)
    with small_pieces():
        yield


def is_change_for_alice(operation: str, path: Path) -> bool:
    return operation not in LOOKS and "alice" in path.parts


async def published(folder: Path, disk: FaultDisk, operations: int) -> tuple[list[str], int, int]:
    """Publish to a daemon on this disk until it has seen so many operations, and what they failed for is mended.

    Return the texts it holds in the end, how many were published, and how often agents failed.
    """
    root = folder / "data"
    root.mkdir()  # the event log stands on a real disk
    disk.put(root)
    async with running(folder, memory={"commit_records": 4}) as house:
        count = 0
        while count < MEMORIES or len(disk.operations) < operations:
            await house.memory.publish(events(6, first=count), user="alice", ack="stored")
            count += 6
            if count >= MEMORIES:
                await house.settled()
        while not (await house.memory.status()).restarts:  # it may have failed in the background
            await asyncio.sleep(0.01)
        await house.settled()
        kept = [record.text for record in await exported(house.memory, "alice")]
        found = list(await house.memory.verify(user="alice"))
        assert found == [], found
        restarts = (await house.memory.status()).restarts
    return kept, count, restarts


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 17, 20, 23, 27, 31, 35])
async def test_what_was_stored_is_there_whatever_call_of_the_disk_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    disk = FaultDisk(fail_at=n, only=is_change_for_alice)
    monkeypatch.setattr(app, "RealFiles", lambda: disk)

    kept, count, restarts = await asyncio.wait_for(published(tmp_path, disk, n), PATIENCE_S)

    assert kept == [event.payload["text"] for event in events(count)]
    assert restarts == 1
    assert (disk.open_files, disk.trusted_again) == (0, 0)
