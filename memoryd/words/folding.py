"""Answers that say the same as a better one: they are named with it, and leave their places to others.

The same is the same text in the same session, whatever case and spaces: an objective and the message it came from, a command
that was run again. Vectors do not tell: two that differ in one name or one number are as near as two that say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.records import MemoryRecord


@dataclass(frozen=True, slots=True)
class Answer:
    """A candidate, by its place among them, with its encoded record and the ids of those behind it that say the same."""

    place: int
    record: bytes
    folded: list[RecordId] = field(default_factory=list)


def distinct(found: Iterable[tuple[int, bytes]], decode: Callable[[bytes], MemoryRecord], k: int) -> list[Answer]:
    """Return the first `k` that say different things, of places and records, best first; empty records are passed over.

    Raises Damaged.
    """
    answers: dict[tuple[str, str], Answer] = {}
    for place, record in found:
        if not record:
            continue
        memory = decode(record)
        own = Answer(place, record)
        first = answers.setdefault((memory.session_id, " ".join(memory.text.casefold().split())), own)
        if first is not own:
            first.folded.append(memory.id)
        if len(answers) == k:
            break
    return list(answers.values())
