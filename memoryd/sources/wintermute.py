"""Events from Wintermute's table of finished sub-sessions, the only record that it keeps of them.

Its bus is gone with the process, but every sub-session leaves a row with its objective and a verdict. A row becomes
the two events that the bus had: the start, reckoned back by the duration, and the end. How well it went is not
decided here: status and verdict travel in the payload, and the mapping has the table for them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from memoryd.protocol.errors import InvalidMessage, MemorydError
from memoryd.protocol.events import Event
from memoryd.protocol.ids import EventId
from memoryd.sources.parsed import Parsed, decoded, digest, label, moment, required_text
from memoryd.sources.tables import rows_after

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from memoryd.protocol.events import JsonObject

_NEEDED: Final = ("session_id", "timestamp", "objective", "status")
_FACTS: Final = (
    "workflow_id",
    "system_prompt_mode",
    "tools_available",
    "tools_used",
    "tool_call_count",
    "duration_seconds",
    "timeout_value",
    "convergence_verdict",
    "turing_verdict",
    "result_length",
    "nesting_depth",
    "continuation_count",
    "backend_used",
)
_LISTS: Final = frozenset({"tools_available", "tools_used"})
_STATUSES: Final = frozenset({"completed", "timeout", "failed"})


def events(path: Path, *, after: int = 0, limit: int = 1000) -> Sequence[Parsed]:
    """Return what the rows after row id `after` became, at most `limit`, in order; `position` is the row id.

    To follow the table, ask again with the last position. Nothing is written to it.
    Raises NotFound when there is no such file, InvalidMessage when it is no database of Wintermute, else a
    StorageFault.
    """
    rows = rows_after(path, "sub_session_outcomes", "rowid", (_NEEDED, _FACTS), after, limit)
    return [_parsed(number, row) for number, row in rows]


def _parsed(number: int, row: Mapping[str, object]) -> Parsed:
    try:
        return Parsed(number, _started_and_ended(row))
    except MemorydError as error:
        return Parsed(number, error=error)


def _started_and_ended(row: Mapping[str, object]) -> tuple[Event, Event]:
    session = required_text(row["session_id"], "session_id")
    objective = required_text(row["objective"], "objective")
    status = required_text(row["status"], "status")
    if status not in _STATUSES:
        raise InvalidMessage("unknown status", field="status", hint=f"one of {', '.join(sorted(_STATUSES))}")
    ended = moment(row["timestamp"], "timestamp")
    # A session may be tried again under the same name; never twice at the same moment.
    identity = digest([session, row["timestamp"]])
    facts = {name: _fact(name, value) for name, value in row.items() if name in _FACTS and value is not None}
    if "turing_verdict" in facts:
        facts.setdefault("convergence_verdict", facts.pop("turing_verdict"))
    common: JsonObject = {"session_id": session, "objective": objective}

    def event(kind: str, at: datetime, payload: JsonObject) -> Event:
        return Event(
            id=EventId(f"wintermute:{identity}:{kind.partition('.')[2]}"),
            type=kind,
            timestamp=at,
            actor="wintermute",
            session_id=label(session),
            run_id=label(session),
            payload=common | payload,
        )

    planned: JsonObject = {
        name: facts[name] for name in ("workflow_id", "tools_available", "timeout_value") if name in facts
    }
    end = "sub_session.completed" if status == "completed" else "sub_session.failed"
    return event("sub_session.started", _start(ended, row.get("duration_seconds")), planned), event(
        end, ended, {"status": status, **facts}
    )


def _start(ended: datetime, duration_s: object) -> datetime:
    # A millisecond at least, so that the start sorts before the end.
    if isinstance(duration_s, int | float) and duration_s > 0:
        try:
            return ended - timedelta(seconds=max(duration_s, 0.001))
        except OverflowError:
            pass
    return ended - timedelta(milliseconds=1)


def _fact(name: str, value: object) -> object:
    if name not in _LISTS or not isinstance(value, str):
        return None if isinstance(value, bytes) else value
    try:
        return decoded(value)
    except InvalidMessage:
        return value
