"""Recall by words in a running daemon: kept in step with the memory, made anew when it is in doubt, and never in the way."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.actors import wording
from memoryd.actors.recalling import QUESTION_CHARACTERS
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.errors import MemorydError, NotFound
from memoryd.protocol.ids import UserId
from memoryd.protocol.records import CONTEXT_RELEVANCE, Draft, MemoryFilter
from memoryd.stores.datadir import GLOBAL, WORDS
from memoryd.stores.globalfile import NAME
from memoryd.words.fusion import WEIGHTS_OF_PIECES
from memoryd.words.lexicon import Lexicon
from tests.helpers.daemon import events, exported, running, texts, until
from tests.integration.test_import import call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from memoryd.protocol.interfaces import Embeddings
    from tests.helpers.daemon import House

ZEPPELIN = "the zeppelin was late because of the wind"


def file(house: House, user: str = "alice") -> Path:
    return house.root / user / WORDS


def holds(path: Path, term: str) -> bool:
    lexicon = Lexicon(path)
    try:
        return bool(len(lexicon.postings([term], 1)[0].documents))
    finally:
        lexicon.close()


async def test_a_rare_word_finds_its_memory_now_and_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(300), user="alice", ack="committed")
        await house.memory.remember(ZEPPELIN, user="alice")

        found = await house.memory.recall("why did we wait for the zeppelin?", user="alice", top_k=3)
        assert texts(found)[0] == ZEPPELIN
        assert found.partial == ()

    async with running(tmp_path) as house:
        again = await house.memory.recall("why did we wait for the zeppelin?", user="alice", top_k=3)
        assert again.memories == found.memories
        assert again.partial == ()


async def test_who_never_asks_has_no_words_file(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(20), user="alice", ack="committed")

        assert not file(house).exists()
        await house.memory.recall("message", user="alice")
        assert file(house).exists()


async def test_many_new_memories_are_taken_in_beside_recalls(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(400), user="alice", ack="committed")

        await until(lambda: file(house).exists() and holds(file(house), "message"))


async def test_an_answer_says_that_words_are_missing_until_they_are_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wording, "MANY", 1_000)
    monkeypatch.setattr(wording, "WAITED_FOR", 10)
    async with running(tmp_path) as house:
        await house.memory.publish(events(100), user="alice", ack="committed")

        found = await house.memory.recall("e message 7", user="alice")
        assert found.partial == ("words",)
        assert len(found.memories) == 5
        while (found := await house.memory.recall("e message 7", user="alice")).partial:
            assert found.partial == ("words",)
        assert texts(found)[0] == "e message 7"


@pytest.mark.parametrize("damage", [b"", b"no database " * 1_000])
async def test_a_damaged_words_file_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(ZEPPELIN, user="alice")
        await house.memory.recall("zeppelin", user="alice")
    (tmp_path / "data" / "alice" / WORDS).write_bytes(damage)

    async with running(tmp_path) as house:
        first = await house.memory.recall("zeppelin", user="alice")
        assert texts(first) == [ZEPPELIN]
        assert first.partial == (("words",) if damage else ())
        second = await house.memory.recall("zeppelin", user="alice")
        assert (texts(second), second.partial) == ([ZEPPELIN], ())
    assert holds(tmp_path / "data" / "alice" / WORDS, "zeppelin")


async def test_without_a_words_file_vectors_answer_and_the_answer_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(ZEPPELIN, user="alice")
        file(house).mkdir()

        found = await house.memory.recall(ZEPPELIN, user="alice")
        assert (texts(found), found.partial) == ([ZEPPELIN], ("words",))
        assert found.memories[0].score == pytest.approx(1.0, abs=1e-5)
        file(house).rmdir()
        assert (await house.memory.recall(ZEPPELIN, user="alice")).partial == ()


async def test_what_is_forgotten_for_good_leaves_the_words_too(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        secret = await house.memory.remember(ZEPPELIN, user="alice")
        await house.memory.remember("an unrelated mutex", user="alice")
        await house.memory.recall("zeppelin", user="alice")
        assert holds(file(house), "zeppelin")

        await house.memory.forget(user="alice", ids=[secret.id], now=True)

        assert ZEPPELIN not in texts(await house.memory.recall("zeppelin", user="alice"))
        assert holds(file(house), "mutex")
        assert not holds(file(house), "zeppelin")
    assert b"zeppelin" not in (tmp_path / "data" / "alice" / WORDS).read_bytes()


async def test_what_a_compaction_erases_leaves_the_words_too(tmp_path: Path) -> None:
    async with running(tmp_path, memory={"history_s": 0.0}) as house:
        secret = await house.memory.remember(ZEPPELIN, user="alice")
        other = await house.memory.remember("an unrelated mutex", user="alice")
        await house.memory.recall("zeppelin", user="alice")
        await house.memory.forget(user="alice", ids=[secret.id])
        assert holds(file(house), "zeppelin")

        # Another one goes at once, and the file is rewritten without either.
        await house.memory.forget(user="alice", ids=[other.id], now=True)

        await house.memory.remember("a third one", user="alice")
        await house.memory.recall("third", user="alice")
        assert not holds(file(house), "zeppelin")


async def test_a_branch_and_an_earlier_moment_are_asked_by_words_too(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(100), user="alice", ack="committed")
        kept = await house.memory.remember(ZEPPELIN, user="alice")
        await house.memory.create_branch("trial", user="alice")
        await house.memory.switch_branch("trial", user="alice")
        await house.memory.remember("a balloon was early", user="alice")
        before = house.daemon._clock.now()
        await house.memory.forget(user="alice", ids=[kept.id])

        on_main = await house.memory.recall("zeppelin", user="alice", branch="main", top_k=1)
        assert (texts(on_main), on_main.partial) == ([ZEPPELIN], ())
        balloon = await house.memory.recall("balloon", user="alice", top_k=1)
        assert (texts(balloon), balloon.partial) == (["a balloon was early"], ())
        earlier = await house.memory.recall("zeppelin", user="alice", top_k=1, as_of=before)
        assert (texts(earlier), earlier.partial) == ([ZEPPELIN], ())
        now = await house.memory.recall("zeppelin", user="alice", top_k=1)
        assert texts(now) != [ZEPPELIN]


async def test_who_says_it_is_part_of_what_a_memory_means(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        spoken = await house.memory.remember("added a mutex", user="alice", metadata={"speaker": "Ann"})
        (found,) = (await house.memory.recall("Ann: added a mutex", user="alice")).memories

        assert found.record.id == spoken.id
        assert found.cosine == pytest.approx(1.0, abs=1e-5)


async def test_a_question_about_a_speaker_means_what_the_speaker_would_be_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("added a mutex", user="alice", metadata={"speaker": "Ann"})
        named = await house.memory.recall("What did Ann add?", user="alice")
        asked = await house.memory.recall("What did you add?", user="alice")
        assert named.memories[0].cosine == asked.memories[0].cosine

    async with running(tmp_path) as house:  # who speaks is known to the first question, too
        again = await house.memory.recall("What did Ann add?", user="alice")
        assert again.memories == named.memories


async def test_an_answer_explains_itself(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(50), user="alice", ack="committed")
        await house.memory.remember(ZEPPELIN, user="alice")

        found = await house.memory.recall("the late zeppelin of 2026", user="alice", explain=True)

        best = found.memories[0]
        assert best.explanation is not None
        assert sum(best.explanation.parts.values()) == pytest.approx(best.score, abs=1e-4)
        assert {"late", "zeppelin"} <= set(best.explanation.words)
        assert best.explanation.by_words == 1
        assert found.plan is not None
        assert found.plan.terms.keys() == {"late", "zeppelin", "2026"}
        assert found.plan.terms["zeppelin"] > found.plan.terms["2026"]
        assert found.plan.candidates >= 5
        assert found.plan.understood_ms + found.plan.ranked_ms <= found.elapsed_ms
        plain = await house.memory.recall("the late zeppelin of 2026", user="alice")
        assert plain.plan is None
        assert plain.memories[0].explanation is None


async def test_nothing_relevant_means_nothing(tmp_path: Path) -> None:
    encoder = OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1)
    async with running(tmp_path, listen=True, embedder=encoder) as house:
        await house.memory.publish(events(300), ack="committed")
        kept = await house.memory.remember(ZEPPELIN)
        asked, off_topic = "why was the zeppelin late in the wind?", "which interest do savings accounts pay?"

        found = await house.memory.recall(asked, min_relevance=CONTEXT_RELEVANCE)
        assert texts(found)[0] == ZEPPELIN
        assert found.best_relevance == found.memories[0].relevance > 0.3
        assert all(each.relevance >= CONTEXT_RELEVANCE for each in found.memories)
        why = await house.memory.why(kept.id, asked)
        assert why.memory.relevance == pytest.approx(found.memories[0].relevance)

        nothing = await house.memory.recall(off_topic, min_relevance=CONTEXT_RELEVANCE)
        assert nothing.memories == ()
        assert 0 < nothing.best_relevance < CONTEXT_RELEVANCE
        assert len((await house.memory.recall(off_topic)).memories) == 5

        shown = await call(house, "recall", "--context", off_topic)
        as_json = json.loads((await call(house, "recall", "--min-relevance", "0.9", "--json", off_topic)).stdout)
        (path,) = house.root.glob("*/memory.rvf")
        direct = await call(house, "recall", "--context", "--read-only", path, off_topic)
        refused = await call(house, "recall", "--min-relevance", "2", off_topic)

    assert "nothing relevant: the best has 0.0" in shown.stdout
    assert (as_json["memories"], as_json["best_relevance"]) == ([], pytest.approx(nothing.best_relevance))
    assert "nothing relevant: the best has 0.0" in direct.stdout
    assert refused.exit_code != 0
    assert "--min-relevance" in refused.stderr


async def test_an_answer_names_those_that_say_the_same(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(30), ack="committed")
        same = [await house.memory.remember(ZEPPELIN, session_id="s") for _ in range(3)]
        await house.memory.remember(ZEPPELIN, session_id="another")

        found = await house.memory.recall("zeppelin", top_k=2)
        shown = await call(house, "recall", "zeppelin")

    assert texts(found) == [ZEPPELIN, ZEPPELIN]
    by_session = {each.record.session_id: each for each in found.memories}
    assert {by_session["s"].record.id, *by_session["s"].folded} == {each.id for each in same}
    assert by_session["another"].folded == ()
    assert "(+2 the same)" in " ".join(shown.stdout.split())


async def test_it_is_told_why_a_memory_was_not_found(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(200), user="alice", ack="committed")
        lost = await house.memory.remember("a balloon", user="alice", session_id="other")
        found = await house.memory.recall("e message 7", user="alice", top_k=100)
        assert lost.id not in [each.record.id for each in found.memories]

        told = await house.memory.why(lost.id, "e message 7", user="alice")
        assert told.memory.record.text == "a balloon"
        assert told.place > 100
        assert told.passes
        assert told.memory.explanation is not None
        assert told.memory.explanation.words == ()
        assert told.memory.explanation.by_words is None

        first = await house.memory.why(found.memories[0].record.id, "e message 7", user="alice")
        assert (first.place, first.memory.score) == (1, pytest.approx(found.memories[0].score))

        filtered = await house.memory.why(
            lost.id, "e message 7", user="alice", filter=MemoryFilter(session_id="nobody's")
        )
        assert not filtered.passes
        assert (filtered.place, filtered.plan.candidates) == (1, 0)
        with pytest.raises(NotFound) as refused:
            await house.memory.why("01KJMMFJ90B0AS8CA1C55HQAZZ", "e message 7", user="alice")
        assert refused.value.field == "id"


async def test_the_commands_show_what_scores_are_made_of(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.publish(events(30), ack="committed")
        kept = await house.memory.remember(ZEPPELIN)

        shown = await call(house, "recall", "--explain", "the late zeppelin")
        why = await call(house, "why", kept.id, "message 7")
        as_json = json.loads((await call(house, "recall", "--explain", "--json", "zeppelin")).stdout)

    assert shown.exit_code == why.exit_code == 0
    assert "words by rarity: " in shown.stdout
    assert "late zeppelin" in shown.stdout
    assert "place " in why.stdout
    assert as_json["memories"][0]["explanation"]["words"] == ["zeppelin"]
    assert as_json["plan"]["terms"].keys() == {"zeppelin"}


async def test_a_file_that_is_asked_directly_explains_itself_too(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True, embedder=OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1)) as house:
        await house.memory.remember(ZEPPELIN, user="alice")
        path = house.root / "alice" / "memory.rvf"

        shown = await call(house, "recall", "--explain", "--read-only", path, "zeppelin")

    assert shown.exit_code == 0, shown.stderr
    assert "words by rarity: zeppelin" in shown.stdout


async def test_a_record_that_cannot_be_decoded_does_not_keep_others_from_being_found_by_words(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("an unrelated mutex", user="alice")
        await house.memory.remember(ZEPPELIN, user="alice")
        (block,) = house.daemon.residents.known(UserId("alice")).actor._index._table._texts._blocks
        block[block.tobytes().index(b"text") + 3] = ord("?")

        found = await house.memory.recall("zeppelin", user="alice", top_k=1)
        assert (texts(found), found.partial) == ([ZEPPELIN], ())


async def test_verify_compares_the_words_with_the_memory(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(100), user="alice", ack="committed")
        kept = await house.memory.remember(ZEPPELIN, user="alice", metadata={"speaker": "Ann"})
        await house.memory.recall("zeppelin", user="alice")
        await house.memory.forget(user="alice", ids=[kept.id])
        await house.memory.remember("another mutex?", user="alice")
        await house.memory.recall("mutex", user="alice")
        assert list(await house.memory.verify(user="alice")) == []
        await house.memory.create_branch("trial", user="alice")
        await house.memory.switch_branch("trial", user="alice")
        await house.memory.remember("on trial", user="alice")
        await house.memory.recall("trial", user="alice")
        assert list(await house.memory.verify(user="alice")) == []
        await house.memory.switch_branch("main", user="alice")
        assert list(await house.memory.verify(user="alice")) == []


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ("INSERT INTO words (rowid, terms) VALUES (3, 'zeppelin')", "the words index does not agree with the memory"),
        ("UPDATE words_data SET block = zeroblob(length(block)) WHERE id > 10", "does not agree"),
        ("UPDATE batches SET keys = zeroblob(length(keys))", None),
        ("DELETE FROM batches", None),
        ("PRAGMA user_version=7", "words.sqlite is no words index of this version"),
    ],
)
async def test_verify_names_words_that_are_wrong_and_repair_mends_them(
    tmp_path: Path, wrong: str, what: str | None
) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(100), user="alice", ack="committed")
        await house.memory.recall("message", user="alice")
    connection = sqlite3.connect(tmp_path / "data" / "alice" / WORDS)
    connection.execute(wrong)
    connection.commit()
    connection.close()

    async with running(tmp_path) as house:
        found = list(await house.memory.verify(user="alice"))
        if what is not None:
            assert [each.file for each in found] == [WORDS]
            assert what in found[0].what
        assert list(await house.memory.verify(user="alice", repair=True)) == []
        recalled = await house.memory.recall("e message 7", user="alice", top_k=1)
        assert (texts(recalled), recalled.partial) == (["e message 7"], ())
        assert list(await house.memory.verify(user="alice")) == []


async def test_verify_names_pages_that_do_not_fit(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(300), user="alice", ack="committed")
        await house.memory.recall("message", user="alice")
    path = tmp_path / "data" / "alice" / WORDS
    data = bytearray(path.read_bytes())
    data[4096:8192] = bytes(4096)
    path.write_bytes(data)

    async with running(tmp_path) as house:
        found = list(await house.memory.verify(user="alice"))

        assert [each.file for each in found] == [WORDS]
        assert "damaged" in found[0].what


async def test_what_others_published_is_found_by_its_words_until_they_take_it_back(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        kept = await house.memory.remember(ZEPPELIN, user="alice")
        await house.memory.publish_global([kept.id], user="alice")
        words = house.root / GLOBAL / NAME / WORDS
        assert holds(words, "zeppelin")

        found = await house.memory.recall("zeppelin", user="bob", lexical=True, explain=True)
        assert (texts(found), found.partial) == ([ZEPPELIN], ())
        assert found.memories[0].explanation.words == ("zeppelin",)
        elsewhere = await house.memory.recall("zeppelin", user="bob", filter=MemoryFilter(session_id="s"))
        assert elsewhere.memories == ()

        await house.memory.unpublish_global([kept.id], user="alice")
        assert (await house.memory.recall("zeppelin", user="bob", lexical=True)).memories == ()
        assert not words.exists() or not holds(words, "zeppelin")


async def test_a_damaged_words_file_is_made_anew_when_only_words_are_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(ZEPPELIN, user="alice")
        await house.memory.recall("zeppelin", user="alice")
    (tmp_path / "data" / "alice" / WORDS).write_bytes(b"no database " * 1_000)

    async with running(tmp_path) as house:
        with pytest.raises(MemorydError, match="words of this memory"):
            await house.memory.recall("zeppelin", user="alice", lexical=True)

        assert texts(await house.memory.recall("zeppelin", user="alice", lexical=True)) == [ZEPPELIN]
        assert house.user_slot("alice").incarnations == 1


async def test_a_damaged_words_file_of_what_is_published_is_made_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        kept = await house.memory.remember(ZEPPELIN, user="alice")
        await house.memory.publish_global([kept.id], user="alice")
    (tmp_path / "data" / GLOBAL / NAME / WORDS).write_bytes(b"no database " * 1_000)

    async with running(tmp_path) as house:
        assert texts(await house.memory.recall("zeppelin", user="bob", lexical=True)) == [ZEPPELIN]


class Reading(HashingEmbedder):
    """An encoder that notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def embed(self, texts: Sequence[str], running: Callable[[], None] | None = None) -> Embeddings:
        self.read += texts
        return super().embed(texts, running)


async def test_of_a_long_question_the_beginning_is_embedded_and_every_word_is_looked_up(tmp_path: Path) -> None:
    encoder = Reading()
    async with running(tmp_path, embedder=encoder) as house:
        await house.memory.remember(ZEPPELIN, user="alice")
        question = "why " * QUESTION_CHARACTERS + "was the zeppelin late?"

        found = await house.memory.recall(question, user="alice", explain=True)

        assert encoder.read == [ZEPPELIN, question[:QUESTION_CHARACTERS]]
        assert found.memories[0].explanation.words == ("zeppelin", "late")


async def test_what_i_published_myself_does_not_stand_in_the_way_of_others(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        mine = await house.memory.remember_many(
            [Draft(text=f"the zeppelin {n}", session_id="s") for n in range(150)], user="bob"
        )
        theirs = await house.memory.remember("a zeppelin of wood", user="alice", session_id="s")
        await house.memory.publish_global([each.id for each in mine], user="bob")
        await house.memory.publish_global([theirs.id], user="alice")
        await house.memory.forget(ids=[each.id for each in mine[1:]], user="bob")
        await house.memory.publish_global([mine[0].id], user="bob")

        for lexical in (True, False):
            found = await house.memory.recall("zeppelin", user="bob", top_k=5, lexical=lexical)
            assert sorted(texts(found)) == ["a zeppelin of wood", "the zeppelin 0"]
        (other,) = (each.record for each in found.memories if each.record.text == "a zeppelin of wood")
        assert (other.session_id, other.metadata["published_session"]) == ("", "s")
        some = await house.memory.recall("zeppelin", user="carol", top_k=5)
        assert sorted(texts(some)) == ["a zeppelin of wood", "the zeppelin 0"]


async def test_words_of_what_was_taken_back_do_not_outlive_a_crash(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        kept = await house.memory.remember(ZEPPELIN, user="alice")
        other = await house.memory.remember("added a mutex", user="alice")
        await house.memory.publish_global([kept.id, other.id], user="alice")
        words = house.root / GLOBAL / NAME / WORDS
    before = {path.name: path.read_bytes() for path in words.parent.glob(f"{WORDS}*")}
    async with running(tmp_path) as house:
        await house.memory.unpublish_global([kept.id], user="alice")
    for name, held in before.items():
        (words.parent / name).write_bytes(held)
    assert holds(words, "zeppelin")

    async with running(tmp_path) as house:
        assert not holds(words, "zeppelin")
        assert texts(await house.memory.recall("mutex", user="bob", lexical=True)) == ["added a mutex"]


async def test_a_relevant_memory_of_others_is_not_pushed_out_by_irrelevant_ones_of_ones_own(tmp_path: Path) -> None:
    async with running(tmp_path, embedder=OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1)) as house:
        await house.memory.remember_many(
            [Draft(text=f"the wind was {n} knots", session_id="s") for n in range(30)], user="bob"
        )
        kept = await house.memory.remember(ZEPPELIN, user="alice")
        await house.memory.publish_global([kept.id], user="alice")
        everything = await house.memory.recall("the zeppelin was late because of the wind", user="bob", top_k=40)
        best = next(each.relevance for each in everything.memories if each.record.text == ZEPPELIN)

        found = await house.memory.recall(
            "the zeppelin was late because of the wind", user="bob", top_k=3, min_relevance=best
        )

        assert ZEPPELIN in texts(found)
        assert found.best_relevance >= best


async def test_the_pieces_of_a_question_count_where_its_vector_is_known(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("the zeppelin landed late in the harbour", user="alice")
        await house.memory.publish(events(20), user="alice", ack="committed")
        asked = "was the zeppelin late in the harbour"
        (best, *_) = (await house.memory.recall(asked, user="alice", explain=True)).memories
        (by_words, *_) = (await house.memory.recall(asked, user="alice", explain=True, lexical=True)).memories
        why = await house.memory.why(best.record.id, asked, user="alice")

    assert best.explanation is not None
    assert best.explanation.parts["maxsim"] == pytest.approx(WEIGHTS_OF_PIECES["maxsim"])
    assert best.score == pytest.approx(sum(best.explanation.parts.values()), abs=1e-4)
    assert why.memory.explanation == best.explanation
    assert by_words.explanation is not None
    assert by_words.record.id == best.record.id
    assert "maxsim" not in by_words.explanation.parts


async def test_a_question_about_one_part_of_a_long_text_is_as_near_as_that_part(tmp_path: Path) -> None:
    part = " ".join(f"boat{place} harbour{place}" for place in range(60))
    long = " ".join(f"lock{place} queue{place}" for place in range(64)) + " " + part
    async with running(tmp_path) as house:
        said = await house.memory.remember(long, user="alice")
        await house.memory.publish(events(20), user="alice", ack="committed")
        (by_part, *_) = (await house.memory.recall(part, user="alice", top_k=3)).memories
        kept = next(record for record in await exported(house.memory, "alice") if record.text == long)
        await house.memory.import_records([kept], model_sha256=HashingEmbedder().model.sha256, user="bob")
        (of_bob,) = (await house.memory.recall(part, user="bob")).memories

    assert said.windows == by_part.record.windows == b""
    assert said.signs == by_part.record.signs == b""
    assert len(kept.windows) == 2 * 384
    assert kept.signs == HashingEmbedder().embed([long]).signs[0]
    assert by_part.record.text == long
    mean = float(np.frombuffer(kept.embedding, "<f4") @ HashingEmbedder().embed([part]).vectors[0])
    assert by_part.cosine > 0.95 > mean + 0.1
    assert of_bob.cosine == by_part.cosine
