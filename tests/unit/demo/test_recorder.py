"""The recorder tells the truth, and the sample that it made is what it is said to be."""

import gzip
import json
import platform
import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from demo.record.__main__ import main
from demo.record.commands import OUTPUT_LIMIT, Sandbox, ToolMissingError, cut
from demo.record.journal import Journal, write_events
from demo.record.repositories import EditMismatchError, apply_edit, make_repository
from demo.record.schedule import plan
from demo.record.subject import Edit, Subject, load_subjects

DEMO = Path(__file__).parents[3] / "demo"
SUBJECTS = {subject.key: subject for subject in load_subjects()}
TASKS = 6
TYPES = {
    "chat.user_msg",
    "conductor.run.started",
    "conductor.assignment.dispatched",
    "conductor.run.completed",
    "conductor.run.failed",
    "researcher.search.completed",
    "terminal.command.completed",
    "worker.report.received",
    "worker.task.document_update",
    "worker.task.progress",
    "writer.revision.created",
}
ENDS = {"conductor.run.completed", "conductor.run.failed"}
# A path that begins at the root; `a/b`, `./a`, `</p>` and the root of a URL are none.
ABSOLUTE_PATH = re.compile(r"(?<![\w./<~-])/(?:[a-z]+/|dev/null)[\w.]")

Event = dict[str, Any]


def read(path: Path) -> list[Event]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def runs_of(events: list[Event]) -> list[list[Event]]:
    return [list(run) for _, run in groupby(events, key=lambda event: event["run_id"])]


def texts_of(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from texts_of(each)
        case list():
            for each in value:
                yield from texts_of(each)


def started(run: list[Event]) -> Event:
    (payload,) = (event["payload"] for event in run if event["type"] == "conductor.run.started")
    return payload


def checks(run: list[Event]) -> list[int]:
    """Return the exit codes of the command that judges, in order."""
    commands = [event["payload"] for event in run if event["type"] == "terminal.command.completed"]
    return [command["exit_code"] for command in commands if command["command"] == started(run)["check"]]


def named(key: str, repository: str) -> Subject:
    subject = SUBJECTS[key]
    (variant,) = (n for n in range(len(subject.variants)) if subject.repository(n) == repository)
    return subject.variant(variant)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    out = tmp_path_factory.mktemp("recorded") / "sample.jsonl.gz"
    done = CliRunner().invoke(main, ["--out", str(out), "--seed", "7", "--tasks", str(TASKS)])
    assert done.exit_code == 0, done.output
    return read(out)


@pytest.fixture(scope="module")
def sample() -> list[Event]:
    return read(DEMO / "sample.jsonl.gz")


@pytest.fixture(scope="module", params=["recorded", "sample"])
def events(request: pytest.FixtureRequest) -> list[Event]:
    found: list[Event] = request.getfixturevalue(request.param)
    return found


def test_every_task_that_was_asked_for_is_a_run(recorded: list[Event]) -> None:
    assert len(runs_of(recorded)) == TASKS


def test_every_event_has_the_same_fields_and_a_known_type(events: list[Event]) -> None:
    fields = {"id", "type", "timestamp", "actor", "session_id", "run_id", "payload"}

    assert all(event.keys() == fields for event in events)
    assert {event["type"] for event in events} <= TYPES


def test_every_run_has_exactly_one_end_and_it_is_last(events: list[Event]) -> None:
    for run in runs_of(events):
        assert [event["type"] in ENDS for event in run] == [False] * (len(run) - 1) + [True]


def test_a_run_is_completed_exactly_when_its_final_check_exited_with_0(events: list[Event]) -> None:
    for run in runs_of(events):
        assert (checks(run)[-1] == 0) == (run[-1]["type"] == "conductor.run.completed")


def test_a_failed_run_is_worth_nothing_and_a_completed_one_something(events: list[Event]) -> None:
    for run in runs_of(events):
        quality = run[-1]["payload"]["quality_score"]
        assert 0.0 < quality <= 1.0 if run[-1]["type"] == "conductor.run.completed" else quality == 0.0


def test_ids_are_unique_and_times_ascend(events: list[Event]) -> None:
    ids = [event["id"] for event in events]
    times = [event["timestamp"] for event in events]

    assert ids == sorted(set(ids))
    assert times == sorted(times)


def test_no_absolute_path_and_no_name_of_a_machine_is_in_any_text(events: list[Event]) -> None:
    ours = (DEMO / "record" / "subjects").rglob("*.toml")
    known = {word for path in ours for word in re.findall(r"[\w.-]+", path.read_text(encoding="utf-8"))}
    private = {platform.node(), Path.home().name} - known - {"root", ""}

    for text in texts_of(events):
        assert not ABSOLUTE_PATH.search(text), text
        assert not private.intersection(re.findall(r"[\w.-]+", text)), text


def test_a_recorded_check_gives_the_same_exit_code_in_a_fresh_repository(recorded: list[Event], tmp_path: Path) -> None:
    run = next(run for run in runs_of(recorded) if SUBJECTS[started(run)["subject"]].family != "searches")
    start = started(run)
    sandbox = Sandbox(tmp_path)
    repository = make_repository(sandbox, named(start["subject"], start["repository"]), tmp_path / "again")

    again = sandbox.run(start["check"], repository)

    assert again.exit_code == checks(run)[0] != 0


def test_the_same_seed_plans_the_same_tasks() -> None:
    subjects = list(SUBJECTS.values())

    assert plan(subjects, tasks=20, seed=3) == plan(subjects, tasks=20, seed=3)
    assert plan(subjects, tasks=20, seed=3) != plan(subjects, tasks=20, seed=4)


def test_a_missing_tool_is_named_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "sample.jsonl.gz"

    done = CliRunner().invoke(main, ["--out", str(out), "--tasks", "1"])

    assert done.exit_code == 1
    assert "gcc" in done.output
    assert not out.exists()
    with pytest.raises(ToolMissingError, match="please install"):
        Sandbox(tmp_path)


def test_the_same_events_give_the_same_bytes(tmp_path: Path) -> None:
    journal = Journal(events=[])
    journal.record("chat.user_msg", "user", text="h\u00e9llo")

    write_events(tmp_path / "first", journal.events)
    write_events(tmp_path / "second", journal.events)

    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_long_output_is_cut_and_says_so() -> None:
    shown = cut("a" * 5_000)

    assert len(shown) <= OUTPUT_LIMIT
    assert "characters cut" in shown
    assert cut("short\n") == "short"


def test_an_edit_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a a", encoding="utf-8")

    with pytest.raises(EditMismatchError):
        apply_edit(tmp_path, Edit(path="page.md", old="a", new="b"))

    assert page.read_text(encoding="utf-8") == "a a"


@pytest.mark.parametrize("key", sorted(SUBJECTS))
def test_every_candidate_of_a_subject_fits_every_variant(key: str) -> None:
    subject = SUBJECTS[key]

    assert len(subject.candidates) >= 3
    for variant in range(len(subject.variants)):
        filled = subject.variant(variant)
        for mend in filled.mends:
            assert [filled.files[edit.path].count(edit.old) for edit in mend.edits] == [1] * len(mend.edits)
        assert not [text for text in filled.asks if "@" in text]


def test_no_two_variants_make_a_repository_of_the_same_name() -> None:
    names = [subject.repository(n) for subject in SUBJECTS.values() for n in range(len(subject.variants))]

    assert [name for name, times in Counter(names).items() if times > 1] == []


def test_the_sample_has_about_two_thousand_events_of_all_types(sample: list[Event]) -> None:
    assert 1_800 <= len(sample) <= 2_300
    assert {event["type"] for event in sample} == TYPES


def test_the_sample_has_two_hundred_runs_of_which_60_to_70_per_cent_succeeded(sample: list[Event]) -> None:
    ends = Counter(run[-1]["type"] for run in runs_of(sample))

    assert ends.total() >= 200
    assert 0.6 <= ends["conductor.run.completed"] / ends.total() <= 0.7


def test_the_readme_tells_the_true_numbers(sample: list[Event]) -> None:
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    ends = Counter(run[-1]["type"] for run in runs_of(sample))

    assert f"{ends.total()} tasks as {len(sample):,} events" in readme
    assert f"{ends['conductor.run.completed']} were completed and\n{ends['conductor.run.failed']} failed" in readme
    assert f"There are {len(SUBJECTS)} subjects" in readme


def test_the_sample_is_small_and_carries_no_time_of_packing() -> None:
    packed = (DEMO / "sample.jsonl.gz").read_bytes()

    assert len(packed) < 600_000
    assert packed[4:8] == bytes(4)


def test_every_question_has_runs_in_the_sample_that_answer_it(sample: list[Event]) -> None:
    outcomes: dict[str, set[str]] = {}
    for run in runs_of(sample):
        outcomes.setdefault(started(run)["subject"], set()).add(run[-1]["type"].removeprefix("conductor.run."))
    questions = json.loads((DEMO / "questions.json").read_text(encoding="utf-8"))["questions"]

    assert len(questions) >= 12
    for question in questions:
        wanted = {question["outcome"]} if "outcome" in question else set()
        assert question["subject"] in outcomes
        assert wanted <= outcomes[question["subject"]], question["text"]
