"""Reading questions with known answers, in the shapes of the official files."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from benchmarks.conversations import load

if TYPE_CHECKING:
    from pathlib import Path


def haystack(name: str, **changed: object) -> dict[str, object]:
    """Return one question of LongMemEval with its sessions."""
    return {
        "question_id": name,
        "question_type": "multi-session",
        "question": "Which instrument?",
        "question_date": "2023/06/01 (Thu) 10:00",
        "answer": "a cello",
        "answer_session_ids": ["answer_1", "answer_2"],
        "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/21 (Sun) 12:00", "2023/05/22 (Mon) 12:00"],
        "haystack_session_ids": ["answer_1", "sharegpt_7", "answer_2"],
        "haystack_sessions": [
            [{"role": "user", "content": "I bought a cello", "has_answer": True}, {"role": "assistant", "content": ""}],
            [{"role": "user", "content": "What is the time?"}],
            [{"role": "user", "content": "My cello is red", "has_answer": True}],
        ],
    } | changed


def test_a_haystack_is_read_as_it_is_and_tells_no_ids_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "longmemeval_s.json"
    path.write_text(json.dumps([haystack("gpt4_1"), haystack("6d550036_abs")]), encoding="utf-8")

    (conversation,) = load(path)

    assert conversation.name == "gpt4_1"
    assert [turn.text for turn in conversation.turns] == ["I bought a cello", "What is the time?", "My cello is red"]
    assert conversation.turns[0].when == datetime(2023, 5, 20, 2, 21, tzinfo=UTC)
    assert conversation.asked == datetime(2023, 6, 1, 10, tzinfo=UTC)
    (question,) = conversation.questions
    assert question.sessions == {"session 0", "session 2"}
    assert question.turns == {"0:0", "2:0"}
    assert not any("answer" in turn.id + turn.session for turn in conversation.turns)


def test_several_questions_about_one_haystack_have_the_turns_of_their_own_sessions(tmp_path: Path) -> None:
    path = tmp_path / "haystack.json.gz"
    several = haystack(
        "h", questions=["What?", "When?", "Who?"], answer_session_ids=[["answer_2"], ["sharegpt_7"], ["gone"]]
    )
    path.write_bytes(gzip.compress(json.dumps([several]).encode()))

    (conversation,) = load(path)

    assert [(each.turns, each.sessions) for each in conversation.questions] == [
        ({"2:0"}, {"session 2"}),
        (frozenset(), {"session 1"}),
    ]
    assert conversation.left_out == 1


def test_evidence_of_locomo_is_mended_where_that_is_certain_and_left_out_where_it_is_not(tmp_path: Path) -> None:
    turns = [{"speaker": "Ann", "dia_id": f"D1:{n}", "text": f"turn {n}"} for n in range(1, 4)]
    asked = [
        {"question": "both?", "category": 1, "evidence": ["D1:1; D:1:02"]},
        {"question": "gone?", "category": 4, "evidence": ["D9:1"]},
    ]
    path = tmp_path / "locomo.json"
    spoken = {"session_1": turns, "session_1_date_time": "1:56 pm on 8 May, 2023"}
    path.write_text(json.dumps([{"sample_id": "conv-1", "conversation": spoken, "qa": asked}]), encoding="utf-8")

    (conversation,) = load(path)

    assert [(each.text, each.category, each.turns) for each in conversation.questions] == [
        ("both?", "multi-hop", {"D1:1", "D1:2"})
    ]
    assert conversation.left_out == 1
    assert conversation.turns[0].spoken == "Ann: turn 1"
    assert conversation.asked == conversation.turns[-1].when


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[]", encoding="utf-8")

    with pytest.raises(ValueError, match="neither in the format"):
        load(path)
