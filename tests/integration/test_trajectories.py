"""Runs: what was asked, shown, done, and how it ended."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memoryd import Trajectory
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol.errors import InvalidMessage, NotFound
from memoryd.protocol.records import MemoryKind, MemorySource
from tests.helpers.daemon import PATIENCE_S, event, exported, running, texts, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memoryd.protocol.interfaces import Embeddings


async def test_a_run_is_kept_with_everything_that_was_said_about_it_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        shown = [await house.memory.remember(f"advice {n}", user="alice") for n in range(3)]
        ids = [record.id for record in shown]
        run = await house.memory.begin_trajectory("how to fix it", user="alice", shown=ids)
        await house.memory.add_step(run, action="edit", text="cache.py")
        await house.memory.add_step(run, action="test")
        ended = await house.memory.end_trajectory(run, quality=0.9, helped=ids[:1], harmful=ids[1:2])

    async with running(tmp_path, listen=True) as house:
        (again,) = await house.memory.trajectories(user="alice")

        assert again == ended
        assert (again.query, again.quality, again.shown) == ("how to fix it", 0.9, tuple(ids))
        assert [(step.action, step.text) for step in again.steps] == [("edit", "cache.py"), ("test", "")]
        assert (again.helped, again.harmful) == (tuple(ids[:1]), tuple(ids[1:2]))


async def test_a_report_is_the_last_step_of_a_run_and_stands_in_what_it_leaves_behind(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        run = await house.memory.begin_trajectory("how to fix it", user="alice")
        for number in range(20):
            await house.memory.add_step(run, action=f"try {number}")
        ended = await house.memory.end_trajectory(run, quality=0.9, report="a lease replaced the mutex")
        (outcome,) = await exported(house.memory, "alice")

    assert (ended.steps[-1].action, ended.steps[-1].text) == ("report", "a lease replaced the mutex")
    assert outcome.text.splitlines() == [
        "how to fix it",
        *(f"- try {number}" for number in range(11)),
        "- and 9 more steps",
        "- report: a lease replaced the mutex",
        "succeeded (quality 0.90)",
    ]
    async with running(tmp_path, listen=True) as house:
        assert await house.memory.trajectories(user="alice") == [ended]


@pytest.mark.parametrize(
    ("report", "field"), [(" \n", "report"), ("x" * 16_385, "report"), ("\ud800", "report"), ("é" * 8_192, "id")]
)
async def test_a_report_that_says_nothing_or_too_much_is_refused_and_the_run_goes_on(
    tmp_path: Path, report: str, field: str
) -> None:
    async with running(tmp_path) as house:
        run = await house.memory.begin_trajectory("how to fix it", user="alice")
        for _ in range(15):  # a sixteenth is too much
            await house.memory.add_step(run, action="edit", text="x" * 16_384)

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.end_trajectory(run, quality=0.9, report=report)

        assert refused.value.field == field
        assert (await house.memory.end_trajectory(run, quality=0.9, report="done")).steps[-1].text == "done"


async def test_a_run_that_is_open_can_be_ended_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        run = await house.memory.begin_trajectory("how to fix it", user="alice")
        await house.memory.add_step(run, action="edit")
    async with running(tmp_path) as house:
        ended = await house.memory.end_trajectory(run.id, quality=1.0, user="alice")

        assert [step.action for step in ended.steps] == ["edit"]
        assert ended.ended is not None


async def test_a_run_that_ended_leaves_a_memory_of_how_it_went(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        run = await house.memory.begin_trajectory("how to fix the cache", user="alice")
        await house.memory.add_step(run, action="edit", text="added a mutex")
        await house.memory.end_trajectory(run, quality=0.9)

        (found,) = (await house.memory.recall("fix the cache", user="alice")).memories

        assert (found.record.kind, found.record.source) == (MemoryKind.EPISODE, MemorySource.TRAJECTORY_OUTCOME)
        assert found.record.quality_score == 0.9
        assert found.record.text.splitlines() == [
            "how to fix the cache",
            "- edit: added a mutex",
            "succeeded (quality 0.90)",
        ]


async def test_the_newest_runs_come_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        for number in range(5):
            await house.memory.begin_trajectory(f"question {number}", user="alice")

        newest = await house.memory.trajectories(user="alice", limit=2)

        assert [each.query for each in newest] == ["question 4", "question 3"]


@pytest.mark.parametrize(
    ("helped", "harmful", "field"), [([1], [], "helped"), ([], [1], "harmful"), ([0], [0], "harmful")]
)
async def test_credit_goes_only_to_what_was_shown_and_only_once(
    tmp_path: Path, helped: list[int], harmful: list[int], field: str
) -> None:
    async with running(tmp_path) as house:
        ids = [(await house.memory.remember(f"advice {n}", user="alice")).id for n in range(2)]
        run = await house.memory.begin_trajectory("how to fix it", user="alice", shown=ids[:1])

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.end_trajectory(
                run, quality=1.0, helped=[ids[n] for n in helped], harmful=[ids[n] for n in harmful]
            )

        assert refused.value.field == field
        assert refused.value.hint
        assert (await house.memory.end_trajectory(run, quality=1.0, helped=ids[:1])).helped == (ids[0],)


async def test_a_run_ends_once_and_takes_no_steps_afterwards(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        run = await house.memory.begin_trajectory("how to fix it", user="alice")
        await house.memory.end_trajectory(run, quality=1.0)

        for call in (house.memory.end_trajectory(run, quality=0.0), house.memory.add_step(run, action="edit")):
            with pytest.raises(InvalidMessage) as refused:
                await call
            assert refused.value.field == "id"
            assert refused.value.hint

        (kept,) = await house.memory.trajectories(user="alice")
        assert kept.quality == 1.0


class _Waiting(HashingEmbedder):
    """Embeds what a run leaves behind when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def embed(self, texts: Iterable[str], running: Callable[[], None] | None = None) -> Embeddings:
        texts = list(texts)
        if any("quality" in text for text in texts):
            self.reached.set()
            assert self.go.wait(PATIENCE_S)
        return super().embed(texts, running)


async def test_a_run_that_is_ended_twice_at_once_ends_once(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        run = await house.memory.begin_trajectory("how to fix it", user="alice")

        ends = [house.memory.end_trajectory(run, quality=quality) for quality in (1.0, 0.0, 0.5)]
        answers = await asyncio.gather(*ends, return_exceptions=True)

        (ended,) = [each for each in answers if not isinstance(each, InvalidMessage)]
        assert await house.memory.trajectories(user="alice") == [ended]
        (outcome,) = await exported(house.memory, "alice")
        assert isinstance(ended, Trajectory)
        assert outcome.quality_score == ended.quality


async def test_a_step_that_comes_while_a_run_ends_is_kept(tmp_path: Path) -> None:
    embedder = _Waiting()
    async with running(tmp_path, embedder=embedder) as house:
        run = await house.memory.begin_trajectory("how to fix it", user="alice")
        ending = asyncio.create_task(house.memory.end_trajectory(run, quality=1.0, report="done"))
        await until(embedder.reached.is_set)

        await house.memory.add_step(run, action="edit")
        embedder.go.set()

        assert [step.action for step in (await ending).steps] == ["edit", "report"]
        (outcome,) = await exported(house.memory, "alice")
        assert "- edit" in outcome.text


async def test_what_is_named_twice_counts_once(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        first, second = [(await house.memory.remember(text, user="alice")).id for text in ("one", "another")]
        run = await house.memory.begin_trajectory("how to fix it", user="alice", shown=[first, second, first])
        ended = await house.memory.end_trajectory(run, quality=1.0, helped=[second, second], harmful=[first, first])

    assert (ended.shown, ended.helped, ended.harmful) == ((first, second), (second,), (first,))


@pytest.mark.parametrize("field", ["shown", "helped", "harmful"])
async def test_more_memories_than_an_answer_can_name_are_refused(tmp_path: Path, field: str) -> None:
    many = [f"{number:026}" for number in range(1_025)]
    async with running(tmp_path) as house:
        run = await house.memory.begin_trajectory("how to fix it", user="alice", shown=many[:-1])
        asked = {
            "shown": lambda: house.memory.begin_trajectory("how to fix it", user="alice", shown=many),
            "helped": lambda: house.memory.end_trajectory(run, quality=1.0, helped=many[:1] * 1_025),
            "harmful": lambda: house.memory.end_trajectory(run, quality=1.0, harmful=many[:1] * 1_025),
        }

        with pytest.raises(InvalidMessage) as refused:
            await asked[field]()

        assert refused.value.field == field
        ended = await house.memory.end_trajectory(run, quality=1.0, helped=many[:-1])
        assert await house.memory.trajectories(user="alice") == [ended]


async def test_a_run_that_nobody_began_is_unknown(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        for call in (
            house.memory.end_trajectory("nothing", quality=1.0, user="alice"),
            house.memory.add_step("nothing", action="edit", user="alice"),
        ):
            with pytest.raises(NotFound) as refused:
                await call
            assert refused.value.field == "id"
            assert refused.value.hint


@pytest.mark.parametrize(
    ("end", "payload", "quality"),
    [
        ("conductor.run.completed", {}, 0.8),
        ("conductor.run.failed", {}, 0.0),
        ("conductor.run.completed", {"quality": 0.55}, 0.55),
    ],
)
async def test_the_outcome_of_a_run_reaches_the_memories_of_it(
    tmp_path: Path, end: str, payload: dict[str, object], quality: float
) -> None:
    said = [
        event("e1", "fix the cache", "conductor.run.started", run_id="run-1"),
        event("e2", "added a mutex", "terminal.command.completed", run_id="run-1", payload={"output": "added a mutex"}),
        event(
            "e3", "of another run", "terminal.command.completed", run_id="run-2", payload={"output": "of another run"}
        ),
    ]
    async with running(tmp_path) as house:
        await house.memory.publish(said, user="alice", ack="committed")
        before = {record.metadata["event_id"]: record.quality_score for record in await exported(house.memory, "alice")}
        await house.memory.publish(
            [event("e4", "that was it", end, run_id="run-1", payload=payload)], user="alice", ack="committed"
        )
        recalled = (await house.memory.recall("added a mutex", user="alice", top_k=10)).memories

    async with running(tmp_path) as house:
        after = {record.metadata["event_id"]: record.quality_score for record in await exported(house.memory, "alice")}
        (run,) = [each for each in await house.memory.trajectories(user="alice") if each.run_id == "run-1"]

    assert before == {"e1": None, "e2": None, "e3": None}
    assert (after["e1"], after["e2"], after["e3"]) == (quality, quality, None)
    assert {each.record.metadata["event_id"]: each.record.quality_score for each in recalled} == after
    assert (run.query, run.quality) == ("fix the cache", quality)


async def test_events_of_a_run_that_come_again_do_not_begin_it_again(tmp_path: Path) -> None:
    said = [
        event("e1", "fix the cache", "conductor.run.started", run_id="run-1"),
        event("e2", "", "conductor.run.completed", run_id="run-1", payload={"summary": "done with it"}),
    ]
    async with running(tmp_path) as house:
        for _ in range(3):
            await house.memory.publish(said, user="alice", ack="committed")

        (run,) = await house.memory.trajectories(user="alice")

        assert run.quality == 0.8
        assert len(texts(await house.memory.recall("fix the cache", user="alice"))) == 2
