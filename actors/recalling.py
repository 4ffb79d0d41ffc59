"""The reading half of a MemoryAgent: one recall, from the embedding of its query to the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from memoryd import metrics
from memoryd.actors.knowledge import merge
from memoryd.actors.mailbox import Deadline
from memoryd.actors.timing import Timing, timing
from memoryd.actors.trajectories import Trajectories, fitting_prefix, weight_of_record
from memoryd.protocol.errors import MemorydError, NotFound
from memoryd.protocol.ids import UserId
from memoryd.protocol.internal import Embed, QueryGlobal
from memoryd.protocol.messages import Explained, Plan, Recall, Recalled, Why
from memoryd.protocol.records import RetrievedMemory
from memoryd.times import spoken

if TYPE_CHECKING:
    from memoryd.actors.branching import Branching
    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.actors.wording import Wording
    from memoryd.clock import Clock
    from memoryd.protocol.interfaces import Hit, Hits, IndexView, MemoryStore, Vectors, Words
    from memoryd.protocol.messages import SpokenTime

EMBED_SHARE: Final = 0.8  # of the time there is; the rest is for an answer by words alone

# Of a question so much is embedded: the rest of a pasted text finds nothing more, and takes up to 50 ms.
QUESTION_CHARACTERS: Final = 1_000

INLINE_BYTES: Final = 16 << 20  # a search that reads no more takes little longer than the way to a thread and back


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question that is understood, at the moment `understood` of the performance counter, and what it is asked of.

    `missing` names what the answer will lack.
    """

    view: IndexView
    told: Trajectories
    vector: Vectors | None
    words: Words | None
    timing: Timing
    missing: tuple[str, ...]
    understood: float


@dataclass(frozen=True, slots=True)
class Recaller:
    """Answers recalls of one user, each on the view there was when it came."""

    user: UserId
    store: MemoryStore
    view: Callable[[], IndexView]
    trajectories: Trajectories
    branching: Branching
    wording: Wording
    embedder: Ref
    knowledge: Ref
    nothing_is_published: Callable[[], bool]
    pools: Pools
    clock: Clock
    zone: ZoneInfo  # of those who name none

    async def recall(self, message: Recall, deadline: Deadline) -> Recalled:
        """Return the answer. Raises MemorydError."""
        began = time.perf_counter()
        asked = await self._asked(message, deadline)
        publishing = asyncio.ensure_future(self._published(message, asked, deadline))
        try:
            hits = await self._search(asked, message.top_k, explain=message.explain)
        except BaseException:
            publishing.cancel()
            raise
        ranked = time.perf_counter()
        published, missing = await publishing
        own = [self._retrieved(asked, hit) for hit in hits.hits]
        missing += asked.missing
        least = message.min_relevance
        memories = merge(relevant(own, least), relevant(published, least), message.top_k)
        fitting = fitting_prefix(memories, lambda memory: weight_of_record(memory.record))
        if len(fitting) < len(memories):
            missing = (*missing, "size")
        elapsed = time.perf_counter() - began
        metrics.RECALLS.labels(hits.path, "partial" if missing else "whole").observe(elapsed)
        return Recalled(
            memories=tuple(fitting),
            tier=hits.path,
            partial=missing,
            best_relevance=best_relevance([*own, *published]),
            elapsed_ms=round(elapsed * 1e3, 3),
            plan=self._plan(asked, hits.candidates, began, ranked) if message.explain else None,
        )

    async def why(self, message: Why, deadline: Deadline) -> Explained:
        """Return where one memory stands. Raises NotFound or another MemorydError."""
        began = time.perf_counter()
        asked = await self._asked(message, deadline)
        if asked.words is None:
            raise _wordless()
        placed = await self.pools.search(asked.words.place, asked.vector, message.id)
        if placed is None or not placed.hit.record:
            raise NotFound("no such memory", field="id", hint="recall it first to learn its id")
        return Explained(
            memory=self._retrieved(asked, placed.hit),
            place=placed.place,
            passes=placed.passes,
            plan=self._plan(asked, placed.candidates, began, time.perf_counter()),
            tier=placed.path,
            partial=asked.missing,
        )

    def _retrieved(self, asked: _Asked, hit: Hit) -> RetrievedMemory:
        return hit.retrieved(asked.told.with_outcome(self.store.decode(hit.record)))

    async def _asked(self, message: Recall | Why, deadline: Deadline) -> _Asked:
        """Embed the query, and meanwhile look its words up. One of them may be missing, but not both.

        Of a memory that was not asked before, words come first: they tell who speaks in it.
        """
        is_lexical = isinstance(message, Recall) and message.lexical
        view, told, missing = await self._looked_at(message)
        matching = asyncio.ensure_future(self._matched(message, view))
        matching.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to be told
        try:
            vector = None if is_lexical else await self._meant(message.query, matching, deadline)
        except MemorydError:
            if (await matching)[0] is None:
                raise
            vector = None
        except BaseException:
            matching.cancel()
            raise
        words, timing = await matching
        if words is None or words.lacking:
            missing = (*missing, "words")
        if vector is None and not is_lexical:
            missing = (*missing, "vectors")
        return _Asked(view, told, vector, words, timing, missing, time.perf_counter())

    async def _matched(self, message: Recall | Why, view: IndexView) -> tuple[Words | None, Timing]:
        """Look the words up, and see of which time they speak. Raises InvalidMessage when that leaves nothing of the filter."""
        asked = Timing(message.filter)
        if message.time != "ignore":
            zone = ZoneInfo(message.timezone) if message.timezone else self.zone
            said = spoken(message.query, message.now or self.clock.now(), zone)
            event = await self.wording.event(view, message.query, said.event) if said.event else None
            asked = timing(said, event, message.time, message.filter)
        return await self.wording.match(view, message.query, asked.where, asked.preferred), asked

    async def _meant(
        self, query: str, matching: asyncio.Future[tuple[Words | None, Timing]], deadline: Deadline
    ) -> Vectors:
        """Return the vector of what is asked, float32 [dim], of which the name of a speaker is no part. Raises Expired."""
        if not self.wording.is_open:
            await asyncio.wait([matching], timeout=deadline.remaining * (1 - EMBED_SHARE))
        return await self._embedded(self.wording.addressed(query)[:QUESTION_CHARACTERS], deadline)

    async def _embedded(self, query: str, deadline: Deadline) -> Vectors:
        """Return the vector of the query, float32 [dim]. Raises Expired when there would be no time left for an answer."""
        embed = Embed(texts=(query,), urgent=True, weight=len(query))
        within = Deadline.after(deadline.remaining * EMBED_SHARE)
        vector: Vectors = (await self.embedder.ask(embed, deadline=within)).vectors[0]
        return vector

    async def _published(
        self, message: Recall, of: _Asked, deadline: Deadline
    ) -> tuple[tuple[RetrievedMemory, ...], tuple[str, ...]]:
        """Return what others published; without an answer in half the time left, say that it is missing."""
        if message.as_of is not None or self.nothing_is_published():
            return (), ()
        asked = QueryGlobal(
            query=message.query,
            vector=of.vector,
            top_k=message.top_k,
            filter=of.timing.where,
            preferred=of.timing.preferred,
            explain=message.explain,
            asked_by=self.user,
        )
        try:
            return await self.knowledge.ask(asked, deadline=Deadline.after(deadline.remaining / 2)), ()
        except MemorydError:
            return (), ("global",)

    async def _looked_at(self, message: Recall | Why) -> tuple[IndexView, Trajectories, tuple[str, ...]]:
        """Return what is to be searched, the trajectories beside it, and what is missing in it."""
        branching = self.branching
        branch = message.branch or branching.current
        if message.as_of is None and branch == branching.current:
            return self.view(), self.trajectories, ()
        await branching.write.settle()
        looked, told = await branching.looks.at(branch, message.as_of)
        return looked.index.view(), told, ("history",) if looked.has_lost else ()

    async def _search(self, asked: _Asked, k: int, *, explain: bool) -> Hits:
        view, words, vector, where = asked.view, asked.words, asked.vector, asked.timing.where
        if words is not None:
            return await self.pools.search(words.rank, vector, k=k, explain=explain)
        if vector is None:
            raise _wordless()
        if view.bytes_to_read <= INLINE_BYTES:
            return view.search(vector, k=k, where=where)
        return await self.pools.search(view.search, vector, k=k, where=where)

    def _plan(self, asked: _Asked, candidates: int, began: float, ranked: float) -> Plan:
        return plan_of(asked.words, asked.timing.told, candidates, began, asked.understood, ranked)


def relevant(memories: Sequence[RetrievedMemory], least: float) -> list[RetrievedMemory]:
    """Return those that are at least so relevant."""
    return [each for each in memories if each.relevance >= least]


def best_relevance(memories: Sequence[RetrievedMemory]) -> float:
    """Return the largest relevance, 0 without memories."""
    return max((each.relevance for each in memories), default=0.0)


def _wordless() -> MemorydError:
    return MemorydError("the words of this memory cannot be looked up", hint="see the log of the daemon")


def plan_of(
    words: Words | None, told: SpokenTime | None, candidates: int, began: float, understood: float, ranked: float
) -> Plan:
    """Return how an answer came about; the moments are of the performance counter."""
    return Plan(
        terms={one.term: round(one.idf, 3) for one in words.matched} if words else {},
        pruned=tuple(words.pruned) if words else (),
        candidates=candidates,
        understood_ms=round((understood - began) * 1e3, 3),
        ranked_ms=round((ranked - understood) * 1e3, 3),
        time=told,
    )
