"""The reading half of a MemoryAgent: one recall, from the embedding of its query to the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from memoryd import metrics
from memoryd.actors.knowledge import merge
from memoryd.actors.mailbox import Deadline
from memoryd.actors.trajectories import Trajectories, fitting_prefix, weight_of_record
from memoryd.protocol.errors import MemorydError
from memoryd.protocol.ids import UserId
from memoryd.protocol.internal import Embed, QueryGlobal
from memoryd.protocol.messages import Recall, Recalled
from memoryd.protocol.records import MemoryFilter, RetrievedMemory

if TYPE_CHECKING:
    from memoryd.actors.branching import Branching
    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.protocol.interfaces import Hits, IndexView, MemoryStore, Vectors

INLINE_BYTES: Final = 16 << 20  # a search that reads no more takes little longer than the way to a thread and back


@dataclass(frozen=True, slots=True)
class Recaller:
    """Answers recalls of one user, each on the view and the trajectories there are once its query is embedded."""

    user: UserId
    store: MemoryStore
    view: Callable[[], IndexView]
    trajectories: Trajectories
    branching: Branching
    embedder: Ref
    knowledge: Ref
    nothing_is_published: Callable[[], bool]
    pools: Pools

    async def recall(self, message: Recall, deadline: Deadline) -> Recalled:
        """Return the answer. Raises MemorydError."""
        began = time.perf_counter()
        embed = Embed(texts=(message.query,), urgent=True, weight=len(message.query))
        vector = (await self.embedder.ask(embed, deadline=deadline)).vectors[0]
        view, told, lacking = await self._asked(message)
        hits = await self._search(view, vector, message.top_k, message.filter)
        memories = [
            RetrievedMemory(
                record=told.with_outcome(self.store.decode(hit.record)),
                score=hit.score,
                sona_score=hit.score,
            )
            for hit in hits.hits
        ]
        memories, partial = await self._with_published(memories, message, vector, deadline)
        partial += lacking
        fitting = fitting_prefix(memories, lambda memory: weight_of_record(memory.record))
        if len(fitting) < len(memories):
            partial = (*partial, "size")
        elapsed = time.perf_counter() - began
        metrics.RECALLS.labels(hits.path, "partial" if partial else "whole").observe(elapsed)
        return Recalled(memories=tuple(fitting), tier=hits.path, partial=partial, elapsed_ms=round(elapsed * 1e3, 3))

    async def _with_published(
        self, memories: list[RetrievedMemory], message: Recall, vector: Vectors, deadline: Deadline
    ) -> tuple[list[RetrievedMemory], tuple[str, ...]]:
        """Merge in what others published; without an answer in half the time left, say that it is missing."""
        if message.as_of is not None or self.nothing_is_published():
            return memories, ()
        asked = QueryGlobal(vector=vector, top_k=message.top_k, filter=message.filter, asked_by=self.user)
        try:
            known = await self.knowledge.ask(asked, deadline=Deadline.after(deadline.remaining / 2))
        except MemorydError:
            return memories, ("global",)
        return merge(memories, known, message.top_k), ()

    async def _asked(self, message: Recall) -> tuple[IndexView, Trajectories, tuple[str, ...]]:
        """Return what is to be searched, the trajectories beside it, and what is missing in it."""
        branching = self.branching
        branch = message.branch or branching.current
        if message.as_of is None and branch == branching.current:
            return self.view(), self.trajectories, ()
        await branching.write.settle()
        looked, told = await branching.looks.at(branch, message.as_of)
        return looked.index.view(), told, ("history",) if looked.has_lost else ()

    async def _search(self, view: IndexView, vector: Vectors, k: int, where: MemoryFilter) -> Hits:
        if view.bytes_to_read <= INLINE_BYTES:
            return view.search(vector, k=k, where=where)
        return await self.pools.search(view.search, vector, k=k, where=where)
