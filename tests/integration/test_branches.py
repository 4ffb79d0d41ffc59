"""Branches, looking back and forgetting with proof, as a client meets them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.actors import writer
from memoryd.files import RealFiles
from memoryd.protocol.errors import InvalidMessage, MemorydError, NotFound
from memoryd.protocol.keys import folded, keys_of
from memoryd.protocol.records import MemoryFilter
from memoryd.rvf import format as rvf
from memoryd.rvf.inspect import inspect
from memoryd.rvf.snapshot import read_snapshot
from memoryd.rvf.store import RvfMemoryStore
from memoryd.standalone import standalone
from memoryd.vectors.index import VectorIndex
from tests.helpers.daemon import event, events, exported, running, texts, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from memoryd.client import Memory
    from memoryd.protocol.ids import UserId
    from memoryd.protocol.messages import ErasureProof
    from memoryd.rvf.sealed import SealedPart
    from tests.helpers.daemon import House

SECRET = "the launch code is tangerine, do not tell"  # noqa: S105 - that is the point


async def held(memory: Memory, branch: str | None = None) -> list[str]:
    """Return the texts of a branch, of the one in use if none is named, in order of the alphabet."""
    found = [record.text async for page in memory.export(branch=branch) for record in page.records]
    answered = await memory.recall("anything", top_k=100, branch=branch)
    assert sorted(texts(answered)) == sorted(found)
    return sorted(found)


async def moment() -> datetime:
    """Return a moment between what was done and what comes."""
    await asyncio.sleep(0.002)
    now = datetime.now(UTC)
    await asyncio.sleep(0.002)
    return now


async def test_a_branch_goes_on_by_itself_and_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        memory = await house.connect()
        kept = await memory.remember("from before")
        lost = await memory.remember("to be given up")
        await memory.create_branch("trial")
        await memory.remember("on the main line")
        await memory.switch_branch("trial")
        await memory.publish([event("e1", "on trial")], ack="committed")
        await memory.forget(ids=[lost.id])

        assert await held(memory) == ["from before", "on trial"]
        assert await held(memory, "main") == ["from before", "on the main line", "to be given up"]
        status = await memory.status(user="default")
        assert status.user is not None
        assert (status.user.branch, status.user.records) == ("trial", 2)

        found = await memory.compare_branches("trial", "main")
        assert (found.only_here, found.only_there) == (1, 2)
        assert [record.text for record in found.here] == ["on trial"]
        assert sorted(record.text for record in found.there) == ["on the main line", "to be given up"]

        await memory.switch_branch("main")
        merged = await memory.merge_branch("trial")
        assert (merged.added, merged.removed) == (1, 1)
        again = await memory.merge_branch("trial")
        assert (again.added, again.removed) == (0, 0)
        await memory.drop_branch("trial")

        assert await held(memory) == ["from before", "on the main line", "on trial"]
        assert [(each.name, each.is_current) for each in await memory.branches()] == [("main", True)]
        assert await memory.verify() == []
        assert kept.text == "from before"


async def test_a_branch_that_is_dropped_leaves_no_words_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        memory = house.memory
        kept = await memory.remember("from before")
        await memory.create_branch("trial")
        await memory.switch_branch("trial")
        tried = await memory.remember("on trial")
        first, second = folded(keys_of([kept.id, tried.id])).tolist()
        await memory.recall("on trial", lexical=True)
        await until(lambda: indexed(house) == {first, second})
        await memory.switch_branch("main")

        await memory.drop_branch("trial")

        await memory.recall("from before", lexical=True)
        await until(lambda: indexed(house) == {first})


async def test_after_a_merge_nothing_of_it_differs(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("from before")
        await house.memory.create_branch("trial")
        await house.memory.switch_branch("trial")
        await house.memory.remember("on trial")
        await house.memory.switch_branch("main")
        await house.memory.merge_branch("trial")

        found = await house.memory.compare_branches("trial")

        assert (found.only_here, found.only_there, found.here, found.there) == (0, 0, (), ())


async def test_who_forgets_while_somebody_switches_forgets_on_one_branch_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        for turn in range(8):
            secret = await house.memory.remember(f"{SECRET} {turn}")
            await house.memory.create_branch(f"trial{turn}")
            forgetting = house.memory.forget(ids=[secret.id])
            gone, _ = await asyncio.gather(forgetting, house.memory.switch_branch(f"trial{turn}"))

            answers = {name: await held(house.memory, name) for name in ("main", f"trial{turn}")}
            without = [name for name, found in answers.items() if secret.text not in found]
            assert len(without) == 1
            assert gone.kept_in == ("history", *(f"branch {name}" for name in answers if name not in without))
            await house.memory.switch_branch("main")
            await house.memory.drop_branch(f"trial{turn}")
            await house.memory.forget(ids=[secret.id])


@pytest.mark.parametrize("first_on", ["main", "trial"])
async def test_what_another_branch_only_keeps_for_looking_back_is_erased_too(tmp_path: Path, first_on: str) -> None:
    async with running(tmp_path) as house:
        secret = await house.memory.remember(SECRET)
        await house.memory.remember("nothing secret")
        await house.memory.create_branch("trial")
        await house.memory.switch_branch(first_on)
        await house.memory.forget(ids=[secret.id])
        await house.memory.switch_branch("trial" if first_on == "main" else "main")

        gone = await house.memory.forget(ids=[secret.id], everywhere=True)
        assert (proven(gone.proof, house.root), gone.kept_in) == ([], ())

        again = await house.memory.forget(ids=[secret.id], everywhere=True)
        assert (again.records, proven(again.proof, house.root)) == (0, [])
        assert await house.memory.verify() == []


async def test_a_branch_is_made_while_rows_are_folded(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_records": 4}) as house:
        publishing = asyncio.ensure_future(house.memory.publish(events(400), ack="committed"))
        for number in range(20):
            await house.memory.create_branch(f"b{number}")
            await asyncio.sleep(0.01)
        await publishing

        slot = house.user_slot("default")
        assert slot is not None
        assert slot.incarnations == 1
        assert len(await house.memory.branches()) == 21
        assert await house.memory.verify() == []


async def test_what_is_published_while_branches_are_switched_is_kept_once(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("from before")
        await house.memory.create_branch("trial")
        publishing = asyncio.ensure_future(publish_slowly(house))
        for name in ("trial", "main") * 4:
            await house.memory.switch_branch(name)
            await asyncio.sleep(0.01)
        await publishing
        await house.settled()

        main, trial = await held(house.memory, "main"), await held(house.memory, "trial")

        everything = [f"e message {number}" for number in range(60)]
        assert sorted(each for each in main + trial if each != "from before") == sorted(everything)
        assert await house.memory.verify() == []

    async with running(tmp_path) as house:
        assert (await held(house.memory, "main"), await held(house.memory, "trial")) == (main, trial)


async def publish_slowly(house: House) -> None:
    for first in range(0, 60, 3):
        await house.memory.publish(events(60)[first : first + 3], ack="stored")
        await asyncio.sleep(0.003)


async def test_the_branch_in_use_is_in_use_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("from before")
        await house.memory.create_branch("trial")
        await house.memory.create_branch("deeper", of="trial")
        await house.memory.switch_branch("deeper")
        await house.memory.remember("deep")

    async with running(tmp_path) as house:
        assert await held(house.memory) == ["deep", "from before"]
        found = {each.name: each for each in await house.memory.branches()}
        assert (found["deeper"].is_current, found["deeper"].parent, found["deeper"].own_records) == (True, "trial", 1)
        assert found["trial"].created is not None


async def test_runs_that_ended_on_a_branch_are_merged(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("from before")
        run = await house.memory.begin_trajectory("what to do")
        await house.memory.create_branch("trial")
        await house.memory.switch_branch("trial")
        await house.memory.end_trajectory(run, quality=1.0)
        await house.memory.switch_branch("main")
        assert [one.quality for one in await house.memory.trajectories()] == [None]

        merged = await house.memory.merge_branch("trial")

        assert (merged.trajectories, merged.added) == (1, 1)
        assert [one.quality for one in await house.memory.trajectories()] == [1.0]


async def test_what_was_learned_of_a_branch_goes_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        memory = await house.connect()
        kept = await memory.remember("a lease replaced the mutex")
        run = await memory.begin_trajectory("what of the mutex", shown=[kept.id])
        await memory.end_trajectory(run, quality=0.9, helped=[kept.id])
        for name in ("idea", "other"):
            await memory.create_branch(name)
            await memory.switch_branch(name)
            own = await memory.remember(f"the mutex was an {name} mistake")
            run = await memory.begin_trajectory(f"what of the {name} mutex", shown=[kept.id, own.id])
            await memory.end_trajectory(run, quality=0.9, helped=[kept.id])
            await memory.switch_branch("main")
        while (await memory.learning()).runs < 3:
            await asyncio.sleep(0.01)

        await memory.drop_branch("other")

        runs = json.loads(await memory.export_learning())["replay"]
        (path,) = (tmp_path / "data").glob("*/sona.json")
        state = json.loads(path.read_bytes())
        assert [len(each["shown"]) for each in runs] == [1, 2]
        assert state["replay"] == runs
        assert run.id not in json.dumps(state)
        assert own.id not in json.dumps(state)


async def test_requests_about_branches_that_cannot_be(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        memory = await house.connect()
        await memory.remember("something")
        await memory.create_branch("trial")

        for name in ("../x", "", "a b"):
            with pytest.raises(InvalidMessage, match="not a name of a branch"):
                await memory.create_branch(name)
        for call in (
            memory.switch_branch("none"),
            memory.drop_branch("none"),
            memory.merge_branch("none"),
            memory.compare_branches("none"),
            memory.recall("anything", branch="none"),
            memory.create_branch("other", of="none"),
        ):
            with pytest.raises(NotFound, match="no branch none"):
                await call
        with pytest.raises(InvalidMessage, match="there already"):
            await memory.create_branch("trial")
        with pytest.raises(InvalidMessage, match="in use"):
            await memory.drop_branch("main")
        with pytest.raises(InvalidMessage, match="into itself"):
            await memory.merge_branch("main")

        assert await held(memory) == ["something"]
        assert await memory.remember("and on") is not None


async def test_a_memory_is_asked_as_it_stood(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        memory = await house.connect()
        start = await moment()
        first = await memory.remember("the first")
        then = await moment()
        await memory.publish([event("e1", "the second")], ack="committed")
        await memory.forget(ids=[first.id])
        now = await moment()

        answers = [texts(await memory.recall("which", as_of=when)) for when in (start, then, now)]

        assert answers == [[], ["the first"], ["the second"]]
        assert texts(await memory.recall("which")) == ["the second"]


async def test_what_was_erased_cannot_be_looked_back_at_and_the_answer_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        secret = await house.memory.remember(SECRET)
        await house.memory.remember("nothing secret")
        then = await moment()
        hidden = await house.memory.forget(ids=[secret.id])
        assert hidden.kept_in == ("history",)
        assert SECRET in texts(await house.memory.recall("code", as_of=then))

        await house.memory.forget(before=datetime(1990, 1, 1, tzinfo=UTC), now=True)

        answer = await house.memory.recall("code", as_of=then)
        assert (texts(answer), answer.partial) == (["nothing secret"], ("history",))


def proven(proof: ErasureProof | None, root: Path) -> list[str]:
    """Return what a proof says is left, after comparing it with the files."""
    assert proof is not None
    for one in proof.files:
        assert (root / one.file).stat().st_size == one.bytes
        assert hashlib.sha256((root / one.file).read_bytes()).hexdigest() == one.sha256
    return sorted(f"{trace.file}: {trace.what}" for trace in proof.traces)


async def test_who_forgets_now_gets_a_proof(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish([event("e1", SECRET), event("e2", "nothing secret")], ack="committed")
        (found,) = (await house.memory.recall("tangerine", top_k=1)).memories

        gone = await house.memory.forget(ids=[found.record.id], now=True)

        assert (gone.records, gone.events, gone.kept_in) == (1, 1, ())
        assert proven(gone.proof, house.root) == []
        assert gone.proof is not None
        (erased,) = gone.proof.records
        assert erased.text_sha256 == hashlib.sha256(SECRET.encode()).hexdigest()
        assert {one.file for one in gone.proof.files} >= {"default/memory.rvf", "events.sqlite"}
        assert texts(await house.memory.recall("tangerine")) == ["nothing secret"]


async def test_branches_that_still_hold_it_are_named_and_included_when_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        secret = await house.memory.remember(SECRET)
        await house.memory.remember("nothing secret")
        await house.memory.create_branch("trial")
        await house.memory.create_branch("deeper", of="trial")

        here = await house.memory.forget(ids=[secret.id], now=True)

        assert here.kept_in == ("branch deeper", "branch trial")
        left = proven(here.proof, house.root)
        assert f"default/memory.rvf: memory {secret.id}" in left
        assert SECRET in await held(house.memory, "deeper")

        everywhere = await house.memory.forget(ids=[secret.id], everywhere=True)

        assert (everywhere.records, everywhere.kept_in) == (1, ())
        assert proven(everywhere.proof, house.root) == []
        for branch in ("main", "trial", "deeper"):
            assert await held(house.memory, branch) == ["nothing secret"]
        assert await house.memory.verify() == []


async def test_who_says_the_same_is_named_by_the_proof(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        one = await house.memory.remember(SECRET)
        other = await house.memory.remember(f"somebody said: {SECRET}!")

        gone = await house.memory.forget(ids=[one.id], now=True)

        assert f"default/memory.rvf: memory {other.id} says the same" in proven(gone.proof, house.root)


async def test_forgetting_everything_takes_all_branches(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(SECRET)
        await house.memory.create_branch("trial")
        await house.memory.switch_branch("trial")
        await house.memory.remember("on trial")

        await house.memory.forget(everything=True)

        assert await held(house.memory) == []
        assert [each.name for each in await house.memory.branches()] == ["main"]
        assert not [path for path in (house.root / "default").rglob("*") if path.name not in KEPT]


KEPT = ("memory.rvf", "memory.rvf.lock")


async def test_a_branch_is_exported_into_a_file_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(300), ack="committed")
        await house.memory.create_branch("trial")
        await house.memory.switch_branch("trial")
        await house.memory.remember("on trial")

        with standalone(tmp_path / "trial.rvf") as out:
            async for page in house.memory.export(branch="trial"):
                out.add(page)

        file = RealFiles().open(tmp_path / "trial.rvf", writable=False)
        whole = inspect(file, tmp_path / "trial.rvf")
        file.close()
        assert (whole.vectors, whole.deleted) == (301, 0)
        assert left(tmp_path, "trial") == ["trial.rvf"]
        with pytest.raises(InvalidMessage, match="there already"), standalone(tmp_path / "trial.rvf"):
            pass
        with pytest.raises(InvalidMessage, match="no memory"), standalone(tmp_path / "none.rvf"):
            pass
        assert left(tmp_path, "none") == []


def left(folder: Path, name: str) -> list[str]:
    return [path.name for path in folder.glob(f"{name}*")]


@pytest.fixture
def quiet_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUIET_AFTER_S", 0.1)


@pytest.mark.usefixtures("quiet_soon")
async def test_a_memory_is_repaired_while_it_is_open(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(300), ack="committed")
        await until(lambda: len(sealed(house)) == 1)
        damage(house)
        assert await house.memory.verify()

        assert await house.memory.verify(repair=True) == []

        assert len(await exported(house.memory, "default")) == 300
        assert await house.memory.verify() == []


async def test_damage_is_told_behind_a_repair_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repairing, told = threading.Event(), list[bool]()
    repair = RvfMemoryStore.repair

    def slowly(store: RvfMemoryStore, user: UserId) -> Sequence[str]:
        repairing.set()
        time.sleep(0.2)
        found = repair(store, user)
        repairing.clear()
        return found

    def check(_: VectorIndex) -> Callable[[], None]:
        if not told:
            repairing.wait(10)
        return lambda: told.append(repairing.is_set())

    monkeypatch.setattr(RvfMemoryStore, "repair", slowly)
    monkeypatch.setattr(VectorIndex, "check", check)
    async with running(tmp_path) as house:
        await house.memory.publish(events(3), ack="committed")

        assert await house.memory.verify(repair=True) == []

        await until(lambda: len(told) > 1)
        assert told[0] is False


@pytest.mark.usefixtures("quiet_soon")
async def test_a_memory_that_cannot_be_opened_is_repaired(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(300), ack="committed")
        await until(lambda: len(sealed(house)) == 1)
    damage(house, section=7)  # the sessions, which every filtered recall looks at

    async with running(tmp_path) as house:
        with suppress(MemorydError):
            await house.memory.recall("anything", filter=MemoryFilter(session_id="s"))

        assert await house.memory.verify(repair=True) == []


def indexed(house: House) -> set[int]:
    """The keys of the records that the words index holds; it may just be made anew."""
    path = house.root / "default" / "words.sqlite"
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as words:
        batches = words.execute("SELECT keys FROM batches").fetchall()
        return {key for (keys,) in batches for key in np.frombuffer(keys, "<u8").tolist()}
    return set()


def sealed(house: House) -> list[SealedPart]:
    path = house.root / "default" / "memory.rvf"
    file = RealFiles().open(path, writable=False)
    try:
        return read_snapshot(file, path).parts
    finally:
        file.close()


def damage(house: House, section: int = 1) -> None:
    """Change a byte of the checksums of vectors, or of another section, on the disk."""
    (part,) = sealed(house)
    place = part.head.sections[section]
    with (house.root / "default" / "memory.rvf").open("r+b") as file:
        at = part.private.offset + rvf.HEADER_SIZE + place.offset
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
