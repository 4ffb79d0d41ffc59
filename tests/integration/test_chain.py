"""From a publisher to the file: once, in order, at each user's own pace, whatever falls on the way."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from memoryd.actors import application, memories, supervisor
from memoryd.actors.context import TaskFailed
from memoryd.actors.slot import Budget, Phase
from memoryd.protocol.errors import MemorydError, Quarantined
from memoryd.protocol.events import Event
from memoryd.protocol.records import MemoryRecord
from tests.helpers.daemon import House, PoisonedEmbedder, event, events, exported, running, texts, until

MANY = Budget(1_000, 60.0)


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACK_OFF_S", (0.001, 0.01))


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets that bear whatever a test breaks."""
    monkeypatch.setattr(application, "SESSION_BUDGET", MANY)
    monkeypatch.setattr(application, "APPLICATION_BUDGET", MANY)
    monkeypatch.setattr(memories, "USER_BUDGET", MANY)
    monkeypatch.setattr(memories, "MANY_SICK", MANY)


async def published(house: House, user: str, some: list[Event], size: int) -> None:
    """Publish in batches of one size; what is refused because something restarts is tried again."""
    for start in range(0, len(some), size):
        while True:
            try:
                await house.memory.publish(some[start : start + size], user=user)
                break
            except MemorydError:
                await asyncio.sleep(0.001)


async def by_id(house: House, user: str) -> list[MemoryRecord]:
    """Return the user's records in an order that does not tell in which order the publishers came."""
    return sorted(await exported(house.memory, user), key=lambda record: record.id)


def copied(house: House, folder: Path) -> Path:
    """Copy what a kill at this moment would leave behind."""
    shutil.copytree(house.root, folder / "data", ignore=shutil.ignore_patterns("*.sock"))
    return folder


# --- once ---


async def test_events_that_come_three_times_while_everything_falls_are_remembered_once(
    tmp_path: Path, patience: None
) -> None:
    rng = random.Random(13)
    said = {user: events(150, prefix=user) for user in ("alice", "bob", "carol")}
    once: dict[str, list[MemoryRecord]] = {}
    async with running(tmp_path / "once") as house:
        for user, some in said.items():
            await house.memory.publish(some, user=user, ack="committed")
            once[user] = await by_id(house, user)

    async with running(tmp_path / "thrice") as house:
        publishing = [
            asyncio.create_task(published(house, user, some, size))
            for user, some in said.items()
            for size in (1, 7, 64)
        ]
        for _ in range(20):
            await house.kill(house.slot("memory_relay"))
            user = house.user_slot(rng.choice(list(said)))
            if user is not None and user.phase is Phase.RUNNING:
                user.mailbox.put_control(TaskFailed(RuntimeError("killed by a test")))
        await asyncio.gather(*publishing)
        for user, some in said.items():
            await house.memory.publish(some, user=user, ack="committed")

        assert {user: await by_id(house, user) for user in said} == once
        assert (await house.memory.status()).restarts >= 20
        await house.settled()


async def test_a_known_event_keeps_its_number_and_is_said_to_be_a_duplicate(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        (first,) = await house.memory.publish([event("e", "once")], user="alice", ack="committed")

        again = await house.memory.publish([event("e", "twice"), event("e", "thrice")], user="alice", ack="committed")

        assert [(each.seq, each.status) for each in again] == [(first.seq, "duplicate")] * 2
        assert texts(await house.memory.recall("once", user="alice")) == ["once"]


async def test_who_publishes_again_after_the_relay_was_killed_is_answered(tmp_path: Path, patience: None) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(5), user="alice", ack="committed")
        await house.kill(house.slot("memory_relay"))

        receipts = await house.memory.publish(events(5), user="alice", ack="committed", within=5)

        assert {receipt.status for receipt in receipts} == {"duplicate"}
        await house.settled()


async def test_an_event_of_a_type_that_becomes_no_memory_is_committed_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        receipts = await house.memory.publish([event("e", "x", "made.up")], user="alice", ack="committed")

        assert [receipt.status for receipt in receipts] == ["committed"]
        assert (await house.memory.status()).unmapped == {"made.up": 1}
        assert not house.file("alice").exists()


# --- what an acknowledgement says ---


async def test_committed_means_in_the_file_and_visible_to_the_next_recall(tmp_path: Path) -> None:
    async with running(tmp_path / "here", memory={"commit_after_s": 60.0}) as house:
        await house.memory.publish(events(3), user="alice", ack="committed")
        seen = texts(await house.memory.recall("e message 1", user="alice", top_k=3))
        left = copied(house, tmp_path / "left")
    for log in (left / "data").glob("events.sqlite*"):
        log.unlink()

    async with running(left) as house:
        assert sorted(seen) == sorted(record.text for record in await exported(house.memory, "alice"))
        assert len(seen) == 3


async def test_stored_means_in_the_log_whatever_happens_to_the_memory(tmp_path: Path) -> None:
    async with running(tmp_path / "here", memory={"commit_after_s": 60.0}) as house:
        receipts = await house.memory.publish(events(3), user="alice", ack="stored")
        left = copied(house, tmp_path / "left")
    shutil.rmtree(left / "data" / "alice", ignore_errors=True)

    async with running(left) as house:
        await house.settled()
        assert [receipt.status for receipt in receipts] == ["stored"] * 3
        assert len(await exported(house.memory, "alice")) == 3


async def test_queued_events_arrive_without_anybody_waiting(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        receipts = await house.memory.publish(events(3), user="alice", ack="queued")

        assert [(receipt.status, receipt.seq) for receipt in receipts] == [("queued", None)] * 3
        await until(lambda: house.daemon._events.last_seq() == 3)
        await house.settled()
        assert len(await exported(house.memory, "alice")) == 3


async def test_what_was_remembered_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    async with running(tmp_path / "here", memory={"commit_after_s": 60.0}) as house:
        record = await house.memory.remember("added a mutex", user="alice")
        left = copied(house, tmp_path / "left")

    async with running(left) as house:
        assert [each.id for each in await exported(house.memory, "alice")] == [record.id]


# --- each at its own pace ---


async def test_a_user_with_five_thousand_events_does_not_hold_up_the_single_event_of_another(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_after_s": 0.2}) as house:
        await house.memory.publish(events(5_000), user="heavy")

        await house.memory.publish([event("e", "added a mutex")], user="light", ack="committed")

        assert house.daemon.residents.states()[house.user_slot("heavy").path[5:]].applied_seq < 5_000
        assert texts(await house.memory.recall("mutex", user="light")) == ["added a mutex"]
        await house.settled()
        assert (await house.memory.status(user="heavy")).user.records == 5_000


async def test_many_users_that_are_cold_are_opened_together(tmp_path: Path) -> None:
    users = [f"user-{number}" for number in range(100)]
    async with running(tmp_path) as house:
        await asyncio.gather(*(house.memory.publish(events(3), user=user, ack="committed") for user in users))
    async with running(tmp_path) as house:
        found = await asyncio.gather(*(house.memory.recall("e message 1", user=user, top_k=1) for user in users))

        assert {text for recalled in found for text in texts(recalled)} == {"e message 1"}
        assert (await house.memory.status()).users_resident == 100


# --- what cannot be digested ---


async def test_a_poison_event_is_put_aside_after_its_second_crash_and_the_others_arrive(tmp_path: Path) -> None:
    poisoned = [*events(20), event("poison", "the poison"), *events(20, first=20)]
    async with running(tmp_path, embedder=PoisonedEmbedder("poison")) as house:
        await house.memory.remember("the other user is well", user="bob")

        await house.memory.publish(poisoned, user="alice", ack="committed")

        assert len(await exported(house.memory, "alice")) == 40
        (item,) = await house.memory.parked(user="alice")
        assert (item.event_id, item.seq, item.type) == ("poison", 21, "chat.user_msg")
        assert (await house.memory.status()).parked_events == 1
        assert house.user_slot("alice").incarnations == 3
        assert house.user_slot("bob").incarnations == 1
        await house.settled()


async def test_several_poison_events_of_one_user_are_put_aside_without_a_quarantine(tmp_path: Path) -> None:
    async with running(tmp_path, embedder=PoisonedEmbedder("poison")) as house:
        for number in range(4):
            some = [*events(3, first=3 * number), event(f"poison-{number}", "the poison")]
            await house.memory.publish(some, user="alice", ack="committed", within=20)

        assert [item.event_id for item in await house.memory.parked(user="alice")] == [f"poison-{n}" for n in range(4)]
        assert len(await exported(house.memory, "alice")) == 12
        assert (await house.memory.status()).users_quarantined == 0


async def test_a_parked_event_that_is_tried_again_arrives(tmp_path: Path) -> None:
    embedder = PoisonedEmbedder("poison")
    async with running(tmp_path, embedder=embedder) as house:
        await house.memory.publish([*events(3), event("poison", "the poison")], user="alice", ack="committed")
        (item,) = await house.memory.parked(user="alice")

        embedder.is_poisoned = False
        moved = await house.memory.unpark([item.seq], user="alice")
        await house.settled()

        assert moved == 1
        assert await house.memory.parked(user="alice") == []
        assert texts(await house.memory.recall("poison", user="alice", top_k=1)) == ["the poison"]
        (known,) = await house.memory.publish([event("poison", "the poison")], user="alice", ack="committed")
        assert known.status == "duplicate"
        assert len(await exported(house.memory, "alice")) == 4


async def test_a_parked_event_that_is_dropped_is_gone_for_good(tmp_path: Path) -> None:
    embedder = PoisonedEmbedder("poison")
    async with running(tmp_path, embedder=embedder) as house:
        await house.memory.publish([event("poison", "the poison")], user="alice", ack="committed")
        (item,) = await house.memory.parked(user="alice")

        assert await house.memory.unpark([item.seq], drop=True, user="alice") == 1

        embedder.is_poisoned = False
        (known,) = await house.memory.publish([event("poison", "the poison")], user="alice", ack="committed")
        assert known.status == "duplicate"
        assert await house.memory.parked(user="alice") == []
        assert await exported(house.memory, "alice") == []
    assert b"the poison" not in b"".join(path.read_bytes() for path in house.root.glob("events.sqlite*"))


async def test_a_parked_event_stays_parked_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, embedder=PoisonedEmbedder("poison")) as house:
        await house.memory.publish([event("poison", "the poison")], user="alice", ack="committed")
        before = await house.memory.parked(user="alice")
    async with running(tmp_path) as house:
        await house.memory.publish([event("e", "after it")], user="alice", ack="committed")

        assert await house.memory.parked(user="alice") == before
        assert len(await exported(house.memory, "alice")) == 1


async def test_a_text_that_cannot_be_embedded_is_refused_and_harms_no_other_request(tmp_path: Path) -> None:
    async with running(tmp_path, embedder=PoisonedEmbedder("poison")) as house:
        calls = [house.memory.remember(f"{word} {n}", user="alice") for n in range(5) for word in ("well", "poison")]

        done = await asyncio.gather(*calls, return_exceptions=True)

        assert [isinstance(each, MemorydError) for each in done] == [False, True] * 5
        assert house.user_slot("alice").incarnations == 1


# --- who falls ---


async def test_a_user_that_fails_again_and_again_rests_and_comes_back_by_itself_while_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("added a mutex", user="alice")
        await house.memory.remember("the other one", user="bob")
        monkeypatch.setattr(memories, "QUARANTINE_S", 0.3)

        for _ in range(3):
            await house.kill(house.user_slot("alice"))
        house.user_slot("alice").mailbox.put_control(TaskFailed(RuntimeError("killed by a test")))
        await until(lambda: house.user_slot("alice").phase is Phase.QUARANTINED)

        with pytest.raises(Quarantined) as refused:
            await house.memory.recall("mutex", user="alice")
        assert refused.value.hint
        assert refused.value.details["retry_after"] is not None
        assert (await house.memory.status()).users_quarantined == 1
        await house.memory.publish([event("e", "published in quarantine")], user="alice")
        assert texts(await house.memory.recall("other", user="bob")) == ["the other one"]
        assert house.user_slot("bob").incarnations == 1
        await until(lambda: house.user_slot("alice").phase is Phase.RUNNING)
        await house.settled()
        assert len(await exported(house.memory, "alice")) == 2


async def test_many_users_that_fail_at_once_are_not_the_users_fault_and_lose_nothing(tmp_path: Path) -> None:
    users = [f"user-{number}" for number in range(25)]
    async with running(tmp_path) as house:
        await asyncio.gather(*(house.memory.publish(events(3), user=user, ack="committed") for user in users))
        supervisor_slot = house.slot("memories")

        for user in users:
            house.user_slot(user).mailbox.put_control(TaskFailed(RuntimeError("killed by a test")))
        await until(lambda: supervisor_slot.incarnations == 2 and supervisor_slot.phase is Phase.RUNNING)

        for user in users:
            await published(house, user, events(6), 6)
        await house.settled()
        assert [len(await exported(house.memory, user)) for user in users] == [6] * 25
        assert supervisor_slot.incarnations == 2


@pytest.mark.parametrize("name", ["bus", "event_relay", "embedder", "knowledge", "session", "memories", "memory_relay"])
async def test_whichever_permanent_actor_falls_everything_that_was_stored_arrives(tmp_path: Path, name: str) -> None:
    said = events(400)
    async with running(tmp_path) as house:
        await house.memory.publish(said[:100], user="alice", ack="committed")
        await house.memory.publish(said[100:300], user="alice")

        await house.kill(house.slot(name))
        await published(house, "alice", said[300:], 100)

        await until(lambda: house.user_slot("alice") is not None)
        await house.settled()
        records = await exported(house.memory, "alice")
        assert [record.text for record in records] == [str(each.payload["text"]) for each in said]
        assert await house.memory.parked(user="alice") == []


async def test_a_tree_that_falls_too_often_ends_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        for _ in range(3):
            await house.kill(house.slot("bus"))
        house.slot("bus").mailbox.put_control(TaskFailed(RuntimeError("killed by a test")))

        async with asyncio.timeout(10):
            end = await house.daemon.ended()

        assert type(end).__name__ == "Failed"
