"""The events of a recording, in the order in which they happened."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ulid import ULID


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened; the id carries the time of the timestamp."""

    id: str
    type: str
    timestamp: str
    actor: str
    session_id: str
    run_id: str
    payload: Mapping[str, object]

    def line(self) -> str:
        """Return this event as one line of JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True)
class Journal:
    """Takes events as they happen and stamps them with the true time; their ids ascend."""

    events: list[Event]
    session_id: str = ""
    run_id: str = ""

    def begin_session(self) -> None:
        """Group the tasks that follow."""
        self.session_id = str(ULID())

    def begin_run(self) -> None:
        """Group the events that follow: they are one task."""
        self.run_id = str(ULID())

    def record(self, event_type: str, actor: str, /, **payload: object) -> None:
        """Append an event that happened just now."""
        now = datetime.now(UTC)
        self.events.append(
            Event(
                id=self._next_id(now),
                type=event_type,
                timestamp=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                actor=actor,
                session_id=self.session_id,
                run_id=self.run_id,
                payload=payload,
            )
        )

    def _next_id(self, now: datetime) -> str:
        fresh = ULID.from_datetime(now)
        if not self.events or str(fresh) > self.events[-1].id:
            return str(fresh)
        # Within one millisecond the random part decides, so the id before is counted on.
        last = int(ULID.from_str(self.events[-1].id))
        return str(ULID((last + 1).to_bytes(16, "big")))


def write_events(path: Path, events: list[Event]) -> None:
    """Write the events as gzipped lines of JSON; the same events give the same bytes."""
    text = "".join(f"{event.line()}\n" for event in events)
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode())
