"""Recall that learns from runs, in a running daemon: at once, over restarts, and never from what is forgotten."""

from __future__ import annotations

import asyncio
import json
import stat
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from memoryd import client
from memoryd.actors import pages
from memoryd.actors.context import TaskFailed
from memoryd.clock import SystemClock
from memoryd.protocol.errors import InvalidMessage
from memoryd.sona import speed
from memoryd.sona.engine import ASIDE, NAME, SonaEngine
from memoryd.sona.learner import Cycle
from tests.helpers.daemon import PATIENCE_S, event, events, exported, running, texts, until
from tests.integration.test_import import call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from memoryd import RecordId, Trajectory
    from memoryd.protocol.ids import TrajectoryId
    from memoryd.protocol.learning import Judged
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


async def eventually(is_so: Callable[[], Awaitable[bool]], within_s: float = PATIENCE_S) -> None:
    """Wait until it is so: a run is learned from soon after it has ended."""
    async with asyncio.timeout(within_s):
        while not await is_so():
            await asyncio.sleep(0.01)


async def learned(house: House) -> None:
    async def is_first() -> bool:
        return await first(house) == HELPFUL

    await eventually(is_first)
    await house.memory.learning(
        user=USER
    )  # which waits until all of the run is learned: the bank comes before the adapter


def figures(text: str) -> dict[str, float]:
    """The metrics by name."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


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
        assert best.explanation.parts["sona_bank"] == pytest.approx(9 / 22, abs=0.02)
        why = await house.memory.why(ids[HELPFUL], QUERY, user=USER)
        assert why.place == 1


async def test_what_helped_is_relevant_to_the_question_and_what_was_shown_in_vain_no_longer(tmp_path: Path) -> None:
    query = "what of the harbour"
    async with running(tmp_path) as house:
        ids = await filled(house)
        before = {
            each.record.id: each.relevance for each in (await house.memory.recall(query, user=USER, top_k=70)).memories
        }
        least = max(before.values())
        assert before.get(ids[HELPFUL], 0) < least == before[ids["the queue of the harbour"]]

        await ran(house, ids, [HELPFUL], query=query)

        async def answers() -> list[str]:
            return texts(await house.memory.recall(query, user=USER, min_relevance=least))

        async def is_known() -> bool:
            return await answers() == [HELPFUL]

        await eventually(is_known)
        why = await house.memory.why(ids[HELPFUL], query, user=USER)

    assert why.memory.relevance > least


async def test_a_clock_that_goes_back_while_a_run_goes_on_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SystemClock.now
    async with running(tmp_path) as house:
        ids = await filled(house)
        begun = await house.memory.begin_trajectory(QUERY, user=USER, shown=list(ids.values()))
        monkeypatch.setattr(SystemClock, "now", lambda self: now(self) - timedelta(hours=2))

        ended = await house.memory.end_trajectory(begun, user=USER, quality=0.9, helped=[ids[HELPFUL]])

        assert ended.ended is not None
        assert ended.ended < ended.started
        await learned(house)

    async with running(tmp_path) as house:
        assert await first(house) == HELPFUL
        assert (await house.memory.learning(user=USER)).runs == 1


async def ferry(house: House) -> RecordId:
    """Learn from a run on a branch of its own; return the memory that helped it, which is on that branch only."""
    await house.memory.create_branch("pier", user=USER)
    await house.memory.switch_branch("pier", user=USER)
    kept = await house.memory.remember("the ferry leaves at noon", user=USER)
    run = await house.memory.begin_trajectory("when does the ferry leave", user=USER, shown=[kept.id])
    await house.memory.end_trajectory(run, user=USER, quality=0.9, helped=[kept.id])

    async def is_learned() -> bool:
        return (await house.memory.learning(user=USER)).runs == 2

    await eventually(is_learned)
    await house.memory.switch_branch("main", user=USER)
    return kept.id


async def test_what_is_taken_back_keeps_what_other_branches_hold(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await ran(house, await filled(house), [HELPFUL])
        await learned(house)
        await ferry(house)
        before = await house.memory.learning(user=USER)

        exported = await house.memory.export_learning(user=USER)
        after = await house.memory.import_learning(exported, replace=True, user=USER)

        assert (after.runs, after.micro) == (2, before.micro)


async def test_a_dropped_branch_leaves_no_trace_in_what_was_set_aside_or_is_on_its_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memoryd.actors.pages.PAGE_BYTES", 1_000)
    async with running(tmp_path, listen=True) as house:
        await ran(house, await filled(house), [HELPFUL])
        await learned(house)
        gone = await ferry(house)
        aside = house.root / USER / f"{NAME}.damaged"
        aside.write_text(gone)
        async with await house.raw() as raw:
            await raw.hello()
            page = (await raw.ask("export_learning", 2, {"user": USER})).body

            await house.memory.drop_branch("pier", user=USER)

            following = {"user": USER, "after": page["next"], "sha256": page["sha256"]}
            assert (await raw.ask("export_learning", 3, following)).kind == "error"
        assert not aside.exists()
        assert gone not in (house.root / USER / NAME).read_text()


async def test_a_dropped_branch_takes_what_was_set_aside_with_it_whatever_is_known_now(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await filled(house)
        await house.memory.create_branch("pier", user=USER)
        aside = house.root / USER / f"{NAME}.damaged"
        aside.write_text("what a run on the pier taught")

        await house.memory.drop_branch("pier", user=USER)

        assert not aside.exists()


async def test_what_is_due_is_fitted_once_however_many_see_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    monkeypatch.setattr(SonaEngine, "is_due", property(lambda _: not fits))
    monkeypatch.setattr(SonaEngine, "refit", lambda *_: fits.append(Cycle("refused", 0.0)) or fits[-1])
    async with running(tmp_path) as house:
        await filled(house)
        learning = house.user_slot(USER).actor._learning

        await asyncio.gather(learning._refit(), learning._refit())

    assert len(fits) == 1


async def test_what_was_learned_is_never_ahead_of_the_memory(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_after_s": 60.0, "commit_records": 100_000}) as house:
        await ran(house, await filled(house), [HELPFUL])
        await learned(house)
        await house.memory.publish([event("tar", "the harbour queue is mended with tar")], user=USER, ack="applied")
        await house.memory.recall("tar of the harbour", user=USER)
        told = [
            ("begun", "conductor.run.started", "tar of the harbour"),
            ("done", "conductor.run.completed", "with tar"),
        ]
        await house.memory.publish(
            [event(name, text, kind, run_id="r1") for name, kind, text in told], user=USER, ack="applied"
        )

        async def is_learned() -> bool:
            return (await house.memory.learning(user=USER)).runs == 2

        await eventually(is_learned)
        before = await house.memory.set_learning(enabled=True, user=USER)  # which writes what was learned

        house.user_slot(USER).mailbox.put_control(TaskFailed(RuntimeError("as if the power went")))
        await until(lambda: house.user_slot(USER).incarnations == 2)
        await house.memory.create_branch("later", user=USER)  # which waits until it was looked at what is here
        after = await house.memory.learning(user=USER)

        assert (after.runs, after.micro) == (2, before.micro) != (2, 0.0)


async def test_of_what_was_shown_to_a_run_no_more_is_learned_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memoryd.actors.learning.MOST_SHOWN", 2)
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [list(ids)[-1]])

        async def is_learned() -> bool:
            return (await house.memory.learning(user=USER)).runs == 1

        await eventually(is_learned)
        (lesson,) = house.user_slot(USER).actor._engine._learner.snapshot().lessons

    assert len(lesson.shown) == 2
    assert lesson.shown[0] == ids[list(ids)[-1]]
    assert lesson.credit[0] == 1


async def test_ten_thousand_open_runs_are_kept_and_the_last_of_them_is_learned_from(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        shown = list(ids.values())
        for _ in range(10):
            await asyncio.gather(*(house.memory.begin_trajectory(QUERY, user=USER, shown=shown) for _ in range(1_000)))
        await ran(house, ids, [HELPFUL])
        await learned(house)
        status = await house.memory.learning(user=USER)
        known = await house.memory.lessons(user=USER, limit=1_024)

    assert (status.runs, len(known)) == (1, 1_024)
    async with running(tmp_path) as house:
        assert await first(house) == HELPFUL
        open_runs = await house.memory.lessons(user=USER, limit=1_024)
        ended = await house.memory.end_trajectory(open_runs[-1].id, user=USER, quality=0.1)
        assert ended.quality == 0.1


async def test_who_comes_to_ask_about_something_else_has_it_consolidated_before_more_is_learned(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await house.memory.set_learning(
            profile="batch", user=USER
        )  # in which nothing else makes a fit due before 200 runs
        for number in range(70):
            await ran(house, ids, [HELPFUL], query=f"how did we mend the queue of {number}")
        for number in range(50):
            await ran(house, ids, [HELPFUL], query=f"which boats sail from harbour {number}")

        async def is_learned() -> bool:
            return (await house.memory.learning(user=USER)).runs == 120

        await eventually(is_learned)
        status = await house.memory.learning(user=USER)

        assert status.outcome
        assert 100 < status.due_in < 200  # runs came behind it


async def test_it_is_still_known_bit_for_bit_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)
        before = await house.memory.recall(QUERY, user=USER, top_k=10)

    assert json.loads((tmp_path / "data" / USER / NAME).read_bytes())["version"] == 3
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
        assert not (await house.memory.status()).is_learning
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


async def test_what_was_learned_can_be_looked_at(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        before = await house.memory.learning(user=USER)
        assert (before.enabled, before.profile, before.runs, before.generation) == (True, "balanced", 0, 0)
        assert await house.memory.patterns(user=USER) == []

        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)
        after = await house.memory.learning(user=USER)
        (pattern,) = await house.memory.patterns(user=USER)
        (found,) = await house.memory.patterns("how is a queue mended", user=USER, limit=3)

        assert (after.runs, after.seen, after.room, after.positive, after.due_in) == (1, 1, 2_000, 1, 63)
        assert (after.base, after.tasks, after.outcome, after.gain) == (0.0, 0, "", None)
        assert 0 < after.micro < 1
        assert (pattern.example, pattern.runs, pattern.quality, pattern.cosine) == (QUERY, 1, 0.9, None)
        assert [(each.id, each.runs, each.value) for each in pattern.values] == [(ids[HELPFUL], 1, 1.0)]
        assert found.cosine is not None
        assert 0 < found.cosine < 1


async def test_switched_off_answers_are_exactly_as_before_and_what_came_meanwhile_is_learned_afterwards(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [TEXTS[1]])
        (run,) = await house.memory.trajectories(user=USER)

        assert not (await house.memory.set_learning(enabled=False, user=USER)).enabled
        off = await house.memory.recall(QUERY, user=USER, top_k=10, explain=True)
        assert all(memory.sona_score == memory.score for memory in off.memories)
        assert all(not part.startswith("sona") for m in off.memories if m.explanation for part in m.explanation.parts)
        await ran(house, ids, [HELPFUL], query="why did the lease replace it")

    async with running(tmp_path) as house:
        assert not (await house.memory.learning(user=USER)).enabled
        assert (await house.memory.set_learning(enabled=True, user=USER)).enabled

        async def both() -> bool:
            return (await house.memory.learning(user=USER)).runs == 2

        await eventually(both)
        again = await house.memory.recall(QUERY, user=USER, top_k=10)
        assert any(memory.sona_score > memory.score + 0.3 for memory in again.memories)
        assert run.id in [each.id for each in await house.memory.trajectories(user=USER)]


async def test_another_profile_keeps_the_runs_and_begins_with_new_weights(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)

        changed = await house.memory.set_learning(profile="edge", user=USER)

        assert (changed.profile, changed.runs, changed.room, changed.micro, changed.due_in) == ("edge", 1, 200, 0.0, 63)
        assert await first(house) == HELPFUL
        with pytest.raises(InvalidMessage) as refused:
            await house.memory.set_learning(profile="turbo", user=USER)
        assert refused.value.field == "profile"
    async with running(tmp_path) as house:
        assert (await house.memory.learning(user=USER)).profile == "edge"


@pytest.mark.parametrize("generations", [1, 0, -1, 1 << 62])
async def test_there_is_no_going_back_before_anything_was_fitted(tmp_path: Path, generations: int) -> None:
    async with running(tmp_path) as house:
        with pytest.raises(InvalidMessage) as refused:
            await house.memory.rollback_learning(generations, user=USER)

        assert refused.value.field == "generations"


async def test_after_enough_runs_weights_are_fitted_when_it_is_quiet_and_one_can_go_back(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        ids = await filled(house)
        before = figures(await house.memory.metrics())
        for number in range(64):
            await ran(house, ids, [HELPFUL], query=f"{QUERY} number {number}")

        async def is_fitted() -> bool:
            # Asking would make it busy: the state says when it was.
            path = house.root / USER / NAME
            return path.exists() and json.loads(path.read_bytes())["generation"] == 1

        await eventually(is_fitted, within_s=3 * PATIENCE_S)  # it waits for a quiet moment first
        status = await house.memory.learning(user=USER)
        assert (status.outcome, status.generation, status.earlier, status.tasks) == ("accepted", 1, 1, 1)
        assert status.base > 0
        of_daemon = await house.memory.status(user=USER)
        counted = figures(await house.memory.metrics())
        screen = (await call(house, "status", "--user", USER)).stdout

        back = await house.memory.rollback_learning(user=USER)
        assert (back.generation, back.base, back.earlier) == (0, 0.0, 0)
        assert await first(house) == HELPFUL

    async with running(tmp_path) as house:
        again = await house.memory.learning(user=USER)

    assert (again.outcome, again.gain, again.accepted, again.refused) == ("accepted", status.gain, 1, 0)
    assert (of_daemon.is_learning, of_daemon.users_learning) == (True, 1)
    assert (of_daemon.users_accepted, of_daemon.users_refused) == (1, 0)
    assert of_daemon.user is not None
    assert (of_daemon.user.is_learning, of_daemon.user.generation, of_daemon.user.last_fit) == (True, 1, "accepted")
    assert "on for 1 of 1 resident users" in screen
    assert counted["memoryd_learning_runs_total"] - before["memoryd_learning_runs_total"] == 64
    fits = 'memoryd_learning_fits_total{outcome="accepted"}'
    assert counted[fits] - before.get(fits, 0) == 1
    assert counted['memoryd_learning_last_fit{memoryd_learning_last_fit="accepted"}'] == 1
    assert counted["memoryd_learning_gain_nats"] == pytest.approx(status.gain)
    assert USER not in str(counted)


async def test_the_commands_show_and_change_it(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)

        stats = await call(house, "sona", "stats", "--user", USER)
        as_json = json.loads((await call(house, "sona", "stats", "--user", USER, "--json")).stdout)
        found = await call(house, "sona", "find", "mend a queue", "--user", USER)
        empty = await call(house, "sona", "find", "", "--user", USER)
        listed = json.loads((await call(house, "sona", "patterns", "--user", USER, "--json")).stdout)
        off = await call(house, "sona", "disable", "--user", USER)
        on = json.loads((await call(house, "sona", "enable", "--user", USER, "--json")).stdout)
        edge = await call(house, "sona", "profile", "edge", "--user", USER)
        back = await call(house, "sona", "rollback", "--user", USER)
        nothing = await call(house, "sona", "patterns", "--user", "bob")

    assert "1 held of 1" in stats.stdout
    assert "what helped in 0 others" in stats.stdout
    assert as_json["runs"] == 1
    assert QUERY in found.stdout
    assert "empty text" in empty.stderr
    assert listed["patterns"][0]["values"] == [{"id": ids[HELPFUL], "runs": 1, "value": 1.0}]
    assert "off" in off.stdout
    assert on["enabled"] is True
    assert "edge" in edge.stdout
    assert back.exit_code != 0
    assert "no such generation" in back.stderr
    assert "no run" in nothing.stdout


async def test_the_runs_that_learning_knows_or_awaits_are_listed_newest_first(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        ids = await filled(house)
        assert await house.memory.lessons(user=USER) == []
        told = await ran(house, ids, [HELPFUL])
        coarse = await ran(house, ids, [], query="what of the harbour", quality=0.8)
        open_run = await house.memory.begin_trajectory("not yet known", user=USER, shown=[ids[HELPFUL]])
        await house.memory.begin_trajectory("shown nothing", user=USER)

        async def all_known() -> bool:
            return (await house.memory.learning(user=USER)).runs == 2

        await eventually(all_known)
        found = await house.memory.lessons(user=USER)
        newest = json.loads((await call(house, "sona", "trajectories", "--user", USER, "-n", 1, "--json")).stdout)
        screen = (await call(house, "sona", "trajectories", "--user", USER)).stdout

    assert [each.id for each in found] == [open_run.id, coarse.id, told.id]
    assert [each.is_learned for each in found] == [False, True, True]
    assert [each.is_coarse for each in found] == [True, True, False]
    assert [(each.shown, each.helped, each.harmful, each.quality) for each in found] == [
        (1, 0, 0, None),
        (4, 0, 0, 0.8),
        (4, 1, 0, 0.9),
    ]
    assert found[2].when == told.ended
    assert [each["id"] for each in newest["trajectories"]] == [open_run.id]
    assert all(word in screen for word in ("awaited", "coarse", "by memory", QUERY))


async def test_runs_that_end_while_learning_is_off_are_awaited(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await house.memory.set_learning(enabled=False, user=USER)
        await ran(house, ids, [HELPFUL])

        (awaited,) = await house.memory.lessons(user=USER)
        await house.memory.set_learning(enabled=True, user=USER)
        await learned(house)
        (known,) = await house.memory.lessons(user=USER)

    assert (awaited.is_learned, known.is_learned) == (False, True)


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_run_that_says_nothing_is_known_as_such_and_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_gone: bool
) -> None:
    looked_at: list[str] = []
    pass_over = SonaEngine.pass_over

    def counted(self: SonaEngine, run: TrajectoryId, judged: Judged) -> None:
        looked_at.append(run)
        pass_over(self, run, judged)

    monkeypatch.setattr(SonaEngine, "pass_over", counted)
    async with running(tmp_path) as house:
        await filled(house)
        text = "a passing remark" if is_gone else QUERY  # which an echo repeats
        shown = (await house.memory.remember(text, user=USER, session_id="another")).id
        run = await house.memory.begin_trajectory(QUERY, user=USER, shown=[shown])
        if is_gone:
            await house.memory.forget(ids=[shown], user=USER)
        await house.memory.end_trajectory(run, user=USER, quality=0.9)

        async def is_looked_at() -> bool:
            return len(looked_at) == 1

        await eventually(is_looked_at)
        assert await house.memory.lessons(user=USER) == []
        assert (await house.memory.learning(user=USER)).runs == 0

    async with running(tmp_path) as house:
        assert await house.memory.lessons(user=USER) == []
        await ran(house, {HELPFUL: (await house.memory.remember(HELPFUL, user=USER)).id}, [HELPFUL])

        async def is_known() -> bool:
            return (await house.memory.learning(user=USER)).runs == 1

        await eventually(is_known)  # runs are taken in their order
    assert looked_at == [run.id]


async def test_what_was_learned_is_exported_and_taken_by_the_same_user_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 1_000)
    monkeypatch.setattr(client, "BATCH_BYTES", 1_000)
    async with running(tmp_path / "here") as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)
        data = await house.memory.export_learning(user=USER)
        before = await house.memory.recall(QUERY, user=USER, top_k=10)
        moved = await exported(house.memory, USER)
        model = house.daemon._model.sha256
    assert len(data) > 3_000

    async with running(tmp_path / "there") as house:
        await house.memory.import_records(moved, model_sha256=model, user=USER)
        status = await house.memory.import_learning(data, user=USER)
        after = await house.memory.recall(QUERY, user=USER, top_k=10)
        with pytest.raises(InvalidMessage) as refused:
            await house.memory.import_learning(data, user=USER)
        with pytest.raises(InvalidMessage) as anothers:
            await house.memory.import_learning(data, user="bob")

    assert status.runs == 1
    assert [(m.record.id, m.sona_score) for m in after.memories] == [
        (m.record.id, m.sona_score) for m in before.memories
    ]
    assert (refused.value.field, anothers.value.field) == ("replace", "user")


async def test_an_import_brings_back_nothing_that_was_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)
        data = await house.memory.export_learning(user=USER)
        await house.memory.forget(user=USER, ids=[ids[HELPFUL]], now=True)

        status = await house.memory.import_learning(data, replace=True, user=USER)
        state = (tmp_path / "data" / USER / NAME).read_text()

    assert (status.runs, status.micro) == (1, 0.0)
    assert ids[HELPFUL] not in state
    assert ids[TEXTS[0]] in state


async def test_a_forgotten_memory_is_not_read_from_an_export_that_began_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 1_000)
    async with running(tmp_path, listen=True) as house:
        ids = await filled(house)
        await ran(house, ids, [HELPFUL])
        await learned(house)
        async with await house.raw() as raw:
            await raw.hello()
            first = await raw.ask("export_learning", 2, {"user": USER})
            await house.memory.forget(user=USER, ids=[ids[HELPFUL]])
            second = await raw.ask(
                "export_learning", 3, {"user": USER, "after": first.body["next"], "sha256": first.body["sha256"]}
            )

    assert first.kind == "ok"
    assert second.kind == "error"
    assert second.body["field"] == "sha256"


async def test_the_commands_take_what_was_learned_out_and_in(tmp_path: Path) -> None:
    whole, weights, patterns = tmp_path / "whole.json", tmp_path / "weights.json", tmp_path / "patterns.json"
    async with running(tmp_path, listen=True) as house:
        ids = await filled(house)
        await filled(house, "bob")
        await ran(house, ids, [HELPFUL])
        await learned(house)

        out = await call(house, "sona", "export", "--user", USER, whole)
        light = json.loads((await call(house, "sona", "export", "--user", USER, "--weights", "--json", weights)).stdout)
        theirs = await call(house, "sona", "export", "--user", USER, "--format", "ruvector", patterns)
        both = await call(house, "sona", "export", "--user", USER, "--format", "ruvector", "--weights", patterns)
        nothing = await call(house, "sona", "export", "--user", "bob", "--weights", tmp_path / "none.json")
        begun = json.loads((await call(house, "sona", "import", "--user", "bob", "--json", weights)).stdout)
        again = await call(house, "sona", "import", "--user", "bob", weights)
        replaced = await call(house, "sona", "import", "--user", "bob", "--replace", weights)
        edited = tmp_path / "edited.json"
        edited.write_bytes(weights.read_bytes().replace(b'"balanced"', b'"research"'))
        refused = await call(house, "sona", "import", "--user", "bob", "--replace", edited)
        bobs = await house.memory.recall(QUERY, user="bob", top_k=10, explain=True)

    assert "exported" in out.stdout
    assert json.loads(whole.read_bytes())["replay"][0]["shown"] == list(ids.values())
    assert light == {"file": str(weights), "form": "weights", "bytes": weights.stat().st_size}
    assert stat.S_IMODE(whole.stat().st_mode) == 0o600
    assert (theirs.exit_code, len(json.loads(patterns.read_bytes())["patterns"])) == (0, 1)
    assert both.exit_code == 64
    assert (nothing.exit_code, (tmp_path / "none.json").exists()) == (64, False)
    assert (begun["runs"], begun["generation"]) == (0, 0)
    assert begun["micro"] > 0
    assert (again.exit_code, replaced.exit_code) == (64, 0)
    assert "field: replace" in again.stderr
    assert "field: checksum" in refused.stderr
    parts = {part for m in bobs.memories if m.explanation for part in m.explanation.parts if part.startswith("sona")}
    assert parts == {"sona_adapter"}


REPORT = "It was a race: a lease now replaces the mutex, and workers take it in turn."


@pytest.mark.parametrize("by", ["step", "report", "events"])
async def test_what_a_run_goes_back_to_later_comes_first_when_nobody_names_it(tmp_path: Path, by: str) -> None:
    async with running(tmp_path) as house:
        ids = await filled(house)
        before = await house.memory.recall(QUERY, user=USER, top_k=10)
        assert texts(before)[0] != HELPFUL
        assert HELPFUL in texts(before)
        shown = [memory.record.id for memory in before.memories]
        if by == "events":
            parts = [
                event("begin", QUERY, "conductor.run.started", run_id="r1"),
                event("told", "", "worker.report.received", run_id="r1", payload={"report": {"summary": REPORT}}),
                event("done", "all done", "conductor.run.completed", run_id="r1"),
            ]
            await house.memory.publish(parts, user=USER, ack="committed")
        else:
            run = await house.memory.begin_trajectory(QUERY, user=USER, shown=shown)
            if by == "step":
                await house.memory.add_step(run, user=USER, action="say", text=REPORT)
            report = REPORT if by == "report" else ""
            await house.memory.end_trajectory(run, user=USER, quality=0.9, report=report)

        async def is_known() -> bool:
            return (await house.memory.learning(user=USER)).runs == 1

        await eventually(is_known)
        again = await house.memory.recall(QUERY, user=USER, top_k=10, explain=True)

    gains = {
        memory.record.id: memory.explanation.parts.get("sona_bank", 0.0) if memory.explanation else 0.0
        for memory in again.memories
    }
    assert max(gains, key=lambda each: gains[each]) == ids[HELPFUL]
    assert gains[ids[HELPFUL]] > 0.2


@pytest.mark.parametrize(("end", "is_lifted"), [("conductor.run.completed", True), ("conductor.run.failed", False)])
async def test_a_run_that_comes_as_events_was_shown_what_was_recalled_for_it(
    tmp_path: Path, end: str, *, is_lifted: bool
) -> None:
    async with running(tmp_path) as house:
        await filled(house)
        asked = await house.memory.recall(QUERY, user=USER, top_k=3)
        shown = [memory.record.id for memory in asked.memories]
        await house.memory.publish(
            [
                event("begin", QUERY, "conductor.run.started", run_id="r1"),
                event("done", "it is mended", end, run_id="r1"),
                event("other", "something else", "conductor.run.started", run_id="r2"),
            ],
            user=USER,
            ack="committed",
        )

        async def is_known() -> bool:
            return (await house.memory.learning(user=USER)).runs == 1

        await eventually(is_known)
        again = await house.memory.recall(QUERY, user=USER, top_k=20)
        runs = {run.run_id: run.shown for run in await house.memory.trajectories(user=USER)}

    assert runs == {"r1": tuple(shown), "r2": ()}
    gains = {memory.record.id: memory.sona_score - memory.score for memory in again.memories}
    assert (gains.get(shown[0], -1) > 0) == is_lifted
    assert all(gains.get(each, -1) < 0 for each in shown) != is_lifted  # or it is not among the answers any more


async def test_the_benchmark_takes_the_profile_of_the_user_and_shows_bounds_beside_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "ENTRIES", 80)
    monkeypatch.setattr(speed, "CYCLES", 1)
    async with running(tmp_path, listen=True) as house:
        await house.memory.set_learning(profile="edge", user=USER)
        shown = await call(house, "sona", "benchmark", "--user", USER, "--iterations", 10)
        as_json = json.loads(
            (await call(house, "sona", "benchmark", "--user", USER, "--iterations", 10, "--json")).stdout
        )
        dim = (await house.memory.status()).dim

    assert "profile edge" in shown.stdout
    assert all(word in shown.stdout for word in ("query transform", "20.0 µs", "10.0 µs", "3.00 ms"))
    assert (as_json["profile"], as_json["dim"], as_json["iterations"], len(as_json["speeds"])) == ("edge", dim, 10, 4)
