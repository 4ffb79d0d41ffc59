"""Whole runs of agents, one to a line, taken apart into the events they consisted of.

Two shapes are read: mini-swe-agent (a shell, an issue, `resolved`) and tau-bench (customers, tools, a `reward`).
A run's events have ids made of the run's content and their place in it, so reading a file twice makes duplicates.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.events import Event
from memoryd.protocol.ids import EventId
from memoryd.sources.parsed import digest, json_object, label, moment, required_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from memoryd.protocol.events import JsonObject

USER_SAID: Final = "chat.user_msg"
ASSISTANT_SAID: Final = "chat.assistant_msg"
STARTED: Final = "conductor.run.started"
REPORTED: Final = "worker.report.received"
COMMAND_RAN: Final = "terminal.command.completed"
COMPLETED: Final = "conductor.run.completed"
FAILED: Final = "conductor.run.failed"

# Events without a moment of their own follow the one before at this distance, so that their order shows.
_TICK: Final = timedelta(milliseconds=1)

# A tau run carries no clock. Its policy says that it is 15:00 EST on this day; a run takes place that many hours later
# as its task and trial say, which depends on the run alone and lets no two runs begin together.
_TAU_DAY: Final = datetime(2024, 5, 15, 20, tzinfo=UTC)
_TAU_TRIAL: Final = timedelta(hours=1000)
_TAU_TASK: Final = timedelta(hours=1)
_TAU_MESSAGE: Final = timedelta(seconds=30)
# Beyond this a task or trial would lead out of the years that exist.
_MANY: Final = 10_000

_PROBLEM: Final = re.compile(
    r"<pr_description>\s*(?:Consider the following PR description:)?(.*?)</pr_description>", re.DOTALL
)
_COMMAND: Final = re.compile(r"```bash\s*\n(.*?)\n?```", re.DOTALL)
_EXIT_CODE: Final = re.compile(r"\s*<returncode>(-?\d+)</returncode>")
_OUTPUT: Final = re.compile(r"<output>\n?(.*?)\n?</output>", re.DOTALL)


def is_run(line: Mapping[str, object]) -> bool:
    """Whether `line` is a run, or the line of instructions that heads a file of tau runs."""
    return is_header(line) or ("messages" in line and ("instance_id" in line or {"task_id", "trial"} <= line.keys()))


def is_header(line: Mapping[str, object]) -> bool:
    """Whether `line` is the instructions shared by all runs of the file, which are no event."""
    return line.keys() == {"policy"}


def run_events(line: Mapping[str, object]) -> list[Event]:
    """Return the events of the run in `line`, in order. Raises InvalidMessage naming the field that is unusable."""
    if is_header(line):
        return []
    messages = line["messages"]
    if not isinstance(messages, list):
        raise InvalidMessage("not a list", field="messages")
    usable = [message for message in messages if isinstance(message, dict)]
    if "instance_id" in line:
        return list(_coding_run(line, usable))
    return list(_tau_run(line, usable))


class _Run:
    """Makes the events of one run: a clock that never stands still, ids that count upwards, the run's names."""

    def __init__(self, line: Mapping[str, object], run_id: str, begin: datetime) -> None:
        if label(run_id) == "":
            raise InvalidMessage("not a usable name", field="instance_id", hint="use at most 256 printable characters")
        self._content = digest(line)
        self._run_id = run_id
        self._now = begin - _TICK
        self._count = 0

    def event(self, kind: str, actor: str, payload: JsonObject, at: datetime | None = None) -> Event:
        self._now = max(self._now + _TICK, at or self._now)
        self._count += 1
        return Event(
            id=EventId(f"run:{self._content}:{self._count}"),
            type=kind,
            timestamp=self._now,
            actor=actor,
            session_id=self._run_id,
            run_id=self._run_id,
            payload={name: value for name, value in payload.items() if value is not None},
        )

    def end(self, quality: float, payload: JsonObject) -> Event:
        kind = COMPLETED if quality > 0.0 else FAILED
        return self.event(kind, "conductor", {"quality": quality, **payload})


def _coding_run(line: Mapping[str, object], messages: Sequence[Mapping[str, object]]) -> Iterator[Event]:
    clocked = next((message["created"] for message in messages if "created" in message), None)
    # The problem was there before the first answer to it.
    begin = moment(clocked, "messages.created") - timedelta(seconds=1)
    run = _Run(line, required_text(line["instance_id"], "instance_id"), begin)
    problem, steps = _problem(messages)
    yield run.event(USER_SAID, "user", {"text": problem})
    yield run.event(STARTED, "conductor", {"objective": problem})
    for thought, answer in steps:
        text, created = _content(thought), thought.get("created")
        at = None if created is None else moment(created, "messages.created")
        yield run.event(REPORTED, "worker", {"report": _before_command(text), "tokens": thought.get("usage")}, at)
        yield run.event(COMMAND_RAN, "terminal", {"command": _command(text), **_outcome(answer)})
    facts = {"exit_status": line.get("exit_status"), "cost": line.get("cost")}
    yield run.end(1.0 if line.get("resolved") is True else 0.0, facts)


def _problem(
    messages: Sequence[Mapping[str, object]],
) -> tuple[str, list[tuple[Mapping[str, object], str]]]:
    """Return the problem statement, without the instructions around it, and each answer with the shell's reply."""
    spoken = [message for message in messages if message.get("role") in {"user", "assistant"}]
    first = _content(spoken[0]) if spoken else ""
    statement = _PROBLEM.search(first)
    replies = [*spoken[1:], {}]
    steps = [
        (message, _content(reply) if reply.get("role") == "user" else "")
        for message, reply in zip(spoken, replies, strict=True)
        if message.get("role") == "assistant"
    ]
    return (statement[1] if statement else first).strip(), steps


def _before_command(text: str) -> str:
    return text.partition("```bash")[0].strip().removeprefix("THOUGHT:").strip()


def _command(text: str) -> str:
    # More than one command is refused by the shell's side, whose reply says so; the reader sees what was tried.
    return "\n".join(_COMMAND.findall(text))


def _outcome(reply: str) -> JsonObject:
    """Return the exit code, which a command that timed out or was refused does not have, and the output."""
    code, output = _EXIT_CODE.match(reply), _OUTPUT.search(reply)
    text = output[1] if output else _EXIT_CODE.sub("", reply, count=1).strip()
    return {"exit_code": int(code[1]) if code else None, "output": text}


def _tau_run(line: Mapping[str, object], messages: Sequence[Mapping[str, object]]) -> Iterator[Event]:
    task, trial = _whole(line, "task_id"), _whole(line, "trial")
    begin = _TAU_DAY + trial * _TAU_TRIAL + task * _TAU_TASK
    run = _Run(line, f"task-{task}-trial-{trial}", begin)
    # Not `instruction`: it is the script of the simulated customer, which the agent never saw.
    objective = next((_content(message) for message in messages if message.get("role") == "user"), "")
    calls: dict[str, JsonObject] = {}
    is_started = False
    for place, message in enumerate(messages):
        at = begin + place * _TAU_MESSAGE
        match message.get("role"):
            case "user":
                yield run.event(USER_SAID, "user", {"text": _content(message)}, at)
                if not is_started:
                    yield run.event(STARTED, "conductor", {"objective": objective})
                    is_started = True
            case "assistant":
                calls |= _tool_calls(message)
                if _content(message):
                    yield run.event(ASSISTANT_SAID, "assistant", {"text": _content(message)}, at)
            case "tool":
                call = calls.get(str(message.get("tool_call_id")), {"tool": message.get("name")})
                yield run.event(REPORTED, "worker", {"report": _content(message), **call}, at)
            case _:
                pass
    reward = line.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not 0.0 <= reward <= 1.0:
        raise InvalidMessage("not a number from 0 to 1", field="reward")
    yield run.end(float(reward), {})


def _tool_calls(message: Mapping[str, object]) -> dict[str, JsonObject]:
    calls = message.get("tool_calls")
    made: dict[str, JsonObject] = {}
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            function = json_object(call["function"], "messages.tool_calls")
            made[str(call.get("id"))] = {"tool": function.get("name"), "arguments": function.get("arguments")}
    return made


def _whole(line: Mapping[str, object], field: str) -> int:
    value = line[field]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MANY:
        raise InvalidMessage("not a small whole number", field=field)
    return value


def _content(message: Mapping[str, object]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
