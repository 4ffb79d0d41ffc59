"""The reading half of a MemoryAgent: one recall, from the embedding of its query to the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from zoneinfo import ZoneInfo

from memoryd import metrics
from memoryd.actors.beside import Beside, EmbedQuery
from memoryd.actors.knowledge import merge
from memoryd.actors.mailbox import Deadline
from memoryd.actors.timing import Timing, timing
from memoryd.actors.trajectories import Trajectories, fitting_prefix, weight_of_record
from memoryd.protocol.errors import MemorydError, NotFound, StorageFault
from memoryd.protocol.ids import UserId
from memoryd.protocol.internal import QueryGlobal
from memoryd.protocol.messages import Explained, Plan, Recall, Recalled, Why
from memoryd.protocol.records import ANY, RetrievedMemory
from memoryd.times import spoken

if TYPE_CHECKING:
    from memoryd.actors.branching import Branching
    from memoryd.actors.learning import Learning
    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.actors.wording import Wording
    from memoryd.clock import Clock
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Hit, Hits, IndexView, Meaning, MemoryStore, Placed, Words
    from memoryd.protocol.learning import Learned

R = TypeVar("R")
T = TypeVar("T")
_LookedUp = tuple["Words | StorageFault", Timing]

EMBED_SHARE: Final = 0.8  # of the time there is; the rest is for an answer by words alone

# Of a question so much is embedded: the rest of a pasted text finds nothing more, and takes up to 50 ms.
QUESTION_CHARACTERS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Understood:
    """A question to a view, its words looked up and its meaning known, at a moment of the performance counter.

    `words` is why they could not be looked up, if so. Without a `meaning` words alone answer.
    """

    view: IndexView
    words: Words | StorageFault
    timing: Timing
    meaning: Meaning | None
    learned: Learned | None = None
    at: float = field(default_factory=time.perf_counter)

    def hits(self, k: int, *, explain: bool) -> Hits:
        """Return the best. Raises Damaged, or MemorydError when there are neither words nor a meaning."""
        if not isinstance(self.words, StorageFault):
            return self.words.rank(self.meaning, k=k, explain=explain, learned=self.learned)
        if self.meaning is None:
            raise wordless()
        return self.view.search(self.meaning.vector, k=k, where=self.timing.where)

    def placed(self, record: RecordId) -> Placed | None:
        """Return where a record stands. Raises Damaged, or MemorydError without words."""
        if isinstance(self.words, StorageFault):
            raise wordless()
        return self.words.place(self.meaning, record, self.learned)


@dataclass(frozen=True, slots=True)
class _Asked(Generic[R]):
    """What came of a question at a moment of the performance counter, and the trajectories of that view.

    `missing` names what the answer lacks.
    """

    question: Understood
    found: R
    at: float
    told: Trajectories
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recaller:
    """Answers recalls of one user, each on the view there was when it came."""

    user: UserId
    store: MemoryStore
    view: Callable[[], IndexView]
    trajectories: Trajectories
    branching: Branching
    wording: Wording
    learning: Learning
    embedder: Ref
    knowledge: Ref
    nothing_is_published: Callable[[], bool]
    pools: Pools
    clock: Clock
    zone: ZoneInfo  # of those who name none

    async def recall(self, message: Recall, deadline: Deadline) -> Recalled:
        """Return the answer. Raises MemorydError."""
        began = time.perf_counter()
        asked = await self._asked(
            message, deadline, lambda understood: understood.hits(message.top_k, explain=message.explain)
        )
        hits = asked.found
        published, missing = await self._published(message, asked.question, deadline)
        own = [self._retrieved(asked.told, hit) for hit in hits.hits]
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
            plan=plan_of(asked.question, hits.candidates, began, asked.at) if message.explain else None,
        )

    async def why(self, message: Why, deadline: Deadline) -> Explained:
        """Return where one memory stands. Raises NotFound or another MemorydError."""
        began = time.perf_counter()
        asked = await self._asked(message, deadline, lambda understood: understood.placed(message.id))
        placed = asked.found
        if placed is None or not placed.hit.record:
            raise NotFound("no such memory", field="id", hint="recall it first to learn its id")
        return Explained(
            memory=self._retrieved(asked.told, placed.hit),
            place=placed.place,
            passes=placed.passes,
            plan=plan_of(asked.question, placed.candidates, began, asked.at),
            tier=placed.path,
            partial=asked.missing,
        )

    def _retrieved(self, told: Trajectories, hit: Hit) -> RetrievedMemory:
        return hit.retrieved(told.with_outcome(self.store.decode(hit.record)))

    async def _asked(self, message: Recall | Why, deadline: Deadline, find: Callable[[Understood], R]) -> _Asked[R]:
        """Look the words of the query up while it is embedded, and find something by both. One may be missing, but not both.

        Words are looked up while the encoder runs, and what ends last finds what is asked for.
        """
        view, told, missing = await self._looked_at(message)

        def end(looked: _LookedUp, meaning: Meaning | None) -> tuple[Understood, R | MemorydError, float]:
            words, asked = looked
            learned = None
            if meaning is not None and message.as_of is None and not isinstance(words, StorageFault):
                # Not what was learned after the moment that is asked for.
                learned = self.learning.about(words, meaning.vector)
            question = Understood(view, words, asked, meaning, learned)
            found: R | MemorydError
            try:
                found = find(question)
            except MemorydError as error:
                found = error.with_traceback(None)  # raised when the words have been seen to
            return question, found, time.perf_counter()

        beside = Beside(partial(self._looked_up, message, view), end)
        try:
            question, found, at = await self._answered(message, view, beside, deadline)
        finally:
            del beside  # an error that is raised here would keep it, and it the memory
        await self.wording.heed(question.words)
        if isinstance(found, MemorydError):
            try:
                raise found
            finally:
                del found
        if isinstance(question.words, StorageFault) or question.words.lacking:
            missing = (*missing, "words")
        if question.meaning is None and not _is_lexical(message):
            missing = (*missing, "vectors")
        return _Asked(question, found, at, told, missing)

    def _looked_up(self, message: Recall | Why, view: IndexView) -> _LookedUp:
        """Look the words up, and see of which time they speak. Raises InvalidMessage when that leaves nothing of the filter."""
        asked = Timing(message.filter)
        try:
            if message.time != "ignore":
                zone = ZoneInfo(message.timezone) if message.timezone else self.zone
                said = spoken(message.query, message.now or self.clock.now(), zone)
                event = self.wording.event(view, message.query, said.event) if said.event else None
                asked = timing(said, event, message.time, message.filter)
            return self.wording.match(view, message.query, asked.where, asked.preferred), asked
        except StorageFault as error:
            return error.with_traceback(None), asked  # or it would keep what its calls had in hand

    async def _answered(
        self, message: Recall | Why, view: IndexView, beside: Beside[_LookedUp, T], deadline: Deadline
    ) -> T:
        """Return what is answered with the vector of the query, or by words alone when there is none in time.

        The name of a speaker is no part of the vector. Of a memory that was not asked before, words come first: they tell who
        speaks. Raises what the answer raises.
        """
        within = Deadline.after(deadline.remaining * EMBED_SHARE)
        timer = asyncio.get_running_loop().call_at(within.at, beside.alone, self.pools)
        try:
            if _is_lexical(message) or not await self._sent(message, view, beside, within):
                beside.alone(self.pools)
            return await beside.whole()
        finally:
            timer.cancel()
            del beside, timer

    async def _sent(
        self, message: Recall | Why, view: IndexView, beside: Beside[_LookedUp, T], within: Deadline
    ) -> bool:
        """Send the query to the encoder; return whether that takes it."""
        if not self.wording.is_open:
            with suppress(StorageFault):  # it will be met again
                await self.pools.search(self.wording.match, view, message.query, ANY, None)
        query = self.wording.addressed(message.query)[:QUESTION_CHARACTERS]
        return self.embedder.offer(EmbedQuery(query=query, beside=beside, deadline=within, weight=len(query)))

    async def _published(
        self, message: Recall, of: Understood, deadline: Deadline
    ) -> tuple[tuple[RetrievedMemory, ...], tuple[str, ...]]:
        """Return what others published; without an answer in half the time left, say that it is missing."""
        if message.as_of is not None or self.nothing_is_published():
            return (), ()
        asked = QueryGlobal(
            query=message.query,
            meaning=of.meaning,
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


def relevant(memories: Sequence[RetrievedMemory], least: float) -> list[RetrievedMemory]:
    """Return those that are at least so relevant."""
    return [each for each in memories if each.relevance >= least]


def best_relevance(memories: Sequence[RetrievedMemory]) -> float:
    """Return the largest relevance, 0 without memories."""
    return max((each.relevance for each in memories), default=0.0)


def _is_lexical(message: Recall | Why) -> bool:
    return isinstance(message, Recall) and message.lexical


def wordless() -> MemorydError:
    """Return why nothing can be answered by words."""
    return MemorydError("the words of this memory cannot be looked up", hint="see the log of the daemon")


def plan_of(question: Understood, candidates: int, began: float, ranked: float) -> Plan:
    """Return how an answer came about; the moments are of the performance counter."""
    words = None if isinstance(question.words, StorageFault) else question.words
    return Plan(
        terms={one.term: round(one.idf, 3) for one in words.matched} if words else {},
        pruned=tuple(words.pruned) if words else (),
        candidates=candidates,
        understood_ms=round((question.at - began) * 1e3, 3),
        ranked_ms=round((ranked - question.at) * 1e3, 3),
        time=question.timing.told,
    )
