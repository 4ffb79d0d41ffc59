"""What is said in a conversation, as the memories of a user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memoryd.protocol.ids import RecordId, new_ulid
from memoryd.protocol.records import MemoryKind, MemoryRecord, MemorySource

if TYPE_CHECKING:
    from benchmarks.conversations import Conversation


def remembered(conversation: Conversation) -> list[MemoryRecord]:
    """Return the turns as memories, in their order, without vectors."""
    return [
        MemoryRecord(
            id=RecordId(new_ulid(turn.when)),
            text=turn.text,
            kind=MemoryKind.EPISODE,
            source=MemorySource.USER_INPUT,
            timestamp=turn.when,
            session_id=turn.session,
            metadata={"speaker": turn.speaker},
        )
        for turn in conversation.turns
    ]
