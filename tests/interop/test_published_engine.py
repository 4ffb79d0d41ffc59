"""What was learned, read by the published engine's own import: its binding for Python has one, that for node has none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from memoryd.protocol.ids import UserId
from tests.helpers.lessons import DIM, Held
from tests.unit.sona.test_engine import engine
from tests.unit.sona.test_learner import runs

if TYPE_CHECKING:
    from typing import Any

SITE = Path(__file__).parent / "site"
SCRIPT = """
import json, sys, ruvector
engine = ruvector.SonaEngine(int(sys.argv[1]))
taken = engine.load_state(sys.stdin.read())
print(json.dumps({"taken": taken, "stats": engine.stats(), "state": json.loads(engine.save_state())}))
"""


def read_by_the_engine(state: bytes) -> dict[str, Any]:
    """Return how many patterns the engine took, and what it writes itself then."""
    if not (SITE / "ruvector").is_dir():
        pytest.fail("the engine is not installed; run `pip install --target tests/interop/site ruvector==0.1.4`")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(DIM)],
        input=state.decode(),
        env={**os.environ, "PYTHONPATH": str(SITE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


def test_the_published_engine_takes_every_pattern_and_writes_the_same_again(tmp_path: Path) -> None:
    of = engine(tmp_path)
    for run in runs(70):
        of.learn(run, Held())
    ours = of.exported(UserId("alice"), "ruvector")
    given = json.loads(ours)
    assert len(given["patterns"]) > 1

    found = read_by_the_engine(ours)

    assert found["taken"] == found["stats"]["patterns_stored"] == len(given["patterns"])
    theirs = {each["id"]: each for each in found["state"]["patterns"]}
    for each in given["patterns"]:
        own = theirs[each["id"]]
        assert own.pop("centroid") == pytest.approx(each.pop("centroid"))
        assert own == pytest.approx(each)


def test_a_pattern_without_one_of_its_fields_would_not_be_taken(tmp_path: Path) -> None:
    of = engine(tmp_path)
    of.learn(runs(1)[0], Held())
    state = json.loads(of.exported(UserId("alice"), "ruvector"))
    del state["patterns"][0]["pattern_type"]

    assert read_by_the_engine(json.dumps(state).encode())["taken"] == 0
