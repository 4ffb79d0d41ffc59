"""The MemoryAgent: one user's memory, the only owner of its file and its index.

Recalls run beside the mailbox on a view that never changes; applying is serial and in the order of the events.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.actors.branching import Branching
from memoryd.actors.evaluating import Evaluating
from memoryd.actors.forgetting import Forgetting
from memoryd.actors.importing import checked_vectors
from memoryd.actors.learning import Learning, LearningDue
from memoryd.actors.looking import Looks
from memoryd.actors.mailbox import Deadline
from memoryd.actors.recalling import Recaller
from memoryd.actors.recent import RecentRecalls
from memoryd.actors.trajectories import Trajectories, ended, fitting_prefix, outcome_of, weight_of
from memoryd.actors.wording import Wording
from memoryd.actors.writer import CommitDue, Rebased, TidyDue, Writer
from memoryd.protocol import messages as m
from memoryd.protocol.errors import Expired, InvalidMessage, MemorydError, NotFound, Refused
from memoryd.protocol.ids import MAIN, RecordId, Seq, TrajectoryId, UserId, new_ulid
from memoryd.protocol.interfaces import Entry
from memoryd.protocol.internal import (
    Applied,
    Committed,
    CommitUpTo,
    Embed,
    Fetch,
    Fetched,
    Ingest,
    MappedEvent,
    ObserveUser,
    Repair,
    Resume,
    RunSignal,
)
from memoryd.protocol.records import (
    ANY,
    Draft,
    MemoryRecord,
    Step,
    Trajectory,
    as_embedded,
    microseconds,
    without_vectors,
)

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from memoryd.actors.context import Context
    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.clock import Clock
    from memoryd.protocol.interfaces import (
        Embeddings,
        MemoryIndex,
        MemoryStore,
        ModelInfo,
        Opened,
        Vectors,
        WordsIndex,
    )
    from memoryd.protocol.learning import LearningEngine

log = structlog.get_logger("memoryd.memory")

EMBED_WITHIN_S: Final = 600.0
ERASE_WITHIN_S: Final = 30.0
MAX_STEPS: Final = 1_000
MAX_TRAJECTORY: Final = 256 << 10  # bytes
EXPORT_BYTES: Final = 512 << 10  # of one page: half a frame, room for the names around the texts


class IngestFailed(Exception):
    """Applying these events failed; one of them may be the cause."""

    def __init__(self, seqs: tuple[Seq, ...]) -> None:
        super().__init__(f"{len(seqs)} events")
        self.seqs = seqs


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """When to commit: after so many seconds or so many records."""

    commit_after_s: float
    commit_records: int


@dataclass(slots=True)
class _Job:
    """Events on their way into the memory."""

    items: tuple[MappedEvent, ...]
    drafts: tuple[Draft, ...]
    embedded: asyncio.Future[Embeddings]


class MemoryAgent(Actor):
    """Applies events, answers recalls, keeps trajectories, forgets."""

    def __init__(
        self,
        user: UserId,
        store: MemoryStore,
        words: WordsIndex,
        learning: LearningEngine,
        *,
        embedder: Ref,
        relay: Ref,
        event_relay: Ref,
        knowledge: Ref,
        nothing_is_published: Callable[[], bool],
        pools: Pools,
        clock: Clock,
        limits: MemoryLimits,
        zone: ZoneInfo,
        model: ModelInfo,
    ) -> None:
        self._user = user
        self._store = store
        self._words = words
        self._engine = learning
        self._embedder = embedder
        self._relay = relay
        self._event_relay = event_relay
        self._knowledge = knowledge
        self._nothing_is_published = nothing_is_published
        self._pools = pools
        self._clock = clock
        self._limits = limits
        self._zone = zone
        self._model = model
        self._jobs: deque[_Job] = deque()
        self._received = Seq(0)  # the last event taken from the relay
        self._recent = RecentRecalls()
        self._last_used = 0.0
        self._opened: Opened | None = None
        self._writer: Writer | None = None
        self._is_sealing = False
        self._caught_up = asyncio.Event()
        self._caught_up.set()

    # --- lifecycle ---

    async def started(self, ctx: Context) -> None:
        began = time.perf_counter()
        opened = await self._pools.disk(self._open)
        if fault := await self._pools.disk(self._engine.open):
            log.error("learning_set_aside", user=self._user, error=fault)
        self._ctx = ctx
        self._index: MemoryIndex = opened.index
        self._writer = self._write = Writer(
            self._user,
            self._store,
            opened.file,
            opened.index,
            opened.applied_seq,
            relay=self._relay,
            pools=self._pools,
            clock=self._clock,
            ctx=ctx,
            commit_after_s=self._limits.commit_after_s,
            commit_records=self._limits.commit_records,
        )
        self._opened = None
        self._trajectories = Trajectories(opened.trajectories)
        self._looks = Looks(self._user, self._store, self._pools, self._clock)
        self._branching = Branching(
            user=self._user,
            current=opened.branch,
            store=self._store,
            index=opened.index,
            write=self._write,
            trajectories=self._trajectories,
            looks=self._looks,
            pools=self._pools,
            clock=self._clock,
        )
        self._wording = Wording(self._user, self._words, opened.index.view, self._pools, ctx)
        self._learning = Learning(
            user=self._user,
            engine=self._engine,
            view=opened.index.view,
            trajectories=self._trajectories,
            wording=self._wording,
            embedder=self._embedder,
            pools=self._pools,
            settle=self._write.settle,
            ctx=ctx,
        )
        self._evaluating = Evaluating(
            engine=self._engine,
            view=opened.index.view,
            trajectories=self._trajectories,
            wording=self._wording,
            embedded=self._learning.embedded,
            store=self._store,
            pools=self._pools,
            zone=self._zone,
        )
        self._forgetting = Forgetting(
            self._branching, self._wording, self._learning, self._embedder, self._knowledge, self._event_relay
        )
        self._recaller = Recaller(
            user=self._user,
            store=self._store,
            view=opened.index.view,
            trajectories=self._trajectories,
            branching=self._branching,
            wording=self._wording,
            learning=self._learning,
            embedder=self._embedder,
            knowledge=self._knowledge,
            nothing_is_published=self._nothing_is_published,
            pools=self._pools,
            clock=self._clock,
            zone=self._zone,
        )
        self._received = opened.applied_seq
        self._last_used = asyncio.get_running_loop().time()
        if ctx.incarnation > 1:  # what an earlier one had applied and not committed must come again
            self._relay.poke(Resume(user=self._user, seq=opened.applied_seq))
        metrics.ACTIVATIONS.observe(time.perf_counter() - began)
        self._seal_if_needed()
        ctx.spawn(self._check())
        self._learning.catch_up()
        ctx.spawn(self._purge_learning())

    async def stopping(self, ctx: Context) -> None:
        await self._write.finish()
        await self._learning.finish()

    async def closed(self) -> None:
        await self._pools.disk(self._words.close if self._store.exists(self._user) else self._words.discard)
        if self._opened is not None:  # before the writer has it, when the opening was cancelled
            await self._pools.disk(self._opened.file.close)
        if self._writer is not None:
            await self._writer.close()

    def _open(self) -> Opened:
        self._opened = self._store.open(self._user)
        return self._opened

    @property
    def last_used(self) -> float:
        """When the last message came, on the loop's clock."""
        return self._last_used

    @property
    def resident_bytes(self) -> int:
        derived = self._words.resident_bytes + self._engine.resident_bytes
        return self._index.resident_bytes + self._looks.resident_bytes + derived

    @property
    def generation(self) -> int:
        """That of the weights that were learned."""
        return self._engine.generation

    def status(self) -> m.UserStatus:
        """Return a copy of the figures."""
        file = self._write.file_status
        return m.UserStatus(
            user=self._user,
            branch=self._branching.current,
            records=len(self._index),
            trajectories=len(self._trajectories),
            applied_seq=self._write.applied_seq,
            committed_seq=self._write.committed_seq,
            file_bytes=file.file_bytes,
            dead_bytes=file.dead_bytes,
            resident_bytes=self._index.resident_bytes,
            is_learning=self._engine.is_enabled,
            generation=self._engine.generation,
            last_fit=self._engine.last.outcome if self._engine.last else "",
        )

    async def handle(self, message: object, ctx: Context) -> object:  # noqa: C901, PLR0911, PLR0912 - one line a message
        if not isinstance(message, CommitDue | TidyDue | Rebased | LearningDue):
            self._last_used = asyncio.get_running_loop().time()
        match message:
            case m.Recall():
                return ctx.detach(self._recall(message, ctx.deadline or Deadline.after(EMBED_WITHIN_S)))
            case m.Why():
                return ctx.detach(self._recaller.why(message, ctx.deadline or Deadline.after(EMBED_WITHIN_S)))
            case Ingest():
                self._take(message, ctx)
            case CommitDue():
                await self._write.due()
            case Rebased():
                self._seal_if_needed()
                ctx.spawn(self._check())
                ctx.spawn(self._purge_words())
            case TidyDue():
                self._write.tidy_if_quiet()
            case LearningDue():
                ctx.spawn(self._learning.due(asyncio.get_running_loop().time() - self._last_used))
            case CommitUpTo(seq=seq):
                self._write.hurry(seq)
                self._report()
            case m.Remember(drafts=drafts):
                return ctx.detach(self._remember(drafts))
            case m.Import():
                return ctx.detach(self._import(message))
            case m.Forget(everything=True):
                return ctx.detach(self._forget_everything())
            case m.Forget():
                return ctx.detach(self._forgetting.forget(message))
            case m.Export(branch=branch) if branch not in (None, self._branching.current):
                return ctx.detach(self._export_other(message))
            case m.Export():
                return self._export(message, self._index, self._trajectories)
            case m.CreateBranch():
                return ctx.detach(self._branching.create(message))
            case m.ListBranches():
                return ctx.detach(self._branching.list())
            case m.SwitchBranch():
                return ctx.detach(self._branching.switch(message))
            case m.CompareBranches():
                return ctx.detach(self._branching.compare(message))
            case m.MergeBranch():
                return ctx.detach(self._branching.merge(message))
            case m.DropBranch():
                return ctx.detach(self._drop(message))
            case m.BeginTrajectory():
                return self._begin(message)
            case m.AddStep():
                return self._step(message)
            case m.EndTrajectory():
                return ctx.detach(self._end(message))
            case m.ListTrajectories(limit=limit):
                return m.Trajectories(trajectories=tuple(fitting_prefix(self._trajectories.newest(limit), weight_of)))
            case m.GetLearning():
                return ctx.detach(self._learning.status())
            case m.SetLearning():
                return ctx.detach(self._learning.choose(message))
            case m.RollbackLearning():
                return ctx.detach(self._learning.rollback(message))
            case m.EvaluateLearning(runs=runs):
                return ctx.detach(self._evaluating.evaluate(runs, ctx.deadline or Deadline.after(EMBED_WITHIN_S)))
            case m.ExportLearning():
                return ctx.detach(self._learning.export(message))
            case m.ImportLearning():
                return ctx.detach(self._take_learning(message))
            case m.ListPatterns():
                return ctx.detach(self._learning.patterns(message))
            case m.ListLessons(limit=limit):
                return ctx.detach(self._learning.lessons(limit))
            case Fetch(ids=ids):
                return self._fetch(ids)
            case Repair():
                return ctx.detach(self._repair())
            case ObserveUser():
                return self.status()
        return None

    async def _recall(self, message: m.Recall, deadline: Deadline) -> m.Recalled:
        recalled = await self._recaller.recall(message, deadline)
        shown = (memory.record.id for memory in recalled.memories)
        self._recent.note(message.query, shown, asyncio.get_running_loop().time())
        return recalled

    # --- events ---

    def _take(self, message: Ingest, ctx: Context) -> None:
        """Queue events for applying; their texts are embedded while earlier ones are applied."""
        if message.after > self._received:
            return  # an incarnation before this one had the events in between; they come again
        items = tuple(item for item in message.items if item.seq > self._received)
        if not items:
            # Everything was there before; who begins anew must learn how much of it is committed.
            self._relay.poke(Applied(user=self._user, seq=message.items[-1].seq))
            self._relay.poke(Committed(user=self._user, seq=self._write.committed_seq))
            return
        self._received = items[-1].seq
        mapped = [draft for item in items for draft in item.drafts]
        known = self._index.known([draft.id for draft in mapped if draft.id is not None])
        drafts = tuple(draft for draft in mapped if draft.id is not None and draft.id not in known)
        job = _Job(items, drafts, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        ctx.spawn(self._embed_job(job))
        if self._caught_up.is_set():
            self._caught_up.clear()
            ctx.spawn(self._apply_all())

    def _report(self) -> None:
        """Say how far this memory is; what the relay knows already changes nothing."""
        self._relay.poke(Applied(user=self._user, seq=self._write.applied_seq))
        self._relay.poke(Committed(user=self._user, seq=self._write.committed_seq))

    async def _embed_job(self, job: _Job) -> None:
        while not job.embedded.done():
            try:
                job.embedded.set_result(await self._embed(job.drafts, urgent=False))
            except Expired:
                continue  # without a model it may take days, and the events wait as long
            except Refused:
                raise
            except Exception as error:
                raise IngestFailed(tuple(item.seq for item in job.items)) from error

    async def _apply_all(self) -> None:
        try:
            while self._jobs:
                job = self._jobs[0]
                embedded = await job.embedded
                self._jobs.popleft()
                try:
                    self._apply(job, embedded)
                except MemorydError:
                    raise
                except Exception as error:
                    raise IngestFailed(tuple(item.seq for item in job.items)) from error
        finally:
            self._caught_up.set()

    def _apply(self, job: _Job, embedded: Embeddings) -> None:
        self._add(job.drafts, embedded)
        for item in job.items:
            if item.run is not None:
                self._follow(item.run, item)
            if item.feedback is not None and (judged := self._trajectories.judge(item.feedback)) is not None:
                self._write.keep(judged)
                self._learning.follow(judged)
        seq = job.items[-1].seq
        self._write.advance(seq)
        self._write.schedule()
        self._relay.poke(Applied(user=self._user, seq=seq))
        self._seal_if_needed()

    def _follow(self, signal: RunSignal, item: MappedEvent) -> None:
        when = item.drafts[0].timestamp if item.drafts and item.drafts[0].timestamp else self._clock.now()
        now = asyncio.get_running_loop().time()
        changed = self._trajectories.follow(signal, when, self._recent.shown_for(signal.query, now))
        if changed is not None:
            self._write.keep(changed)
            self._learning.follow(changed)

    # --- adding ---

    async def _embed(self, drafts: Sequence[Draft], *, urgent: bool) -> Embeddings:
        texts = tuple(as_embedded(draft.text, draft.metadata) for draft in drafts)
        message = Embed(texts=texts, urgent=urgent, weight=sum(map(len, texts)))
        return await self._embedder.ask(message, deadline=Deadline.after(EMBED_WITHIN_S), wait_for_room=not urgent)

    def _add(self, drafts: Sequence[Draft], embedded: Embeddings) -> tuple[list[MemoryRecord], tuple[RecordId, ...]]:
        """Make records of the drafts and add those that are new; return them all and the ids of the new ones."""
        records = [self._record(draft, embedded, row) for row, draft in enumerate(drafts)]
        return records, self._add_records(records, embedded.vectors)

    def _record(self, draft: Draft, embedded: Embeddings, row: int) -> MemoryRecord:
        when = draft.timestamp or self._clock.now()
        metadata = draft.metadata
        tokens, seen = int(embedded.tokens[row]), int(embedded.embedded_tokens[row])
        if seen < tokens:
            metadata = {**metadata, "tokens": tokens, "tokens_embedded": seen}
        return MemoryRecord(
            id=draft.id or RecordId(new_ulid(when)),
            text=draft.text,
            kind=draft.kind,
            source=draft.source,
            timestamp=when,
            session_id=draft.session_id,
            quality_score=draft.quality_score,
            metadata=metadata,
            windows=embedded.windows[row],
            signs=embedded.signs[row],
        )

    def _add_records(self, records: Sequence[MemoryRecord], vectors: Vectors) -> tuple[RecordId, ...]:
        """Add the records that are new, with their rows of `vectors`; return their ids."""
        known = self._index.known([record.id for record in records])
        new: dict[RecordId, int] = {}
        for row, record in enumerate(records):
            if record.id not in known:
                new.setdefault(record.id, row)
        if new:
            rows, now_us = list(new.values()), self._now_us()
            self._index.add([self._store.encode(records[row]) for row in rows], vectors[rows])
            for row in rows:
                self._write.add(Entry(records[row], vectors[row], now_us))
            self._wording.follow()
        return tuple(new)

    async def _remember(self, drafts: tuple[Draft, ...]) -> m.Remembered:
        self._write.refuse_when_full()
        embedded = await self._embed(drafts, urgent=len(drafts) == 1)
        records, added = self._add(drafts, embedded)
        await self._write.durable(added)
        self._seal_if_needed()
        return m.Remembered(records=tuple(map(without_vectors, records)), duplicates=len(records) - len(added))

    async def _import(self, message: m.Import) -> m.Remembered:
        self._write.refuse_when_full()
        vectors = checked_vectors(message, self._model)
        records = [msgspec.structs.replace(record, embedding=b"") for record in message.records]
        added = self._add_records(records, vectors)
        await self._write.durable(added)
        self._seal_if_needed()
        return m.Remembered(records=tuple(map(without_vectors, records)), duplicates=len(records) - len(added))

    def _now_us(self) -> int:
        return microseconds(self._clock.now())

    def _seal_if_needed(self) -> None:
        if not self._is_sealing and self._index.wants_sealing():
            self._is_sealing = True
            self._ctx.spawn(self._seal())

    async def _seal(self) -> None:
        try:
            while self._index.wants_sealing():
                put_to_use = await self._pools.disk_in_background(self._index.seal)
                put_to_use()
        finally:
            self._is_sealing = False

    async def _export_other(self, message: m.Export) -> m.Exported:
        looked, told = await self._looks.at(message.branch or self._branching.current)
        return self._export(message, looked.index, told)

    def _export(self, message: m.Export, index: MemoryIndex, told: Trajectories) -> m.Exported:
        blobs, vectors, following = index.page(message.after, message.limit)
        while len(blobs) > 1 and sum(map(len, blobs)) + vectors.nbytes > EXPORT_BYTES:
            blobs, vectors, following = index.page(message.after, len(blobs) // 2)
        records = tuple(
            msgspec.structs.replace(told.with_outcome(self._store.decode(blob)), embedding=vectors[row].tobytes())
            for row, blob in enumerate(blobs)
        )
        return m.Exported(records=records, model=self._model.name, model_sha256=self._model.sha256, next=following)

    def _fetch(self, ids: tuple[RecordId, ...]) -> Fetched:
        found = self._index.records(ids)
        if len(found) < len(set(ids)):
            raise NotFound("no such memory", field="ids", hint="recall it first to learn its id")
        records = tuple(self._trajectories.with_outcome(self._store.decode(each)) for each in found)
        return Fetched(records=records, vectors=self._index.vectors(ids))

    async def _check(self) -> None:
        """Read everything that stands in the file. Raises Damaged."""
        tell = await self._pools.disk_in_background(self._index.check)
        async with self._branching.alone:  # behind a repair that is under way
            tell()

    async def _purge_words(self) -> None:
        """See to it that the words index holds nothing that was erased from the files."""
        try:
            others = await self._branching.others()
        except MemorydError as error:  # one was dropped just now, or is damaged: the next rewriting looks again
            log.warning("words_not_purged", user=self._user, error=type(error).__name__)
            return
        await self._wording.purge([view for view, _ in others])

    async def _take_learning(self, message: m.ImportLearning) -> m.LearningStatus:
        async with self._branching.alone:
            return await self._learning.take(message, await self._branching.others())

    async def _purge_learning(self, *, is_dropped: bool = False) -> None:
        """See to it that nothing was learned of what no branch holds: one is dropped, or the state is of another moment than the files."""
        try:
            async with self._branching.alone:
                if is_dropped or await self._learning.knows_others():
                    await self._learning.keep_only(await self._branching.others())
        except MemorydError as error:  # a branch is damaged, or the disk is full: the next opening looks again
            log.warning("learning_not_purged", user=self._user, error=type(error).__name__)

    # --- branches ---

    async def _drop(self, message: m.DropBranch) -> m.Done:
        done = await self._branching.drop(message)
        await self._purge_words()
        await self._purge_learning(is_dropped=True)
        return done

    # --- forgetting ---

    async def _forget_everything(self) -> m.Forgotten:
        async with self._branching.alone:
            return await self._begin_anew()

    async def _begin_anew(self) -> m.Forgotten:
        erased = await self._forgetting.erase_events(None)
        await self._caught_up.wait()
        ids = self._index.select(ANY)
        self._index.discard(ids)
        self._trajectories.clear()
        self._recent.clear()
        await self._wording.discard()
        await self._learning.discard()
        await self._write.exchange(partial(self._store.erase, self._user))
        self._branching.current = MAIN
        self._looks.close()
        return m.Forgotten(records=len(ids), events=erased)

    async def _repair(self) -> m.Done:
        async with self._branching.alone:
            await self._wording.discard()
            await self._write.exchange(partial(self._store.repair, self._user))
            self._looks.close()
        await self._purge_learning()
        return m.Done()

    # --- trajectories ---

    def _begin(self, message: m.BeginTrajectory) -> m.TrajectoryBegun:
        now = self._clock.now()
        trajectory = Trajectory(
            id=TrajectoryId(new_ulid(now)), query=message.query, started=now, shown=tuple(dict.fromkeys(message.shown))
        )
        self._keep(trajectory)
        return m.TrajectoryBegun(id=trajectory.id)

    def _step(self, message: m.AddStep) -> m.Done:
        self._keep(self._longer(message.id, message.action, message.text))
        return m.Done()

    async def _end(self, message: m.EndTrajectory) -> Trajectory:
        """Close the trajectory and leave behind the record of how it went; both are durable when this returns."""
        self._write.refuse_when_full()
        begun = self._open_trajectory(message.id)
        last = self._longer(message.id, m.REPORT, message.report) if message.report else begun
        trajectory = ended(last, message, self._clock.now())
        draft = outcome_of(trajectory)
        embedded = await self._embed((draft,), urgent=False)
        if self._open_trajectory(message.id) is not begun:  # a step came meanwhile
            return await self._end(message)
        self._keep(trajectory)
        _, added = self._add((draft,), embedded)
        await self._write.durable(added)
        self._learning.follow(trajectory)
        return trajectory

    def _longer(self, which: TrajectoryId, action: str, text: str) -> Trajectory:
        """Return an open trajectory with one step more."""
        trajectory = self._open_trajectory(which)
        step = Step(action=action, text=text, timestamp=self._clock.now())
        longer = msgspec.structs.replace(trajectory, steps=(*trajectory.steps, step))
        if len(longer.steps) > MAX_STEPS or weight_of(longer) > MAX_TRAJECTORY:
            raise InvalidMessage(
                "the trajectory is full",
                field="id",
                hint=f"it holds at most {MAX_STEPS} steps of {MAX_TRAJECTORY} bytes in all",
            )
        return longer

    def _open_trajectory(self, which: TrajectoryId) -> Trajectory:
        trajectory = self._trajectories.get(which)
        if trajectory is None:
            raise NotFound("no such trajectory", field="id", hint="begin one with begin_trajectory")
        if trajectory.ended is not None:
            raise InvalidMessage("the trajectory has ended", field="id", hint="begin a new one")
        return trajectory

    def _keep(self, trajectory: Trajectory) -> None:
        self._write.refuse_when_full()
        self._trajectories.put(trajectory)
        self._write.keep(trajectory)
