"""What each type of event becomes, and that nothing in a payload can stop it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.protocol import ids
from memoryd.protocol.errors import ConfigError
from memoryd.protocol.events import Event, JsonObject
from memoryd.protocol.ids import EventId
from memoryd.protocol.records import MAX_TEXT_BYTES, MemoryKind, MemorySource
from memoryd.relay.mapping import EventMapping, Mapped, default_rules, rules_from_config
from memoryd.relay.templates import TAIL_CHARACTERS, Template

NOON = datetime(2026, 3, 11, 12, tzinfo=UTC)
MAPPING = EventMapping(default_rules())

RUN: JsonObject = {"run_id": "01KRUN"}
CONTROL: JsonObject = {
    **RUN,
    "capability": "writer",
    "phase": "p",
    "timestamp": "2026-03-11T10:00:00Z",
    "_meta": {"lane": "control"},
}
CHANGESET: JsonObject = {
    **RUN,
    "desktop_id": "d1",
    "session_id": "s9",
    "thread_id": "t9",
    "document_path": "runs/draft.md",
}
FINDING: JsonObject = {"finding_id": "f1", "claim": "the lock is not re-entrant", "confidence": 0.8, "novel": True}
LEARNING: JsonObject = {"learning_id": "l1", "insight": "run the tests in random order", "confidence": 0.7}
OUTCOME: JsonObject = {"session_id": "sub1", "objective": "find the bug"}

# type, payload, source, kind, texts, phase of the run
Row = tuple[str, JsonObject, str, str, list[str], str | None]
ROWS: list[Row] = [
    # the original design
    ("chat.user_msg", {"text": "fix the bug"}, "user_input", "episode", ["fix the bug"], None),
    ("conductor.run.started", {**RUN, "objective": "fix"}, "conductor_plan", "strategy", ["fix"], "begin"),
    (
        "conductor.assignment.dispatched",
        {**RUN, "capability": "terminal", "objective": "run the tests"},
        "conductor_plan",
        "strategy",
        ["terminal: run the tests"],
        "step",
    ),
    ("conductor.run.completed", {**RUN, "summary": "done"}, "conductor_plan", "strategy", ["done"], "end"),
    (
        "conductor.run.failed",
        {**RUN, "error": "no disk"},
        "conductor_plan",
        "strategy",
        ["failed: no disk"],
        "end",
    ),
    (
        "worker.report.received",
        {"task_id": "01KRUN", "report": {"summary": "found it", "findings": [FINDING], "learnings": [LEARNING]}},
        "worker_result",
        "finding",
        ["found it", "the lock is not re-entrant", "run the tests in random order"],
        "step",
    ),
    (
        "worker.task.progress",
        {"task_id": "t", "phase": "search", "message": "two pages read"},
        "worker_result",
        "episode",
        ["search: two pages read"],
        None,
    ),
    (
        "worker.task.document_update",
        {**RUN, "document_path": "a.md", "content": "# A"},
        "writer_revision",
        "finding",
        ["a.md: # A"],
        None,
    ),
    (
        "researcher.search.completed",
        {**RUN, "query": "mutex", "summary": "two libraries"},
        "worker_result",
        "finding",
        ["mutex\ntwo libraries"],
        "step",
    ),
    (
        "terminal.command.completed",
        {**RUN, "command": "pytest -q", "output": "F.\n1 failed\n", "exit_code": 1},
        "worker_result",
        "episode",
        ["$ pytest -q\nF.\n1 failed\nexit code 1"],
        "step",
    ),
    (
        "writer.revision.created",
        {**RUN, "document_path": "a.md", "summary": "a section on locks"},
        "writer_revision",
        "finding",
        ["a.md: a section on locks"],
        None,
    ),
    ("chat.assistant_msg", {"text": "done"}, "worker_result", "episode", ["done"], None),
    # ChoirOS
    (
        "user_input",
        {"surface": "conductor.execute", "objective": "o", "record": {"content": "say hello", "session_id": "d1"}},
        "user_input",
        "episode",
        ["say hello"],
        None,
    ),
    ("interaction.user_msg", {"text": "hello"}, "user_input", "episode", ["hello"], None),
    ("trace.prompt.received", {**RUN, "objective": "fix"}, "conductor_plan", "strategy", ["fix"], "begin"),
    ("conductor.task.started", {**RUN, "objective": "fix"}, "conductor_plan", "strategy", ["fix"], "begin"),
    (
        "conductor.run.started",
        {**CONTROL, "data": {"objective": "fix the bug", "desktop_id": "default"}},
        "conductor_plan",
        "strategy",
        ["fix the bug"],
        "begin",
    ),
    (
        "conductor.worker.call",
        {**RUN, "worker_type": "terminal", "worker_objective": "list the files"},
        "conductor_plan",
        "strategy",
        ["terminal: list the files"],
        "step",
    ),
    (
        "conductor.decision",
        {**CONTROL, "data": {"decision_type": "Retry", "reason": "the worker timed out"}},
        "conductor_plan",
        "strategy",
        ["Retry: the worker timed out"],
        "step",
    ),
    (
        "conductor.worker.result",
        {**RUN, "worker_type": "terminal", "success": True, "result_summary": "12 files"},
        "worker_result",
        "episode",
        ["terminal: 12 files"],
        "step",
    ),
    (
        "conductor.capability.completed",
        {**CONTROL, "data": {"call_id": "c", "summary": "written"}},
        "worker_result",
        "episode",
        ["writer: written"],
        "step",
    ),
    (
        "conductor.capability.failed",
        {**CONTROL, "data": {"call_id": "c", "error": "no such file", "failure_kind": None}},
        "worker_result",
        "episode",
        ["writer failed: no such file"],
        "step",
    ),
    (
        "conductor.capability.blocked",
        {**CONTROL, "data": {"call_id": "c", "reason": "no permission"}},
        "worker_result",
        "episode",
        ["writer blocked: no permission"],
        "step",
    ),
    (
        "conductor.task.completed",
        {**RUN, "output_mode": "m", "report_path": "runs/draft.md", "status": "completed"},
        "conductor_plan",
        "strategy",
        ["report: runs/draft.md"],
        "end",
    ),
    (
        "conductor.task.failed",
        {**RUN, "error_code": "E7", "error_message": "too slow", "status": "failed", "failure_kind": "Timeout"},
        "conductor_plan",
        "strategy",
        ["failed: E7: too slow"],
        "end",
    ),
    (
        "worker.task.completed",
        {"task_id": "01KRUN", "status": "completed", "output": "all green"},
        "worker_result",
        "episode",
        ["all green"],
        "step",
    ),
    (
        "worker.task.failed",
        {"task_id": "01KRUN", "error": "no network"},
        "worker_result",
        "episode",
        ["failed: no network"],
        "step",
    ),
    (
        "tool.result",
        {**RUN, "corr_id": "c", "actor_id": "terminal-1", "success": True, "output": "ok", "error": None},
        "worker_result",
        "episode",
        ["ok"],
        "step",
    ),
    (
        "harness.result",
        {**RUN, "corr_id": "c", "objective": "o", "objective_satisfied": True, "output_excerpt": "x", "steps_taken": 4},
        "worker_result",
        "episode",
        ["o\nx"],
        "step",
    ),
    (
        "research.finding.created",
        {"task_id": "01KRUN", "worker_role": "r", "finding": FINDING},
        "worker_result",
        "finding",
        ["the lock is not re-entrant"],
        "step",
    ),
    (
        "worker.finding.created",
        {"task_id": "01KRUN", "worker_role": "r", "finding": FINDING},
        "worker_result",
        "finding",
        ["the lock is not re-entrant"],
        "step",
    ),
    (
        "research.learning.created",
        {"task_id": "01KRUN", "worker_role": "r", "learning": LEARNING},
        "worker_result",
        "finding",
        ["run the tests in random order"],
        "step",
    ),
    (
        "worker.learning.created",
        {"task_id": "01KRUN", "worker_role": "r", "learning": LEARNING},
        "worker_result",
        "finding",
        ["run the tests in random order"],
        "step",
    ),
    (
        "artifact.created",
        {**RUN, "artifact": {"kind": "report", "title": "locks in CPython"}},
        "worker_result",
        "finding",
        ["report: locks in CPython"],
        "step",
    ),
    (
        "writer.run.changeset",
        {**CHANGESET, "revision": 3, "summary": "adds a table", "impact": "low", "op_taxonomy": ["insert"]},
        "writer_revision",
        "finding",
        ["runs/draft.md: adds a table"],
        None,
    ),
    (
        "writer.run.patch",
        {
            **CHANGESET,
            "ops": [{"op": "insert", "pos": 0, "text": "one"}, {"op": "delete"}, {"op": "insert", "text": "two"}],
        },
        "writer_revision",
        "finding",
        ["runs/draft.md: one\ntwo"],
        None,
    ),
    (
        "conductor.run.document_update",
        {**RUN, "document_path": "runs/draft.md", "content_excerpt": "# Locks"},
        "writer_revision",
        "finding",
        ["runs/draft.md: # Locks"],
        None,
    ),
    # Wintermute
    ("message.received", {"thread_id": "default", "text": "hi"}, "user_input", "episode", ["hi"], None),
    ("message.sent", {"thread_id": "default", "text": "hello"}, "worker_result", "episode", ["hello"], None),
    ("sub_session.started", OUTCOME, "conductor_plan", "strategy", ["find the bug"], "begin"),
    ("sub_session.completed", OUTCOME, "conductor_plan", "strategy", ["find the bug"], "end"),
    (
        "sub_session.failed",
        {"session_id": "sub1", "error": "no answer"},
        "conductor_plan",
        "strategy",
        ["failed: no answer"],
        "end",
    ),
    ("memory.appended", {"entry": "likes tea"}, "user_input", "finding", ["likes tea"], None),
    (
        "tool.executed",
        {"session_id": "sub1", "tool": "search", "result": "3 hits"},
        "worker_result",
        "episode",
        ["search: 3 hits"],
        "step",
    ),
]


def event(kind: str, payload: JsonObject, at: datetime = NOON, **names: str) -> Event:
    return Event(id=EventId(f"e-{kind}"), type=kind, timestamp=at, payload=payload, **names)


def mapped(kind: str, payload: JsonObject, at: datetime = NOON, **names: str) -> Mapped:
    made = event(kind, {}, at, **names)
    # Not every payload here could be published; the mapping holds against those of older logs too.
    msgspec.structs.force_setattr(made, "payload", payload)
    result = MAPPING.apply(made)
    assert result is not None
    return result


@pytest.mark.parametrize(("kind", "payload", "source", "memory_kind", "texts", "phase"), ROWS)
def test_every_row_and_alias_becomes_what_the_design_says(
    kind: str, payload: JsonObject, source: str, memory_kind: str, texts: list[str], phase: str | None
) -> None:
    result = mapped(kind, payload)

    assert [draft.text for draft in result.drafts] == texts
    assert {draft.source for draft in result.drafts} == {MemorySource(source)}
    assert {draft.kind for draft in result.drafts} == {MemoryKind(memory_kind)}
    assert (result.run.phase if result.run else None) == phase


def test_the_rows_above_are_all_there_are_but_the_citations() -> None:
    assert {kind for kind, *_ in ROWS} | {"citation.confirmed", "citation.rejected"} == set(default_rules())


@pytest.mark.parametrize(
    "kind",
    [
        "desktop.window_opened",
        "llm.call.started",
        "worker.tool.call",
        "model.changed",
        "harness.checkpoint",
        "user.theme_preference",
        "inference.completed",
        "nobody.knows.it",
    ],
)
def test_an_ignored_or_unknown_type_is_not_mapped(kind: str) -> None:
    assert MAPPING.apply(event(kind, {"text": "hello"})) is None


def test_a_part_always_gets_the_same_record_id_whatever_its_neighbours_are() -> None:
    whole = mapped("worker.report.received", {"report": {"summary": "s", "findings": [FINDING, FINDING]}})
    partly = mapped("worker.report.received", {"report": {"findings": ["garbage", FINDING]}})

    assert [draft.id for draft in whole.drafts] == [
        ids.derived_record_id(NOON, EventId("e-worker.report.received"), part) for part in range(3)
    ]
    assert [draft.id for draft in partly.drafts] == [whole.drafts[2].id]


def test_a_finding_carries_its_own_confidence() -> None:
    _, finding, learning = mapped(
        "worker.report.received",
        {"report": {"summary": "s", "worker_role": "terminal", "findings": [FINDING], "learnings": [LEARNING]}},
    ).drafts

    assert finding.metadata["confidence"] == 0.8
    assert finding.metadata["finding_id"] == "f1"
    assert learning.metadata["confidence"] == 0.7
    assert learning.metadata["worker_role"] == "terminal"


def test_metadata_says_where_a_memory_comes_from() -> None:
    (draft,) = mapped("terminal.command.completed", {**RUN, "command": "ls", "exit_code": 2}, actor="terminal-1").drafts

    assert draft.metadata == {
        "event_id": "e-terminal.command.completed",
        "event_type": "terminal.command.completed",
        "run_id": "01KRUN",
        "actor": "terminal-1",
        "command": "ls",
        "exit_code": 2,
        "success": False,
    }


def test_the_events_own_names_win_over_the_payloads() -> None:
    result = mapped(
        "terminal.command.completed", {**RUN, "session_id": "theirs", "command": "ls"}, run_id="r", session_id="s"
    )

    assert result.run is not None
    assert (result.run.run_id, result.drafts[0].session_id) == ("r", "s")


@pytest.mark.parametrize(
    ("payload", "session"),
    [
        ({"session_id": "s", "thread_id": "t"}, "s"),
        ({"record": {"session_id": "s"}, "desktop_id": "d"}, "s"),
        ({"thread_id": "t", "desktop_id": "d"}, "t"),
        ({"data": {"desktop_id": "d"}}, "d"),
        ({"session_id": "not\nprintable"}, ""),
        ({"session_id": ["s"]}, ""),
    ],
)
def test_the_session_is_found_where_the_payload_has_it(payload: JsonObject, session: str) -> None:
    assert mapped("chat.user_msg", {"text": "hi", **payload}).drafts[0].session_id == session


def test_the_user_is_never_taken_from_the_body() -> None:
    (draft,) = mapped("chat.user_msg", {"text": "hi", "user_id": "system", "user": "mallory"}).drafts

    assert "system" not in repr(draft)
    assert "mallory" not in repr(draft)


@pytest.mark.parametrize(
    ("kind", "payload", "quality"),
    [
        ("conductor.run.completed", {}, 0.8),
        ("conductor.run.failed", {}, 0.0),
        ("conductor.run.completed", {"approved": True}, 1.0),
        ("conductor.run.failed", {"approved": True}, 0.0),
        ("conductor.run.completed", {"reward": 0.25}, 0.25),
        ("conductor.run.failed", {"quality": 0.5}, 0.5),
        ("conductor.run.completed", {"quality_score": 1, "reward": 0.0}, 1.0),
        ("conductor.run.completed", {"reward": 7}, 0.8),
        ("conductor.run.completed", {"reward": True}, 0.8),
        ("conductor.run.completed", {"reward": float("nan")}, 0.8),
        ("sub_session.completed", {"status": "completed", "convergence_verdict": "pass"}, 1.0),
        ("sub_session.completed", {"status": "completed", "convergence_verdict": "skipped"}, 0.8),
        ("sub_session.completed", {"status": "completed", "turing_verdict": "fail"}, 0.4),
        ("sub_session.failed", {"status": "timeout"}, 0.2),
        ("sub_session.failed", {"status": "failed", "convergence_verdict": "pass"}, 0.0),
    ],
)
def test_a_finished_run_is_graded(kind: str, payload: JsonObject, quality: float) -> None:
    result = mapped(kind, {"objective": "o", "error": "e", **payload}, run_id="r")

    assert result.run is not None
    assert result.run.quality == quality
    assert result.run.signal == ("positive" if quality >= 0.5 else "negative")
    assert {draft.quality_score for draft in result.drafts} == {quality}


def test_a_run_begins_with_what_it_is_to_achieve() -> None:
    result = mapped("conductor.run.started", {**RUN, "objective": "fix the bug"})

    assert result.run is not None
    assert (result.run.query, result.run.quality, result.run.signal) == ("fix the bug", None, None)


@pytest.mark.parametrize(
    ("kind", "payload", "signal"),
    [
        ("tool.result", {"success": False, "error": "no"}, "negative"),
        ("harness.result", {"objective_satisfied": True}, "positive"),
        ("terminal.command.completed", {"exit_code": 0}, "positive"),
        ("terminal.command.completed", {"exit_code": 3}, "negative"),
        ("terminal.command.completed", {"output": "timed out"}, None),
        ("conductor.capability.completed", {}, "positive"),
        ("conductor.capability.blocked", {}, "negative"),
        ("worker.task.failed", {"success": True}, "positive"),
    ],
)
def test_a_step_says_whether_it_went_well(kind: str, payload: JsonObject, signal: str | None) -> None:
    result = mapped(kind, {**RUN, **payload})

    assert result.run is not None
    assert result.run.signal == signal


def test_without_a_run_there_is_no_signal_but_the_memory_is_kept() -> None:
    result = mapped("conductor.run.started", {"objective": "fix"})

    assert result.run is None
    assert [draft.text for draft in result.drafts] == ["fix"]


@pytest.mark.parametrize(("kind", "signal"), [("citation.confirmed", "positive"), ("citation.rejected", "negative")])
def test_a_judged_citation_leaves_no_memory_and_says_what_it_names(kind: str, signal: str) -> None:
    result = mapped(kind, {"citation_id": "c1", "citing_run_id": "r1", "cited_kind": "url", "cited_id": "01RECORD"})

    assert (result.drafts, result.run) == ((), None)
    assert result.feedback is not None
    assert (result.feedback.signal, result.feedback.run_id) == (signal, "r1")
    assert (result.feedback.cited, result.feedback.citation) == ("01RECORD", "c1")


@pytest.mark.parametrize("payload", [{}, {"text": " \n"}, {"text": None}, {"text": ["a"]}, {"text": {"a": 1}}])
def test_an_event_that_says_nothing_leaves_no_memory(payload: JsonObject) -> None:
    assert mapped("chat.user_msg", payload) == Mapped()


def test_progress_of_one_run_within_thirty_seconds_is_one_record() -> None:
    def record(second: int, run: str = "r") -> str | None:
        at = NOON + timedelta(seconds=second)
        return mapped("worker.task.progress", {"task_id": run, "message": f"at {second}"}, at).drafts[0].id

    assert record(0) == record(29)
    assert record(0) != record(30)
    assert record(0) != record(0, run="other")


def test_a_long_output_is_cut_to_its_last_lines() -> None:
    output = "\n".join(f"line {n}" for n in range(5000))

    (draft,) = mapped("terminal.command.completed", {"command": "seq", "output": output, "exit_code": 0}).drafts

    assert draft.text.startswith("$ seq\n...\nline ")
    assert draft.text.endswith("line 4999\nexit code 0")
    assert len(draft.text) < TAIL_CHARACTERS + 50


def test_a_text_beyond_the_limit_is_cut_at_a_character_and_says_how_long_it_was() -> None:
    text = "ü" * 40_000 + "x"

    (draft,) = mapped("chat.user_msg", {"text": "x" + text}).drafts

    assert len(draft.text.encode()) == MAX_TEXT_BYTES - 1
    assert draft.metadata["text_bytes"] == 80_002


def test_a_lone_surrogate_is_replaced() -> None:
    (draft,) = mapped("chat.user_msg", {"text": "a\ud800b"}).drafts

    assert draft.text == "a?b"


def test_a_number_too_long_to_be_written_counts_as_absent() -> None:
    assert mapped("chat.user_msg", {"text": 10**5000}) == Mapped()


def test_the_same_event_always_becomes_the_same() -> None:
    for kind, payload, *_ in ROWS:
        assert mapped(kind, payload) == mapped(kind, payload)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=4)
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
KEYS = [
    "text",
    "objective",
    "data",
    "report",
    "findings",
    "learnings",
    "claim",
    "run_id",
    "task_id",
    "session_id",
    "record",
    "content",
    "command",
    "output",
    "exit_code",
    "success",
    "quality",
    "reward",
    "status",
    "ops",
    "finding",
    "message",
    "error",
    "citation_id",
    "citing_run_id",
    "cited_id",
    "every",
]
payloads = st.dictionaries(
    st.sampled_from(KEYS), anything | st.dictionaries(st.sampled_from(KEYS), anything, max_size=4), max_size=6
)


@settings(max_examples=600, deadline=None)
@given(
    kind=st.sampled_from(sorted(default_rules())),
    payload=payloads,
    at=st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.timezones()),  # noqa: DTZ001 - strategy
)
def test_no_payload_can_make_the_mapping_fail(kind: str, payload: JsonObject, at: datetime) -> None:
    result = mapped(kind, payload, at)

    for draft in result.drafts:
        assert draft.text.strip()
        assert len(draft.text.encode()) <= MAX_TEXT_BYTES


def test_the_configuration_adds_changes_and_removes_rules() -> None:
    rules = rules_from_config(
        {
            "ticket.closed": {
                "source": "worker_result",
                "kind": "finding",
                "text": ["{title}", "[by {who}: ]{resolution}"],
                "trajectory": "end",
                "quality": 1.0,
            },
            "bot.said": {"like": "chat.assistant_msg", "text": ["{utterance}"]},
            "message.sent": {"ignore": True},
        }
    )
    mapping = EventMapping(rules)

    closed = mapping.apply(event("ticket.closed", {"title": "T", "resolution": "fixed", "run_id": "r"}))
    said = mapping.apply(event("bot.said", {"utterance": "hello"}))

    assert closed is not None
    assert closed.run is not None
    assert (closed.drafts[0].text, closed.run.quality) == ("T\nfixed", 1.0)
    assert said is not None
    assert said.drafts[0].source is MemorySource.WORKER_RESULT
    assert mapping.apply(event("message.sent", {"text": "hi"})) is None
    assert "message.sent" in default_rules()


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"my.event": {"source": "nobody", "kind": "finding"}}, "mapping.my.event.source"),
        ({"my.event": {"source": "user_input", "kind": "finding", "colour": "red"}}, "mapping.my.event.colour"),
        ({"my.event": {"source": "user_input", "kind": "finding", "text": "{a}"}}, "mapping.my.event.text"),
        ({"my.event": {"source": "user_input", "kind": "finding", "text": ["{a"]}}, "mapping.my.event"),
        ({"my.event": {"source": "user_input", "kind": "finding", "quality": 2.0}}, "mapping.my.event"),
        ({"my.event": {"like": "chat.user_msg", "each": [{"path": "a", "text": ["]"]}]}}, "mapping.my.event.each"),
        ({"my.event": {"like": "no.such"}}, "mapping.my.event.like"),
        ({"my.event": {"text": ["{a}"]}}, "mapping.my.event"),
        ({"my.event": {"like": "chat.user_msg", "every_s": -1}}, "mapping.my.event"),
        ({"my.event": "chat.user_msg"}, "mapping.my.event"),
        ({"not a type": {"ignore": True}}, "mapping.not a type"),
    ],
)
def test_a_bad_configuration_is_refused_naming_the_key(table: JsonObject, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        rules_from_config(table)

    assert refused.value.field == field
    assert refused.value.hint


@pytest.mark.parametrize(
    ("line", "payload", "text"),
    [
        ("{a}", {"a": "x"}, "x"),
        ("{a.b|c}", {"a": {"b": ""}, "c": 7}, "7"),
        ("{a}: {b}", {"a": "x"}, ""),
        ("[{a}: ]{b}", {"b": True}, "true"),
        ("[{a}][ {b}]", {}, ""),
        ("words alone", {}, ""),
        ("{a.*.b}", {"a": [{"b": 1}, {}, 3, {"b": "z"}]}, "1\nz"),
        ("{a.*}", {"a": ["x", None, 2.5]}, "x\n2.5"),
        ("{a:tail}", {"a": "y" * 3000}, "..." + "y" * TAIL_CHARACTERS),
        ("{a}", {"a": "  indented\n    code\n"}, "indented\n    code"),
    ],
)
def test_a_template_is_filled_from_the_payload(line: str, payload: JsonObject, text: str) -> None:
    assert Template.parse([line]).render(payload) == text


@pytest.mark.parametrize("line", ["{", "}", "{a b}", "[", "]", "[[{a}]]", "{a:head}"])
def test_a_template_that_does_not_fit_together_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        Template.parse([line])
