"""The learning half of a MemoryAgent: finished runs go to the engine, beside the mailbox and never in the way of a recall."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from memoryd import metrics
from memoryd.actors.mailbox import Deadline
from memoryd.actors.pages import Incoming, Outgoing
from memoryd.actors.recalling import QUESTION_CHARACTERS
from memoryd.actors.trajectories import fitting_prefix
from memoryd.protocol import messages as m
from memoryd.protocol.errors import Damaged, MemorydError, StorageFault
from memoryd.protocol.ids import RecordId
from memoryd.protocol.internal import Embed
from memoryd.protocol.keys import folded, keys_of
from memoryd.protocol.learning import Lesson
from memoryd.protocol.records import ANY, microseconds, moment_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
    from datetime import datetime

    from memoryd.actors.context import Context
    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.actors.trajectories import Trajectories
    from memoryd.actors.wording import Wording
    from memoryd.protocol.ids import TrajectoryId, UserId
    from memoryd.protocol.interfaces import IndexView, Matched, Meaning, Vectors, Words
    from memoryd.protocol.learning import Cycle, Judged, Learned, LearningEngine, Memories, Pattern
    from memoryd.protocol.records import Trajectory

Branch = tuple["IndexView", "Trajectories"]  # what it holds

log = structlog.get_logger("memoryd.learning")

EMBED_WITHIN_S: Final = 600.0
SAVE_AFTER_S: Final = 5.0
RETRY_AFTER_S: Final = 30.0
QUIET_S: Final = 2.0  # without a message, before weights are fitted anew
MOST_SHOWN: Final = 128  # memories of a run that it teaches something of, those that it names first
MOST_WAITS: Final = 30  # for that; then they are fitted beside what is asked, on a thread of low priority


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
        settle: Callable[[], Awaitable[None]],
        ctx: Context,
    ) -> None:
        """`settle` waits until all that was applied is committed: what is written here must not be ahead of the memory file."""
        self._user = user
        self._engine = engine
        self._view = view
        self._trajectories = trajectories
        self._wording = wording
        self._embedder = embedder
        self._pools = pools
        self._settle = settle
        self._ctx = ctx
        self._runs: dict[TrajectoryId, None] = {}  # to be learned from, in this order
        self._outgoing = Outgoing()
        self._incoming = Incoming()
        self._is_teaching = False
        self._is_timed = False
        self._waited = 0  # so often in vain for a quiet moment
        self._alone = asyncio.Lock()  # the engine takes one at a time

    def about(self, words: Words, vector: Vectors) -> Learned | None:
        """Return what was learned about a query. Called on the thread that ranks."""
        return self._engine.about(words.intent(vector)) if self._engine.has_learned else None

    def catch_up(self) -> None:
        """Learn from runs that are not known, or not as they were judged."""
        for run in sorted(self._trajectories.all(), key=when_known):
            if teaches(run) and self._is_missed(run):
                self.follow(run)
        if self._engine.is_due:
            self._wake(QUIET_S)

    def follow(self, run: Trajectory) -> None:
        """Learn from a run that has ended, or that is judged anew."""
        if teaches(run) and self._engine.is_enabled:
            self._runs[run.id] = None
            self._begin()

    async def due(self, quiet_s: float) -> None:
        """Go on with what failed, fit the weights anew if it is time and it is quiet, or long was not, and write all that."""
        self._is_timed = False
        self._begin()
        if self._engine.is_due:
            self._waited += 1
            if quiet_s >= QUIET_S or self._waited > MOST_WAITS:
                self._waited = 0
                await self._refit()
        async with self._alone:
            try:
                await self._settle()
            except StorageFault as error:  # runs are in the event log
                self._failed(error)
            else:
                await self._save()
        if self._engine.is_due:
            self._wake(QUIET_S)

    async def forget(self, records: Sequence[RecordId], runs: Collection[TrajectoryId]) -> None:
        """Leave no trace of what is forgotten. Raises StorageFault when that could not be written."""
        for run in runs:
            self._runs.pop(run, None)
        async with self._alone:
            if records or runs:
                await self._pools.disk(self._engine.forget, folded(keys_of(records)).tolist(), frozenset(runs))
                await self._written()
            self._drop_documents()
        if self._engine.is_due:
            self._wake(QUIET_S)

    async def status(self) -> m.LearningStatus:
        """Return what can be said of it at a glance."""
        async with self._alone:
            return await self._pools.search(self._engine.status)

    async def choose(self, message: m.SetLearning) -> m.LearningStatus:
        """Switch it on or off, or take another profile. Raises InvalidMessage or StorageFault."""
        await self._changed(partial(self._engine.choose, enabled=message.enabled, profile=message.profile))
        self.catch_up()  # with what was not learned while it was off
        return await self.status()

    async def rollback(self, message: m.RollbackLearning) -> m.LearningStatus:
        """Go back to earlier weights. Raises InvalidMessage or StorageFault."""
        await self._changed(partial(self._engine.rollback, message.generations))
        return await self.status()

    async def export(self, message: m.ExportLearning) -> m.LearningExported:
        """Return a page of what was learned. Raises NotFound without weights, or InvalidMessage when it changed meanwhile."""
        if not message.after:
            async with self._alone:
                self._outgoing.begin(await self._pools.disk(self._engine.exported, self._user, message.form))
        return self._outgoing.page(message.after, message.sha256)

    async def take(self, message: m.ImportLearning, others: Sequence[Branch]) -> m.LearningStatus:
        """Begin with what was exported, once it is whole, of what is here or on the `other` branches.

        Raises InvalidMessage or StorageFault.
        """
        whole = self._incoming.add(message)
        if whole is not None:
            branches = [self._here(), *others]
            await self._changed(partial(self._taken, whole, branches, replace=message.replace))
            self.catch_up()  # with runs that are not in it
        return await self.status()

    def _taken(self, whole: bytes, branches: Sequence[Branch], *, replace: bool) -> None:
        self._engine.take(whole, self._user, _memories(branches), partial(_is_in, branches), replace=replace)

    async def knows_others(self) -> bool:
        """Whether something is known of memories or runs that are not here."""
        async with self._alone:
            return await self._pools.disk_in_background(self._knows_others, self._here())

    def _knows_others(self, here: Branch) -> bool:
        return not self._engine.is_empty and self._engine.knows_others(here[0].memories(), partial(_is_in, [here]))

    async def keep_only(self, others: Sequence[Branch]) -> None:
        """Leave no trace of what is neither here nor on the `other` branches. Raises StorageFault when that could not be written."""
        await self._changed(partial(self._kept_only, [self._here(), *others]))
        self._drop_documents()
        if self._engine.is_due:
            self._wake(QUIET_S)

    def _kept_only(self, branches: Sequence[Branch]) -> None:
        self._engine.keep_only(_memories(branches), partial(_is_in, branches))

    def _here(self) -> Branch:
        return self._view(), self._trajectories

    async def patterns(self, message: m.ListPatterns) -> m.Patterns:
        """Return what is asked again and again, or what is near to a query."""
        vector = (await self.embedded(message.query, urgent=True)).vector if message.query else None
        async with self._alone:
            found = await self._pools.search(self._engine.patterns)
        if vector is not None:
            found = sorted(found, key=lambda each: -float(each.centre @ vector))
        return m.Patterns(patterns=tuple(self._shown(each, vector) for each in found[: message.limit]))

    async def lessons(self, limit: int) -> m.Lessons:
        """Return the runs that are known or awaited, the newest first."""
        runs = self._trajectories.all()
        async with self._alone:
            found = await self._pools.search(self._told, runs, limit)
        return m.Lessons(lessons=tuple(fitting_prefix(found, lambda each: len(each.query.encode()) + 256)))

    def _told(self, runs: list[Trajectory], limit: int) -> list[m.LessonInfo]:
        """Return what is to be said of the newest of these runs. Called on a thread."""
        told: list[m.LessonInfo] = []
        for run in sorted(runs, key=when_known, reverse=True):
            if len(told) == limit:
                break
            is_awaited = run.ended is None or (teaches(run) and self._is_missed(run))
            if run.query and run.shown and (is_awaited or self._engine.lesson(run.id) is not None):
                told.append(_lesson_info(run, is_learned=not is_awaited))
        return told

    def _is_missed(self, run: Trajectory) -> bool:
        """Whether a run that has ended is not known, or not as it is judged now."""
        if self._engine.says_nothing(run.id, _judged(run)):
            return False
        known = self._engine.lesson(run.id)
        if known is None:
            return not self._engine.may_have_been_learned(microseconds(when_known(run)))
        return not _is_judged_so(known, run, self._engine.threshold)

    def _shown(self, pattern: Pattern, vector: Vectors | None) -> m.PatternInfo:
        example = self._trajectories.get(pattern.example)
        return m.PatternInfo(
            example=example.query if example is not None else "",
            runs=len(pattern.runs),
            quality=pattern.quality,
            values=tuple(
                m.MemoryValue(id=record, runs=runs, value=value) for record, (runs, value) in pattern.values.items()
            ),
            last=moment_of(pattern.last_us),
            cosine=None if vector is None else float(pattern.centre @ vector),
        )

    async def _changed(self, change: Callable[[], None]) -> None:
        async with self._alone:
            await self._pools.disk(change)
            await self._written()

    async def _written(self) -> None:
        """Write what was learned, behind the memories and runs that it names. Raises DiskFull or another StorageFault."""
        await self._settle()
        await self._pools.disk(self._engine.save)

    async def discard(self) -> None:
        """Forget everything."""
        self._runs.clear()
        async with self._alone:
            await self._pools.disk(self._engine.discard)
            self._drop_documents()

    def _drop_documents(self) -> None:
        """Let go of what is on its way out or in: it may name what is forgotten. An export that waited has been made by now."""
        self._outgoing.clear()
        self._incoming.clear()

    async def finish(self) -> None:
        """Write what was learned, all of which is committed; nothing is learned after this."""
        self._runs.clear()
        async with self._alone:
            await self._save()

    def _begin(self) -> None:
        if self._runs and not self._is_teaching:
            self._is_teaching = True
            self._ctx.spawn(self._teach_all())

    async def _teach_all(self) -> None:
        try:
            while self._runs and await self._teach(next(iter(self._runs))):
                if self._engine.is_at_boundary:
                    await self._refit()
        finally:
            self._is_teaching = False
        self._wake(RETRY_AFTER_S if self._runs else SAVE_AFTER_S)

    async def _teach(self, which: TrajectoryId) -> bool:
        """Learn from a run as it is now; return whether others may follow at once."""
        self._runs.pop(which)
        try:
            run = self._trajectories.get(which)
            if run is not None:
                meaning = await self.embedded(run.query)
                async with self._alone:
                    run = self._trajectories.get(which)  # which may be judged anew, or forgotten, meanwhile
                    if run is not None:
                        view = self._view()
                        # Recalls of this user wait while words are looked up, so that must not wait behind all others.
                        words, said = await self._pools.disk(self._looked_up, view, run)
                        await self._pools.disk_in_background(self._learn, view, run, meaning, words, said)
        except Exception as error:  # noqa: BLE001 - what a run teaches is worth nobody's memory
            is_ours = not isinstance(error, MemorydError) or isinstance(error, Damaged)
            self._failed(error)
            if not is_ours:  # without a model it may take days
                self._runs[which] = None
                return False
        return True

    async def embedded(self, query: str, *, urgent: bool = False) -> Meaning:
        """Return the meaning of a query as a recall has it. Raises MemorydError."""
        text = self._wording.addressed(query)[:QUESTION_CHARACTERS]
        message = Embed(texts=(text,), urgent=urgent, weight=len(text))
        deadline = Deadline.after(EMBED_WITHIN_S)
        found = await self._embedder.ask(message, deadline=deadline, wait_for_room=not urgent)
        return found.meaning(0)

    async def _refit(self) -> None:
        try:
            async with self._alone:
                if not self._engine.is_due:  # it was fitted while this waited
                    return
                cycle = await self._pools.disk_in_background(lambda: self._engine.refit(self._view().memories()))
            _count(cycle)
            log.info("refitted", user=self._user, outcome=cycle.outcome, gain=cycle.gain)
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(error)

    async def _save(self) -> None:
        try:
            await self._pools.disk_in_background(self._engine.save)
        except StorageFault as error:  # it will be with the next run, and runs are in the memory file
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        log.error("learning_failed", user=self._user, error=type(error).__name__)  # what else it says may quote a run

    def _looked_up(self, view: IndexView, run: Trajectory) -> tuple[Words, Sequence[Matched]]:
        """Look up the words of a run's question, and those that it said later if it names nothing. Called on a thread."""
        said = () if names(run) else self._wording.said(view, run)
        return self._wording.match(view, run.query, ANY, None), said

    def _learn(self, view: IndexView, run: Trajectory, meaning: Meaning, words: Words, said: Sequence[Matched]) -> None:
        lesson = lesson_of(run, words, meaning, self._engine.threshold, said)
        if lesson is None:
            self._engine.pass_over(run.id, _judged(run))
            return
        self._engine.learn(lesson, view.memories())
        metrics.LEARNED.inc()

    def _wake(self, seconds: float) -> None:
        if not self._is_timed:
            self._is_timed = True
            self._ctx.after(seconds, LearningDue())


def lesson_of(
    run: Trajectory, words: Words, meaning: Meaning, threshold: float, said: Sequence[Matched] = ()
) -> Lesson | None:
    """Return what a run says whose words were looked up, and whose question has this meaning; None when it says nothing.

    A run of less quality than the threshold says of nothing that it helped. When nobody says what helped, it is told by what the run
    `said` later.
    """
    shown, keys, base = words.candidates_for(meaning, _shown_to(run))
    if not shown:
        return None
    helped, harmed = frozenset(run.helped), frozenset(run.harmful)
    is_coarse = not names(run)
    credit, is_harmful = np.zeros(len(keys), np.float32), np.zeros(len(keys), bool)
    if run.quality is not None and run.quality >= threshold:
        if is_coarse:
            credit[: len(shown)] = words.credit(meaning, shown, run, said)
            if not credit.any():
                return None
        else:
            credit[: len(shown)] = [record in helped for record in shown]
    is_harmful[: len(shown)] = [record in harmed for record in shown]
    return Lesson(
        id=run.id,
        intent=words.intent(meaning.vector),
        shown=tuple(shown),
        keys=keys,
        base=base,
        credit=credit,
        harmed=is_harmful,
        quality=run.quality or 0.0,
        is_coarse=is_coarse,
        ended_us=microseconds(run.ended or run.started),
    )


def _shown_to(run: Trajectory) -> list[RecordId]:
    """Return the memories that a run teaches something of."""
    shown = list(dict.fromkeys(run.shown))
    if len(shown) > MOST_SHOWN:
        named = frozenset((*run.helped, *run.harmful))
        shown.sort(key=lambda record: record not in named)
    return shown[:MOST_SHOWN]


def _memories(branches: Iterable[Branch]) -> list[Memories]:
    return [view.memories() for view, _ in branches]


def _is_in(branches: Iterable[Branch], run: TrajectoryId) -> bool:
    """Whether a run is on one of these branches: its trajectory, or the memory of its outcome."""
    return any(told.get(run) is not None or len(view.find((RecordId(run),))) > 0 for view, told in branches)


def _count(cycle: Cycle) -> None:
    metrics.FITS.labels(cycle.outcome).inc()
    metrics.LAST_FIT.state(cycle.outcome)
    if cycle.gain is not None:
        metrics.GAIN.set(cycle.gain)


def when_known(run: Trajectory) -> datetime:
    """Return when a run ended, or began if it goes on."""
    return run.ended or run.started


def teaches(run: Trajectory) -> bool:
    """Whether a run has ended and says of memories that were shown for a question how it went."""
    return run.ended is not None and run.quality is not None and bool(run.query and run.shown)


def _lesson_info(run: Trajectory, *, is_learned: bool) -> m.LessonInfo:
    return m.LessonInfo(
        id=run.id,
        when=when_known(run),
        query=run.query,
        shown=len(run.shown),
        helped=len(run.helped),
        harmful=len(run.harmful),
        quality=run.quality,
        is_learned=is_learned,
        is_coarse=not names(run),
    )


def names(run: Trajectory) -> bool:
    """Whether somebody said which memories helped or harmed."""
    return bool(run.helped or run.harmful)


def _judged(run: Trajectory) -> Judged:
    return run.quality or 0.0, names(run)


def _is_judged_so(known: Lesson, run: Trajectory, threshold: float) -> bool:
    """Whether a run is known as it is judged now."""
    count = len(known.shown)
    credited = {record for record, credit in zip(known.shown, known.credit[:count].tolist(), strict=True) if credit}
    harmed = {
        record for record, is_harmful in zip(known.shown, known.harmed[:count].tolist(), strict=True) if is_harmful
    }
    is_coarse = not names(run)
    went_well = run.quality is not None and run.quality >= threshold
    helped = set(known.shown).intersection(run.helped) if went_well else set()
    return (
        known.quality == run.quality
        and known.is_coarse == is_coarse
        and harmed == set(known.shown).intersection(run.harmful)
        and (known.is_positive == went_well if is_coarse else credited == helped)
    )
