"""What the daemon promised one user, and whether what it shows keeps the promise.

    sent ──> stored ──> kept ──> forgetting ──> gone
      └─────────────────^  ^──── when it was not ────┘

A record is `sent` or `forgetting` while nobody knows how the request ended: it may be there or not. Once the memory has
caught up with its events, what it shows then is the truth from there on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from memoryd.protocol.ids import derived_record_id
from memoryd.relay.mapping import EventMapping, default_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memoryd import Event, MemoryRecord, Trajectory

_mapping = EventMapping(default_rules())


class Fate(Enum):
    """What is known of a record or a trajectory."""

    SENT = "sent"
    STORED = "stored"
    KEPT = "kept"
    FORGETTING = "forgetting"
    GONE = "gone"


_UNKNOWN = {Fate.SENT, Fate.FORGETTING}


def expected(event: Event) -> dict[str, str]:
    """Return the id and the text of every record that `event` must become."""
    mapped = _mapping.apply(event)
    texts = [draft.text for draft in mapped.drafts] if mapped is not None else []
    return {derived_record_id(event.timestamp, event.id, part): text for part, text in enumerate(texts)}


def is_usable(event: Event) -> bool:
    """Whether every record of `event` has the id that is derived from it, and none is shared with another event."""
    mapped = _mapping.apply(event)
    return mapped is not None and [draft.id for draft in mapped.drafts] == list(expected(event)) != []


@dataclass(slots=True)
class Ledger:
    """The promises made to one user."""

    user: str
    records: dict[str, Fate] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    sessions: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    session_of: dict[str, str] = field(default_factory=dict)
    trajectories: dict[str, Fate] = field(default_factory=dict)
    is_dirty: bool = False  # something was asked of this user since the last check

    # --- what was asked and answered ---

    def send_events(self, events: Iterable[Event]) -> None:
        for event in events:
            for record, text in expected(event).items():
                self.send(record, text, event.session_id)

    def send(self, record: str, text: str, session: str = "") -> None:
        self.is_dirty = True
        if record not in self.records:
            self.records[record] = Fate.SENT
            self.texts[record] = text
            self.sessions[session].append(record)
            self.session_of[record] = session

    def acknowledge_events(self, events: Iterable[Event], ack: str) -> None:
        for event in events:
            self.acknowledge(expected(event), Fate.STORED if ack == "stored" else Fate.KEPT)

    def acknowledge(self, records: Iterable[str], fate: Fate = Fate.KEPT) -> None:
        """The daemon said that it has them; what is being forgotten meanwhile stays so."""
        for record in records:
            if self.records[record] in {Fate.SENT, Fate.STORED}:
                self.records[record] = fate

    def forget(self, records: Iterable[str]) -> list[str]:
        """Note that these are to be forgotten; return those that are not gone already."""
        self.is_dirty = True
        chosen = [record for record in records if self.records[record] is not Fate.GONE]
        for record in chosen:
            self.records[record] = Fate.FORGETTING
        return chosen

    def forgotten(self, records: Iterable[str]) -> None:
        for record in records:
            self.records[record] = Fate.GONE
            self.texts.pop(record, None)

    def of(self, fate: Fate) -> list[str]:
        """Return the records with this fate."""
        return [record for record, what in self.records.items() if what is fate]

    # --- what is found ---

    def check_hits(self, hits: Sequence[MemoryRecord], gone_before: set[str]) -> Iterator[str]:
        """Yield what is wrong with the answer to a recall that was asked when `gone_before` was gone."""
        for hit in hits:
            if hit.id in gone_before:
                yield f"recall shows {hit.id}, which was forgotten"
            elif hit.id not in self.records:
                yield f"recall shows {hit.id}, which nobody sent"

    def check(self, found: Sequence[MemoryRecord], *, caught_up: bool) -> Iterator[str]:
        """Yield every broken promise. When the memory has `caught_up`, what is found settles what is unknown."""
        shown: dict[str, str] = {record.id: record.text for record in found}
        if len(shown) != len(found):
            yield f"{len(found) - len(shown)} records are there twice"
        for record in shown.keys() - self.records.keys():
            yield f"{record} is there, and nobody sent it"
        for record, fate in self.records.items():
            if record in shown:
                if fate is Fate.GONE:
                    yield f"{record} came back after it was forgotten"
                elif shown[record] != self.texts.get(record):
                    yield f"{record} has another text than was sent"
            elif fate is Fate.KEPT or (fate is Fate.STORED and caught_up):
                yield f"{record} is lost; it was {fate.value}"
        if caught_up:
            self._settle(shown)

    def _settle(self, shown: dict[str, str]) -> None:
        """Take what is there as kept and the rest as gone, also after a broken promise: each is told once."""
        for record in shown.keys() - self.records.keys():
            self.send(record, shown[record])
        for record in self.records:
            self.records[record] = Fate.KEPT if record in shown else Fate.GONE
        self.texts = dict(shown)
        self.sessions = defaultdict(
            list, {name: left for name, ids in self.sessions.items() if (left := [i for i in ids if i in shown])}
        )
        self.session_of = {record: name for record, name in self.session_of.items() if record in shown}
        self.is_dirty = False

    def check_trajectories(self, found: Sequence[Trajectory]) -> Iterator[str]:
        """Yield every broken promise about trajectories, and settle what is unknown."""
        ended = {each.id: each for each in found if each.ended is not None}
        runs = [each.run_id for each in found if each.run_id]
        if len({each.id for each in found}) != len(found) or len(set(runs)) != len(runs):
            yield "a trajectory is there twice"
        for which, fate in self.trajectories.items():
            if fate is Fate.KEPT and which not in ended:
                yield f"the end of trajectory {which} is lost"
            if fate in _UNKNOWN:
                self.trajectories[which] = Fate.KEPT if which in ended else Fate.GONE
