"""The time that a question speaks of, through a running daemon: preferred, asked for alone, explained, refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.messages import SpokenTime
from memoryd.protocol.records import Draft, MemoryFilter
from tests.helpers.daemon import running, texts
from tests.integration.test_import import call

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.protocol.messages import Recalled
    from tests.helpers.daemon import House

NOW = datetime(2026, 3, 11, 11, 30, tzinfo=UTC)  # a Wednesday
MONDAY = datetime(2026, 3, 9, tzinfo=UTC)
RELEASE = "release 3.1 went out to everybody"


async def failures(house: House, user: str = "alice") -> list[str]:
    """Remember that a build failed on each of the last twenty days, at 23:30; return the ids, the latest first."""
    first = datetime(2026, 3, 10, 23, 30, tzinfo=UTC)
    drafts = [Draft(text=f"the build failed, number {n}", timestamp=first - timedelta(days=n)) for n in range(20)]
    return [record.id for record in await house.memory.remember_many(drafts, user=user)]


def numbers(found: Recalled) -> list[int]:
    return [int(text.rsplit(maxsplit=1)[1]) for text in texts(found)]


async def test_memories_of_the_time_that_is_spoken_of_come_first(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await failures(house)

        found = await house.memory.recall(
            "which build failed last week?", user="alice", top_k=20, now=NOW, explain=True
        )

        assert sorted(numbers(found)[:7]) == [2, 3, 4, 5, 6, 7, 8]
        assert len(found.memories) == 20
        assert found.plan is not None
        assert found.plan.time == SpokenTime(
            phrases=("last week",), use="prefer", since=MONDAY - timedelta(days=7), until=MONDAY
        )
        told = [each.explanation.parts for each in found.memories if each.explanation]
        assert [part.get("time", 0) > 0 for part in told] == [True] * 7 + [False] * 13


async def test_only_memories_of_that_time_answer_when_it_is_a_filter_and_none_matters_when_it_is_ignored(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, listen=True) as house:
        ids = await failures(house)
        question = "which build failed last week?"

        only = await house.memory.recall(question, user="alice", top_k=20, now=NOW, time="filter", explain=True)
        ignored = await house.memory.recall(question, user="alice", top_k=20, now=NOW, time="ignore", explain=True)
        why = await house.memory.why(ids[0], question, user="alice", now=NOW, time="filter")
        within = await house.memory.recall(
            question,
            user="alice",
            now=NOW,
            time="filter",
            top_k=20,
            filter=MemoryFilter(since=MONDAY - timedelta(days=3)),
        )

        assert sorted(numbers(only)) == [2, 3, 4, 5, 6, 7, 8]
        assert only.plan is not None
        assert only.plan.time is not None
        assert only.plan.time.use == "filter"
        assert ignored.plan is not None
        assert ignored.plan.time is None
        assert not any(each.explanation and "time" in each.explanation.parts for each in ignored.memories)
        assert (why.passes, why.plan.time) == (False, only.plan.time)
        assert sorted(numbers(within)) == [2, 3, 4]


async def test_days_begin_in_the_zone_of_the_question_else_in_that_of_the_configuration(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, recall={"timezone": "Asia/Tokyo"}) as house:
        await failures(house)

        async def asked(zone: str | None) -> list[int]:
            return numbers(
                await house.memory.recall(
                    "which build failed yesterday?", user="alice", now=NOW, timezone=zone, time="filter"
                )
            )

        assert await asked("UTC") == [0]
        assert await asked("Europe/Berlin") == [1]  # half past midnight there
        assert await asked(None) == [1]
        with pytest.raises(InvalidMessage) as refused:
            await asked("Mars/Olympus")
        assert refused.value.field == "timezone"
        assert refused.value.hint


async def test_an_event_of_the_memory_is_a_border_and_the_plan_names_it(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await failures(house)
        moment = datetime(2026, 3, 5, 12, tzinfo=UTC)
        release = await house.memory.remember(RELEASE, user="alice", timestamp=moment)

        found = await house.memory.recall(
            "which build failed after the release?", user="alice", top_k=20, now=NOW, time="filter", explain=True
        )
        unknown = await house.memory.recall(
            "which build failed after the earthquake?", user="alice", top_k=20, now=NOW, time="filter", explain=True
        )

        assert sorted(numbers(found)) == [0, 1, 2, 3, 4, 5]
        assert found.plan is not None
        assert found.plan.time == SpokenTime(
            phrases=("after the release",),
            use="filter",
            since=moment + timedelta(microseconds=1),
            anchor=release.id,
        )
        assert len(unknown.memories) == 20
        assert unknown.plan is not None
        assert unknown.plan.time is None


async def test_what_others_published_is_of_the_time_too(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish_global(await failures(house, "bob"), user="bob")
        await house.memory.remember("something else", user="alice")

        found = await house.memory.recall("the build failed yesterday", user="alice", now=NOW, time="filter")

        assert numbers(found) == [0]


async def test_a_filter_that_leaves_nothing_of_the_time_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await failures(house)
        with pytest.raises(InvalidMessage) as refused:
            await house.memory.recall(
                "what failed last week?", user="alice", now=NOW, time="filter", filter=MemoryFilter(since=MONDAY)
            )
        assert refused.value.field == "time"

        found = await house.memory.recall(
            "what failed last week?", user="alice", top_k=20, now=NOW, filter=MemoryFilter(since=MONDAY)
        )
        assert sorted(numbers(found)) == [0, 1]


async def test_the_commands_ask_for_a_time_and_show_what_was_made_of_it(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, embedder=OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1)) as house:
        now = datetime.now(UTC)
        for days in (1, 3, 400):
            await house.memory.remember(f"the build failed, number {days}", timestamp=now - timedelta(days=days))
        question = "what failed in the last 2 days"
        path = house.root / "default" / "memory.rvf"

        shown = await call(house, "recall", "--explain", question)
        only = json.loads((await call(house, "recall", "--json", "--explain", "--time", "filter", question)).stdout)
        read = json.loads(
            (await call(house, "recall", "--json", "--time", "filter", "--read-only", path, question)).stdout
        )
        between = json.loads(
            (await call(house, "recall", "--json", "--since", "5d", "--until", "two days ago", "failed")).stdout
        )
        oldest = (await house.memory.recall("number 400", top_k=1)).memories[0].record.id
        why = json.loads((await call(house, "why", "--json", "--time", "filter", oldest, question)).stdout)
        refused = await call(house, "recall", "--timezone", "Mars/Olympus", question)
        backwards = await call(house, "recall", "--since", "1d", "--until", "2d", question)

    assert shown.exit_code == 0, shown.stderr
    assert 'preferred time: "in the last 2 days" from ' in " ".join(shown.stdout.split())
    assert [each["text"] for each in only["memories"]] == ["the build failed, number 1"]
    assert (only["plan"]["time"]["phrases"], only["plan"]["time"]["use"]) == (["in the last 2 days"], "filter")
    assert [each["text"] for each in read["memories"]] == ["the build failed, number 1"]
    assert [each["text"] for each in between["memories"]] == ["the build failed, number 3"]
    assert (why["passes"], why["plan"]["time"]["use"]) == (False, "filter")
    assert (refused.exit_code, backwards.exit_code) == (64, 64)
    assert "no such time zone" in refused.stderr
    assert "since is not before until" in backwards.stderr
