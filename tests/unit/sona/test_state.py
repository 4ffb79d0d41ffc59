"""What a learner knows, written and read again."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from memoryd.protocol.errors import Damaged, ModelMismatch
from memoryd.protocol.ids import TrajectoryId
from memoryd.protocol.interfaces import ModelInfo
from memoryd.sona.learner import Learner
from memoryd.sona.profiles import PROFILES, profile
from memoryd.sona.state import dump, load
from tests.helpers.lessons import DIM, Held, record
from tests.unit.sona.test_learner import learned, runs

MODEL = ModelInfo("test", DIM, "ab" * 32)


@pytest.fixture(scope="module")
def taught() -> Learner:
    learner, held = Learner(DIM, profile("balanced")), Held()
    given = runs(75)
    for run in given[:70]:
        learner.learn(run, held)
    assert learner.refit(held).outcome == "accepted"
    for run in given[70:]:
        learner.learn(run, held)
    return learner


def signed(changed: dict[str, Any]) -> bytes:
    """The state as if it had been written so."""
    body = {name: value for name, value in changed.items() if name != "checksum"}
    checksum = hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()
    return json.dumps({**body, "checksum": checksum}).encode()


def state(learner: Learner) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dump(learner, MODEL, 1))
    return found


def test_what_is_read_again_adds_bit_for_bit_the_same_and_goes_on_the_same(taught: Learner) -> None:
    again, beside = load(dump(taught, MODEL, 1), MODEL)
    held, given = Held(), runs(80)

    assert beside == {}
    for run in given[:20]:
        assert np.array_equal(learned(again, run.intent, held), learned(taught, run.intent, held))
    twin, _ = load(dump(again, MODEL, 1), MODEL)
    for each in (again, twin):
        for run in given[75:]:
            each.learn(run, held)
        each.refit(held)
    assert dump(again, MODEL, 1) == dump(twin, MODEL, 1)
    assert np.array_equal(learned(again, given[0].intent, held), learned(twin, given[0].intent, held))


def test_the_state_of_one_that_knows_nothing_comes_back_too() -> None:
    again, _ = load(dump(Learner(DIM, profile("edge")), MODEL, 1), MODEL)

    assert again.profile.name == "edge"
    assert len(again) == 0
    assert again.about(runs(1)[0].intent) is None


def test_a_micro_adapter_that_was_never_relieved_by_a_fit_can_be_read_again(taught: Learner) -> None:
    assert taught.snapshot().micro is not None
    far = replace(taught.snapshot().micro.adapter, b=np.full((DIM, 2), 9, np.float32))
    of = Learner(DIM, taught.profile, replace(taught.snapshot(), micro=Learner.micro_of(far)))

    of.learn(runs(76)[75], Held())

    again, _ = load(dump(of, MODEL, 1), MODEL)
    assert again.status().micro == pytest.approx(4, rel=1e-3)


def test_being_switched_off_is_kept(taught: Learner) -> None:
    off, _ = load(dump(taught, MODEL, 1), MODEL)
    off.is_enabled = False

    again, _ = load(dump(off, MODEL, 1), MODEL)

    assert not again.is_enabled


def test_keys_that_are_not_known_are_kept(taught: Learner) -> None:
    later = {**state(taught), "routes": {"a": [1, 2]}}

    again, beside = load(signed(later), MODEL)

    assert beside == {"routes": {"a": [1, 2]}}
    assert json.loads(dump(again, MODEL, 1, beside))["routes"] == {"a": [1, 2]}


def test_whether_a_question_asks_when_is_kept_and_was_not_known_before_it_was_written() -> None:
    of, run = Learner(DIM, profile("balanced")), runs(1)[0]
    of.learn(replace(run, intent=replace(run.intent, asks_when=True)), Held())
    written = state(of)

    again, _ = load(dump(of, MODEL, 1), MODEL)
    del written["replay"][0]["asks_when"]
    earlier, _ = load(signed(written), MODEL)

    assert [each.snapshot().lessons[0].intent.asks_when for each in (again, earlier)] == [True, None]
    written["replay"][0]["asks_when"] = "yes"
    with pytest.raises(Damaged):
        load(signed(written), MODEL)


def test_every_shortening_and_every_changed_byte_is_noticed() -> None:
    data = dump(Learner(DIM, profile("balanced")), MODEL, 1)

    for end in range(0, len(data), 7):
        with pytest.raises(Damaged):
            load(data[:end], MODEL)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(Damaged):
            load(changed, MODEL)


def test_an_edited_state_is_refused(taught: Learner) -> None:
    edited = {**state(taught), "enabled": False}

    with pytest.raises(Damaged) as refused:
        load(json.dumps(edited).encode(), MODEL)

    assert "edited" in str(refused.value)
    assert refused.value.hint


def test_the_state_of_another_embedder_is_refused_by_its_name(taught: Learner) -> None:
    for other in (ModelInfo("test", DIM, "cd" * 32), ModelInfo("test", DIM + 1, MODEL.sha256)):
        with pytest.raises(ModelMismatch) as refused:
            load(dump(taught, MODEL, 1), other)
        assert refused.value.field == "embedder"


def wrong(value: float) -> dict[str, Any]:
    array = np.full((8, DIM), value, "<f4")
    return {"shape": [8, DIM], "dtype": "f4", "b64": base64.b64encode(array.tobytes()).decode()}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"version": 1}, id="version"),
        pytest.param({"version": 4}, id="later version"),
        pytest.param({"archive": {}}, id="no archive"),
        pytest.param({"questions": [[0]]}, id="runs without a question"),
        pytest.param({"questions": [[place] for place in range(74)] + [[0]]}, id="run with two questions"),
        pytest.param({"questions": [[place] for place in range(75)] + [[]]}, id="question without a run"),
        pytest.param({"questions": [["0"]]}, id="no place"),
        pytest.param({"profile": "turbo"}, id="profile"),
        pytest.param({"profile": "edge"}, id="ranks of another profile"),
        pytest.param({"enabled": 1}, id="enabled"),
        pytest.param({"generation": -1}, id="generation"),
        pytest.param({"seen": "many"}, id="seen"),
        pytest.param({"shown": {"x": 1}}, id="shown"),
        pytest.param({"shown": {"1": True}}, id="times"),
        pytest.param({"replay": {}}, id="no replay"),
        pytest.param({"replay": [{}]}, id="empty lesson"),
        pytest.param({"base": {"a": 1, "b": 2}}, id="no arrays"),
        pytest.param({"micro": {"a": {}}}, id="no moments"),
        pytest.param({"ewc": {"tasks": 1}}, id="no importance"),
        pytest.param({"earlier": [{"a": 1}]}, id="no generation"),
        pytest.param({"accepted": -1}, id="accepted"),
        pytest.param({"last": {"outcome": "perfect", "gain": 1.0}}, id="outcome"),
        pytest.param({"last": {"outcome": "refused", "gain": "much"}}, id="gain"),
        pytest.param({"last": {"outcome": "refused"}}, id="no gain"),
        pytest.param({"embedder": {}}, id="no embedder"),
        pytest.param({"in_task": -1}, id="runs of a task"),
        pytest.param({"is_at_boundary": 1}, id="boundary"),
    ],
)
def test_what_no_learner_can_have_is_refused(taught: Learner, change: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        load(signed({**state(taught), **change}), MODEL)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(wrong(float("nan")), id="NaN"),
        pytest.param(wrong(float("inf")), id="infinity"),
        pytest.param(wrong(1.0) | {"shape": [4, DIM]}, id="fewer numbers than it says"),
        pytest.param(wrong(1.0) | {"shape": [DIM, 8]}, id="turned"),
        pytest.param(wrong(1.0) | {"shape": [1 << 40, 1 << 40]}, id="larger than any"),
        pytest.param(wrong(1.0) | {"dtype": "u8"}, id="another kind"),
        pytest.param(wrong(1.0) | {"b64": "not base64!"}, id="no base64"),
        pytest.param(wrong(1e3), id="bends too far"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(taught: Learner, array: dict[str, Any]) -> None:
    changed = state(taught)
    changed["base"]["a"] = array

    with pytest.raises(Damaged):
        load(signed(changed), MODEL)


def of_shape(shape: list[int], value: float) -> dict[str, Any]:
    array = np.full(shape, value, "<f4")
    return {"shape": shape, "dtype": "f4", "b64": base64.b64encode(array.tobytes()).decode()}


@pytest.mark.parametrize("value", [-1.0, 1e9])
@pytest.mark.parametrize(("which", "name"), [("micro", "second"), ("ewc", "of_a")])
def test_what_would_make_later_weights_infinite_is_refused(
    taught: Learner, which: str, name: str, value: float
) -> None:
    changed = state(taught)
    changed["ewc"] = changed["ewc"] or {
        **changed["base"],
        "of_a": of_shape(changed["base"]["a"]["shape"], 1.0),
        "of_b": of_shape(changed["base"]["b"]["shape"], 1.0),
        "tasks": 1,
    }
    load(signed(changed), MODEL)
    of = changed["micro"]["a"] if which == "micro" else changed["ewc"]
    of[name] = of_shape(of[name]["shape"], value)

    with pytest.raises(Damaged) as refused:
        load(signed(changed), MODEL)

    assert refused.value.field == which


def test_more_runs_than_there_is_room_for_and_one_that_comes_twice_are_refused(taught: Learner) -> None:
    changed = state(taught)
    lesson = changed["replay"][0]
    many = [{**lesson, "id": f"{number:026}"} for number in range(2_001)]

    for replay in ([lesson, lesson], many):
        with pytest.raises(Damaged) as refused:
            load(signed({**changed, "replay": replay}), MODEL)
        assert refused.value.field == "replay"


def test_more_archived_runs_than_there_is_room_for_and_one_that_is_held_too_are_refused(taught: Learner) -> None:
    changed = {**state(taught), "questions": []}
    lesson = changed["replay"][0]
    many = [{**lesson, "id": f"{1_000 + number:026}"} for number in range(2_001)]
    load(signed({**changed, "archive": many[1:]}), MODEL)

    for archive in ([lesson], many):
        with pytest.raises(Damaged) as refused:
            load(signed({**changed, "archive": archive}), MODEL)
        assert refused.value.field == "archive"


def crowded(name: str = "edge", count: int = 300) -> Learner:
    """One that came to know more runs than it can hold, of which some ask the same."""
    small = replace(profile(name), replay=80, archive=60)
    of, held, given = Learner(DIM, small), Held(), runs(count)
    for place, run in enumerate(given):
        asked = given[place - 7].intent if place % 5 == 4 else run.intent
        of.learn(replace(run, intent=asked, is_coarse=place % 11 == 0), held)
        if of.is_due:
            of.refit(held)
    return of


def test_what_was_archived_is_read_again_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    of, held = crowded(), Held()
    monkeypatch.setitem(PROFILES, "edge", of.profile)
    written = dump(of, MODEL, 1)

    again, _ = load(written, MODEL)

    assert (again.archived, len(again)) == (of.archived, len(of)) == (60, 80)
    assert dump(again, MODEL, 1) == written
    for run in runs(300):
        assert np.array_equal(learned(again, run.intent, held), learned(of, run.intent, held))
        assert np.array_equal(again._bank.match(run.intent), of._bank.match(run.intent))  # place by place
    for each in (of, again):
        for run in runs(400)[300:]:
            each.learn(run, held)
        each.refit(held)
    assert dump(again, MODEL, 1) == dump(of, MODEL, 1)


def test_a_state_of_version_2_is_read_and_written_as_the_present_one(taught: Learner) -> None:
    later = ("archive", "questions", "in_task", "is_at_boundary")
    earlier = {name: value for name, value in state(taught).items() if name not in later} | {"version": 2}
    held = Held()

    again, beside = load(signed(earlier), MODEL)

    assert beside == {}
    assert again.archived == 0
    for run in runs(20):
        assert np.array_equal(learned(again, run.intent, held), learned(taught, run.intent, held))
    assert state(again) | {"in_task": 75} == state(taught) | {"checksum": state(again)["checksum"]}


@pytest.mark.parametrize(
    "change",
    [
        {"quality": 1.5},
        {"quality": float("nan")},
        {"shown": ["x"] * 1_000},
        {"shown": [1]},
        {"id": 7},
        {"harmed": [1_000_000]},
        {"harmed": [-1]},
        {"coarse": None, "ended_us": None},
        {"credit": {"shape": [1], "dtype": "f2", "b64": ""}},
    ],
)
def test_a_lesson_that_cannot_be_is_refused(taught: Learner, change: dict[str, Any]) -> None:
    changed = state(taught)
    changed["replay"][0].update(change)

    with pytest.raises(Damaged):
        load(signed(changed), MODEL)


@pytest.mark.parametrize("shown", [[record(59)] * 6, ["x"] * 6])
def test_credit_for_another_memory_than_its_key_says_is_refused(taught: Learner, shown: list[str]) -> None:
    changed = state(taught)
    assert len(changed["replay"][0]["shown"]) == 6
    changed["replay"][0]["shown"] = shown

    with pytest.raises(Damaged) as refused:
        load(signed(changed), MODEL)

    assert refused.value.field == "replay"


def test_which_runs_say_nothing_is_kept_and_was_not_written_at_first() -> None:
    of = Learner(DIM, profile("balanced"))
    of.pass_over(TrajectoryId("0" * 26), (0.5, False))
    found = state(of)

    again, beside = load(signed(found), MODEL)
    assert again.says_nothing(TrajectoryId("0" * 26), (0.5, False))
    assert beside == {}
    del found["silent"]
    assert not load(signed(found), MODEL)[0].says_nothing(TrajectoryId("0" * 26), (0.5, False))


@pytest.mark.parametrize("how", [[1.5, True], [0.5, 1], [0.5], 0.5])
def test_a_run_that_says_nothing_in_a_way_that_cannot_be_is_refused(taught: Learner, how: object) -> None:
    with pytest.raises(Damaged) as refused:
        load(signed(state(taught) | {"silent": {"0" * 26: how}}), MODEL)

    assert refused.value.field == "silent"


def test_how_much_weights_count_is_kept_and_was_the_least_before_it_was_written(taught: Learner) -> None:
    base = taught.snapshot().base
    assert base is not None
    of = Learner(DIM, taught.profile, replace(taught.snapshot(), base=replace(base, strength=0.2)))
    written = state(of)

    again, _ = load(signed(written), MODEL)
    del written["base"]["strength"]
    earlier, _ = load(signed(written), MODEL)

    assert [each.snapshot().base.strength for each in (again, earlier)] == [0.2, 0.05]


@pytest.mark.parametrize("strength", [-0.1, 0.4, float("inf"), "much"])
def test_weights_that_count_as_much_as_none_can_are_refused(taught: Learner, strength: object) -> None:
    changed = state(taught)
    changed["base"]["strength"] = strength

    with pytest.raises(Damaged):
        load(signed(changed), MODEL)


def test_what_came_of_the_last_fit_is_kept(taught: Learner) -> None:
    again, _ = load(dump(taught, MODEL, 1), MODEL)

    assert again.status() == taught.status()
    assert (again.accepted, again.refused) == (1, 0)
    assert again.last is not None
    assert again.last.outcome == "accepted"


def test_a_state_that_says_nothing_of_the_last_fit_is_read(taught: Learner) -> None:
    earlier = {name: value for name, value in state(taught).items() if name not in ("accepted", "last")}

    again, beside = load(signed(earlier), MODEL)

    assert beside == {}
    assert (again.accepted, again.last, again.generation) == (0, None, 1)
