"""Events from JSON Lines: our own shape, what ChoirOS and Wintermute write, and whole runs of agents.

A line is recognised by its keys:

    type                                 ours: id, type, timestamp, actor, session_id, run_id, payload
    event_type and payload               a row of ChoirOS, or what its bus wraps around one
    event_type and data                  an event of Wintermute's bus
    messages and instance_id, or         a whole run, see agent_runs.py
    messages, task_id and trial

A line without an id gets one made of its content and of how often that content occurred before it in the same input:
publishing a file again doubles nothing, and the same line twice in one file is two events. A bad line is reported in
its place and never stops the good ones.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from memoryd.protocol.errors import Damaged, InvalidMessage, MemorydError, NotFound, StorageFault, TooLarge
from memoryd.protocol.events import Event
from memoryd.protocol.ids import EventId
from memoryd.sources.agent_runs import is_run, run_events
from memoryd.sources.parsed import Parsed, decoded, digest, json_object, label, moment, required_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_LINE_BYTES: Final = 16 * 1024 * 1024

_GZIP: Final = b"\x1f\x8b"
_OUR_FIELDS: Final = frozenset(Event.__struct_fields__)
# What says where an event came from or was given out anew each time it is sent, and so is no part of what happened.
_NOT_CONTENT: Final = frozenset({"id", "seq", "user_id", "correlation_id"})


def read_events(source: Path | BinaryIO) -> Iterator[Parsed]:
    """Yield what each line of a file or stream became, plain or gzip-compressed as its first bytes say.

    Empty lines are passed over. A line longer than 16 MiB is a TooLarge, compressed bytes that break off end the
    input with a Damaged. Raises NotFound or StorageFault when the file cannot be read at all.
    """
    if not isinstance(source, Path):
        yield from _read(source)
        return
    try:
        with source.open("rb") as file:
            yield from _read(file)
    except FileNotFoundError as error:
        raise NotFound("no such file", field="path") from error
    except OSError as error:
        raise StorageFault("the file cannot be read", errno=error.errno or 0) from error


def parse_line(line: str | bytes, seen: Counter[str] | None = None) -> list[Event]:
    """Return the events in one line; none for the head of a file of runs. Raises InvalidMessage or TooLarge.

    `seen` counts contents without an id; hand in the same counter for all lines of one input.
    """
    if len(line) > MAX_LINE_BYTES:
        raise TooLarge("line too long", hint=f"use at most {MAX_LINE_BYTES} bytes", size=len(line))
    fields = json_object(decoded(line), "line")
    if is_run(fields):
        return run_events(fields)
    occurrences = Counter[str]() if seen is None else seen
    if "event_type" in fields and "data" in fields and "payload" not in fields:
        return [_wintermute_event(fields, occurrences)]
    if "event_type" in fields:
        return [choiros_event(fields, occurrences)]
    return [_own_event(fields, occurrences)]


def choiros_event(row: Mapping[str, object], seen: Counter[str]) -> Event:
    """Return the event in a row of ChoirOS, wrapped by its bus or not. Raises InvalidMessage.

    The bus gives a row a new id each time it sends it, so the row's own id counts. `user_id` is left behind: it says
    "system" or nothing.
    """
    payload = json_object(row.get("payload"), "payload")
    committed = payload.get("committed_event")
    if isinstance(committed, dict):
        payload = {name: value for name, value in payload.items() if name != "committed_event"}
    else:
        committed = {}
    kind = committed.get("event_type", row["event_type"])
    if isinstance(kind, dict):
        kind = kind.get("custom", row.get("topic"))
    identity = committed.get("event_id", row.get("event_id"))
    return Event(
        id=EventId(required_text(identity, "event_id")) if identity is not None else _counted_id(row, seen),
        type=required_text(kind, "event_type"),
        # Its database fills in a missing moment in UTC, without saying so.
        timestamp=moment(committed.get("timestamp", row.get("timestamp")), "timestamp", naive_is_utc=True),
        actor=label(committed.get("actor_id", row.get("actor_id", row.get("source")))),
        session_id=label(row.get("session_id")) or label(row.get("thread_id")),
        payload=payload,
    )


def _own_event(fields: Mapping[str, object], seen: Counter[str]) -> Event:
    unknown = sorted(fields.keys() - _OUR_FIELDS)
    if unknown:
        hint = f"the fields are {', '.join(Event.__struct_fields__)}"
        raise InvalidMessage("unknown field", field=unknown[0], hint=hint)
    names = {name: fields.get(name, "") for name in ("actor", "session_id", "run_id")}
    for name, value in names.items():
        if not isinstance(value, str):
            raise InvalidMessage("not a text", field=name)
    return Event(
        id=EventId(required_text(fields["id"], "id")) if "id" in fields else _counted_id(fields, seen),
        type=required_text(fields.get("type"), "type"),
        timestamp=moment(fields.get("timestamp"), "timestamp"),
        payload=json_object(fields.get("payload", {}), "payload"),
        **cast("dict[str, str]", names),
    )


def _wintermute_event(fields: Mapping[str, object], seen: Counter[str]) -> Event:
    data = json_object(fields["data"], "data")
    return Event(
        id=_counted_id(fields, seen),
        type=required_text(fields["event_type"], "event_type"),
        timestamp=moment(fields.get("timestamp"), "timestamp"),
        session_id=label(data.get("session_id")) or label(data.get("thread_id")),
        payload=data,
    )


def _counted_id(fields: Mapping[str, object], seen: Counter[str]) -> EventId:
    content = digest({name: value for name, value in fields.items() if name not in _NOT_CONTENT})
    seen[content] += 1
    return EventId(f"line:{content}:{seen[content]}")


def _read(stream: BinaryIO) -> Iterator[Parsed]:
    plain = stream if hasattr(stream, "peek") else io.BufferedReader(cast("io.RawIOBase", stream))
    compressed = plain.peek(len(_GZIP)).startswith(_GZIP)
    lines = cast("BinaryIO", gzip.GzipFile(fileobj=plain) if compressed else plain)
    seen = Counter[str]()
    number = 0
    try:
        for number, line in enumerate(_bounded_lines(lines), 1):
            parsed = _parsed(number, line, seen)
            if parsed is not None:
                yield parsed
    except (EOFError, gzip.BadGzipFile, zlib.error):
        hint = "the lines before it were read"
        yield Parsed(number + 1, error=Damaged("compressed bytes break off or are damaged", hint=hint))


def _parsed(number: int, line: bytes | None, seen: Counter[str]) -> Parsed | None:
    if line is None:
        error = TooLarge("line too long", hint=f"use at most {MAX_LINE_BYTES} bytes")
        return Parsed(number, error=error)
    text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    if not text.strip():
        return None
    try:
        return Parsed(number, tuple(parse_line(text, seen)))
    except MemorydError as error:
        return Parsed(number, error=error)


def _bounded_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield each line without its end, None for one that is too long, which is never held as a whole."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while rest := stream.readline(MAX_LINE_BYTES):
                if rest.endswith(b"\n"):
                    break
            yield None
        else:
            yield line.rstrip(b"\r\n")
