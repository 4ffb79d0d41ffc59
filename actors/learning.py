"""The learning half of a MemoryAgent: finished runs go to the engine, beside the mailbox and never in the way of a recall."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from memoryd.actors.mailbox import Deadline
from memoryd.protocol.errors import Expired, MemorydError, StorageFault
from memoryd.protocol.internal import Embed
from memoryd.protocol.keys import folded, keys_of
from memoryd.protocol.learning import Lesson
from memoryd.protocol.records import ANY, microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.actors.trajectories import Trajectories
    from memoryd.actors.wording import Wording
    from memoryd.protocol.ids import RecordId, TrajectoryId, UserId
    from memoryd.protocol.interfaces import IndexView, Vectors, Words
    from memoryd.protocol.learning import Learned, LearningEngine
    from memoryd.protocol.records import Trajectory

log = structlog.get_logger("memoryd.learning")

EMBED_WITHIN_S: Final = 600.0
SAVE_AFTER_S: Final = 5.0
QUIET_S: Final = 2.0  # without a message, before weights are fitted anew
COARSE: Final = 5  # of the memories shown, when nobody says which of them helped
QUESTION_CHARACTERS: Final = 1_000  # as of a recall


@dataclass(frozen=True, slots=True)
class LearningDue:
    """Control message: something is to be written, or weights are to be fitted anew."""


class Learning:
    """Teaches the engine of one user, one run after the other, and has it saved."""

    def __init__(
        self,
        user: UserId,
        engine: LearningEngine,
        view: Callable[[], IndexView],
        trajectories: Trajectories,
        wording: Wording,
        embedder: Ref,
        pools: Pools,
        ctx: Context,
    ) -> None:
        self._user = user
        self._engine = engine
        self._view = view
        self._trajectories = trajectories
        self._wording = wording
        self._embedder = embedder
        self._pools = pools
        self._ctx = ctx
        self._runs: deque[Trajectory] = deque()
        self._is_teaching = False
        self._is_timed = False
        self._alone = asyncio.Lock()  # the engine takes one at a time

    def about(self, words: Words, vector: Vectors) -> Learned | None:
        """Return what was learned about a query. Called on the thread that ranks."""
        return self._engine.about(words.intent(vector)) if self._engine.is_enabled else None

    def catch_up(self, runs: Iterable[Trajectory]) -> None:
        """Learn from those that ended after what is known."""
        until = self._engine.learned_until_us
        missed = [run for run in runs if run.ended is not None and microseconds(run.ended) > until]
        for run in sorted(missed, key=lambda each: each.ended or each.started):
            self.follow(run)

    def follow(self, run: Trajectory) -> None:
        """Learn from a run that has ended, or that is judged anew."""
        if run.ended is None or run.quality is None or not run.shown or not self._engine.is_enabled:
            return
        self._runs.append(run)
        if not self._is_teaching:
            self._is_teaching = True
            self._ctx.spawn(self._teach_all())

    async def due(self, quiet_s: float) -> None:
        """Fit the weights anew if it is time and nothing was asked for `quiet_s`, and write what is to be written."""
        self._is_timed = False
        async with self._alone:
            if self._engine.is_due and quiet_s >= QUIET_S:
                cycle = await self._pools.disk_in_background(lambda: self._engine.refit(self._view().memories()))
                log.info("refitted", user=self._user, outcome=cycle.outcome, gain=cycle.gain)
        await self._save()
        if self._engine.is_due:
            self._wake(QUIET_S)

    async def forget(self, records: Sequence[RecordId], runs: Collection[TrajectoryId]) -> None:
        """Leave no trace of what is forgotten."""
        self._runs = deque(run for run in self._runs if run.id not in runs)
        async with self._alone:
            keys = folded(keys_of(records)).tolist()
            await self._pools.disk_in_background(self._engine.forget, keys, frozenset(runs))
        await self._save()
        if self._engine.is_due:
            self._wake(QUIET_S)

    async def discard(self) -> None:
        """Forget everything."""
        self._runs.clear()
        async with self._alone:
            await self._pools.disk(self._engine.discard)

    async def finish(self) -> None:
        """Write what was learned; nothing is learned after this."""
        self._runs.clear()
        await self._save()

    async def _teach_all(self) -> None:
        try:
            while self._runs:
                await self._teach(self._runs.popleft())
        finally:
            self._is_teaching = False
        self._wake(SAVE_AFTER_S)

    async def _teach(self, run: Trajectory) -> None:
        query = self._wording.addressed(run.query)[:QUESTION_CHARACTERS]
        message = Embed(texts=(query,), urgent=False, weight=len(query))
        try:
            embedded = await self._embedder.ask(message, deadline=Deadline.after(EMBED_WITHIN_S), wait_for_room=True)
            async with self._alone:
                if self._trajectories.get(run.id) is not None:  # and not forgotten meanwhile
                    await self._pools.disk_in_background(self._learn, run, embedded.vectors[0])
        except Expired:
            self._runs.append(run)  # without a model it may take days
        except (MemorydError, ArithmeticError, LookupError, ValueError) as error:
            # A run that teaches nothing costs what it would have taught, and nobody their memory. The trace may quote it.
            log.error("learning_failed", user=self._user, run=run.id, error=type(error).__name__)  # noqa: TRY400 - see above

    def _learn(self, run: Trajectory, vector: Vectors) -> None:
        view = self._view()
        words = self._wording.match(view, run.query, ANY, None)
        shown, keys, base = words.candidates_for(vector, run.shown)
        if shown:
            helped, harmed = frozenset(run.helped), frozenset(run.harmful)
            is_coarse = not (helped or harmed)
            credit = np.zeros(len(keys), np.float32)
            if run.quality is not None and run.quality >= self._engine.threshold:
                credit[: len(shown)] = [record in helped for record in shown]
                if is_coarse:
                    credit[: min(COARSE, len(shown))] = 1
            is_harmful = np.zeros(len(keys), bool)
            is_harmful[: len(shown)] = [record in harmed for record in shown]
            lesson = Lesson(
                id=run.id,
                intent=words.intent(vector),
                shown=tuple(shown),
                keys=keys,
                base=base,
                credit=credit,
                harmed=is_harmful,
                quality=run.quality or 0.0,
                is_coarse=is_coarse,
                ended_us=microseconds(run.ended or run.started),
            )
            self._engine.learn(lesson, view.memories())

    def _wake(self, seconds: float) -> None:
        if not self._is_timed:
            self._is_timed = True
            self._ctx.after(seconds, LearningDue())

    async def _save(self) -> None:
        async with self._alone:
            try:
                await self._pools.disk_in_background(self._engine.save)
            except StorageFault as error:  # it will be with the next run, and runs are in the memory file
                log.error("learning_not_saved", user=self._user, error=f"{type(error).__name__}: {error.message}")  # noqa: TRY400 - the trace says no more
