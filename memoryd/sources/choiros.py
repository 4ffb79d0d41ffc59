"""Events from the store of ChoirOS, an SQLite file that it may be writing at the same time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from memoryd.protocol.errors import MemorydError
from memoryd.sources.lines import choiros_event
from memoryd.sources.parsed import Parsed, decoded
from memoryd.sources.tables import rows_after

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_NEEDED: Final = ("event_id", "timestamp", "event_type", "payload", "actor_id")
# Came with a later version.
_OPTIONAL: Final = ("session_id", "thread_id")


def events(path: Path, *, after: int = 0, limit: int = 1000) -> Sequence[Parsed]:
    """Return what the rows after number `after` became, at most `limit`, in order; `position` is the row's number.

    To follow the store, ask again with the last position. Nothing is written to it and no lock outlives the call.
    Raises NotFound when there is no such file, InvalidMessage when it is no store of ChoirOS, else a StorageFault.
    """
    rows = rows_after(path, "events", "seq", (_NEEDED, _OPTIONAL), after, limit)
    return [_parsed(seq, row) for seq, row in rows]


def _parsed(seq: int, row: Mapping[str, object]) -> Parsed:
    try:
        payload = row["payload"]
        fields = {**row, "payload": decoded(payload) if isinstance(payload, str | bytes) else payload}
        return Parsed(seq, (choiros_event(fields, Counter()),))
    except MemorydError as error:
        return Parsed(seq, error=error)
