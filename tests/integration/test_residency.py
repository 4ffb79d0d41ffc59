"""Users come and go: who is idle rests, who is wanted is opened, and the answers are the same."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import weakref
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

import memoryd
from memoryd import app
from memoryd.actors import memories
from memoryd.actors.memory import MemoryAgent
from memoryd.actors.slot import Passivate, Phase
from memoryd.app import Daemon, open_memory
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.files import File, RealFiles
from memoryd.protocol.errors import Damaged, InvalidMessage, MemorydError, ShuttingDown, Unreachable
from memoryd.protocol.ids import UserId
from memoryd.protocol.records import MemoryFilter
from tests.helpers.daemon import HeldEmbedder, config_of, events, exported, running, texts, until

NOBODY = SimpleNamespace(applied_seq=0)


@pytest.fixture
def _quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "SWEEP_EVERY_S", 0.02)
    monkeypatch.setattr(memories, "REST_BETWEEN_S", 0.0)


@pytest.mark.usefixtures("_quick_sweep")
async def test_who_is_idle_rests_and_answers_the_same_when_asked_again(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"idle_after_s": 0.05}) as house:
        await house.memory.publish(events(50), user="alice", ack="committed")
        before = await house.memory.recall("e message 7", user="alice")

        await house.passivated("alice")
        assert not house.file("alice").with_name("memory.rvf.lock").exists()
        assert (await house.memory.status()).users_resident == 0
        after = await house.memory.recall("e message 7", user="alice")

        assert after.memories == before.memories


async def test_who_is_to_be_opened_again_before_the_end_is_told_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(50), user="alice", ack="committed")
        slot, supervisor = house.user_slot("alice"), house.slot("memories")
        close = MemoryAgent.closed

        async def closed(agent: MemoryAgent) -> None:
            await close(agent)
            supervisor.mailbox.put_control(memories.Restart(UserId("alice")))

        with monkeypatch.context() as patched:
            patched.setattr(MemoryAgent, "closed", closed)
            await slot.stop(5.0)
        await until(lambda: supervisor.mailbox.is_empty)

        assert len((await house.memory.recall("e message 7", user="alice")).memories) == 5
        assert not slot.is_alive or house.user_slot("alice") is slot


@pytest.mark.usefixtures("_quick_sweep")
async def test_the_memory_of_who_rests_is_free_at_once(tmp_path: Path) -> None:
    """It does not wait for the cyclic collector, which comes seldom."""
    async with running(tmp_path, memory={"idle_after_s": 0.05}) as house:
        gc.collect()
        gc.disable()
        try:
            await house.memory.publish(events(50), user="alice", ack="committed")
            await house.memory.recall("e message 7", user="alice")
            since = datetime(2030, 1, 1, tzinfo=UTC)
            with pytest.raises(InvalidMessage):  # an error keeps nothing either
                await house.memory.recall("in 2020", user="alice", time="filter", filter=MemoryFilter(since=since))
            held = weakref.ref(house.user_slot("alice").actor._index._table)
            assert held() is not None

            await house.passivated("alice")

            await until(lambda: held() is None)
        finally:
            gc.enable()


@pytest.mark.usefixtures("_quick_sweep")
async def test_asking_about_somebody_who_never_was_leaves_nothing_on_disk(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"idle_after_s": 0.05}) as house:
        assert texts(await house.memory.recall("anything", user="nobody")) == []
        await house.passivated("nobody")

        assert not house.file("nobody").parent.exists()

        await house.memory.remember("the first words", user="nobody")
        await house.passivated("nobody")
        assert texts(await house.memory.recall("words", user="nobody")) == ["the first words"]


@pytest.mark.usefixtures("_quick_sweep")
async def test_a_memory_that_rests_in_the_middle_of_everything_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_after_s": 60.0}) as house:

        async def rest() -> None:
            while True:
                slot = house.user_slot("alice")
                if slot is not None and slot.phase is Phase.RUNNING:
                    slot.mailbox.put_control(Passivate())
                await asyncio.sleep(0.001)

        resting = asyncio.create_task(rest())
        for first in range(0, 200, 10):
            await house.memory.publish(events(10, first=first), user="alice", ack="committed")
            assert len(texts(await house.memory.recall("e message", user="alice", top_k=100))) == min(100, first + 10)
        resting.cancel()

        assert len(await exported(house.memory, "alice")) == 200


@pytest.mark.usefixtures("_quick_sweep")
@pytest.mark.parametrize("budget", [{"resident_users": 3}, {"resident_bytes": 110_000}])
async def test_no_more_users_stay_than_the_budget_holds_and_all_are_answered(
    tmp_path: Path, budget: dict[str, int]
) -> None:
    users = [f"user-{number}" for number in range(20)]
    async with running(tmp_path, memory=budget) as house:
        for user in users:
            await house.memory.remember(f"of {user}", user=user)
        await until(lambda: len(house.daemon.residents) <= 3)

        for user in users:
            assert texts(await house.memory.recall("of", user=user)) == [f"of {user}"]


async def test_a_restart_gives_the_same_answers(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        for user in ("alice", "bob"):
            await house.memory.publish(events(300, prefix=user), user=user, ack="committed")
        before = {user: await house.memory.recall("message 77", user=user, top_k=20) for user in ("alice", "bob")}
    async with running(tmp_path, listen=True) as house:
        after = {user: await house.memory.recall("message 77", user=user, top_k=20) for user in ("alice", "bob")}

    assert {user: each.memories for user, each in after.items()} == {
        user: each.memories for user, each in before.items()
    }


async def test_status_names_the_figures_of_a_user_that_is_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(5), user="alice", ack="committed")

        status = await house.memory.status(user="alice")

        assert (status.user.user, status.user.records, status.user.applied_seq, status.user.committed_seq) == (
            "alice",
            5,
            5,
            5,
        )
        assert status.user.file_bytes == house.file("alice").stat().st_size
        assert (await house.memory.status()).user is None
        assert (status.users_known, status.events_last_seq, status.lag_events) == (1, 5, 0)


async def test_a_daemon_that_stops_finishes_what_it_accepted(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_after_s": 60.0}) as house:
        receipts = await house.memory.publish(events(500), user="alice", ack="stored")
        remembering = [asyncio.create_task(house.memory.remember(f"part {n}", user="alice")) for n in range(20)]
        await house.daemon.stop()
        done = await asyncio.gather(*remembering, return_exceptions=True)
        with pytest.raises(ShuttingDown):
            await house.memory.recall("x", user="alice")

    async with running(tmp_path) as house:
        await house.settled()
        kept = {record.text for record in await exported(house.memory, "alice")}
        assert {each.text for each in done if not isinstance(each, BaseException)} <= kept
        assert all(isinstance(each, MemorydError) for each in done if isinstance(each, BaseException))
        assert len(receipts) == 500
        assert {f"e message {n}" for n in range(500)} <= kept


async def test_a_memory_inside_this_process_is_the_same_without_a_socket(tmp_path: Path) -> None:
    config = config_of(tmp_path / "data", tmp_path / "d.sock")
    async with open_memory(config) as memory:
        await memory.remember("added a mutex around the cache")

        assert texts(await memory.recall("how did we fix the race in the cache?")) == ["added a mutex around the cache"]
    assert not (tmp_path / "d.sock").exists()


async def test_nobody_at_the_socket_is_said_with_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as refused:
        async with memoryd.connect(tmp_path / "nothing.sock"):
            pass

    assert "memoryd serve" in str(refused.value.hint)


# --- the shipped model, and a process of its own ---


@pytest.fixture(scope="module")
def model() -> OnnxEmbedder:
    return OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1)


async def test_the_shipped_model_finds_what_means_the_same(tmp_path: Path, model: OnnxEmbedder) -> None:
    said = [
        "The login failed because the session token had expired.",
        "We painted the garden fence on Saturday.",
        "Sorting the list first made the search logarithmic.",
        "The cat sleeps on the warm radiator.",
    ]
    async with running(tmp_path, listen=True, embedder=model) as house:
        for text in said:
            await house.memory.remember(text, user="alice")

        for question, answer in (("why could people not sign in?", 0), ("where is the pet?", 3), ("faster lookup", 2)):
            assert texts(await house.memory.recall(question, user="alice"))[0] == said[answer]


async def test_the_shipped_model_says_how_much_of_a_long_text_it_read(tmp_path: Path, model: OnnxEmbedder) -> None:
    async with running(tmp_path, embedder=model) as house:
        kept = await house.memory.remember("a rather long report " * 400, user="alice")

        assert kept.metadata["tokens"] > kept.metadata["tokens_embedded"] > 0


class Served:
    """A daemon in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path) -> None:
        self.process = process
        self.socket = socket

    @classmethod
    async def start(cls, folder: Path) -> Served:
        code = (
            "import sys, msgspec; from memoryd import app; from memoryd.config import Config; "
            "from memoryd.embedding.hashing import HashingEmbedder; "
            "app._model_of = lambda *_: (HashingEmbedder().model, HashingEmbedder); "
            "sys.exit(app.run(msgspec.json.decode(sys.argv[1], type=Config)))"
        )
        config = {
            "server": {"data_dir": str(folder / "data"), "socket": str(folder / "d.sock")},
            "observability": {"log_format": "json"},
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, json.dumps(config), stderr=asyncio.subprocess.PIPE, env={**os.environ}
        )
        assert process.stderr is not None
        async for line in process.stderr:
            if b'"ready"' in line:
                return cls(process, folder / "d.sock")
        raise AssertionError(f"it did not start: {await process.wait()}")

    async def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the exit code and what it wrote until then."""
        self.process.send_signal(number)
        _, said = await asyncio.wait_for(self.process.communicate(), 25)
        assert self.process.returncode is not None
        return self.process.returncode, said.decode()


async def test_sigterm_drains_and_ends_well_and_what_was_stored_is_there(tmp_path: Path) -> None:
    served = await Served.start(tmp_path)
    async with memoryd.connect(served.socket) as memory:
        await memory.publish(events(1_000), user="alice", ack="stored")
        code, said = await served.end(signal.SIGTERM)
        with pytest.raises(MemorydError):
            await memory.recall("x", user="alice")

    assert code == 0, said
    assert "Traceback" not in said
    assert not served.socket.exists()
    assert not (tmp_path / "data" / "alice" / "memory.rvf.lock").exists()
    async with running(tmp_path) as house:
        await house.settled()
        assert len(await exported(house.memory, "alice")) == 1_000


async def test_after_sigkill_everything_that_was_acknowledged_is_there_once(tmp_path: Path) -> None:
    acknowledged = 0
    for _ in range(2):
        served = await Served.start(tmp_path)
        async with memoryd.connect(served.socket) as memory:
            for first in range(acknowledged, acknowledged + 200, 20):
                await memory.publish(events(20, first=first), user="alice", ack="committed" if first % 40 else "stored")
                acknowledged = first + 20
            await served.end(signal.SIGKILL)

    async with running(tmp_path) as house:
        await house.settled()
        assert [record.text for record in await exported(house.memory, "alice")] == [
            f"e message {n}" for n in range(acknowledged)
        ]


async def test_a_second_process_on_the_same_directory_is_refused_with_75(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("added a mutex", user="alice")
        code = (
            "import sys; from memoryd import app, config; from memoryd.protocol.errors import MemorydError\n"
            "try:\n app.run(config.load(overrides={'server.data_dir': sys.argv[1]}))\n"
            "except MemorydError as error:\n print(error); sys.exit(error.exit_code)"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(house.root), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()

        assert process.returncode == 75
        assert b"--data-dir" in said
        assert texts(await house.memory.recall("mutex", user="alice")) == ["added a mutex"]


async def test_a_daemon_that_cannot_be_made_gives_the_directory_back(tmp_path: Path) -> None:
    broken = config_of(tmp_path / "data", tmp_path / "d.sock", mapping={"chat.user_msg": {"like": "nothing.such"}})

    with pytest.raises(MemorydError) as refused:
        Daemon(broken, listen=False)

    assert refused.value.field == "mapping.chat.user_msg.like"
    async with running(tmp_path) as house:
        await house.memory.remember("added a mutex", user="alice")


class SlowDisk(RealFiles):
    """The machine's files, on a disk that writes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.writing = 0

    def create(self, path: Path) -> File:
        if path.name.startswith("memory.rvf") and not path.name.endswith(".lock"):
            self.writing += 1
            assert self.go.wait(20)
        return super().create(path)


async def test_what_comes_while_the_last_commit_is_written_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, held = SlowDisk(), HeldEmbedder()
    monkeypatch.setattr(app, "RealFiles", lambda: disk)
    async with running(tmp_path, embedder=held, memory={"commit_after_s": 60.0}) as house:
        await house.memory.publish(events(3), user="alice")
        await until(lambda: house.daemon.residents.states().get("alice", NOBODY).applied_seq == 3)
        late = asyncio.create_task(house.memory.remember("slow and late", user="alice"))
        await until(lambda: held.waiting)

        disk.go.clear()
        stopping = asyncio.create_task(house.daemon.stop())
        await until(lambda: disk.writing == 1)
        held.go.set()
        await until(lambda: len(house.user_slot("alice").actor._index) == 4)
        disk.go.set()
        await stopping
        accepted = await asyncio.gather(late, return_exceptions=True)

    assert disk.writing == 1
    async with running(tmp_path) as house:
        kept = [record.text for record in await exported(house.memory, "alice")]
        assert kept[:3] == ["e message 0", "e message 1", "e message 2"]
        assert ("slow and late" in kept) or isinstance(accepted[0], MemorydError)


async def test_who_cannot_be_opened_is_tried_once_however_many_ask(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(5), user="alice", ack="committed")
        damaged = house.file("alice")
    damaged.write_bytes(bytes(damaged.stat().st_size))
    async with running(tmp_path) as house:
        house.daemon.residents.urgent.extend([UserId("alice")] * 40)  # more than are opened at once

        with pytest.raises(Damaged):
            await house.memory.recall("e message 7", user="alice")

        slot = house.user_slot("alice")
        assert slot.incarnations == slot.restarts
