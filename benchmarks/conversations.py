"""Conversations with questions about them, read by path: files in the formats of LoCoMo and of LongMemEval.

LoCoMo (Maharana et al., ACL 2024) names the turns that answer a question, LongMemEval (Wu et al., ICLR 2025) the sessions,
and in its official files the turns too. What a file gets wrong is mended where that is certain and left out where it is not.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_CATEGORIES: Final = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
_TURN: Final = re.compile(r"D:?(\d+):0*(\d+)")
_SESSION: Final = re.compile(r"session_(\d+)")
_UNANSWERABLE: Final = "_abs"  # ends the id of a question that LongMemEval asks about nothing


@dataclass(frozen=True, slots=True)
class Turn:
    """`date` is that of its session, as the file writes it."""

    id: str
    speaker: str
    text: str
    session: str
    when: datetime
    date: str

    @property
    def spoken(self) -> str:
        """What is said and by whom, as one text."""
        return f"{self.speaker}: {self.text}"


@dataclass(frozen=True, slots=True)
class Question:
    """`turns` and `sessions` hold the answer; without `turns` only the sessions are known. `answer` is that of the file, if any."""

    text: str
    category: str
    turns: frozenset[str]
    sessions: frozenset[str]
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said, in its order, and what is asked about it at the moment `asked`.

    So many questions are `left_out`: the file names nothing that answers them.
    """

    name: str
    turns: Sequence[Turn]
    questions: Sequence[Question]
    asked: datetime
    left_out: int


def load(path: Path) -> list[Conversation]:
    """Read a file, packed or not. Raises ValueError when it has neither format."""
    data = path.read_bytes()
    found = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    if isinstance(found, list) and found and "conversation" in found[0]:
        return [_locomo(each) for each in found]
    if isinstance(found, list) and found and "haystack_sessions" in found[0]:
        return [_longmemeval(each) for each in found if not each["question_id"].endswith(_UNANSWERABLE)]
    raise ValueError(f"{path} is neither in the format of LoCoMo nor in that of LongMemEval")


def _locomo(given: dict[str, Any]) -> Conversation:
    conversation = given["conversation"]
    numbers = sorted(int(match[1]) for name in conversation if (match := _SESSION.fullmatch(name)))
    turns: list[Turn] = []
    for number in numbers:
        date = conversation[f"session_{number}_date_time"]
        began = datetime.strptime(date, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        for place, turn in enumerate(conversation[f"session_{number}"]):
            shown = f" [shares {turn['blip_caption']}]" if turn.get("blip_caption") else ""
            when = began + timedelta(seconds=place)
            turns.append(Turn(turn["dia_id"], turn["speaker"], turn["text"] + shown, f"session {number}", when, date))
    questions = list(_questions(given["qa"], {turn.id: turn.session for turn in turns}))
    # The file does not say when it is asked: after all that was said, since it asks about that.
    return Conversation(given["sample_id"], turns, questions, turns[-1].when, len(given["qa"]) - len(questions))


def _questions(given: Iterable[dict[str, Any]], sessions: dict[str, str]) -> Iterator[Question]:
    for each in given:
        named = (f"D{match[1]}:{match[2]}" for gold in each.get("evidence", []) for match in _TURN.finditer(gold))
        gold = frozenset(turn for turn in named if turn in sessions)
        if gold:  # otherwise nobody could find it
            held = frozenset(sessions[turn] for turn in gold)
            answer = str(each.get("answer", each.get("adversarial_answer", "")))
            yield Question(each["question"], _CATEGORIES[each["category"]], gold, held, answer)


def _longmemeval(given: dict[str, Any]) -> Conversation:
    turns: list[Turn] = []
    answering: dict[str, set[str]] = {}  # turns by their session
    haystack = zip(given["haystack_sessions"], given["haystack_dates"], strict=True)
    for number, (said, date) in enumerate(haystack):
        # Never the ids of the file: those of the sessions that hold the answer tell it.
        session, began = f"session {number}", _moment(date)
        for place, turn in enumerate(said):
            if not turn["content"].strip():
                continue
            name, when = f"{number}:{place}", began + timedelta(seconds=place)
            turns.append(Turn(name, turn["role"], turn["content"], session, when, date))
            if turn.get("has_answer"):
                answering.setdefault(session, set()).add(name)
    asked = given.get("questions") or [given["question"]]
    gold = given["answer_session_ids"]
    of_each = gold if gold and isinstance(gold[0], list) else [gold]
    numbers = {name: f"session {number}" for number, name in enumerate(given["haystack_session_ids"])}
    questions = []
    for text, names in zip(asked, of_each, strict=True):
        sessions = frozenset(numbers[name] for name in names if name in numbers)
        if sessions:
            known = frozenset(turn for session in sessions for turn in answering.get(session, ()))
            questions.append(Question(text, given["question_type"], known, sessions))
    moment = _moment(given["question_date"])
    return Conversation(given["question_id"], turns, questions, moment, len(asked) - len(questions))


def _moment(date: str) -> datetime:
    """Return the moment that LongMemEval writes as "2023/05/20 (Sat) 02:21"."""
    return datetime.strptime(re.sub(r" \(\w+\)", "", date), "%Y/%m/%d %H:%M").replace(tzinfo=UTC)
