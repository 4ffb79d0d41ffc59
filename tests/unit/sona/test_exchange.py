"""What was learned, taken elsewhere: whole for the same user, weights alone for others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from memoryd.protocol.errors import InvalidMessage, NotFound
from memoryd.protocol.ids import UserId
from memoryd.protocol.interfaces import ModelInfo
from memoryd.sona.engine import SonaEngine
from tests.helpers.lessons import DIM, Held, record
from tests.helpers.memories import StillClock
from tests.unit.sona.test_engine import MODEL, engine, taught
from tests.unit.sona.test_learner import learned, runs
from tests.unit.sona.test_state import signed, wrong

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from memoryd.protocol.learning import Form

ALICE, BOB = UserId("alice"), UserId("bob")
RUNS = runs(70)
HELD = Held()


@pytest.fixture(scope="module")
def alices(tmp_path_factory: pytest.TempPathFactory) -> SonaEngine:
    of = engine(tmp_path_factory.mktemp("alice"))
    for run in RUNS[:66]:
        of.learn(run, HELD)
    assert of.refit(HELD).outcome == "accepted"
    for run in RUNS[66:]:
        of.learn(run, HELD)
    return of


def taken(
    folder: Path,
    data: bytes,
    user: UserId = ALICE,
    *,
    replace: bool = False,
    held: Held = HELD,
    gone: Collection[str] = (),
) -> SonaEngine:
    of = engine(folder)
    of.take(data, user, [held], lambda run: run not in gone, replace=replace)
    return of


def document(of: SonaEngine, form: Form = "state") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(of.exported(ALICE, form))
    return found


def test_the_same_user_goes_on_bit_for_bit_elsewhere_and_after_a_restart(alices: SonaEngine, tmp_path: Path) -> None:
    of = taken(tmp_path, alices.exported(ALICE, "state"))
    of.save()
    again = engine(tmp_path)
    assert again.open() == ""

    assert again.status() == alices.status()
    for run in RUNS[:10]:
        for other in (of, again):
            assert np.array_equal(learned(other._learner, run.intent, HELD), learned(alices._learner, run.intent, HELD))
    assert "user" not in json.loads((tmp_path / "sona.json").read_bytes())


def test_another_user_is_given_nothing_but_weights(alices: SonaEngine, tmp_path: Path) -> None:
    data = alices.exported(ALICE, "weights")
    found = json.loads(data)

    assert (found["replay"], found["shown"], found["earlier"], found["seen"]) == ([], {}, [], 0)
    assert {name for name, value in found.items() if value} == {
        "version", "embedder", "dim", "profile", "enabled", "forgotten_us", "updated_us", "base", "micro", "ewc", "checksum",
    }  # fmt: skip
    for run in RUNS:
        assert run.id.encode() not in data
        assert not any(record.encode() in data for record in run.shown)

    bobs = taken(tmp_path, data, BOB)
    asked = RUNS[0].intent
    mine, theirs = alices.about(asked), bobs.about(asked)
    assert mine is not None
    assert theirs is not None
    assert np.array_equal(mine.bent, theirs.bent)
    assert (list(theirs.helped), theirs.values) == ([], {})
    assert bobs.status().runs == 0


def test_a_start_value_is_given_up_for_weights_of_ones_own_and_can_be_gone_back_to(
    alices: SonaEngine, tmp_path: Path
) -> None:
    bobs = taken(tmp_path, alices.exported(ALICE, "weights"), BOB)
    alone = engine(tmp_path)
    for run in runs(64, seed=8):
        bobs.learn(run, HELD)
        alone.learn(run, HELD)

    assert bobs.is_due
    assert (bobs.refit(HELD), bobs.status().base) == (alone.refit(HELD), alone.status().base)

    bobs.rollback(1)
    assert bobs.status().base == alices.status().base


def test_who_has_no_weights_has_no_start_value_to_give(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as refused:
        engine(tmp_path).exported(ALICE, "weights")

    assert refused.value.field == "form"
    assert refused.value.hint


def test_who_has_learned_something_keeps_it_unless_it_is_to_be_replaced(alices: SonaEngine, tmp_path: Path) -> None:
    of = engine(tmp_path)
    of.learn(RUNS[0], HELD)
    before = of.status()

    with pytest.raises(InvalidMessage) as refused:
        of.take(alices.exported(ALICE, "state"), ALICE, [HELD], lambda _: True, replace=False)
    assert refused.value.field == "replace"
    assert of.status() == before

    of.take(alices.exported(ALICE, "state"), ALICE, [HELD], lambda _: True, replace=True)
    assert of.status() == alices.status()


def test_who_has_switched_learning_off_keeps_it_off(alices: SonaEngine, tmp_path: Path) -> None:
    of = engine(tmp_path)
    of.choose(enabled=False, profile=None)

    of.take(alices.exported(ALICE, "weights"), BOB, [HELD], lambda _: True, replace=False)

    assert not of.is_enabled
    of.choose(enabled=True, profile=None)
    assert of.has_learned


def test_all_of_it_is_for_the_same_user_only(alices: SonaEngine, tmp_path: Path) -> None:
    with pytest.raises(InvalidMessage) as refused:
        taken(tmp_path, alices.exported(ALICE, "state"), BOB)

    assert refused.value.field == "user"


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("version", {"version": 1}),
        ("embedder", {"embedder": {"name": "other", "sha256": "cd" * 32}}),
        ("embedder", {"dim": DIM + 1}),
        ("profile", {"profile": "turbo"}),
        ("base", {"base": {"a": wrong(1.0) | {"shape": [DIM, 8]}, "b": wrong(1.0)}}),
        ("base", {"base": {"a": wrong(float("nan")), "b": wrong(1.0)}}),
        ("micro", {"micro": {"a": {}}}),
        ("ewc", {"ewc": {"tasks": 1}}),
        ("replay", {"replay": [{}]}),
        ("shown", {"shown": {str(1 << 64): 1}}),
        ("shown", {"shown": {"-1": 1}}),
        ("seen", {"seen": 1 << 70}),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_field_and_changes_nothing(
    alices: SonaEngine, tmp_path: Path, field: str, change: dict[str, Any]
) -> None:
    of = engine(tmp_path)
    with pytest.raises(InvalidMessage) as refused:
        of.take(signed({**document(alices), **change}), ALICE, [HELD], lambda _: True, replace=False)

    assert refused.value.field == field
    assert refused.value.hint
    assert not of.has_learned
    of.save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "data"), [("data", b""), ("data", b"\x00\xff"), ("data", b"[]"), ("checksum", b"{}")]
)
def test_what_is_no_export_is_refused(tmp_path: Path, field: str, data: bytes) -> None:
    with pytest.raises(InvalidMessage) as refused:
        taken(tmp_path, data)

    assert refused.value.field == field


def test_an_edited_export_is_refused(alices: SonaEngine, tmp_path: Path) -> None:
    edited = json.dumps({**document(alices), "profile": "batch"}).encode()

    with pytest.raises(InvalidMessage) as refused:
        taken(tmp_path, edited)

    assert refused.value.field == "checksum"


def test_the_weights_of_another_embedder_are_refused(alices: SonaEngine, tmp_path: Path) -> None:
    of = engine(tmp_path, model=ModelInfo("other", DIM, "cd" * 32))

    with pytest.raises(InvalidMessage) as refused:
        of.take(alices.exported(ALICE, "weights"), BOB, [HELD], lambda _: True, replace=False)

    assert refused.value.field == "embedder"
    assert MODEL.name in refused.value.message


def test_a_memory_that_was_forgotten_since_does_not_come_back(alices: SonaEngine, tmp_path: Path) -> None:
    held, gone = Held(), int(RUNS[3].keys[RUNS[3].credit > 0][0])
    held.gone.add(gone)

    of = taken(tmp_path, alices.exported(ALICE, "state"), held=held)

    kept = document(of)
    assert str(gone) not in kept["shown"]
    assert not any(record(gone) in each["shown"] for each in kept["replay"])
    assert (kept["base"], kept["micro"], kept["ewc"], kept["earlier"]) == (None, None, None, [])
    assert of.is_due


@pytest.mark.parametrize("again", [False, True])
def test_weights_of_before_something_was_forgotten_do_not_come_back_with_a_state(
    tmp_path: Path, *, again: bool
) -> None:
    of = taught(tmp_path, 70)
    assert of.refit(HELD).outcome == "accepted"
    before = of.exported(ALICE, "state")
    of.forget([1_000_000], ())  # which no run names: it may have been among those that were sampled
    if again:
        of.save()
        of = engine(tmp_path)
        assert of.open() == ""

    of.take(before, ALICE, [HELD], lambda _: True, replace=True)

    assert (of.status().base, of.status().micro, of.status().earlier) == (0, 0, 0)
    assert of.status().runs == 70
    assert of.is_due
    assert of.refit(HELD).outcome == "accepted"
    since = of.exported(ALICE, "state")
    of.take(since, ALICE, [HELD], lambda _: True, replace=True)
    assert of.status().base > 0
    of.take(before, ALICE, [HELD], lambda _: True, replace=True)  # what was taken knows of the forgetting, too
    assert of.status().base == 0


def test_weights_alone_of_before_something_was_forgotten_are_refused(tmp_path: Path) -> None:
    of = taught(tmp_path, 70)
    before = of.exported(ALICE, "weights")
    of.forget([1_000_000], ())
    of.learn(RUNS[0], HELD)

    with pytest.raises(InvalidMessage) as refused:
        of.take(before, ALICE, [HELD], lambda _: True, replace=True)
    assert refused.value.field == "forgotten_us"

    of.take(of.exported(ALICE, "weights"), ALICE, [HELD], lambda _: True, replace=True)
    assert of.status().micro > 0


def test_where_the_state_was_damaged_no_earlier_weights_come_back(tmp_path: Path) -> None:
    of = taught(tmp_path, 70)
    before = of.exported(ALICE, "state")
    (tmp_path / "sona.json").write_bytes(b"{}")
    of = engine(tmp_path)
    assert of.open()

    of.take(before, ALICE, [HELD], lambda _: True, replace=True)

    assert (of.status().runs, of.status().micro) == (70, 0)


def test_what_is_forgotten_after_the_clock_went_back_is_later_all_the_same(tmp_path: Path) -> None:
    of = taught(tmp_path, 70)
    of.forget([1_000_000], ())
    of._clock = StillClock()  # which is far behind
    of.learn(RUNS[0], HELD)
    with_weights = of.exported(ALICE, "state")
    of.forget([1_000_001], ())

    of.take(with_weights, ALICE, [HELD], lambda _: True, replace=True)

    assert of.status().micro == 0


def test_a_run_that_is_not_here_is_left_out(alices: SonaEngine, tmp_path: Path) -> None:
    of = taken(tmp_path, alices.exported(ALICE, "state"), gone=[RUNS[3].id])

    assert of.lesson(RUNS[3].id) is None
    assert of.lesson(RUNS[4].id) is not None
    assert of.status().base == 0


def test_what_the_published_engine_reads_has_its_fields_and_no_more(alices: SonaEngine) -> None:
    found = document(alices, "ruvector")

    assert set(found) == {"version", "patterns", "ewc_task_count", "instant_enabled", "background_enabled"}
    assert (found["version"], found["ewc_task_count"], found["instant_enabled"]) == (1, 1, True)
    assert sum(each["cluster_size"] for each in found["patterns"]) == len(RUNS)
    for number, each in enumerate(found["patterns"]):
        assert set(each) == {
            "id", "centroid", "cluster_size", "total_weight", "avg_quality", "created_at", "last_accessed", "access_count",
            "pattern_type",
        }  # fmt: skip
        assert each["id"] == number
        assert np.linalg.norm(each["centroid"]) == pytest.approx(1)
        assert each["total_weight"] == pytest.approx(each["avg_quality"] * each["cluster_size"])
        assert each["created_at"] <= each["last_accessed"]
