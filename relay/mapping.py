"""What events become: the table from a type of event to the memories and the run signals it makes.

Three tables of data: the types of the original design, those that ChoirOS and Wintermute really emit, and what users
add in their configuration. A rule's text is written in the language of `templates.py`. An unknown type is not an
error: `EventMapping.apply` returns None, and the caller counts it.

The user of a memory is the user of its event, and never comes from here: some of these systems write "system" or
nothing into the event's body.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from memoryd.protocol import ids
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.ids import EventId
from memoryd.protocol.internal import Feedback, RunSignal
from memoryd.protocol.records import MAX_TEXT_BYTES, Draft, MemoryKind, MemorySource
from memoryd.relay.rules import Each, Rule, Signal, overlaid
from memoryd.relay.templates import Template, clean, find, find_text, items

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memoryd.protocol.events import Event, JsonObject
    from memoryd.protocol.ids import RecordId


class Mapped(Struct, frozen=True, kw_only=True):
    """What an event became: no, one or several memories, and what it says about a run or about what was recalled."""

    drafts: tuple[Draft, ...] = ()
    run: RunSignal | None = None
    feedback: Feedback | None = None


_USER = MemorySource.USER_INPUT
_PLAN = MemorySource.CONDUCTOR_PLAN
_WORKER = MemorySource.WORKER_RESULT
_WRITER = MemorySource.WRITER_REVISION
_EPISODE, _STRATEGY, _FINDING = MemoryKind.EPISODE, MemoryKind.STRATEGY, MemoryKind.FINDING

_SAID = "text|content|message|record.content|record.text|objective"
_OBJECTIVE = "data.objective|objective|worker_objective|plan|data.plan|strategy|task|text"
_SUMMARY = "data.summary|result_summary|summary|result|outcome|data.result|message"
_ERROR = "error_message|data.error|error|data.reason|reason|message"
_REVISED = "summary|content_excerpt|content|proposal|text|diff"

# --- the types of the original design ---

_DESIGN: Final[dict[str, Rule]] = {
    "chat.user_msg": Rule(source=_USER, kind=_EPISODE, text=(f"{{{_SAID}}}",)),
    "conductor.run.started": Rule(source=_PLAN, kind=_STRATEGY, text=(f"{{{_OBJECTIVE}}}",), trajectory="begin"),
    "conductor.assignment.dispatched": Rule(
        source=_PLAN,
        kind=_STRATEGY,
        text=(f"[{{capability|worker_type|worker|data.capability}}: ]{{{_OBJECTIVE}|assignment|message}}",),
        trajectory="step",
    ),
    "conductor.run.completed": Rule(
        source=_PLAN,
        kind=_STRATEGY,
        text=("{data.objective|objective}", f"{{{_SUMMARY}}}", "report: {report_path|data.report_path}"),
        trajectory="end",
        quality=0.8,
        succeeded=True,
    ),
    "conductor.run.failed": Rule(
        source=_PLAN,
        kind=_STRATEGY,
        text=("{data.objective|objective}", f"failed: [{{error_code|failure_kind}}: ]{{{_ERROR}}}"),
        trajectory="end",
        quality=0.0,
        succeeded=False,
    ),
    "worker.report.received": Rule(
        source=_WORKER,
        kind=_FINDING,
        text=("[{tool}][ {arguments}]", "{report.summary|report|summary|text|content}"),
        each=(Each("report.findings", ("{claim}",)), Each("report.learnings", ("{insight}",))),
        trajectory="step",
    ),
    "worker.task.progress": Rule(source=_WORKER, kind=_EPISODE, text=("[{phase}: ]{message|text}",), every_s=30),
    "worker.task.document_update": Rule(source=_WRITER, kind=_FINDING, text=(f"[{{document_path}}: ]{{{_REVISED}}}",)),
    "researcher.search.completed": Rule(
        source=_WORKER,
        kind=_FINDING,
        text=("{query}", "{summary|result|text|content|results.*.snippet|results.*.title}"),
        trajectory="step",
    ),
    "terminal.command.completed": Rule(
        source=_WORKER,
        kind=_EPISODE,
        text=("$ {command|data.command}", "{output|stdout:tail}", "{stderr:tail}", "{error}", "exit code {exit_code}"),
        trajectory="step",
    ),
    "writer.revision.created": Rule(source=_WRITER, kind=_FINDING, text=(f"[{{document_path}}: ]{{{_REVISED}}}",)),
}

# --- what other systems call them, with text paths of their own where the payload is another one ---

_CLAIM = ("{finding.claim|claim|data.claim}",)
_INSIGHT = ("{learning.insight|insight|data.insight}",)
_WORKED = ("{objective|task}", "{output|summary|result|output_excerpt:tail}", "failed: {error|error_message|reason}")
_CAPABILITY = "[{capability|worker_type}: ]"
# Without them "completed" and "failed" would say no more than the record of the start.
_ENDED = (
    "{status}[, verdict {convergence_verdict|turing_verdict}][, {tool_call_count} tool calls][, {duration_seconds} s]"
)

# own name: (the design's name, what differs)
_ALIASES: Final[dict[str, tuple[str, dict[str, object]]]] = {
    # ChoirOS
    "user_input": ("chat.user_msg", {"text": (f"{{record.content|{_SAID}}}",)}),
    "interaction.user_msg": ("chat.user_msg", {}),
    "trace.prompt.received": ("conductor.run.started", {}),
    "conductor.task.started": ("conductor.run.started", {}),
    "conductor.worker.call": ("conductor.assignment.dispatched", {}),
    "conductor.decision": (
        "conductor.assignment.dispatched",
        {"text": ("[{data.decision_type|decision_type}: ]{data.reason|reason}",)},
    ),
    "conductor.worker.result": ("terminal.command.completed", {"text": (f"{_CAPABILITY}{{{_SUMMARY}}}",)}),
    "conductor.capability.completed": (
        "terminal.command.completed",
        {"text": (f"{_CAPABILITY}{{{_SUMMARY}}}",), "succeeded": True},
    ),
    "conductor.capability.failed": (
        "terminal.command.completed",
        {"text": (f"[{{capability}} ]failed: {{{_ERROR}}}",), "succeeded": False},
    ),
    "conductor.capability.blocked": (
        "terminal.command.completed",
        {"text": (f"[{{capability}} ]blocked: {{{_ERROR}}}",), "succeeded": False},
    ),
    "conductor.task.completed": ("conductor.run.completed", {}),
    "conductor.task.failed": ("conductor.run.failed", {}),
    "worker.task.completed": ("terminal.command.completed", {"text": _WORKED, "succeeded": True}),
    "worker.task.failed": ("terminal.command.completed", {"text": _WORKED, "succeeded": False}),
    "tool.result": ("terminal.command.completed", {"text": ("[{tool}]", "{output:tail}", "failed: {error}")}),
    "harness.result": (
        "terminal.command.completed",
        {"text": ("{objective}", "{output_excerpt:tail}", "{completion_reason}")},
    ),
    "research.finding.created": ("researcher.search.completed", {"text": _CLAIM}),
    "worker.finding.created": ("researcher.search.completed", {"text": _CLAIM}),
    "research.learning.created": ("researcher.search.completed", {"text": _INSIGHT}),
    "worker.learning.created": ("researcher.search.completed", {"text": _INSIGHT}),
    "artifact.created": (
        "researcher.search.completed",
        {"text": ("[{artifact.kind|kind}: ]{artifact.title|artifact.summary|title|summary|artifact.path|path}",)},
    ),
    "writer.run.changeset": ("writer.revision.created", {}),
    "writer.run.patch": (
        "writer.revision.created",
        {"text": ("[{document_path}: ]{summary|proposal|ops.*.text|payload.proposal|content}",)},
    ),
    "conductor.run.document_update": ("worker.task.document_update", {}),
    # Wintermute
    "message.received": ("chat.user_msg", {}),
    "message.sent": ("chat.assistant_msg", {}),
    "sub_session.started": ("conductor.run.started", {"run": "session_id"}),
    "sub_session.completed": (
        "conductor.run.completed",
        {"text": ("{objective}", "{result|summary}", _ENDED), "run": "session_id"},
    ),
    "sub_session.failed": (
        "conductor.run.failed",
        {"text": ("{objective}", "failed: {error}", _ENDED), "run": "session_id"},
    ),
    "memory.appended": ("chat.user_msg", {"kind": _FINDING, "text": ("{entry|text}",)}),
    "tool.executed": (
        "terminal.command.completed",
        {"text": ("[{tool|tool_name|name}: ]{result|output|summary:tail}", "failed: {error}"), "run": "session_id"},
    ),
}

# --- what the design has no name for ---

_OTHERS: Final[dict[str, Rule]] = {
    "chat.assistant_msg": Rule(source=_WORKER, kind=_EPISODE, text=(f"{{{_SAID}}}",)),
    "citation.confirmed": Rule(feedback="positive", run="citing_run_id|run_id"),
    "citation.rejected": Rule(feedback="negative", run="citing_run_id|run_id"),
}

# How a run went by its state and the verdict on it; Wintermute's, and nobody else means other things by these words.
_QUALITY_BY_VERDICT: Final[dict[tuple[str, str], float]] = {
    ("completed", "pass"): 1.0,
    ("completed", "skipped"): 0.8,
    ("completed", "fail"): 0.4,
}
_QUALITY_BY_STATUS: Final[dict[str, float]] = {"approved": 1.0, "timeout": 0.2, "failed": 0.0}

# A run that went at least so well counts as a success.
_GOOD: Final = 0.5

_GIVEN_QUALITY: Final = ("quality_score", "reward", "quality")
_SESSION: Final = (
    "session_id|record.session_id|scope.session_id|thread_id|record.thread_id|scope.thread_id"
    "|desktop_id|record.desktop_id|data.desktop_id"
)
_SUCCESS: Final = "success|objective_satisfied|data.success"

# Small facts of the payload that are kept beside the text: name, and where it may be.
_FACTS: Final[dict[str, str]] = {
    "exit_code": "exit_code|data.exit_code|returncode",
    "document_path": "document_path|record.document_path",
    "revision": "revision",
    "report_path": "report_path|data.report_path",
    "worker_role": "report.worker_role|worker_role|worker_type",
    "capability": "capability",
    "tool": "tool|tool_name",
    "status": "report.status|status",
    "failure_kind": "failure_kind|data.failure_kind",
    "error_code": "error_code",
    "exit_status": "exit_status",
    "command": "command|data.command",
    "confidence": "finding.confidence|learning.confidence|confidence",
    "finding_id": "finding.finding_id|finding_id",
    "learning_id": "learning.learning_id|learning_id",
    "convergence_verdict": "convergence_verdict|turing_verdict",
    "tool_call_count": "tool_call_count",
    "duration_seconds": "duration_seconds",
}
_FACT_CHARACTERS: Final = 200


_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    _DESIGN
    | _OTHERS
    | {name: replace((_DESIGN | _OTHERS)[canonical], **own) for name, (canonical, own) in _ALIASES.items()}
)


def default_rules() -> Mapping[str, Rule]:
    """Return the table as shipped."""
    return _RULES


def rules_from_config(table: Mapping[str, object]) -> Mapping[str, Rule]:
    """Return the shipped table with what the configuration adds, changes or removes.

    An entry is a rule, such as `{source = "worker_result", kind = "finding", text = ["{claim}"]}`; or takes one over
    with `like = "chat.user_msg"` and names what differs; or is `{ignore = true}`. Raises ConfigError naming the key.
    """
    return MappingProxyType(overlaid(_RULES, table))


class EventMapping:
    """Applies a table of rules to events. Has no state: the same event always becomes the same."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = {name: _Prepared(rule) for name, rule in rules.items()}

    def knows(self, event_type: str) -> bool:
        """Whether a rule is there for events of this type."""
        return event_type in self._rules

    def apply(self, event: Event) -> Mapped | None:
        """Return what `event` becomes, None when no rule knows its type. Never raises, whatever the payload is."""
        prepared = self._rules.get(event.type)
        return None if prepared is None else prepared.apply(event)


class _Prepared:
    """A rule with its templates taken apart."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.text = Template.parse(rule.text)
        self.each = tuple((each.path, Template.parse(each.text)) for each in rule.each)

    def apply(self, event: Event) -> Mapped:
        rule, payload = self.rule, event.payload
        run_id = event.run_id or _label(find_text(payload, rule.run))
        if rule.feedback is not None:
            return Mapped(feedback=_feedback(rule.feedback, run_id, payload))
        texts = list(self._texts(payload))
        return Mapped(drafts=tuple(_drafts(rule, event, run_id, texts)), run=_run(rule, run_id, payload, texts[0][0]))

    def _texts(self, payload: JsonObject) -> Iterator[tuple[str, JsonObject]]:
        """Every part's text and facts, the empty ones too, so that a part's number depends on its place alone."""
        yield clean(self.text.render(payload)).strip(), {}
        for path, template in self.each:
            for item in items(payload, path):
                yield clean(template.render(item)).strip(), _facts(item)


def _drafts(rule: Rule, event: Event, run_id: str, texts: list[tuple[str, JsonObject]]) -> Iterator[Draft]:
    if rule.source is None or rule.kind is None:
        return  # feedback, which leaves no memory
    session_id = event.session_id or _label(find_text(event.payload, _SESSION))
    facts = _origin(event, run_id) | _facts(event.payload)
    succeeded = _succeeded(rule, event.payload)
    if succeeded is not None:
        facts["success"] = succeeded
    for part, (text, own_facts) in enumerate(texts):
        if not text:
            continue
        kept, size = _cut(text)
        yield Draft(
            id=_record_id(rule, event, run_id, part),
            text=kept,
            kind=rule.kind,
            source=rule.source,
            session_id=session_id,
            timestamp=event.timestamp,
            quality_score=_quality(rule, event.payload),
            metadata=facts | own_facts | ({"text_bytes": size} if size > MAX_TEXT_BYTES else {}),
        )


def _run(rule: Rule, run_id: str, payload: JsonObject, text: str) -> RunSignal | None:
    if rule.trajectory is None or not run_id:
        return None
    quality = _quality(rule, payload) if rule.trajectory == "end" else None
    succeeded = _succeeded(rule, payload) if quality is None else quality >= _GOOD
    return RunSignal(
        phase=rule.trajectory,
        run_id=run_id,
        query=_cut(text)[0] if rule.trajectory == "begin" else "",
        quality=quality,
        signal=None if succeeded is None else "positive" if succeeded else "negative",
    )


def _feedback(signal: Signal, run_id: str, payload: JsonObject) -> Feedback:
    cited = clean(find_text(payload, "cited_id|source_ref|item_id|record_id"))
    return Feedback(signal=signal, run_id=run_id, cited=cited, citation=clean(find_text(payload, "citation_id")))


def _quality(rule: Rule, payload: JsonObject) -> float | None:
    """How the run went: what the payload says in a number, else by its words, else what the rule assumes."""
    for name in _GIVEN_QUALITY:
        given = find(payload, name)
        if isinstance(given, int | float) and not isinstance(given, bool) and 0.0 <= given <= 1.0:
            return float(given)
    if rule.trajectory != "end":
        return None
    status, verdict = find_text(payload, "status"), find_text(payload, "convergence_verdict|turing_verdict")
    by_words = _QUALITY_BY_VERDICT.get((status, verdict), _QUALITY_BY_STATUS.get(status))
    if by_words is not None:
        return by_words
    is_approved = find(payload, "approved") is True and rule.succeeded is not False
    return 1.0 if is_approved else rule.quality


def _succeeded(rule: Rule, payload: JsonObject) -> bool | None:
    said = find(payload, _SUCCESS)
    if isinstance(said, bool):
        return said
    exit_code = find(payload, _FACTS["exit_code"])
    if isinstance(exit_code, int) and not isinstance(exit_code, bool):
        return exit_code == 0
    return rule.succeeded


def _record_id(rule: Rule, event: Event, run_id: str, part: int) -> RecordId:
    if not rule.every_s:
        return ids.derived_record_id(event.timestamp, event.id, part)
    # The rate limit needs no memory of what came before: all events of a run within the same window make the same
    # id, so the store drops the second one as a duplicate, after a restart and in a replay too.
    window = max(0, int(event.timestamp.timestamp()) // rule.every_s * rule.every_s)
    stream = EventId(f"{event.type}\x00{run_id or event.session_id or event.actor}")
    return ids.derived_record_id(datetime.fromtimestamp(window, UTC), stream, part)


def _origin(event: Event, run_id: str) -> JsonObject:
    origin = {"event_id": event.id, "event_type": event.type, "run_id": run_id, "actor": event.actor}
    return {name: value for name, value in origin.items() if value}


def _facts(payload: Mapping[str, object]) -> JsonObject:
    found = ((name, find(payload, paths)) for name, paths in _FACTS.items())
    return {
        name: clean(value[:_FACT_CHARACTERS]) if isinstance(value, str) else value
        for name, value in found
        if value is not None
    }


def _label(text: str) -> str:
    try:
        return ids.label(text, "")
    except InvalidMessage:
        return ""


def _cut(text: str) -> tuple[str, int]:
    """Return as much of `text` as a memory may hold, ending with a whole character, and its size in bytes."""
    encoded = text.encode()
    return encoded[:MAX_TEXT_BYTES].decode(errors="ignore"), len(encoded)
