"""Whatever is asked: an answer whose words mean nothing but themselves, or a typed error that names the field and the mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.records import MemoryFilter, MemoryKind
from memoryd.stores.datadir import WORDS
from tests.helpers.daemon import events, running, texts

if TYPE_CHECKING:
    from pathlib import Path

MUTEX = "added a mutex around the cache"
OTHER = "the release notes are written"


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        pytest.param("the", set(), id="one stop word"),
        pytest.param("what is it about", set(), id="only stop words"),
        pytest.param("🎉 🔥🔥", set(), id="only emoji"),
        pytest.param("?!... --", set(), id="only punctuation"),
        pytest.param("\x00", set(), id="a NUL byte"),
        pytest.param("mutex\x00cache", {"mutex", "cache"}, id="a NUL byte between words"),
        pytest.param('"', set(), id="a quotation mark"),
        pytest.param('"mutex', {"mutex"}, id="an open quotation"),
        pytest.param('mutex" OR "', {"mutex"}, id="a quotation that ends"),
        pytest.param("NEAR(", {"near"}, id="NEAR that is open"),
        pytest.param("NEAR(mutex cache, 2)", {"near", "mutex", "cache", "2"}, id="NEAR"),
        pytest.param("*", set(), id="a star"),
        pytest.param("mut*", {"mut"}, id="a prefix"),
        pytest.param("terms : mutex", {"terms", "mutex"}, id="a column filter"),
        pytest.param("- {terms} : mutex", {"terms", "mutex"}, id="a column filter that excludes"),
        pytest.param("^mutex + cache", {"mutex", "cache"}, id="a phrase at the beginning"),
        pytest.param("NOT mutex AND cache", {"mutex", "cache"}, id="operators"),
        pytest.param("@ann @", {"ann"}, id="the mark of a speaker"),
        pytest.param("x" * 16_384, set(), id="one word of the most bytes"),
        pytest.param("mutex " * 2_000, {"mutex"}, id="one word many times"),
    ],
)
async def test_a_strange_query_is_answered_and_its_words_are_only_words(
    tmp_path: Path, query: str, terms: set[str]
) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(OTHER, user="alice")
        await house.memory.remember(MUTEX, user="alice")

        found = await house.memory.recall(query, user="alice", explain=True)

        assert sorted(texts(found)) == sorted([MUTEX, OTHER])
        assert found.partial == ()
        assert found.plan is not None
        assert found.plan.terms.keys() == terms
        if "mutex" in terms:
            assert texts(found)[0] == MUTEX


@pytest.mark.parametrize(
    ("asked", "field", "hint"),
    [
        pytest.param({"query": ""}, "query", "at least one character", id="empty query"),
        pytest.param({"query": " \t\n"}, "query", "at least one character", id="blank query"),
        pytest.param({"query": "x" * 100_000}, "query", "16384 bytes", id="100,000 characters"),
        pytest.param({"query": "\ud800"}, "query", "surrogates", id="half a character"),
        pytest.param({"top_k": 0}, "top_k", "1 to 100", id="none wanted"),
        pytest.param({"top_k": -1}, "top_k", "1 to 100", id="fewer than none wanted"),
        pytest.param({"top_k": 1_000_000}, "top_k", "1 to 100", id="a million wanted"),
        pytest.param({"kinds": frozenset({"episode", "dream"})}, "kinds", "episode", id="unknown kind"),
        pytest.param({"sources": frozenset({"nobody"})}, "sources", "user_input", id="unknown source"),
    ],
)
@pytest.mark.parametrize("listen", [True, False], ids=["through the socket", "in this process"])
async def test_a_query_that_breaks_a_rule_is_refused_by_name(
    tmp_path: Path, asked: dict[str, object], field: str, hint: str, *, listen: bool
) -> None:
    async with running(tmp_path, listen=listen) as house:
        await house.memory.remember(MUTEX, user="alice")

        async def ask(query: str = "mutex", top_k: int = 5, **where: set[str]) -> None:
            await house.memory.recall(query, user="alice", top_k=top_k, filter=MemoryFilter(**where))

        with pytest.raises(InvalidMessage) as refused:
            await ask(**asked)

        assert refused.value.field == field
        assert hint in str(refused.value.hint)
        assert texts(await house.memory.recall("mutex", user="alice")) == [MUTEX]


async def test_the_most_that_may_be_wanted_is_more_than_there_is(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(MUTEX, user="alice")
        assert texts(await house.memory.recall("mutex", user="alice", top_k=100)) == [MUTEX]


async def test_a_kind_that_nothing_has_finds_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(MUTEX, user="alice")

        where = MemoryFilter(kinds=frozenset({MemoryKind.PATTERN}))
        found = await house.memory.recall("mutex", user="alice", filter=where)
        assert (texts(found), found.partial) == ([], ())


async def test_a_words_index_that_is_damaged_while_it_is_in_use_is_made_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.publish(events(300), user="alice", ack="committed")
        await house.memory.recall("e message 7", user="alice")
        path = house.root / "alice" / WORDS
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))

        while (found := await house.memory.recall("e message 7", user="alice", top_k=1)).partial:
            assert found.partial == ("words",)
            assert len(found.memories) == 1
        assert texts(found) == ["e message 7"]
        assert list(await house.memory.verify(user="alice")) == []
