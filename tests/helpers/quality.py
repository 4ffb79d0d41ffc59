"""How well recall answers the questions about the recorded sample runs, with the model that is shipped.

`tests/data/recall_questions.json` holds the questions with the events that answer them, `recall_baseline.json` what each one
scored when `python -m tests.data.make_recall_baseline` was run last.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.judging import K, of_ranked
from memoryd.protocol.records import MemoryFilter
from memoryd.sources.lines import read_events

if TYPE_CHECKING:
    from memoryd import Event, Memory

DATA = Path(__file__).parents[1] / "data"
QUESTIONS = DATA / "recall_questions.json"
BASELINE = DATA / "recall_baseline.json"
METRICS = (f"recall@{K}", "MRR")

_SAMPLE = Path(__file__).parents[2] / "demo" / "sample.jsonl.gz"
_ASKED = datetime(2026, 11, 22, 9, tzinfo=UTC)  # the day after the runs
_DEPTH = 50


async def scores(memory: Memory) -> dict[str, dict[str, float]]:
    """Have an empty memory remember the runs, and return the metrics of each question."""
    known = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    await memory.publish(_first(known["runs"]), ack="committed")
    while (await memory.recall("anything")).partial:  # words are taken in beside recalls
        pass
    found = {}
    for question in known["questions"]:
        where = msgspec.convert(question.get("filter", {}), MemoryFilter)
        answer = await memory.recall(question["text"], top_k=_DEPTH, filter=where, now=_ASKED)
        ranked = [str(each.record.metadata["event_id"]) for each in answer.memories]
        judged = of_ranked(list(dict.fromkeys(ranked)), question["gold"])
        found[question["text"]] = {name: round(judged[name], 4) for name in METRICS}
    return found


def _first(runs: int) -> list[Event]:
    """Return the events of so many runs of the sample."""
    events = [event for parsed in read_events(_SAMPLE) for event in parsed.events]
    names = list(dict.fromkeys(event.run_id for event in events))[:runs]
    return [event for event in events if event.run_id in names]
