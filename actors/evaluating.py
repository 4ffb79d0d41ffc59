"""Does learning help this user? Their finished runs are gone through again, in the order in which they ended.

Each is asked as it was then, of the memories that were there, without learning and with what the runs before it taught a learner that
begins with nothing. The user's own is not touched.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.actors.learning import lesson_of, names, teaches, when_known
from memoryd.actors.recalling import wordless
from memoryd.actors.timing import timing
from memoryd.evaluation import DEPTH, interval, ndcg, verdict
from memoryd.protocol.errors import Expired, NotFound, Overloaded, StorageFault
from memoryd.protocol.messages import EvaluatedGeneration, LearningEvaluated
from memoryd.protocol.records import ANY, MemoryFilter
from memoryd.times import spoken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from zoneinfo import ZoneInfo

    from memoryd.actors.mailbox import Deadline
    from memoryd.actors.pools import Pools
    from memoryd.actors.trajectories import Trajectories
    from memoryd.actors.wording import Wording
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import IndexView, Matched, Meaning, MemoryStore, Words
    from memoryd.protocol.learning import Learned, Learner, LearningEngine, Memories
    from memoryd.protocol.records import Trajectory

GENERATIONS: Final = 5
ENOUGH: Final = 60  # runs that name what helped or was harmful: ten in each generation, and ten before
_RETRY_AFTER_S: Final = 10.0
_PAUSE_S: Final = 0.01  # after each run, for recalls


@dataclass(slots=True)
class _Replay:
    """A learner on its way through the runs, the qualities without and with it by generation, and what came of its fits."""

    view: IndexView
    memories: Memories
    learner: Learner
    found: list[list[tuple[float, float]]] = field(default_factory=lambda: [[] for _ in range(GENERATIONS)])
    fits: list[str] = field(default_factory=list)


class Evaluating:
    """Evaluates the learning of one user, beside recalls: one run after the other, with pauses, mostly on threads of low priority."""

    def __init__(
        self,
        engine: LearningEngine,
        view: Callable[[], IndexView],
        trajectories: Trajectories,
        wording: Wording,
        embedded: Callable[[str], Awaitable[Meaning]],
        store: MemoryStore,
        pools: Pools,
        zone: ZoneInfo,
    ) -> None:
        self._engine = engine
        self._view = view
        self._trajectories = trajectories
        self._wording = wording
        self._embedded = embedded
        self._store = store
        self._pools = pools
        self._zone = zone
        self._is_running = False

    async def evaluate(self, most: int, deadline: Deadline) -> LearningEvaluated:
        """Go through the last `most` runs. Raises NotFound when there are too few, Expired, or another MemorydError."""
        if self._is_running:
            raise Overloaded("this memory is being evaluated", hint="wait for that", retry_after=_RETRY_AFTER_S)
        self._is_running = True
        try:
            return await self._evaluated(most, deadline)
        finally:
            self._is_running = False

    async def _evaluated(self, most: int, deadline: Deadline) -> LearningEvaluated:
        view = self._view()
        runs = sorted(filter(teaches, self._trajectories.all()), key=when_known)[-most:]
        judged = await self._pools.disk_in_background(lambda: [run.id for run in runs if any(_judged(view, run))])
        if len(judged) < ENOUGH:
            raise _too_few(len(judged))
        generation = {run: place * (GENERATIONS + 1) // len(judged) for place, run in enumerate(judged)}
        replay = _Replay(view, view.memories(), self._engine.fresh())
        for run in runs:
            if deadline.passed:
                raise Expired("the runs could not be gone through in time", hint="allow more time, or fewer runs")
            if self._trajectories.get(run.id) is None:  # it was forgotten meanwhile
                continue
            meaning = await self._embedded(run.query)
            # Recalls of this user wait while words are looked up, so that must not wait behind all others.
            words, later = await self._pools.disk(self._asked, view, run)
            place = generation.get(run.id, 0)
            await self._pools.disk_in_background(self._gone_through, replay, run, words, later, meaning, place)
            await asyncio.sleep(_PAUSE_S)
        if not all(replay.found):  # what they named was forgotten meanwhile
            raise _too_few(sum(map(len, replay.found)))
        return await self._pools.disk_in_background(_told, replay, len(runs))

    def _gone_through(
        self,
        replay: _Replay,
        run: Trajectory,
        words: Words,
        later: Sequence[Matched],
        meaning: Meaning,
        generation: int,
    ) -> None:
        """Ask a run again, if it is of a generation, and learn from it. Called on a thread."""
        helped, harmful = _judged(replay.view, run)
        if generation and (helped or harmful):
            learned = replay.learner.about(words.intent(meaning.vector))
            without, with_it = (self._answers(words, meaning, each) for each in (None, learned))
            pair = ndcg(without, helped, harmful), ndcg(with_it, helped, harmful)
            replay.found[generation - 1].append(pair)
        lesson = lesson_of(run, words, meaning, self._engine.threshold, later)
        if lesson is not None:
            replay.learner.learn(lesson, replay.memories)
        if replay.learner.is_due:
            replay.fits.append(replay.learner.refit(replay.memories).outcome)

    def _asked(self, view: IndexView, run: Trajectory) -> tuple[Words, Sequence[Matched]]:
        """Look the words of a run's question up, for an answer from what was there when it began, and what it said later."""
        was_there = view.passing(MemoryFilter(until=run.started))
        was_there[view.find(run.shown)] = True  # whatever time it bears
        try:
            said = spoken(run.query, run.started, self._zone)
            event = self._wording.event(view, run.query, said.event) if said.event else None
            preferred = timing(said, event, "prefer", ANY).preferred
            words = self._wording.match(view, run.query, ANY, preferred, np.flatnonzero(~was_there))
            return words, () if names(run) else self._wording.said(view, run)
        except StorageFault as error:  # which the next recall sees to
            raise wordless() from error

    def _answers(self, words: Words, meaning: Meaning, learned: Learned | None) -> list[tuple[RecordId, ...]]:
        """Return the first answers, each with those that say the same."""
        hits = words.rank(meaning, k=DEPTH, learned=learned).hits
        return [(self._store.decode(hit.record).id, *hit.folded) for hit in hits]


def _too_few(count: int) -> NotFound:
    return NotFound(
        "too few runs to tell",
        field="runs",
        hint=f"{ENOUGH} that name what helped or was harmful are needed, and there are {count}",
    )


def _judged(view: IndexView, run: Trajectory) -> tuple[list[RecordId], list[RecordId]]:
    """Return what helped in a run and what was harmful, of the memories that live."""
    helped, harmful = ([each for each in ids if len(view.find((each,)))] for ids in (run.helped, run.harmful))
    return helped, harmful


def _told(replay: _Replay, runs: int) -> LearningEvaluated:
    """Return what came of it. Called on a thread."""
    whole = _generation([pair for found in replay.found for pair in found])
    return LearningEvaluated(
        runs=runs,
        generations=tuple(map(_generation, replay.found)),
        whole=whole,
        verdict=verdict(whole.change),
        accepted=replay.fits.count("accepted"),
        refused=replay.fits.count("refused"),
    )


def _generation(found: Sequence[tuple[float, float]]) -> EvaluatedGeneration:
    return EvaluatedGeneration(
        runs=len(found),
        without=interval([without for without, _ in found]),
        learned=interval([learned for _, learned in found]),
        change=interval([learned - without for without, learned in found]),
    )
