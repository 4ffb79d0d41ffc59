"""What the words index keeps of a text."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoryd.protocol.ids import RecordId
from memoryd.protocol.records import MemoryKind, MemoryRecord, MemorySource
from memoryd.words.terms import (
    LONGEST_TERM,
    MOST_TERMS,
    STOP_WORDS,
    addressed,
    asks_when,
    document_of,
    spoken_by,
    terms_of,
)

RECORD = MemoryRecord(
    id=RecordId("01KJMMFJ90B0AS8CA1C55HQA09"),
    text="I went to the support group yesterday",
    kind=MemoryKind.EPISODE,
    source=MemorySource.USER_INPUT,
    timestamp=datetime(2023, 5, 8, 13, 56, tzinfo=UTC),
    metadata={"speaker": "Caroline"},
)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The mutex was added, the MUTEX!", ["mutex", "added"]),
        ("foo_bar.baz(1)", ["foo", "bar", "baz", "1"]),
        ("Straße café", ["strasse", "café"]),
        ('"NEAR(" * AND -x:y', ["near", "x", "y"]),
        ("of the and", []),
        ("userName HTTPServer IDs", ["username", "user", "name", "httpserver", "http", "server", "ids"]),
        ("東京都のAPIを呼ぶ", ["東京", "京都", "都の", "api", "を呼", "呼ぶ"]),
        ("猫 ｶﾀｶﾅ", ["猫", "カタ", "タカ", "カナ"]),
        ("데이터베이스 오류", ["데이터베이스", "오류"]),
        ("Mu\u0308ller", ["müller"]),
        ("🎉 \x00 --", []),
        ("x" * (LONGEST_TERM + 1), []),
    ],
)
def test_terms_are_the_distinct_words_that_say_something(text: str, terms: list[str]) -> None:
    assert terms_of(text) == terms


def test_a_long_text_is_kept_by_its_beginning() -> None:
    assert terms_of(" ".join(f"word{n}" for n in range(3_000))) == [f"word{n}" for n in range(MOST_TERMS)]


@given(st.text())
def test_no_text_makes_a_term_that_means_something_to_the_index(text: str) -> None:
    for term in terms_of(text):
        assert term.isalnum()
        assert term not in STOP_WORDS
        assert len(term) <= LONGEST_TERM


def test_a_memory_is_found_by_what_it_says_by_whom_and_by_its_day() -> None:
    document = document_of(RECORD)

    assert {"support", "group", "caroline", "8", "may", "2023", *spoken_by("Caroline")} <= set(document.terms)
    assert document.length == len(terms_of("Caroline I went to the support group yesterday"))
    assert not document.is_question


def test_a_question_is_known_by_its_end() -> None:
    assert document_of(msgspec.structs.replace(RECORD, text="How are you? \n")).is_question


def test_who_speaks_in_another_memorys_text_has_not_spoken() -> None:
    other = msgspec.structs.replace(RECORD, text="Caroline is away", metadata={})

    assert not {*spoken_by("Caroline")} & {*document_of(other).terms}


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("What does Ann play?", "What does you play?"),
        ("What are the names of Ann's dogs?", "What are the names of you's dogs?"),
        ("Did Mary Lou call ANN?", "Did you call you?"),
        ("How do I add a user?", "How do I add a user?"),  # "user" speaks, but is no name here
        ("Does Caroline play?", "Does Caroline play?"),  # she has said nothing
        ("Ann: I play the violin", "Ann: I play the violin"),  # a line, as it was embedded
        ("Annabel", "Annabel"),
        pytest.param("Ann " * 300, "Ann " * 300, id="a pasted text"),
        ("", ""),
    ],
)
def test_a_question_about_a_speaker_is_put_to_the_speaker(query: str, asked: str) -> None:
    speakers = {term for name in ("Ann", "Mary Lou", "user") for term in spoken_by(name)}

    assert addressed(query, speakers.__contains__) == asked


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("When did Ann move?", True),
        ("Can you please tell me when Ann moved?", True),
        ("At what time did Ann move?", True),
        ("In which year did Ann move?", True),
        ("What did Ann do when she moved?", False),
        ("How long did Ann stay?", False),
        ("Which house did Ann move to?", False),
        ("Ann moved when?", None),  # what comes behind the matter may be a clause of it
        ("error when the daemon starts", None),
        ("", None),
    ],
)
def test_a_question_says_at_its_beginning_whether_it_asks_for_a_time(query: str, *, answer: bool | None) -> None:
    assert asks_when(query) is answer
