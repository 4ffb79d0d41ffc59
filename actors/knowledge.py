"""The KnowledgeActor: memories that users chose to publish for everybody.

It fails alone: while it does, a recall answers from the user's own memory and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memoryd.actors.actor import Actor
from memoryd.protocol.ids import RecordId, UserId
from memoryd.protocol.messages import Ask, Done
from memoryd.protocol.records import MemoryFilter, MemoryRecord, RetrievedMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.pools import Pools
    from memoryd.protocol.interfaces import GlobalStore, Vectors

STRONG: Final = 0.5  # a cosine from here on stands for the same subject
WITHIN_S: Final = 30.0


class QueryGlobal(Ask[tuple[RetrievedMemory, ...]], frozen=True, kw_only=True):
    """Find published memories; those of `asked_by` are left out, since its own file has them."""

    vector: Vectors
    top_k: int
    filter: MemoryFilter
    asked_by: UserId


class AddGlobal(Ask[Done], frozen=True, kw_only=True):
    """Publish copies of these records, with their vectors, float32 [n, dim]."""

    user: UserId
    records: tuple[MemoryRecord, ...]
    vectors: Vectors


class RemoveGlobal(Ask[Done], frozen=True, kw_only=True):
    """Take back what the user published; None takes back everything."""

    user: UserId
    ids: tuple[RecordId, ...] | None


class KnowledgeActor(Actor):
    """Owns the global store."""

    def __init__(self, store: GlobalStore, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def started(self, ctx: Context) -> None:
        await self._pools.disk(self._store.open)

    async def closed(self) -> None:
        await self._pools.disk(self._store.close)

    async def handle(self, message: object, ctx: Context) -> object:
        match message:
            case QueryGlobal(vector=vector, top_k=k, filter=where, asked_by=user):
                return tuple(self._store.query(vector, k=k, where=where, asked_by=user))
            case AddGlobal(user=user, records=records, vectors=vectors):
                await self._pools.disk(self._store.publish, user, records, vectors)
            case RemoveGlobal(user=user, ids=ids):
                await self._pools.disk(self._store.unpublish, user, ids)
        return Done()


def merge(
    local: Sequence[RetrievedMemory], known: Sequence[RetrievedMemory], k: int
) -> list[RetrievedMemory]:
    """Merge in four steps: local strong, global strong, local weak, global exploratory; each in its own order."""
    if not known:
        return list(local)
    seen = {each.record.id for each in local}
    others = [each for each in known if each.record.id not in seen]
    ranked = [
        *(each for each in local if each.score >= STRONG),
        *(each for each in others if each.score >= STRONG),
        *(each for each in local if each.score < STRONG),
        *(each for each in others if each.score < STRONG),
    ]
    return ranked[:k]
