"""The KnowledgeActor: memories that users chose to publish for everybody.

It fails alone: while its file cannot be used, a recall answers from the user's own memory and says so, and the file is
opened anew from time to time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from memoryd.actors.actor import Actor
from memoryd.actors.context import DETACHED, refuse
from memoryd.protocol.errors import StorageFault
from memoryd.protocol.internal import AddGlobal, QueryGlobal, RemoveGlobal
from memoryd.protocol.messages import Done
from memoryd.protocol.records import CONTEXT_RELEVANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.pools import Pools
    from memoryd.protocol.interfaces import GlobalStore
    from memoryd.protocol.records import RetrievedMemory

log = structlog.get_logger("memoryd.knowledge")

REOPEN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Reopen:
    """Control message: try again to open the store."""


class KnowledgeActor(Actor):
    """Owns the global store."""

    def __init__(self, store: GlobalStore, pools: Pools) -> None:
        self._store = store
        self._pools = pools
        self._fault: StorageFault | None = None  # why the store is closed

    async def started(self, ctx: Context) -> None:
        await self._open(ctx)

    async def closed(self) -> None:
        await self._pools.disk(self._store.close)

    async def handle(self, message: object, ctx: Context) -> object:
        """Answer; a fault of the disk is an answer here, and the end of the open file, but not of this actor."""
        if isinstance(message, _Reopen):
            await self._open(ctx)
            return None
        try:
            if self._fault is not None:
                raise self._fault
            return await self._answer(message)
        except StorageFault as error:
            if self._fault is None:
                await self._failed(error, ctx)
            if ctx.current is not None:
                refuse(ctx.current, error)
            return DETACHED

    async def _open(self, ctx: Context) -> None:
        try:
            await self._pools.disk(self._store.open)
            self._fault = None
        except StorageFault as error:
            await self._failed(error, ctx)

    async def _failed(self, error: StorageFault, ctx: Context) -> None:
        log.error("global_store_failed", error=f"{type(error).__name__}: {error.message}")
        self._fault = error
        await self._pools.disk(self._store.close)
        ctx.after(REOPEN_S, _Reopen())

    async def _answer(self, message: object) -> object:
        match message:
            case QueryGlobal() as asked:
                return tuple(await self._pools.search(self._store.query, asked))
            case AddGlobal(user=user, records=records, vectors=vectors):
                await self._pools.disk(self._store.publish, user, records, vectors)
            case RemoveGlobal(user=user, ids=ids):
                await self._pools.disk(self._store.unpublish, user, ids)
        return Done()


def merge(local: Sequence[RetrievedMemory], known: Sequence[RetrievedMemory], k: int) -> list[RetrievedMemory]:
    """Merge in four steps: what is relevant here, what is relevant there, the rest of both; each in its own order."""
    if not known:
        return list(local)
    seen = {each.record.id for each in local}
    others = [each for each in known if each.record.id not in seen]
    ranked = [
        *(each for each in local if each.relevance >= CONTEXT_RELEVANCE),
        *(each for each in others if each.relevance >= CONTEXT_RELEVANCE),
        *(each for each in local if each.relevance < CONTEXT_RELEVANCE),
        *(each for each in others if each.relevance < CONTEXT_RELEVANCE),
    ]
    return ranked[:k]
