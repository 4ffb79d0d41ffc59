"""Whether learning helps a user, told by that user's own runs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memoryd.actors import evaluating
from memoryd.actors.learning import lesson_of
from memoryd.protocol.errors import Expired, NotFound, Overloaded
from memoryd.sona.engine import NAME
from tests.helpers.daemon import PATIENCE_S, running, until
from tests.integration.test_import import call
from tests.integration.test_learning import HELPFUL, QUERY, TEXTS, USER, eventually, filled, ran

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memoryd import RecordId
    from memoryd.protocol.learning import Lesson
    from tests.helpers.daemon import House

RUNS = 24
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Held:
    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "ENOUGH", RUNS)


async def with_history(
    house: House, helped: Callable[[int], Sequence[str]] = lambda _: [HELPFUL]
) -> dict[str, RecordId]:
    """A user who asked about the same thing again and again, all of whose runs are learned."""
    ids = await filled(house)
    for number in range(RUNS):
        await ran(house, ids, list(helped(number)))

    async def all_known() -> bool:
        return (await house.memory.learning(user=USER)).runs == RUNS

    await eventually(all_known)
    return ids


async def test_where_the_same_thing_helps_again_and_again_it_is_told_that_learning_helps(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await with_history(house)

        found = await house.memory.evaluate_learning(user=USER)

    assert found.verdict == "helps"
    assert found.whole.change.low > 0
    assert (found.runs, found.whole.runs) == (RUNS, RUNS - RUNS // 6)
    assert [each.runs for each in found.generations] == [4] * evaluating.GENERATIONS
    assert found.whole.learned.mean > 0.8 > found.whole.without.mean


async def test_where_something_else_helps_each_time_nothing_is_made_up(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await with_history(house, lambda number: [TEXTS[number % len(TEXTS)]])

        found = await house.memory.evaluate_learning(user=USER)

    assert found.whole.change.mean < 0.3


async def test_nothing_that_was_learned_changes_and_asking_again_gives_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await with_history(house)
        before = await house.memory.learning(user=USER)
        answers = await house.memory.recall(QUERY, user=USER, top_k=10)

        first = await house.memory.evaluate_learning(user=USER)
        second = await house.memory.evaluate_learning(user=USER)

        assert first == second
        assert await house.memory.learning(user=USER) == before
        assert (await house.memory.recall(QUERY, user=USER, top_k=10)).memories == answers.memories


async def test_a_question_is_asked_of_what_was_there_then(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await with_history(house)
        before = await house.memory.evaluate_learning(user=USER)
        for number in range(RUNS):  # later memories that say the same as the questions, in sessions of their own
            await house.memory.remember(f"{QUERY} indeed {number}", user=USER, session_id=f"later {number}")

        after = await house.memory.evaluate_learning(user=USER)

    assert [each.without.mean for each in after.generations] == pytest.approx(
        [each.without.mean for each in before.generations], abs=0.15
    )


async def test_too_few_runs_are_said_with_how_many_it_takes(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        ids = await filled(house)
        for number in range(3):
            await ran(house, ids, [HELPFUL], query=f"{QUERY} number {number}")
        for number in range(RUNS):  # which say only how they ended
            await ran(house, ids, [], query=f"{QUERY} again {number}")

        with pytest.raises(NotFound) as refused:
            await house.memory.evaluate_learning(user=USER)
        said = await call(house, "sona", "evaluate", "--user", USER, "--plot", tmp_path / "none.png")

    assert refused.value.field == "runs"
    assert f"{RUNS} that name" in str(refused.value)
    assert "there are 3" in str(refused.value)
    assert said.exit_code == 64
    assert f"{RUNS} that name" in said.stderr
    assert not (tmp_path / "none.png").exists()


async def test_what_was_forgotten_counts_no_more(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await with_history(house)
        await house.memory.forget(user=USER, ids=[ids[HELPFUL]])

        with pytest.raises(NotFound) as refused:
            await house.memory.evaluate_learning(user=USER)

    assert "there are 0" in str(refused.value)


async def test_it_works_where_learning_is_off(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await with_history(house)
        await house.memory.set_learning(enabled=False, user=USER)

        found = await house.memory.evaluate_learning(user=USER)

    assert found.verdict == "helps"
    assert not json.loads((tmp_path / "data" / USER / NAME).read_bytes())["enabled"]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """An evaluation waits at its first run until it is let go."""
    held = Held()

    def waiting(*arguments: Any) -> Lesson | None:
        held.reached.set()
        assert held.go.wait(PATIENCE_S)
        return lesson_of(*arguments)

    monkeypatch.setattr(evaluating, "lesson_of", waiting)
    return held


async def test_recalls_are_answered_meanwhile_and_a_second_one_is_refused(tmp_path: Path, held: Held) -> None:
    async with running(tmp_path) as house:
        await with_history(house)
        asked = asyncio.create_task(house.memory.evaluate_learning(user=USER))
        await until(held.reached.is_set)

        recalled = await house.memory.recall(QUERY, user=USER)
        with pytest.raises(Overloaded) as refused:
            await house.memory.evaluate_learning(user=USER)
        held.go.set()

        assert recalled.memories
        assert refused.value.retry_after > 1
        assert (await asked).verdict == "helps"


async def test_words_are_looked_up_by_threads_that_somebody_waits_for_and_all_else_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"_asked": set(), "_gone_through": set()}
    for name, found in threads.items():
        method = getattr(evaluating.Evaluating, name)

        def noting(*arguments: Any, method: Any = method, found: set[str] = found) -> Any:
            found.add(threading.current_thread().name.rpartition("_")[0])
            return method(*arguments)

        monkeypatch.setattr(evaluating.Evaluating, name, noting)
    async with running(tmp_path) as house:
        await with_history(house)
        await house.memory.evaluate_learning(user=USER)

    assert threads == {"_asked": {"disk"}, "_gone_through": {"background"}}


async def test_who_allows_too_little_time_is_told_so_and_it_ends(tmp_path: Path, held: Held) -> None:
    async with running(tmp_path) as house:
        await with_history(house)
        with pytest.raises(Expired):
            await house.memory.evaluate_learning(user=USER, within=0.1)
        held.go.set()

        async def has_ended() -> bool:
            try:
                return (await house.memory.evaluate_learning(user=USER)).verdict == "helps"
            except Overloaded:
                return False

        await eventually(has_ended)


async def test_the_command_shows_a_verdict_and_draws_it(tmp_path: Path) -> None:
    picture = tmp_path / "alice.png"
    async with running(tmp_path, listen=True) as house:
        await with_history(house)
        shown = await in_a_process(house, "sona", "evaluate", "--user", USER, "--plot", str(picture))
        as_json = json.loads(await in_a_process(house, "sona", "evaluate", "--user", USER, "--json"))

    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert "● helps" in shown
    assert "Only what was shown can count" in " ".join(shown.split())
    assert str(picture) in shown
    assert (as_json["verdict"], as_json["plot"]) == ("helps", f"sona-{USER}.png")
    assert (tmp_path / f"sona-{USER}.png").read_bytes() == picture.read_bytes()
    assert len(as_json["generations"]) == evaluating.GENERATIONS


async def in_a_process(house: House, *arguments: str) -> str:
    """What a command says; in a process of its own, since who draws keeps fonts open."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "memoryd", *arguments],
        env={**os.environ, "MEMORYD_SOCKET": str(house.daemon.socket), "MEMORYD_TOKEN": "", "PYTHONPATH": str(ROOT)},
        cwd=house.root.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
