"""What is kept, how it is found, and that what is forgotten is gone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from memoryd import Memory
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol.errors import InvalidMessage, MemorydError, NotFound
from memoryd.protocol.messages import Recalled
from memoryd.protocol.records import CONTEXT_RELEVANCE, Draft, MemoryFilter, MemoryKind, MemorySource
from memoryd.relay.mapping import default_rules
from tests.helpers.daemon import NOON, House, event, events, exported, running, texts

MODEL = HashingEmbedder().model.sha256


def on_disk(root: Path) -> bytes:
    """Return every byte below a folder."""
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


async def whole(memory: Memory, query: str) -> Recalled:
    """Ask until the words of so many memories have been taken in beside it."""
    while (found := await memory.recall(query, user="alice", top_k=10)).partial:
        assert found.partial == ("words",)
    return found


# --- remember ---


async def test_what_is_remembered_comes_back_whole(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        kept = await house.memory.remember(
            "added a mutex",
            user="alice",
            kind="strategy",
            source="user_input",
            session_id="s1",
            timestamp=NOON,
            quality_score=0.75,
            metadata={"ticket": 7},
        )

        (found,) = (await house.memory.recall("mutex", user="alice")).memories

        assert found.record == kept
        assert (kept.text, kept.kind, kept.source) == ("added a mutex", MemoryKind.STRATEGY, MemorySource.USER_INPUT)
        assert (kept.session_id, kept.timestamp, kept.quality_score) == ("s1", NOON, 0.75)
        assert kept.metadata == {"ticket": 7}
        assert 0.0 < found.score <= 1.0


@pytest.mark.parametrize(("argument", "value"), [("kind", "dream"), ("source", "nobody")])
async def test_an_unknown_kind_or_source_is_named_with_the_known_ones(
    tmp_path: Path, argument: str, value: str
) -> None:
    async with running(tmp_path) as house:
        with pytest.raises(InvalidMessage) as refused:
            await house.memory.remember("x", user="alice", **{argument: value})

        assert refused.value.field == argument
        assert "one of" in str(refused.value.hint)


async def test_several_texts_are_kept_in_order_by_one_commit(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_after_s": 60.0}) as house:
        drafts = [Draft(text=f"part {n}", timestamp=NOON + timedelta(hours=n)) for n in range(300)]

        kept = await house.memory.remember_many(drafts, user="alice")

        assert [record.text for record in kept] == [draft.text for draft in drafts]
        assert [record.id for record in await exported(house.memory, "alice")] == [record.id for record in kept]
        assert house.user_slot("alice").actor._write.file_status.commits == 1


async def test_what_was_published_just_now_is_waited_for_before_the_memory_is_verified(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_after_s": 60.0}) as house:
        await house.memory.publish(events(3), user="alice", ack="stored")

        assert await house.memory.verify(user="alice") == []
        assert len(await exported(house.memory, "alice")) == 3
        with pytest.raises(NotFound, match="no memory"):
            await house.memory.verify(user="bob")


async def test_a_memory_whose_id_is_known_is_kept_once(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        first = await house.memory.remember("added a mutex", user="alice")
        again = Draft(text="another text", id=first.id)

        await house.memory.remember_many([again, Draft(text="new"), again], user="alice")

        assert [record.text for record in await exported(house.memory, "alice")] == ["added a mutex", "new"]


async def test_an_import_says_how_many_were_there_before(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember_many([Draft(text=f"part {n}") for n in range(3)], user="alice")
        records = await exported(house.memory, "alice")
        await house.memory.import_records(records[:2], model_sha256=MODEL, user="bob")

        again = await house.memory.import_records(records, model_sha256=MODEL, user="bob")

        assert again.duplicates == 2
        assert await exported(house.memory, "bob") == records


async def test_what_is_exported_and_imported_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    async with running(tmp_path / "one", listen=True) as house:
        await house.memory.publish(events(700), user="alice", ack="committed")
        records = await exported(house.memory, "alice")
        before = await whole(house.memory, "e message 77")
    async with running(tmp_path / "two", listen=True) as house:
        for start in range(0, 700, 100):
            await house.memory.import_records(records[start : start + 100], model_sha256=MODEL, user="alice")
        after = await whole(house.memory, "e message 77")

        assert await exported(house.memory, "alice") == records
        assert after.memories == before.memories
        vector = np.frombuffer(records[7].embedding, "<f4")
        assert np.array_equal(vector, HashingEmbedder().embed([records[7].text]).vectors[0])


async def test_long_texts_can_be_exported_whole(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        for number in range(20):
            await house.memory.remember(f"{number} " + "x" * 65_000, user="alice")

        assert [record.text.split()[0] for record in await exported(house.memory, "alice")] == [
            str(number) for number in range(20)
        ]


async def test_a_text_longer_than_the_model_reads_says_how_much_was_read(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        kept = await house.memory.remember("word " * 1_000, user="alice", metadata={"ticket": 7})

        assert kept.metadata == {"ticket": 7, "tokens": 1_000, "tokens_embedded": 256}
        assert (await exported(house.memory, "alice"))[0].text == "word " * 1_000


# --- recall ---


async def many(house: House) -> None:
    """Remember one memory for every kind, source and session, an hour between them."""
    drafts = [
        Draft(text=f"{kind} {source} {session}", kind=kind, source=source, session_id=session)
        for kind in MemoryKind
        for source in MemorySource
        for session in ("s1", "s2")
    ]
    dated = [msgspec.structs.replace(draft, timestamp=NOON + timedelta(hours=n)) for n, draft in enumerate(drafts)]
    await house.memory.remember_many(dated, user="alice")


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (MemoryFilter(), 40),
        (MemoryFilter(kinds=frozenset({MemoryKind.FINDING})), 10),
        (MemoryFilter(kinds=frozenset({MemoryKind.FINDING, MemoryKind.PATTERN})), 20),
        (MemoryFilter(sources=frozenset({MemorySource.USER_INPUT})), 8),
        (MemoryFilter(session_id="s1"), 20),
        (MemoryFilter(session_id=""), 0),
        (MemoryFilter(session_id="unknown"), 0),
        (MemoryFilter(since=NOON + timedelta(hours=39)), 1),
        (MemoryFilter(since=NOON + timedelta(hours=39, microseconds=1)), 0),
        (MemoryFilter(until=NOON + timedelta(hours=39)), 39),
        (MemoryFilter(until=NOON + timedelta(hours=39, microseconds=1)), 40),
        (MemoryFilter(since=NOON + timedelta(hours=7), until=NOON + timedelta(hours=9)), 2),
        (
            MemoryFilter(
                kinds=frozenset({MemoryKind.PATTERN}),
                sources=frozenset({MemorySource.TRAJECTORY_OUTCOME}),
                session_id="s2",
                since=NOON,
            ),
            1,
        ),
    ],
)
async def test_a_filter_lets_through_what_passes_all_of_it(tmp_path: Path, where: MemoryFilter, count: int) -> None:
    async with running(tmp_path, listen=True) as house:
        await many(house)

        found = [
            each.record
            for each in (await house.memory.recall("finding", user="alice", top_k=100, filter=where)).memories
        ]

        assert len(found) == count
        assert all(not where.kinds or record.kind in where.kinds for record in found)
        assert all(not where.sources or record.source in where.sources for record in found)
        assert all(where.session_id in (None, record.session_id) for record in found)
        assert all(where.since is None or record.timestamp >= where.since for record in found)


async def test_a_recall_of_nothing_is_empty_and_makes_no_file(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        recalled = await house.memory.recall("anything", user="nobody")

        assert recalled.memories == ()
        assert not house.file("nobody").exists()


async def test_the_best_comes_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(50), user="alice", ack="committed")

        found = (await house.memory.recall("e message 7", user="alice", top_k=3)).memories

        assert found[0].record.text == "e message 7"
        assert found[0].cosine == pytest.approx(1.0, abs=1e-5)
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)
        assert len(found) == 3


@pytest.mark.parametrize("type_", ["chat.user_msg", "conductor.run.failed", "worker.report.received", "tool.result"])
async def test_an_event_becomes_a_memory_of_the_kind_its_type_says(tmp_path: Path, type_: str) -> None:
    payload = {"text": "the words", "message": "the words", "summary": "the words", "output": "the words"}
    async with running(tmp_path) as house:
        await house.memory.publish(
            [event("e", "the words", type_, payload=payload, session_id="s")], user="alice", ack="committed"
        )

        (record,) = await exported(house.memory, "alice")

        rule = default_rules()[type_]
        assert (record.kind, record.source, record.session_id) == (rule.kind, rule.source, "s")
        assert "the words" in record.text
        assert record.metadata["event_id"] == "e"


# --- forget ---


async def test_forgetting_by_id_takes_the_memory_and_its_event_out_of_every_file(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(
            [event("e1", "the launch code is tangerine"), event("e2", "nothing secret")], user="alice", ack="committed"
        )
        (found,) = (await house.memory.recall("tangerine", user="alice", top_k=1)).memories

        forgotten = await house.memory.forget(ids=[found.record.id], user="alice", now=True)

        assert (forgotten.records, forgotten.events) == (1, 1)
        assert texts(await house.memory.recall("tangerine", user="alice")) == ["nothing secret"]
        assert b"tangerine" not in on_disk(house.root)
        assert b"nothing secret" in on_disk(house.root)
        assert await house.memory.verify(user="alice") == []

    async with running(tmp_path) as house:
        assert [record.text for record in await exported(house.memory, "alice")] == ["nothing secret"]


async def test_forgetting_a_session_takes_its_memories_and_no_others(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(
            [event("e1", "tangerine one", session_id="s1"), event("e2", "of another session", session_id="s2")],
            user="alice",
            ack="committed",
        )
        await house.memory.remember("tangerine two", user="alice", session_id="s1")

        forgotten = await house.memory.forget(session_id="s1", user="alice", now=True)

        assert (forgotten.records, forgotten.events) == (2, 1)
        assert [record.text for record in await exported(house.memory, "alice")] == ["of another session"]
        assert b"tangerine" not in on_disk(house.root)


async def test_forgetting_what_is_older_leaves_what_is_of_that_moment(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(10), user="alice", ack="committed")

        forgotten = await house.memory.forget(before=NOON + timedelta(minutes=4), user="alice")

        assert (forgotten.records, forgotten.events) == (4, 4)
        assert [record.text for record in await exported(house.memory, "alice")] == [
            f"e message {n}" for n in range(4, 10)
        ]
        assert b"e message 3" not in on_disk(house.root)


async def test_forgetting_everything_leaves_no_byte_and_the_events_do_not_come_back(tmp_path: Path) -> None:
    said = [event(f"e{n}", f"tangerine {n}") for n in range(20)]
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(said, user="alice", ack="committed")
        kept = await house.memory.remember("tangerine too", user="alice")
        await house.memory.publish_global([kept.id], user="alice")
        run = await house.memory.begin_trajectory("where is the tangerine", user="alice", shown=[kept.id])
        await house.memory.add_step(run, action="look", text="under the tangerine")
        await house.memory.end_trajectory(run, quality=1.0)
        await house.memory.publish([event("b", "of somebody else")], user="bob", ack="committed")

        forgotten = await house.memory.forget(everything=True, user="alice")

        assert (forgotten.records, forgotten.events) == (22, 20)
        assert await exported(house.memory, "alice") == []
        assert await house.memory.trajectories(user="alice") == []
        assert texts(await house.memory.recall("tangerine", user="bob")) == ["of somebody else"]
        assert b"tangerine" not in on_disk(house.root)
        again = await house.memory.publish(said, user="alice", ack="committed")
        assert {receipt.status for receipt in again} == {"duplicate"}

    async with running(tmp_path) as house:
        await house.memory.publish([event("new", "a new beginning")], user="alice", ack="committed")
        assert [record.text for record in await exported(house.memory, "alice")] == ["a new beginning"]
        assert [record.text for record in await exported(house.memory, "bob")] == ["of somebody else"]
        assert b"tangerine" not in on_disk(house.root)


async def test_forgetting_everything_takes_what_was_only_just_published_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"commit_after_s": 60.0}) as house:
        await house.memory.publish([event(f"e{n}", f"tangerine {n}") for n in range(300)], user="alice")

        await house.memory.forget(everything=True, user="alice")
        await house.memory.publish([event("new", "a new beginning")], user="alice", ack="committed")

        assert [record.text for record in await exported(house.memory, "alice")] == ["a new beginning"]
        assert b"tangerine" not in on_disk(house.root)


async def test_forgetting_what_is_not_there_forgets_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("added a mutex", user="alice")

        for forgotten in (
            await house.memory.forget(ids=["01ARZ3NDEKTSV4RRFFQ69G5FAV"], user="alice"),
            await house.memory.forget(session_id="unknown", user="alice"),
            await house.memory.forget(before=NOON.replace(year=1990), user="alice"),
            await house.memory.forget(everything=True, user="nobody"),
        ):
            assert (forgotten.records, forgotten.events) == (0, 0)
        assert len(await exported(house.memory, "alice")) == 1


# --- for everybody ---


async def test_what_is_published_for_everybody_is_a_copy_and_comes_back_to_others_only(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        kept = await house.memory.remember("added a mutex", user="alice", metadata={"ticket": 7})
        await house.memory.remember("a private mutex", user="alice")

        await house.memory.publish_global([kept.id], user="alice")

        (found,) = (await house.memory.recall("added a mutex", user="bob")).memories
        assert found.record.text == "added a mutex"
        assert found.record.id != kept.id
        assert found.record.metadata == {"ticket": 7, "published_by": "alice", "published_id": kept.id}
        assert found.relevance > CONTEXT_RELEVANCE
        assert texts(await house.memory.recall("added a mutex", user="alice")) == ["added a mutex", "a private mutex"]
        assert not house.file("bob").exists()


async def test_what_was_published_stays_over_a_restart_and_is_not_counted_twice_after_a_failure(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        for user in ("alice", "bob"):
            kept = await house.memory.remember(f"the mutex of {user}", user=user)
            await house.memory.publish_global([kept.id, kept.id], user=user)
            await house.memory.publish_global([kept.id], user=user)
    async with running(tmp_path) as house:
        await house.kill(house.slot("knowledge"))

        assert texts(await house.memory.recall("the mutex", user="carol")) in (
            ["the mutex of alice", "the mutex of bob"],
            ["the mutex of bob", "the mutex of alice"],
        )
        assert sorted(texts(await house.memory.recall("the mutex", user="alice"))) == [
            "the mutex of alice",
            "the mutex of bob",
        ]


async def test_what_is_taken_back_is_gone_for_everybody_and_from_the_disk(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        kept = await house.memory.remember("the launch code is tangerine", user="alice")
        await house.memory.publish_global([kept.id], user="alice")

        await house.memory.unpublish_global([kept.id], user="alice")

        assert texts(await house.memory.recall("tangerine", user="bob")) == []
        assert b"tangerine" not in on_disk(house.root / "_global")
        assert texts(await house.memory.recall("tangerine", user="alice")) == ["the launch code is tangerine"]


async def test_only_what_is_there_can_be_published_and_all_of_it_or_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        kept = await house.memory.remember("added a mutex", user="alice")

        with pytest.raises(NotFound) as refused:
            await house.memory.publish_global([kept.id, "01ARZ3NDEKTSV4RRFFQ69G5FAV"], user="alice")

        assert refused.value.field == "ids"
        assert refused.value.hint
        assert texts(await house.memory.recall("mutex", user="bob")) == []


async def test_without_the_global_store_a_recall_answers_and_says_what_is_missing(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        kept = await house.memory.remember("added a mutex", user="alice")
        await house.memory.publish_global([kept.id], user="alice")
        await house.slot("knowledge").stop(5.0)

        recalled = await house.memory.recall("mutex", user="alice", deadline=0.5)

        assert texts(recalled) == ["added a mutex"]
        assert recalled.partial == ("global",)


async def test_forgetting_a_published_memory_does_not_leave_its_copy(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        kept = await house.memory.remember("the launch code is tangerine", user="alice")
        await house.memory.publish_global([kept.id], user="alice")

        await house.memory.forget(ids=[kept.id], user="alice", now=True)

        assert texts(await house.memory.recall("tangerine", user="bob")) == []
        assert b"tangerine" not in on_disk(house.root)


async def test_a_call_outside_its_connection_is_refused_in_plain_words(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        memory = house.memory
    with pytest.raises((RuntimeError, MemorydError)) as refused:
        await memory.recall("x")
    assert "async with" in str(refused.value)
