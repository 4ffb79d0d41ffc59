"""Answers fit a frame, and say so when they were cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.messages import MAX_BATCH_BYTES
from memoryd.protocol.records import MAX_METADATA_BYTES, Draft
from tests.helpers.daemon import event, running


async def test_a_recall_that_does_not_fit_is_cut_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, embedder=HashingEmbedder()) as house:
        for number in range(20):
            await house.memory.remember(f"{number} " + "long " * 12_000, user="u1")

        recalled = await house.memory.recall("long", user="u1", top_k=20)

        assert 1 <= len(recalled.memories) < 20
        assert recalled.partial == ("size",)
        assert (await house.memory.recall("long", user="u1", top_k=5)).partial == ()


async def test_trajectories_that_do_not_fit_are_cut_to_the_newest(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, embedder=HashingEmbedder()) as house:
        for number in range(6):
            run = await house.memory.begin_trajectory(f"question {number}", user="u1")
            for _ in range(12):
                await house.memory.add_step(run, action="read", text="x" * 16_000)

        listed = await house.memory.trajectories(user="u1")

        assert 1 <= len(listed) < 6
        assert listed[0].query == "question 5"


async def test_a_trajectory_has_an_end_to_what_it_holds(tmp_path: Path) -> None:
    async with running(tmp_path, embedder=HashingEmbedder()) as house:
        run = await house.memory.begin_trajectory("question", user="u1")
        for _ in range(16):
            await house.memory.add_step(run, action="read", text="x" * 16_000)

        with pytest.raises(InvalidMessage, match="full"):
            await house.memory.add_step(run, action="read", text="x" * 16_000)


def test_metadata_is_small() -> None:
    with pytest.raises(InvalidMessage) as refused:
        Draft(text="x", metadata={"a": "y" * MAX_METADATA_BYTES})

    assert refused.value.field == "metadata"


async def test_a_batch_whose_answer_would_not_fit_is_refused_before_anything_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, embedder=HashingEmbedder()) as house:
        texts = ["z" * 60_000] * (MAX_BATCH_BYTES // 60_000 + 1)

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.remember_many([Draft(text=text) for text in texts], user="u1")

        assert refused.value.field == "drafts"
        assert (await house.memory.status(user="u1")).user.records == 0


async def test_forgetting_erases_the_event_before_it_hides_the_memory(tmp_path: Path) -> None:
    async with running(tmp_path, embedder=HashingEmbedder()) as house:
        await house.memory.publish([event("e1", "a secret")], user="u1", ack="committed")
        found = (await house.memory.recall("a secret", user="u1")).memories[0]
        seen_while_erasing: list[int] = []
        store = house.daemon._events
        erase = store.erase

        def watched(*args: object) -> int:
            seen_while_erasing.append(house.daemon.residents.states()["u1"].records)
            return erase(*args)

        store.erase = watched
        forgotten = await house.memory.forget(user="u1", ids=[found.record.id], now=True)

        assert seen_while_erasing == [1]
        assert (forgotten.records, forgotten.events) == (1, 1)
        assert forgotten.proof is not None
        assert forgotten.proof.traces == ()
