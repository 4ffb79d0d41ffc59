"""What becomes of the time that a query speaks of: memories of then come sooner, or no others answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.messages import SpokenTime
from memoryd.protocol.records import MemoryFilter

if TYPE_CHECKING:
    from datetime import datetime

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.records import TimeUse
    from memoryd.times import Spoken


@dataclass(frozen=True, slots=True)
class Timing:
    """Which memories may answer, which of them come sooner, and what is told of it; None where the query speaks of no time."""

    where: MemoryFilter
    preferred: MemoryFilter | None = None
    told: SpokenTime | None = None


def timing(said: Spoken, anchor: tuple[RecordId, datetime] | None, use: TimeUse, where: MemoryFilter) -> Timing:
    """Return what `said` means for a recall with the filter `where`; `anchor` is the memory of the event that it names, if any.

    Raises InvalidMessage when nothing can pass both.
    """
    meant = said.with_event(anchor[1]) if anchor else said
    if not meant.phrases:
        return Timing(where)
    since, until = meant.span
    told = SpokenTime(
        phrases=meant.phrases,
        use=use,
        since=since,
        until=until,
        anchor=anchor[0] if anchor and meant is not said else None,
    )
    if use == "prefer":
        return Timing(where, MemoryFilter(since=since, until=until), told)
    since = max((each for each in (since, where.since) if each), default=None)
    until = min((each for each in (until, where.until) if each), default=None)
    if since and until and since >= until:
        raise InvalidMessage(
            "the query speaks of another time than since and until",
            field="time",
            hint="leave since and until out, or use prefer",
        )
    return Timing(msgspec.structs.replace(where, since=since, until=until), None, told)
