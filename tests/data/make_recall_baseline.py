"""Write recall_baseline.json: what recall scores today on the questions about the sample.

    python -m tests.data.make_recall_baseline

Run it after a change of the ranking that is meant, and look at what it prints before committing the file.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import asdict

import memoryd
from benchmarks.judging import Interval
from tests.helpers.quality import BASELINE, METRICS, QUESTIONS, scores


async def _scores() -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        async with memoryd.open(folder) as memory:
            return await scores(memory)


def main() -> None:
    found = asyncio.run(_scores())
    whole = {name: asdict(Interval.of([each[name] for each in found.values()])) for name in METRICS}
    baseline = {"mean and 95 % interval": whole, "questions": found}
    BASELINE.write_text(json.dumps(baseline, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kinds: dict[str, list[str]] = {}
    for question in json.loads(QUESTIONS.read_text(encoding="utf-8"))["questions"]:
        kinds.setdefault(question["kind"], []).append(question["text"])
    for kind, texts in {**kinds, "all": list(found)}.items():
        means = (f"{name} {Interval.of([found[text][name] for text in texts]).shown()}" for name in METRICS)
        sys.stdout.write(f"{kind}, {len(texts)} questions: {', '.join(means)}\n")


if __name__ == "__main__":
    main()
