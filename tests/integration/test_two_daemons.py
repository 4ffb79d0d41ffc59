"""A data directory has one daemon: the second is refused at once, with exit code 75, and touches nothing."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from benchmarks.daemon import Daemon as Process
from benchmarks.daemon import NotReady
from memoryd import app
from memoryd.app import Daemon
from memoryd.files import File, RealFiles
from memoryd.protocol.errors import Locked
from tests.helpers.daemon import config_of, exported, running

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def everything_in(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what is known of everything below `folder`, and what the files hold."""
    found = {}
    for path in sorted(folder.rglob("*")):
        told = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (told.st_mode, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns, content)
    return found


async def still(folder: Path) -> dict[str, tuple[object, ...]]:
    """Wait until nothing changes any more, and return what there is."""
    before: dict[str, tuple[object, ...]] = {}
    async with asyncio.timeout(20):
        while (now := everything_in(folder)) != before:
            before = now
            await asyncio.sleep(0.5)
    return now


async def test_a_second_process_is_refused_with_75_and_touches_nothing(tmp_path: Path) -> None:
    with Process(tmp_path) as first:
        async with first.client() as memory:
            await memory.remember("added a mutex", user="alice")
            before = await still(first.data_dir)

            second = Process(tmp_path)
            with pytest.raises(NotReady, match="ended with 75: "):
                await asyncio.to_thread(second.start)

            assert "another memoryd serves this data directory" in second.last_log()
            assert everything_in(first.data_dir) == before
            assert [record.text for record in await exported(memory, "alice")] == ["added a mutex"]
        async with first.client() as memory:  # its socket is not the second's
            assert [record.text for record in await exported(memory, "alice")] == ["added a mutex"]


async def test_of_processes_that_start_together_one_serves_and_the_others_are_refused_with_75(tmp_path: Path) -> None:
    processes = [Process(tmp_path) for _ in range(3)]
    for process in processes:
        process.spawn()

    ends = await asyncio.gather(*(asyncio.to_thread(one.wait_ready) for one in processes), return_exceptions=True)

    served = [one for one, end in zip(processes, ends, strict=True) if isinstance(end, float)]
    refused = [str(end) for end in ends if not isinstance(end, float)]
    assert len(served) == 1
    assert all(said.startswith("ended with 75: ") for said in refused)
    assert served[0].kill() == -9
    with Process(tmp_path) as successor:  # a lock of a process that is gone is free
        async with successor.client() as memory:
            await memory.remember("added a mutex", user="alice")


class WatchedFiles(RealFiles):
    """The machine's files, and what was asked of them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def _open(self, operation: str, path: Path, flags: int) -> File:
        self.asked.append((operation, path.name))
        return super()._open(operation, path, flags)

    def make_folder(self, path: Path) -> None:
        self.asked.append(("make folder", path.name))
        super().make_folder(path)

    def list(self, folder: Path) -> Sequence[str]:
        self.asked.append(("list", folder.name))
        return super().list(folder)


async def test_a_second_daemon_asks_for_nothing_but_the_lock_before_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = WatchedFiles()

    def never(*_args: object, **_fields: object) -> object:
        raise AssertionError("it goes on without the lock")

    async with running(tmp_path) as house:
        monkeypatch.setattr(app, "RealFiles", lambda: files)
        monkeypatch.setattr(app, "SqliteEventStore", never)
        monkeypatch.setattr(app.OnnxEmbedder, "open", never)

        with pytest.raises(Locked) as refused:
            Daemon(config_of(house.root, tmp_path / "other.sock"), listen=True)

    assert refused.value.exit_code == 75
    assert files.asked == [("make folder", "data"), ("create", "memoryd.lock"), ("open", "memoryd.lock")]
    assert not (tmp_path / "other.sock").exists()
