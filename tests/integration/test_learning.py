"""Recall that learns from runs, in a running daemon: at once, over restarts, and never from what is forgotten."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from memoryd.sona.engine import ASIDE, NAME
from tests.helpers.daemon import PATIENCE_S, events, exported, running, texts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from memoryd import RecordId, Trajectory
    from tests.helpers.daemon import House

USER = "alice"
QUERY = "how did we mend the queue"
HELPFUL = "a lease replaced the mutex"
TEXTS = ["the queue was mended by a mutex", "we mend queues on Mondays", HELPFUL, "the queue of the harbour"]


async def filled(house: House, user: str = USER) -> dict[str, RecordId]:
    await house.memory.publish(events(60), user=user, ack="committed")
    found = {text: await house.memory.remember(text, user=user, session_id=text) for text in TEXTS}
    return {text: record.id for text, record in found.items()}


async def ran(
    house: House, ids: dict[str, RecordId], helped: list[str], *, query: str = QUERY, quality: float = 0.9
) -> Trajectory:
    """A run that was shown all of them."""
    begun = await house.memory.begin_trajectory(query, user=USER, shown=list(ids.values()))
    return await house.memory.end_trajectory(begun, user=USER, quality=quality, helped=[ids[text] for text in helped])


async def first(house: House, query: str = QUERY, **options: object) -> str:
    return texts(await house.memory.recall(query, user=USER, top_k=3, **options))[0]


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is so: a run is learned from soon after it has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while not await is_so():
            await asyncio.sleep(0.01)


async def learned(house: House) -> None:
    async def is_first() -> bool:
        return await first(house) == HELPFUL

    await eventually(is_first)


async def test_what_helped_comes_first_when_the_question_comes_again(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        before = await house.memory.recall(QUERY, user=USER, top_k=10)
        assert texts(before)[0] != HELPFUL
        assert all(memory.sona_score == memory.score for memory in before.memories)

        await ran(house, ids, [HELPFUL])
        await learned(house)

        (best, *_) = (await house.memory.recall(QUERY, user=USER, top_k=3, explain=True)).memories
        assert best.sona_score > best.score + 0.3
        assert best.explanation is not None
        assert best.explanation.parts["sona_bank"] == pytest.approx(10 / 22, abs=0.02)
        why = await house.memory.why(ids[HELPFUL], QUERY, user=USER)
        assert why.place == 1


async def test_it_is_still_known_bit_for_bit_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)
        before = await house.memory.recall(QUERY, user=USER, top_k=10)

    assert json.loads((tmp_path / "data" / USER / NAME).read_bytes())["version"] == 1
    async with running(tmp_path) as house:
        again = await house.memory.recall(QUERY, user=USER, top_k=10)
        assert again.memories == before.memories


@pytest.mark.parametrize("damage", ["gone", "cut", "edited"])
async def test_without_its_state_it_learns_again_from_the_runs_in_the_memory_file(tmp_path: Path, damage: str) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)
    path = tmp_path / "data" / USER / NAME
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            data[: len(data) // 2] if damage == "cut" else data.replace(b'"enabled":true', b'"enabled":false')
        )

    async with running(tmp_path) as house:
        await learned(house)

    aside = path.with_name(NAME + ASIDE)
    assert aside.exists() == (damage != "gone")
    assert path.exists()


async def test_a_forgotten_memory_is_not_remembered_by_learning(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)

        await house.memory.forget(user=USER, ids=[ids[HELPFUL]], now=True)

        state = (tmp_path / "data" / USER / NAME).read_text()
        assert ids[HELPFUL] not in state
        assert ids[TEXTS[0]] in state
        assert HELPFUL not in texts(await house.memory.recall(QUERY, user=USER, top_k=10))


async def test_who_forgets_everything_has_learned_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)

        await house.memory.forget(user=USER, everything=True)
        assert not (tmp_path / "data" / USER / NAME).exists()
        await filled(house)

        found = await house.memory.recall(QUERY, user=USER, top_k=10)
        assert all(memory.sona_score == memory.score for memory in found.memories)


async def test_an_answer_as_of_then_knows_nothing_of_what_was_learned_since(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        then = house.daemon._clock.now()
        await ran(house, ids, [HELPFUL])
        await learned(house)

        found = await house.memory.recall(QUERY, user=USER, top_k=10, as_of=then)

        assert all(memory.sona_score == memory.score for memory in found.memories)


async def test_what_one_user_learns_is_no_others(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await filled(house, "bob")
        await ran(house, ids, [HELPFUL])
        await learned(house)

        found = await house.memory.recall(QUERY, user="bob", top_k=10)

        assert all(memory.sona_score == memory.score for memory in found.memories)
        assert not (tmp_path / "data" / "bob" / NAME).exists()


async def test_learning_can_be_switched_off(tmp_path: Path) -> None:
    async with running(tmp_path, learning={"enabled": False}) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await house.memory.recall("something else", user=USER)
        found = await house.memory.recall(QUERY, user=USER, top_k=10)

        assert all(memory.sona_score == memory.score for memory in found.memories)
    assert not (tmp_path / "data" / USER / NAME).exists()


async def test_a_run_that_failed_lifts_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [], quality=0.1)

        async def is_known() -> bool:
            found = await house.memory.recall(QUERY, user=USER, top_k=10)
            return any(memory.sona_score != memory.score for memory in found.memories)

        await eventually(is_known)
        found = await house.memory.recall(QUERY, user=USER, top_k=10)
        shown = set(ids.values())
        assert all(memory.sona_score < memory.score for memory in found.memories if memory.record.id in shown)


async def test_the_state_goes_into_no_export(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        before = await exported(house.memory, USER)
        run = await ran(house, ids, [HELPFUL])
        await learned(house)

        after = await exported(house.memory, USER)

        assert [record for record in after if record.metadata.get("trajectory_id") != run.id] == before
