"""What is said in a conversation, as the memories of a user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from memoryd.protocol.ids import RecordId, new_ulid
from memoryd.protocol.records import MemoryKind, MemoryRecord, MemorySource, as_embedded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.conversations import Conversation
    from memoryd.protocol.interfaces import Embedder, Vectors


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


def embedded(records: Sequence[MemoryRecord], embedder: Embedder) -> tuple[list[MemoryRecord], Vectors]:
    """Return memories with all that the encoder says of them but their vectors, and these, float32 [n, dim]."""
    found = [embedder.embed([as_embedded(each.text, each.metadata)]) for each in records]
    whole = [
        msgspec.structs.replace(record, windows=each.windows[0], signs=each.signs[0])
        for record, each in zip(records, found, strict=True)
    ]
    return whole, np.concatenate([each.vectors for each in found])
