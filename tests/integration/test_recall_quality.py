"""Recall must not become worse: questions about the recorded sample runs, with the model that is shipped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import memoryd
from benchmarks.judging import Interval
from tests.helpers.quality import BASELINE, METRICS, QUESTIONS, scores

if TYPE_CHECKING:
    from pathlib import Path


async def test_questions_about_the_sample_are_answered_no_worse_than_the_baseline(tmp_path: Path) -> None:
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))["questions"]
    async with memoryd.open(tmp_path) as memory:
        found = await scores(memory)

    assert found.keys() == baseline.keys(), "run `python -m tests.data.make_recall_baseline`"
    for name in METRICS:
        change = Interval.of([found[text][name] - baseline[text][name] for text in baseline])
        # A drop is one when resampling the questions leaves no doubt of it: the whole 95 % interval lies below 0.
        assert change.high >= 0, f"{name} changed by {change.shown_as_difference()} since the baseline"


def test_the_baseline_is_of_the_questions_as_they_stand() -> None:
    questions = json.loads(QUESTIONS.read_text(encoding="utf-8"))["questions"]
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))["questions"]

    assert [question["text"] for question in questions] == list(baseline)
