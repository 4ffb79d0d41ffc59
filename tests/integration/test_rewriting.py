"""Files are folded, compacted and given a graph while the daemon works; nobody notices, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from memoryd.actors import writer
from memoryd.files import RealFiles
from memoryd.rvf import ledger, rewriting
from memoryd.rvf.inspect import inspect
from tests.helpers.daemon import events, exported, running, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.daemon import House


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows do what thousands do otherwise, and a moment be quiet."""
    monkeypatch.setattr(ledger, "_FOLD_COMMITS", 4)
    monkeypatch.setattr(ledger, "_FOLD_ROWS", 16)
    monkeypatch.setattr(ledger, "_MERGES", ((64, 3),))
    monkeypatch.setattr(ledger, "_LINKED_ROWS", 32)
    for module in (ledger, rewriting):
        monkeypatch.setattr(module, "SEALED_ROWS", 8)
    monkeypatch.setattr(writer, "SMALLEST_WASTE", 20_000)
    monkeypatch.setattr(writer, "QUIET_AFTER_S", 0.1)


def names(file: Path) -> list[str]:
    """Return the segments that count, by name."""
    opened = RealFiles().open(file, writable=False)
    try:
        return [segment.name for segment in inspect(opened, file).segments if segment.state == "live"]
    finally:
        opened.close()


async def is_sound(house: House) -> None:
    """Wait until the file is verified; while it is written to, it has bytes behind its newest commit."""
    async with asyncio.timeout(10):
        while findings := list(await house.memory.verify(user="alice")):
            assert {finding.hint for finding in findings} == {
                "a commit under way, or torn: the next opening cuts it"
            }, findings
            await asyncio.sleep(0.02)


async def test_what_is_published_while_files_are_rewritten_is_all_there_and_answers_the_same(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_records": 5}) as house:
        for _ in range(2):  # the second time everything is a duplicate
            for first in range(0, 200, 10):
                await house.memory.publish(events(200)[first : first + 10], user="alice", ack="committed")
        await until(lambda: "INDEX" in names(house.file("alice")))
        found = await house.memory.recall("e message 7", user="alice", top_k=20)
        status = (await house.memory.status(user="alice")).user

        assert len(await exported(house.memory, "alice")) == 200
        assert names(house.file("alice")).count("VEC") <= 8
        assert status is not None
        assert status.records == 200
        await is_sound(house)

    async with running(tmp_path) as house:
        again = await house.memory.recall("e message 7", user="alice", top_k=20)
        assert again.memories == found.memories


async def test_what_is_forgotten_while_a_file_is_rewritten_is_gone_from_it(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_records": 3}) as house:

        async def publish() -> None:
            for first in range(0, 150, 5):
                await house.memory.publish(events(150)[first : first + 5], user="alice", ack="committed")

        publishing = asyncio.create_task(publish())
        secrets = []
        for number in range(8):
            record = await house.memory.remember(f"the secret word is swordfish {number}", user="alice")
            secrets.append(record.id)
            forgotten = await house.memory.forget(user="alice", ids=[record.id], now=True)
            assert forgotten.proof is not None
            assert forgotten.proof.traces == ()
            assert b"swordfish" not in house.file("alice").read_bytes()
        await publishing
        await house.settled()

        left = await exported(house.memory, "alice")
        assert len(left) == 150
        assert not {record.id for record in left} & set(secrets)
        await is_sound(house)


async def test_a_graph_that_is_being_made_does_not_hold_up_the_end_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(_self: rewriting.Linking) -> bool:
        loop.call_soon_threadsafe(begun.set)
        while _self._is_wanted:
            pass
        return False

    monkeypatch.setattr(rewriting.Linking, "prepare", endless)
    async with running(tmp_path, memory={"commit_records": 5}) as house:
        await house.memory.publish(events(100), user="alice", ack="committed")
        await begun.wait()
        await house.memory.recall("e message 7", user="alice")

    async with running(tmp_path) as house:
        assert len(await exported(house.memory, "alice")) == 100
