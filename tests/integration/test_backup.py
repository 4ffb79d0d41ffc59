"""Backups of a daemon that goes on working, and daemons that go on where a backup ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memoryd.backup import creating
from memoryd.backup.direct import back_up
from memoryd.backup.repository import Repository
from memoryd.backup.restoring import restore
from memoryd.backup.verifying import verify_backup
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.files import RealFiles
from memoryd.protocol import wire
from memoryd.protocol.errors import CursorTooOld, DiskFull, Forbidden, InvalidMessage, Locked, NotFound, ShuttingDown
from memoryd.protocol.ids import Seq, UserId
from memoryd.relay import event_relay, memory_relay
from memoryd.relay.grants import token_sha256
from memoryd.sona.engine import SonaEngine
from memoryd.stores.events import SqliteEventStore
from tests.helpers.daemon import PATIENCE_S, House, PoisonedEmbedder, event, events, exported, running, texts, until
from tests.integration.test_full_disk import disk  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from memoryd.client import Memory
    from memoryd.protocol.messages import SnapshotMade
    from tests.integration.test_full_disk import FullDisk

FILES = RealFiles()
SECURITY = {
    "tokens": [
        {"sha256": token_sha256("for-alice"), "users": ["alice"]},
        {"sha256": token_sha256("for-all"), "users": ["*"]},
    ],
}


async def made_by(memory: Memory, folder: Path) -> SnapshotMade:
    """Make a snapshot to the end."""
    made = [progress.made async for progress in memory.backup(folder)]
    assert made[-1] is not None
    assert made[:-1] == [None] * (len(made) - 1)
    return made[-1]


def offline(root: Path, folder: Path) -> SnapshotMade:
    """Make a snapshot without a daemon."""
    return back_up(root, folder, None, lambda _: None)


def put_back(folder: Path, target: Path, user: str | None = None) -> None:
    """Restore the newest snapshot into `target / "data"`."""
    target.mkdir()
    with closing(Repository(folder, FILES)) as repository:
        repository.load_index()
        snapshot = repository.load(repository.choose(None))
        restore(repository, snapshot, target / "data", FILES, None if user is None else UserId(user), lambda _: None)


def findings(folder: Path, scratch: Path) -> list[object]:
    scratch.mkdir()
    with closing(Repository(folder, FILES)) as repository:
        return [*verify_backup(repository, None, scratch, FILES, lambda _done, _total: None).findings]


async def contents(house: House, *users: str) -> dict[str, list[object]]:
    return {user: await exported(house.memory, user) for user in users}


@pytest.mark.parametrize("listen", [False, True])
async def test_a_restored_backup_is_served_as_if_nothing_had_been(tmp_path: Path, *, listen: bool) -> None:
    async with running(tmp_path, listen=listen) as house:
        await house.memory.publish(events(30), user="alice", ack="committed")
        record = await house.memory.remember("deploys on Friday need two approvals", user="bob")
        await house.memory.publish_global([record.id], user="bob")
        run = await house.memory.begin_trajectory("deploy it", user="bob", shown=[record.id])
        await house.memory.end_trajectory(run, quality=1.0, helped=[record.id])
        before = await contents(house, "alice", "bob")
        trajectories = await house.memory.trajectories(user="bob")

        made = await made_by(house.memory, tmp_path / "backup")

        assert (made.users, made.last_seq, made.omitted) == (2, 30, ())
    assert findings(tmp_path / "backup", tmp_path / "scratch") == []

    put_back(tmp_path / "backup", tmp_path / "other")
    async with running(tmp_path / "other", listen=listen) as house:
        assert [await house.memory.verify(user=user) for user in ("alice", "bob")] == [[], []]
        assert await contents(house, "alice", "bob") == before
        assert await house.memory.trajectories(user="bob") == trajectories
        assert "deploys on Friday need two approvals" in texts(await house.memory.recall(record.text, user="alice"))
        receipts = await house.memory.publish(events(31), user="alice", ack="committed")
        assert [receipt.status for receipt in receipts] == ["duplicate"] * 30 + ["committed"]
        assert receipts[-1].seq == 31
        assert len(await exported(house.memory, "alice")) == 31


async def test_what_happens_while_a_backup_runs_is_neither_lost_nor_doubled_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind each file that was read everybody publishes; the log would forget what is committed at once."""
    monkeypatch.setattr(creating, "_STEP_PIECES", 1)
    monkeypatch.setattr(event_relay, "RETENTION_EVERY_S", 0.005)
    monkeypatch.setattr(memory_relay, "CURSOR_EVERY_S", 0.005)
    users = ("alice", "bob", "newcomer")
    published: dict[str, list[tuple[int, str]]] = {user: [] for user in users}

    async def publish(house: House, user: str) -> None:
        batch = events(4, prefix=f"{user}-", first=len(published[user]))
        receipts = await house.memory.publish(batch, user=user, ack="committed")
        published[user] += [(receipt.seq or 0, receipt.event_id) for receipt in receipts]

    def has_passed_everything(log: SqliteEventStore) -> bool:
        return log.cursor(event_relay.READER) == log.last_seq()

    async with running(tmp_path, events={"retain_s": 0.0}) as house:
        log = house.daemon._events
        await publish(house, "alice")
        await publish(house, "bob")
        await until(lambda: has_forgotten(log, 8))
        done = -1
        async for progress in house.memory.backup(tmp_path / "backup"):
            if progress.users_done > done:
                done = progress.users_done
                for user in users:
                    await publish(house, user)
                await until(lambda: has_passed_everything(log))
            made = progress.made
        assert made is not None
        assert made.users == 3  # the newcomer came when it had begun
        await until(lambda: has_forgotten(log, log.last_seq()))
    assert findings(tmp_path / "backup", tmp_path / "scratch") == []

    put_back(tmp_path / "backup", tmp_path / "other")
    async with running(tmp_path / "other") as house:
        await house.settled()
        found = await contents(house, *users)
    assert made.last_seq is not None
    assert made.last_seq > 8 + 3 * 4 * 2  # that much at least came after the first file was read
    for user in users:
        names = [record.metadata["event_id"] for record in found[user]]
        assert names == [name for seq, name in published[user] if seq <= made.last_seq]


def has_forgotten(log: SqliteEventStore, seq: int) -> bool:
    """Whether the payloads of all events up to `seq` are gone by age."""
    try:
        log.read(Seq(seq - 1), 1)
    except CursorTooOld:
        return True
    return False


async def test_the_log_forgets_again_when_the_backup_is_done_or_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_STEP_PIECES", 1)
    async with running(tmp_path, listen=True) as house:
        log, now = house.daemon._events, house.daemon._clock.now
        await house.memory.publish(events(10), user="alice", ack="committed")
        await until(lambda: log.cursor(event_relay.READER) == 10)

        backup = house.memory.backup(tmp_path / "backup")
        await anext(backup)
        assert log.truncate(now()) == 0
        await backup.aclose()
        await until(lambda: not log._holds)

        assert log.truncate(now()) == 10
        assert (await made_by(house.memory, tmp_path / "backup")).snapshot == 1
        assert log._holds == 0


async def test_a_client_that_goes_away_gives_the_backup_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creating, "_STEP_PIECES", 1)
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(10), user="alice", ack="committed")
        async with await house.raw() as raw:
            await raw.hello()
            await raw.send(wire.encode_frame("backup", 2, 0, {"folder": str(tmp_path / "backup")}))
            assert (await raw.answer()).kind == "ok"
            assert (await raw.answer()).kind == "event"
        await until(lambda: not house.daemon._events._holds)

        assert (await made_by(house.memory, tmp_path / "backup")).snapshot == 1


async def test_a_client_that_goes_away_ends_also_the_copying_of_a_large_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there = threading.Event()

    def endless(_self: SqliteEventStore, _path: Path, _cursors: object, goes_on: Callable[[], bool]) -> None:
        is_there.set()
        while goes_on():
            time.sleep(0.002)
        raise ShuttingDown("nobody wants it any more")

    monkeypatch.setattr(SqliteEventStore, "copy", endless)
    async with running(tmp_path, listen=True) as house:
        async with await house.raw() as raw:
            await raw.hello()
            await raw.send(wire.encode_frame("backup", 2, 0, {"folder": str(tmp_path / "backup")}))
            await until(is_there.is_set)
        await until(lambda: not house.daemon._events._holds)

    assert sorted(each.name for each in (tmp_path / "backup").iterdir()) == [
        "lock",
        "memoryd.backup",
        "packs",
        "snapshots",
    ]


async def test_a_daemon_that_stops_in_the_middle_gives_the_backup_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_STEP_PIECES", 1)
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(10), user="alice", ack="committed")
        backup = house.memory.backup(tmp_path / "backup")
        await anext(backup)
    await backup.aclose()

    assert not list((tmp_path / "backup" / "snapshots").iterdir())
    assert offline(tmp_path / "data", tmp_path / "backup").snapshot == 1


async def test_a_stream_ends_behind_the_word_of_what_was_made(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house, await house.raw() as raw:
        await raw.hello()
        await raw.send(wire.encode_frame("backup", 2, 0, {"folder": str(tmp_path / "backup")}))
        frames = []
        while not frames or frames[-1].kind != "end":
            frames.append(await raw.answer())

    assert frames[0].kind == "ok"
    assert {frame.kind for frame in frames[1:-1]} == {"event"}
    assert [frame.body["made"] is None for frame in frames[1:-1]] == [True] * (len(frames) - 3) + [False]


async def test_only_who_speaks_for_all_users_may_back_up(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        alice, everyone = await house.connect("for-alice"), await house.connect("for-all")

        with pytest.raises(Forbidden):
            await made_by(alice, tmp_path / "backup")
        assert not (tmp_path / "backup").exists()
        assert (await made_by(everyone, tmp_path / "backup")).snapshot == 1


@pytest.mark.parametrize("folder", ["backup", "./backup", "", "/tmp/../etc", "/a\nb", "/" + "x" * 5_000])
async def test_a_folder_that_is_not_an_absolute_path_is_refused(tmp_path: Path, folder: str) -> None:
    async with running(tmp_path, listen=True) as house, await house.raw() as raw:
        await raw.hello()

        frame = await raw.ask("backup", 2, {"folder": folder})

        error = wire.error_of(frame.body)
        assert (type(error), error.field) == (InvalidMessage, "folder")


async def test_a_folder_in_the_data_directory_or_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").touch()
    async with running(tmp_path, listen=True) as house:
        for folder in (house.root / "backup", tmp_path / "letters"):
            with pytest.raises(InvalidMessage):
                await made_by(house.memory, folder)
        assert not (house.root / "backup").exists()


async def test_a_second_backup_at_the_same_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creating, "_STEP_PIECES", 1)
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(5), user="alice", ack="committed")
        backup = house.memory.backup(tmp_path / "backup")
        await anext(backup)

        with pytest.raises(Locked):
            await made_by(house.memory, tmp_path / "other")

        assert [progress.made async for progress in backup][-1].snapshot == 1


async def test_recalls_and_commits_go_on_while_a_backup_waits_for_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there, go = threading.Event(), threading.Event()
    copy = SqliteEventStore.copy

    def held(self: SqliteEventStore, *args: object) -> object:
        is_there.set()
        assert go.wait(20)
        return copy(self, *args)

    monkeypatch.setattr(SqliteEventStore, "copy", held)
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember("before", user="alice")
        task = asyncio.create_task(made_by(house.memory, tmp_path / "backup"))
        await until(is_there.is_set)

        await house.memory.publish(events(3), user="alice", ack="committed")
        assert len(texts(await house.memory.recall("message", user="alice"))) == 4

        go.set()
        made = await task
        assert made.last_seq == 3  # the log is as new as the end of the backup


async def test_a_forgotten_text_is_in_the_log_of_no_later_snapshot_though_its_file_was_never_rewritten(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish([event("e1", "the launch code is tangerine")], user="alice", ack="committed")
        await made_by(house.memory, tmp_path / "before")
        await house.memory.publish([event("e2", "nothing of interest")], user="alice", ack="committed")
        await house.memory.forget(user="alice", before=house.daemon._clock.now())
        await made_by(house.memory, tmp_path / "after")

    def logged(folder: Path) -> bytes:
        with closing(Repository(folder, FILES)) as repository:
            repository.load_index()
            objects = [repository.read(digest) for digest in repository.objects]
        return b"".join(each for each in objects if not each.startswith(b"SFVR"))

    # In a memory it may be looked back at until that is compacted.
    assert b"tangerine" in logged(tmp_path / "before")
    assert b"tangerine" not in logged(tmp_path / "after")


async def learned(house: House, runs: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await house.memory.learning(user="bob")).runs != runs:
            await asyncio.sleep(0.01)


async def ran(house: House, query: str, helped: str) -> None:
    record = await house.memory.remember(helped, user="bob")
    run = await house.memory.begin_trajectory(query, user="bob", shown=[record.id])
    await house.memory.end_trajectory(run, quality=1.0, helped=[record.id])


async def test_what_was_learned_comes_back_with_the_memories_and_knows_no_more_than_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as house:
        await ran(house, "who may deploy", "deploys on Friday need two approvals")
        await learned(house, 1)
        folder = tmp_path / "data" / "bob"
    state = (folder / "sona.json").read_bytes()
    (folder / "sona.json.damaged").write_bytes(b"of no use to anybody")
    offline(tmp_path / "data", tmp_path / "backup")
    async with running(tmp_path) as house:
        await ran(house, "who is on call", "on call is whoever broke it")
        await learned(house, 2)
    assert findings(tmp_path / "backup", tmp_path / "scratch") == []

    put_back(tmp_path / "backup", tmp_path / "again")
    restored = tmp_path / "again" / "data" / "bob"
    assert sorted(path.name for path in restored.iterdir() if path.name.startswith("sona")) == ["sona.json"]
    assert (restored / "sona.json").read_bytes() == state
    with monkeypatch.context() as only:
        only.delattr(SonaEngine, "learn")  # it is known, not learned again
        async with running(tmp_path / "again") as house:
            await learned(house, 1)
            assert (await house.memory.learning(user="bob")).micro > 0
    assert (restored / "sona.json").read_bytes() == state

    (restored / "sona.json").write_bytes(
        (folder / "sona.json").read_bytes()
    )  # as if it had been copied later than its memory
    async with running(tmp_path / "again") as house:
        await learned(house, 1)
        kept = json.loads(await house.memory.export_learning(user="bob"))
        records = await exported(house.memory, "bob")
    assert {key for each in kept["replay"] for key in each["shown"]} < {record.id for record in records}
    assert (kept["micro"], kept["base"]) == (None, None)
    assert (restored / "sona.json").read_bytes() != (folder / "sona.json").read_bytes()


async def test_parked_events_and_those_that_nobody_has_applied_yet_come_back(tmp_path: Path) -> None:
    embedder = PoisonedEmbedder("poison")
    async with running(tmp_path, embedder=embedder) as house:
        await house.memory.publish([event("bad", "poison"), *events(3)], user="alice", ack="stored")
        await house.settled()
        assert [item.event_id for item in await house.memory.parked(user="alice")] == ["bad"]
        await made_by(house.memory, tmp_path / "backup")

    put_back(tmp_path / "backup", tmp_path / "other")
    async with running(tmp_path / "other", embedder=HashingEmbedder()) as house:
        parked = await house.memory.parked(user="alice")
        assert [item.event_id for item in parked] == ["bad"]
        assert await house.memory.unpark([parked[0].seq], user="alice") == 1
        await house.settled()
        assert [record.text for record in await exported(house.memory, "alice")][-1] == "poison"


async def test_users_who_have_no_file_yet_are_in_the_backup_with_their_events(tmp_path: Path) -> None:
    embedder = PoisonedEmbedder("never")
    async with running(tmp_path, embedder=embedder) as house:
        await house.memory.publish(events(5), user="alice", ack="committed")
    log = SqliteEventStore(tmp_path / "data" / "events.sqlite", house.daemon._clock.now)
    log.append([(UserId("newcomer"), event("n1", "the first word"))])
    log.close()

    assert offline(tmp_path / "data", tmp_path / "backup").users == 1

    put_back(tmp_path / "backup", tmp_path / "other")
    async with running(tmp_path / "other") as house:
        await house.settled()
        assert [record.text for record in await exported(house.memory, "newcomer")] == ["the first word"]
        assert len(await exported(house.memory, "alice")) == 5


async def test_one_user_is_restored_alone_and_serves_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(5), user="alice", ack="committed")
        await house.memory.publish(events(7, prefix="b"), user="bob", ack="committed")
        before = await exported(house.memory, "bob")
        await made_by(house.memory, tmp_path / "backup")

    put_back(tmp_path / "backup", tmp_path / "other", user="bob")
    assert b"e message" not in (tmp_path / "other" / "data" / "events.sqlite").read_bytes()
    async with running(tmp_path / "other") as house:
        await house.settled()
        assert await exported(house.memory, "bob") == before
        assert list(house.daemon._store.users()) == ["bob"]
        (receipt,) = await house.memory.publish([event("more", "and more")], user="bob", ack="committed")
        assert receipt.seq == 13


async def test_a_backup_without_its_event_log_gives_a_daemon_that_goes_on_behind_all_memories(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(5), user="alice", ack="committed")
    (tmp_path / "data" / "events.sqlite").write_bytes(b"this was a log once" * 500)

    made = offline(tmp_path / "data", tmp_path / "backup")
    assert [each.name for each in made.omitted] == ["events.sqlite"]

    put_back(tmp_path / "backup", tmp_path / "other")
    async with running(tmp_path / "other") as house:
        assert len(await exported(house.memory, "alice")) == 5
        (receipt,) = await house.memory.publish([event("more", "and more")], user="alice", ack="committed")
        assert receipt.seq == 6
        assert len(await exported(house.memory, "alice")) == 6


async def test_without_a_daemon_the_data_directory_is_locked_and_must_be_there(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        with pytest.raises(Locked):
            offline(house.root, tmp_path / "backup")
    with pytest.raises(NotFound):
        offline(tmp_path / "nothing", tmp_path / "backup")

    assert offline(tmp_path / "data", tmp_path / "backup").snapshot == 1
    assert not (tmp_path / "nothing").exists()


async def test_on_a_full_disk_a_backup_is_refused_by_name_and_nothing_else(tmp_path: Path, disk: FullDisk) -> None:  # noqa: F811 - the fixture
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember("before", user="alice")
        await made_by(house.memory, tmp_path / "backup")
        await house.memory.remember("after", user="alice")

        disk.is_full = True
        with pytest.raises(DiskFull):
            await made_by(house.memory, tmp_path / "backup")
        disk.is_full = False

        assert findings(tmp_path / "backup", tmp_path / "scratch") == []
        assert (await made_by(house.memory, tmp_path / "backup")).snapshot == 2
        assert house.slot("gateway").restarts == 0
