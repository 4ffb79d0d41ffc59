"""One user never sees another's: not by name, not by id, not by what is shared, not in what the daemon writes about itself."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from memoryd.client import Memory
from memoryd.protocol import wire
from memoryd.protocol.errors import Forbidden, InvalidMessage, MemorydError, NotFound
from memoryd.protocol.events import StoredEvent
from memoryd.protocol.messages import REQUESTS
from memoryd.relay.grants import token_sha256
from tests.helpers.daemon import (
    House,
    PoisonedEmbedder,
    event,
    events,
    exported,
    running,
    texts,
    until,
)

SECURITY = {
    "default_user": "owner",
    "tokens": [
        {"sha256": token_sha256("for-alice"), "users": ["alice"]},
        {"sha256": token_sha256("for-bob"), "users": ["bob"]},
        {"sha256": token_sha256("for-both"), "users": ["alice", "bob"]},
    ],
}
SECRET = "the launch code is tangerine"  # noqa: S105 - that is the point
FORGED = [
    "",
    "../alice",
    "alice/",
    "./alice",
    "alice\x00",
    "al\u0456ce",
    "\uff41lice",
    "alice\u200d",
    "ALICE/../alice",
    "a" * 65,
]


async def two(house: House) -> tuple[Memory, Memory]:
    """Alice, who has a secret, and Bob, who is curious."""
    alice, bob = await house.connect("for-alice"), await house.connect("for-bob")
    await alice.remember(SECRET, session_id="shared-name")
    await bob.remember("something of his own", session_id="shared-name")
    return alice, bob


async def test_without_a_token_the_owner_of_the_daemon_speaks_for_its_default_user(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        await house.memory.remember("mine")

        assert house.file("owner").exists()
        assert texts(await house.memory.recall("mine", user="owner")) == ["mine"]


async def test_a_token_reaches_its_user_and_no_other(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        alice, bob = await two(house)

        assert texts(await alice.recall(SECRET)) == [SECRET]
        assert texts(await bob.recall(SECRET)) == ["something of his own"]
        with pytest.raises(Forbidden) as refused:
            await bob.recall(SECRET, user="alice")
        assert refused.value.field == "user"


@pytest.mark.parametrize("kind", sorted(REQUESTS))
async def test_no_kind_of_request_reaches_a_user_that_is_not_granted(tmp_path: Path, kind: str) -> None:
    bodies: dict[str, dict[str, object]] = {
        "publish": {"events": [wire.to_body(event("e", "x"))]},
        "remember": {"drafts": [{"text": "x"}]},
        "import": {
            "records": [
                {
                    "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
                    "text": "x",
                    "kind": "finding",
                    "source": "user_input",
                    "timestamp": "2026-03-01T12:00:00Z",
                }
            ],
            "model_sha256": "",
        },
        "recall": {"query": "x"},
        "why": {"query": "x", "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV"},
        "forget": {"everything": True},
        "begin_trajectory": {"query": "x"},
        "add_step": {"id": "t", "action": "x"},
        "end_trajectory": {"id": "t", "quality": 1.0},
        "publish_global": {"ids": ["01ARZ3NDEKTSV4RRFFQ69G5FAV"]},
        "unpublish_global": {"ids": ["01ARZ3NDEKTSV4RRFFQ69G5FAV"]},
        "unpark": {"seqs": [1]},
        "create_branch": {"name": "b"},
        "switch_branch": {"name": "b"},
        "compare_branches": {"name": "b"},
        "merge_branch": {"name": "b"},
        "drop_branch": {"name": "b"},
        "import_learning": {"data": b"x", "size": 1},
        "backup": {"folder": str(tmp_path / "alice")},
    }
    async with running(tmp_path, listen=True, security=SECURITY) as house, await house.raw() as raw:
        await raw.hello("for-bob")

        frame = await raw.ask(kind, 2, {**bodies.get(kind, {}), "user": "alice"})

        assert frame.kind == "error" or kind == "subscribe"
        if kind == "subscribe" and frame.kind == "ok":
            frame = await raw.answer()
        assert type(wire.error_of(frame.body)) is Forbidden
        assert not (house.root / "alice").exists()
        assert not (tmp_path / "alice").exists()


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_name_reaches_nobody_and_makes_no_folder(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        await two(house)
        before = sorted(path.name for path in house.root.iterdir())
        for client in (await house.connect("for-alice"), house.memory):
            with pytest.raises(InvalidMessage) as refused:
                await client.recall(SECRET, user=name)
            assert refused.value.field == "user"
            with pytest.raises(InvalidMessage):
                await client.remember("x", user=name)
            with pytest.raises(InvalidMessage):
                await anext(client.subscribe(user=name))

        assert sorted(path.name for path in house.root.iterdir()) == before


async def test_the_ids_of_another_users_memories_open_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        alice, bob = await two(house)
        (theirs,) = await exported(alice, None)

        assert (await bob.forget(ids=[theirs.id])).records == 0
        with pytest.raises(NotFound) as refused:
            await bob.publish_global([theirs.id])
        assert refused.value.field == "ids"
        await bob.unpublish_global([theirs.id])
        run = await bob.begin_trajectory("whose is it", shown=[theirs.id])
        ended = await bob.end_trajectory(run, quality=1.0, helped=[theirs.id])

        assert SECRET not in str(ended) + str(await bob.trajectories()) + str(await exported(bob, None))
        assert await exported(alice, None) == [theirs]


async def test_a_trajectory_of_another_user_is_unknown(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        alice, bob = await two(house)
        run = await alice.begin_trajectory(SECRET)

        with pytest.raises(NotFound):
            await bob.add_step(run.id, action="peek")
        with pytest.raises(NotFound):
            await bob.end_trajectory(run.id, quality=0.0)

        assert await bob.trajectories() == []


async def test_a_session_of_the_same_name_is_another_session(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        alice, bob = await two(house)

        assert (await bob.forget(session_id="shared-name")).records == 1

        assert texts(await alice.recall(SECRET)) == [SECRET]


async def test_an_event_id_of_another_user_is_free(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        alice, bob = await house.connect("for-alice"), await house.connect("for-bob")
        await alice.publish([event("same-id", SECRET)], ack="committed")

        (receipt,) = await bob.publish([event("same-id", "his")], ack="committed")

        assert receipt.status == "committed"
        assert texts(await bob.recall(SECRET)) == ["his"]
        assert texts(await alice.recall(SECRET)) == [SECRET]


async def test_parked_events_of_another_user_are_neither_seen_nor_moved(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY, embedder=PoisonedEmbedder("tangerine")) as house:
        alice, bob = await house.connect("for-alice"), await house.connect("for-bob")
        (receipt,) = await alice.publish([event("e", SECRET)])
        while not await alice.parked():
            await asyncio.sleep(0.01)

        assert await bob.parked() == []
        assert await bob.unpark([receipt.seq], drop=True) == 0

        assert [item.seq for item in await alice.parked()] == [receipt.seq]


async def test_a_subscription_sees_the_users_of_its_credential(tmp_path: Path) -> None:
    async def seen(client: Memory, count: int, user: str | None = None) -> list[StoredEvent]:
        stream = client.subscribe(after=0, user=user)
        return [await anext(stream) for _ in range(count)]

    async with running(tmp_path, listen=True, security=SECURITY) as house:
        for first in (0, 2):
            for name in ("carol", "alice", "bob"):
                await house.memory.publish(events(2, first=first), user=name)

        of_alice = await seen(await house.connect("for-alice"), 3)
        of_both = await seen(await house.connect("for-both"), 6)
        of_bob = await seen(await house.connect("for-both"), 3, "bob")

        assert {each.user for each in of_alice} == {"alice"}
        assert {each.user for each in of_both} == {"alice", "bob"}
        assert {each.user for each in of_bob} == {"bob"}
        with pytest.raises(Forbidden):
            await seen(await house.connect("for-alice"), 1, "bob")


async def test_what_goes_on_live_reaches_only_the_users_of_the_credential(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        stream = (await house.connect("for-bob")).subscribe()
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: house.slot("bus").actor._feeds)
        await house.memory.publish([event("a", SECRET)], user="alice")
        await house.memory.publish([event("b", "for him")], user="bob")

        assert (await first).payload == {"text": "for him"}
        await stream.aclose()


async def test_the_tree_names_no_user_that_is_not_granted(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, security=SECURITY) as house:
        _, bob = await two(house)

        assert "user/alice" not in {actor.path for actor in (await bob.tree()).actors}
        assert "user/bob" in {actor.path for actor in (await bob.tree()).actors}
        assert {"user/alice", "user/bob"} <= {actor.path for actor in (await house.memory.tree()).actors}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
async def test_a_process_of_another_system_user_gets_what_its_uid_is_granted() -> None:
    security = {**SECURITY, "uids": [{"uid": 65_533, "users": ["alice"]}]}

    async def hello_as(uid: int, house: House) -> wire.Frame | None:
        raw = await house.raw_as(uid)
        frame = await raw.hello()
        await raw.close()
        return frame

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(name, 0o755)  # noqa: PTH101, S103 - others must reach the socket
        async with running(folder, listen=True, security=security) as house:
            granted = await hello_as(65_533, house)
            stranger = await hello_as(65_534, house)

        assert granted.body["user"] == "alice"
        error = wire.error_of(stranger.body)
        assert (type(error), error.field) == (Forbidden, "token")


# --- on disk ---


async def test_only_the_owner_may_read_what_is_on_disk_and_speak_to_the_socket(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with running(tmp_path, listen=True) as house:
            record = await house.memory.remember("mine", user="alice")
            await house.memory.publish(events(3), user="alice", ack="committed")
            await house.memory.publish_global([record.id], user="alice")
            found = {path: path.lstat().st_mode for path in (house.daemon.socket, house.root, *house.root.rglob("*"))}
    finally:
        os.umask(old)

    assert {stat.S_IMODE(mode) for mode in found.values() if stat.S_ISSOCK(mode)} == {0o600}
    assert {stat.S_IMODE(mode) for mode in found.values() if stat.S_ISREG(mode)} == {0o600}
    assert {stat.S_IMODE(mode) for mode in found.values() if stat.S_ISDIR(mode)} == {0o700}
    assert len(found) > 8


async def test_a_group_may_be_let_in_and_the_others_not(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, server={"group_access": True}) as house:
        assert stat.S_IMODE(house.daemon.socket.lstat().st_mode) == 0o660


# --- what the daemon writes about itself ---


async def provoked(calls: Iterable[object]) -> int:
    """Await everything; return how many failed."""
    failed = 0
    for call in calls:
        try:
            await call
        except MemorydError:
            failed += 1
    return failed


async def test_texts_of_users_are_in_no_log_line_no_metric_and_no_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = "tangerine"  # noqa: S105 - that is the point
    embedder = PoisonedEmbedder(secret)
    async with running(
        tmp_path, listen=True, embedder=embedder, security=SECURITY, observability={"log_level": "debug"}
    ) as house:
        alice = await house.connect("for-alice")
        async with await house.raw() as raw:
            await raw.hello("for-alice")
            for number, body in enumerate(
                [
                    {"drafts": [{"text": secret * 20_000}]},
                    {"drafts": [{"text": secret, "quality_score": 7.0}]},
                    {"drafts": [{"text": secret, "session_id": f"{secret}\n"}]},
                    {"drafts": [{"text": secret, "timestamp": "then"}]},
                    {"drafts": [{"text": [secret]}]},
                ]
            ):
                said = await raw.ask("remember", 10 + number, body)
                assert said.kind == "error"
                assert secret not in str(said.body)
            await raw.send(
                wire.encode_frame("recall", 5, 0, {"query": secret}) + b"\x00\x00\x00\x05" + secret[:5].encode()
            )
            while await raw.answer() is not None:
                pass
        failed = await provoked(
            [
                alice.remember(secret),
                alice.recall(secret),
                alice.recall(secret, deadline=0.001),
                alice.publish([event("e1", secret), event("e2", secret), event("e3", f"{secret} again")]),
                alice.begin_trajectory(secret),
                alice.remember("x", metadata={"note": secret}),
            ]
        )
        assert failed >= 2
        while len(await alice.parked()) < 3 and house.user_slot("alice").phase != "quarantined":
            await asyncio.sleep(0.01)
        house.file("bob").parent.mkdir()
        house.file("bob").write_bytes(secret.encode() * 100)
        await provoked([house.memory.recall(secret, user="bob"), house.memory.verify(user="bob")])
        house.daemon.overview.log_tree()
        house.daemon.overview.measure()
        shown = await house.memory.metrics() + str(await house.memory.tree()) + str(await house.memory.status())
        shown += str(await alice.parked())

    out, err = capfd.readouterr()
    assert "actor_failed" in err
    assert secret not in shown
    assert secret not in out + err + caplog.text


async def test_no_metric_is_labelled_with_a_user(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember("added a mutex", user="zebediah")
        await house.memory.recall("mutex", user="zebediah")
        house.daemon.overview.measure()

        assert "zebediah" not in await house.memory.metrics()
