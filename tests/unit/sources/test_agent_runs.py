"""Real runs of agents, taken apart into events."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from memoryd.protocol.events import Event
from memoryd.relay.mapping import EventMapping, default_rules
from memoryd.sources.lines import parse_line, read_events

FILES = ("swebench-terminal-gemini3pro.jsonl.gz", "tau-airline-gpt4o.jsonl.gz")

CODING = {
    "instance_id": "owner__repo-1",
    "resolved": True,
    "exit_status": "Submitted",
    "cost": 0.5,
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "content": "<pr_description>\nConsider the following PR description:\nIt breaks.\n</pr_description>\nInstructions.",
        },
        {
            "role": "assistant",
            "content": "THOUGHT: I look.\n\n```bash\nls -la\n```",
            "created": 1_700_000_000,
            "usage": {"prompt_tokens": 7},
        },
        {"role": "user", "content": "<returncode>1</returncode>\n<output>\nno such file\n</output>"},
        {"role": "assistant", "content": "THOUGHT: Done.\n\n```bash\nsubmit\n```", "created": 1_700_000_010},
        {"role": "user", "content": "diff --git a b"},
    ],
}
TAU = {
    "task_id": 3,
    "trial": 1,
    "reward": 0.0,
    "instruction": "You are a customer with a secret.",
    "messages": [
        {"role": "user", "content": "I want to fly."},
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"to":"SEA"}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "find", "content": "[]"},
        {"role": "assistant", "content": "There is none."},
        {"role": "user", "content": "Bye."},
    ],
}


def events_of(run: dict[str, object]) -> list[Event]:
    return parse_line(msgspec.json.encode(run))


@pytest.fixture(scope="module")
def real_events() -> list[Event]:
    root = Path(__file__).parents[3]
    folder = Path(os.environ.get("MEMORYD_AGENT_RUNS", root.parent / "shared" / "data" / "agent-runs"))
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        pytest.fail(f"the agent runs {', '.join(missing)} are not in {folder}; set MEMORYD_AGENT_RUNS to their folder")
    parsed = [one for name in FILES for one in read_events(folder / name)]
    assert [one.error for one in parsed if one.error] == []
    return [event for one in parsed for event in one.events]


def test_the_real_runs_hold_the_events_that_were_counted(real_events: list[Event]) -> None:
    assert Counter(event.type for event in real_events) == {
        "worker.report.received": 4303,
        "terminal.command.completed": 3354,
        "chat.user_msg": 1246,
        "chat.assistant_msg": 1089,
        "conductor.run.started": 240,
        "conductor.run.completed": 109,
        "conductor.run.failed": 131,
    }
    assert len({event.id for event in real_events}) == 10_472


def test_the_real_commands_have_the_exit_codes_that_were_counted(real_events: list[Event]) -> None:
    codes = Counter(
        event.payload.get("exit_code") for event in real_events if event.type == "terminal.command.completed"
    )

    assert (codes[1], codes[None]) == (233, 194)


def test_every_real_run_begins_once_ends_once_and_moves_forward_in_time(real_events: list[Event]) -> None:
    runs: dict[str, list[Event]] = defaultdict(list)
    for event in real_events:
        runs[event.run_id].append(event)

    assert len(runs) == 240
    for events in runs.values():
        moments = [event.timestamp for event in events]
        assert moments == sorted(set(moments))
        assert Counter(event.type for event in events)["conductor.run.started"] == 1
        assert events[-1].type in {"conductor.run.completed", "conductor.run.failed"}


def test_every_real_event_is_mapped(real_events: list[Event]) -> None:
    mapping = EventMapping(default_rules())

    mapped = [mapping.apply(event) for event in real_events]

    phases = Counter(one.run.phase for one in mapped if one is not None and one.run is not None)
    assert None not in mapped
    assert phases == {"begin": 240, "step": 7657, "end": 240}


def test_a_coding_run_becomes_its_events_in_order() -> None:
    events = events_of(CODING)

    assert [(event.type, event.payload) for event in events] == [
        ("chat.user_msg", {"text": "It breaks."}),
        ("conductor.run.started", {"objective": "It breaks."}),
        ("worker.report.received", {"report": "I look.", "tokens": {"prompt_tokens": 7}}),
        ("terminal.command.completed", {"command": "ls -la", "exit_code": 1, "output": "no such file"}),
        ("worker.report.received", {"report": "Done."}),
        ("terminal.command.completed", {"command": "submit", "output": "diff --git a b"}),
        ("conductor.run.completed", {"quality": 1.0, "exit_status": "Submitted", "cost": 0.5}),
    ]
    assert {(event.run_id, event.session_id) for event in events} == {("owner__repo-1", "owner__repo-1")}
    assert events[2].timestamp == datetime.fromtimestamp(1_700_000_000, UTC)


def test_a_tau_run_becomes_its_events_and_does_not_tell_the_customers_script() -> None:
    events = events_of(TAU)

    assert [(event.type, event.payload) for event in events] == [
        ("chat.user_msg", {"text": "I want to fly."}),
        ("conductor.run.started", {"objective": "I want to fly."}),
        ("chat.assistant_msg", {"text": "One moment."}),
        ("worker.report.received", {"report": "[]", "tool": "find", "arguments": '{"to":"SEA"}'}),
        ("chat.assistant_msg", {"text": "There is none."}),
        ("chat.user_msg", {"text": "Bye."}),
        ("conductor.run.failed", {"quality": 0.0}),
    ]
    assert {event.run_id for event in events} == {"task-3-trial-1"}


def test_a_tau_run_gets_a_clock_that_depends_on_task_and_trial_alone() -> None:
    begin = datetime(2024, 5, 15, 20, tzinfo=UTC)

    assert (events_of({**TAU, "task_id": 0, "trial": 0})[0].timestamp - begin).total_seconds() == 0
    assert (events_of(TAU)[0].timestamp - begin).total_seconds() == (1000 + 3) * 3600


def test_the_same_run_twice_has_the_same_ids_and_another_run_of_the_same_task_has_others() -> None:
    other = {**CODING, "cost": 0.6}

    assert [event.id for event in events_of(CODING)] == [event.id for event in events_of(CODING)]
    assert not {event.id for event in events_of(CODING)} & {event.id for event in events_of(other)}


def test_the_policy_that_heads_a_file_is_no_event() -> None:
    assert parse_line(b'{"policy":"be kind"}') == []
