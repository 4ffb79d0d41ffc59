"""The writing half of a MemoryAgent: what is applied in memory gathers here until one commit makes it durable."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from memoryd import metrics
from memoryd.protocol.errors import DiskFull
from memoryd.protocol.ids import RecordId, Seq, TrajectoryId, UserId
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.internal import Committed
from memoryd.protocol.records import microseconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.pools import Pools
    from memoryd.actors.ref import Ref
    from memoryd.clock import Clock
    from memoryd.protocol.interfaces import FileStatus, MemoryFile, MemoryIndex, MemoryStore, Opened, Rewriting
    from memoryd.protocol.records import Trajectory

    Run = Callable[[Callable[[], bool]], Awaitable[bool]]

log = structlog.get_logger("memoryd.memory")

RETRY_FULL_DISK_S: Final = 5.0
# A graph takes seconds of a processor: it is made when nothing has been committed for so long.
QUIET_AFTER_S: Final = 30.0
RETRY_REWRITING_S: Final = 60.0  # after one for which there was no room
WASTE: Final = 1.0  # dead bytes for each live one
QUIET_WASTE: Final = 0.25  # the same when nothing else is to be done
SMALLEST_WASTE: Final = 1 << 20  # bytes; below this a compaction is not worth its fsyncs


@dataclass(frozen=True, slots=True)
class CommitDue:
    """Control message: the oldest of what waits has waited long enough."""


@dataclass(frozen=True, slots=True)
class TidyDue:
    """Control message: look whether it is quiet enough to seal rows and to make their graph."""


@dataclass(frozen=True, slots=True)
class Rebased:
    """Control message: the rows of the index stand elsewhere now, and what was made of them is to be made again."""


@dataclass(slots=True)
class _Pending:
    """Applied in memory, not yet in the file.

    A batch deletes before it adds. So what is deleted here is taken out of what was added before, and what is added
    afterwards stays: the file sees the order of the calls.
    """

    applied_seq: Seq
    entries: list[Entry] = field(default_factory=list)
    deleted: list[RecordId] = field(default_factory=list)
    trajectories: dict[TrajectoryId, Trajectory] = field(default_factory=dict)
    dropped: list[TrajectoryId] = field(default_factory=list)
    waiting: list[tuple[asyncio.Future[None], tuple[RecordId, ...]]] = field(default_factory=list)
    since: float | None = None
    forgets: bool = False  # the bytes of what it deletes must go with it

    def batch(self, moment_us: int) -> Batch:
        return Batch(
            entries=self.entries,
            deleted=self.deleted,
            trajectories=list(self.trajectories.values()),
            dropped=self.dropped,
            applied_seq=self.applied_seq,
            moment_us=moment_us,
        )

    def delete(self, ids: Sequence[RecordId]) -> None:
        self.leave_out(ids)
        self.deleted += ids

    def drop(self, trajectories: Sequence[TrajectoryId]) -> None:
        for trajectory in trajectories:
            self.trajectories.pop(trajectory, None)
        self.dropped += trajectories

    def take_back(self, later: _Pending) -> None:
        """Put what came later behind this, which could not be committed."""
        self.since = later.since if self.since is None else self.since
        self.delete(later.deleted)
        self.entries += later.entries
        self.drop(later.dropped)
        self.trajectories.update(later.trajectories)
        self.waiting += later.waiting
        self.forgets = self.forgets or later.forgets
        self.applied_seq = later.applied_seq

    def added(self) -> set[RecordId]:
        return {entry.record.id for entry in self.entries}

    def leave_out(self, ids: Sequence[RecordId]) -> set[RecordId]:
        """Add nothing of these ids; return those that would have been added."""
        left_out = self.added().intersection(ids)
        self.entries = [entry for entry in self.entries if entry.record.id not in left_out]
        return left_out


class Writer:
    """Groups commits: at once when somebody waits or enough has gathered, otherwise after a short while.

    One commit at a time; what arrives during it forms the next. Beside them small pieces of the file are folded, and a
    file that is mostly waste is compacted; then the index stands on what the file holds now. After a full disk it keeps
    everything that was stored and tries again; any other fault of the disk ends the agent, whose successor reads the
    file anew.
    """

    def __init__(
        self,
        user: UserId,
        store: MemoryStore,
        file: MemoryFile,
        index: MemoryIndex,
        applied_seq: Seq,
        *,
        relay: Ref,
        pools: Pools,
        clock: Clock,
        ctx: Context,
        commit_after_s: float,
        commit_records: int,
    ) -> None:
        self.applied_seq = applied_seq
        self.committed_seq = applied_seq
        self.file_status: FileStatus = file.status()
        self._user = user
        self._store = store
        self._file: MemoryFile | None = file
        self._index = index
        self._relay = relay
        self._pools = pools
        self._clock = clock
        self._ctx = ctx
        self._commit_after_s = commit_after_s
        self._commit_records = commit_records
        self._rewriting: Rewriting | None = None
        self._prepared = asyncio.Event()  # nothing is being prepared
        self._prepared.set()
        self._holding = 0  # how many wait until no commit is under way
        self._is_exchanging = False
        self._rewrite_after = 0.0
        self._last_commit = 0.0
        self._tidy_timer: asyncio.TimerHandle | None = None
        self._pending = _Pending(applied_seq)
        self._hurry_to = Seq(0)
        self._idle = asyncio.Event()
        self._idle.set()
        self._disk_is_full = False

    @property
    def pending(self) -> int:
        """How many records wait for their commit."""
        return len(self._pending.entries)

    def add(self, entry: Entry) -> None:
        self._touch().entries.append(entry)

    def delete(self, ids: tuple[RecordId, ...]) -> None:
        self._touch().delete(ids)

    def keep(self, trajectory: Trajectory) -> None:
        self._touch().trajectories[trajectory.id] = trajectory

    def drop(self, trajectory: TrajectoryId) -> None:
        self._touch().drop((trajectory,))

    def advance(self, seq: Seq) -> None:
        """Everything of the event `seq` is applied."""
        self.applied_seq = max(self.applied_seq, seq)
        self._touch().applied_seq = self.applied_seq

    def hurry(self, seq: Seq) -> None:
        """Somebody waits for the commit of the event `seq`."""
        self._hurry_to = max(self._hurry_to, seq)
        self.schedule()

    def refuse_when_full(self) -> None:
        """Raise DiskFull while the disk is full: what is not in the event log yet must not be accepted."""
        if self._disk_is_full:
            raise DiskFull("no space left for this memory", hint="free some space; writing resumes by itself")

    async def durable(self, ids: tuple[RecordId, ...] = ()) -> None:
        """Wait until everything applied so far is committed. On a full disk `ids` are taken out again.

        Raises DiskFull or another StorageFault.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._touch().waiting.append((done, ids))
        self.schedule()
        await done

    def compact_soon(self) -> None:
        """Rewrite the file with the next commit, so that nothing of what was deleted stays in it."""
        self._touch().forgets = True

    def schedule(self) -> None:
        """Commit now, or see to it that a commit comes in time."""
        if not self._idle.is_set() or self._holding or self._disk_is_full or self._pending.since is None:
            return
        if self._is_due():
            self._idle.clear()
            self._ctx.spawn(self._commit_all())

    async def finish(self) -> None:
        """Commit what is left, and what requests under way add meanwhile; no commit begins after this."""
        if self._rewriting is not None:
            self._rewriting.stop()
        await self._hold()  # for good: a request that comes now must not begin a second commit beside this one
        while self._pending.since is not None and not self._disk_is_full:
            await self._commit(self._take())

    async def close(self) -> None:
        """Give the file back."""
        file, self._file = self._file, None
        if file is not None:
            await self._pools.disk(file.close)

    async def reopen_after_full_disk(self) -> None:
        """Try to write again; called by timer."""
        try:
            opened = await self._pools.disk_in_background(self._store.open, self._user)
        except DiskFull:
            self._ctx.after(RETRY_FULL_DISK_S, CommitDue())
            return
        self._file = opened.file
        self._disk_is_full = False
        self.schedule()

    async def due(self) -> None:
        """React to CommitDue."""
        if self._disk_is_full:
            if not self._is_exchanging:  # which opens the file itself
                await self.reopen_after_full_disk()
        else:
            self.schedule()

    def tidy_if_quiet(self) -> None:
        """React to TidyDue."""
        self._tidy_timer = None
        quiet_from = max(self._last_commit + QUIET_AFTER_S, self._rewrite_after)
        rest = quiet_from - asyncio.get_running_loop().time()
        if self._file is None or self._rewriting is not None or not self._idle.is_set() or rest > 0:
            self._tidy_later(max(rest, 1.0))
        elif (folding := self._file.fold(is_quiet=True)) is not None:
            self._begin(self._file, folding, self._pools.disk_in_background)
            self._tidy_later(1.0)
        elif self._is_worth_compacting() and (compaction := self._file.compaction()) is not None:
            self._begin(self._file, compaction, self._pools.disk_in_background)
            self._tidy_later(1.0)
        elif (linking := self._file.linking()) is not None:
            self._begin(self._file, linking, self._pools.link)

    def _tidy_later(self, seconds: float) -> None:
        if self._tidy_timer is None:
            self._tidy_timer = self._ctx.after(seconds, TidyDue())

    async def exchange(self, work: Callable[[], object]) -> Opened:
        """Close the file, do `work` with the files of the user, and go on with the one that is in use then.

        It knows how far the events were applied, whatever it was before. Raises what `work` raises.
        """
        await self._hold()
        self._is_exchanging = True
        try:
            await self._give_up_rewriting()
            while self._pending.since is not None and not self._disk_is_full:
                await self._commit(self._take())  # somebody may wait for it
            await self.close()
            try:
                await self._pools.disk(work)
            finally:
                opened = await self._pools.disk(self._store.open, self._user)
                self._file, self.file_status = opened.file, opened.file.status()
                self._disk_is_full = False
                if opened.applied_seq < self.committed_seq:
                    await self._commit(_Pending(self.committed_seq))
                await self._rebase(opened.file)
        finally:
            self._is_exchanging = False
            self._idle.set()
        self.schedule()
        return opened

    async def settle(self) -> None:
        """Wait until everything applied so far is committed, if it is not.

        Raises DiskFull, at once while the disk is known to be full, or another StorageFault.
        """
        if self._pending.since is not None or not self._idle.is_set():
            self.refuse_when_full()
            await self.durable()

    async def beside_commits(self, work: Callable[[], None]) -> None:
        """Do `work` with the files of the user while nothing is written and everything so far is committed.

        Raises what `work` raises.
        """
        await self.durable()
        await self._hold()
        try:
            await self._give_up_rewriting()
            await self._pools.disk(work)
        finally:
            self._idle.set()
        self.schedule()

    def kept(self) -> Sequence[Trajectory]:
        """Return the trajectories that are not committed yet."""
        return list(self._pending.trajectories.values())

    def _is_worth_compacting(self) -> bool:
        """Whether the file should be rewritten when nothing else is to be done."""
        return self.file_status.erasable > 0 or _is_wasteful(self.file_status, QUIET_WASTE)

    async def _hold(self) -> None:
        """Wait until no commit is under way, and let none begin; commits that are due wait behind this."""
        self._holding += 1
        try:
            while not self._idle.is_set():
                await self._idle.wait()
            self._idle.clear()
        finally:
            self._holding -= 1

    def _touch(self) -> _Pending:
        if self._pending.since is None:
            self._pending.since = asyncio.get_running_loop().time()
            self._ctx.after(self._commit_after_s, CommitDue())
        return self._pending

    def _is_due(self) -> bool:
        pending = self._pending
        if pending.since is None:
            return False
        age = asyncio.get_running_loop().time() - pending.since
        return (
            bool(pending.waiting)
            or pending.forgets
            or len(pending.entries) >= self._commit_records
            or self.committed_seq < self._hurry_to <= self.applied_seq
            or age >= self._commit_after_s * 0.99  # a timer may fire a little early
        )

    def _take(self) -> _Pending:
        taken, self._pending = self._pending, _Pending(self.applied_seq)
        return taken

    async def _commit_all(self) -> None:
        try:
            while self._is_due() and not self._disk_is_full and not self._holding:
                await self._commit(self._take())
        finally:
            self._idle.set()

    async def _commit(self, pending: _Pending) -> None:
        if self._file is None:
            raise DiskFull("the file is closed after a full disk", hint="free some space")
        run = (
            self._pools.disk
            if pending.waiting or self._hurry_to > self.committed_seq
            else self._pools.disk_in_background
        )
        began = time.perf_counter()
        try:
            self.file_status = await run(self._file.commit, pending.batch(microseconds(self._clock.now())))
            metrics.COMMITS.observe(time.perf_counter() - began)
            if pending.forgets:  # who erases waits until the bytes are gone
                await self._compact(self._pools.disk)
        except DiskFull as error:
            await self._put_aside(pending, error)
            return
        except Exception as error:
            for done, _ in pending.waiting:
                if not done.done():
                    done.set_exception(error)
            raise
        metrics.RECORDS.inc(len(pending.entries))
        self.committed_seq = pending.applied_seq
        for done, _ in pending.waiting:
            if not done.done():
                done.set_result(None)
        self._relay.poke(Committed(user=self._user, seq=self.committed_seq))
        self._last_commit = asyncio.get_running_loop().time()
        self._rewrite_if_wanted(self._file)
        self._tidy_later(QUIET_AFTER_S)

    async def _put_aside(self, pending: _Pending, error: DiskFull) -> None:
        """Refuse what only its caller has; keep what the event log has too."""
        log.error("disk_full", user=self._user)
        self._disk_is_full = True
        await self.close()
        added_again = self._pending.added()  # after it was forgotten: the index holds that one
        for done, ids in pending.waiting:
            refused = pending.leave_out(ids)
            pending.deleted += refused  # when only the last fsync found no room, they are in the file
            self._index.discard(list(refused - added_again))
            if not done.done():
                done.set_exception(error)
        pending.waiting.clear()
        pending.take_back(self._pending)
        self._pending = pending
        self._ctx.after(RETRY_FULL_DISK_S, CommitDue())

    async def _compact(self, run: Callable[[Callable[[], FileStatus]], Awaitable[FileStatus]]) -> None:
        """Rewrite the file without what was deleted; on a full disk again later, when there is room."""
        if self._file is None:
            return
        await self._give_up_rewriting()
        try:
            self.file_status = await run(partial(self._file.compact, erases=True))
        except DiskFull:
            self._disk_is_full = True
            self._touch().forgets = True
            await self.close()
            self._ctx.after(RETRY_FULL_DISK_S, CommitDue())
        else:
            await self._rebase(self._file)

    def _rewrite_if_wanted(self, file: MemoryFile | None) -> None:
        """Begin to fold or to compact, if it is worth it and nothing of that kind is under way."""
        now = asyncio.get_running_loop().time()
        if file is None or self._rewriting is not None or self._is_exchanging or now < self._rewrite_after:
            return
        rewriting = file.compaction() if _is_wasteful(self.file_status, WASTE) else file.fold()
        if rewriting is not None:
            self._begin(file, rewriting, self._pools.disk_in_background)

    def _begin(self, file: MemoryFile, rewriting: Rewriting, run: Run) -> None:
        self._rewriting = rewriting
        self._prepared.clear()
        self._ctx.spawn(self._rewrite(file, rewriting, run))

    async def _rewrite(self, file: MemoryFile, rewriting: Rewriting, run: Run) -> None:
        """Prepare beside commits, finish between two of them."""
        try:
            is_prepared = await self._prepare(rewriting, run)
            await self._hold()
            try:
                # Not if the file was erased, or compacted because somebody forgot, meanwhile.
                if is_prepared and rewriting.is_prepared and file is self._file and file.awaits(rewriting):
                    self.file_status = await self._pools.disk(file.finish, rewriting)
                    await self._rebase(file)
            except DiskFull as error:
                await self._put_aside(_Pending(self.committed_seq), error)
                self._rewrite_later()
            finally:
                self._idle.set()
        except DiskFull:
            self._rewrite_later()
        finally:
            await self._pools.disk_in_background(rewriting.abandon)
            self._rewriting = None
        self.schedule()

    async def _prepare(self, rewriting: Rewriting, run: Run) -> bool:
        preparing = asyncio.ensure_future(run(rewriting.prepare))
        try:
            return await asyncio.shield(preparing)
        except asyncio.CancelledError:
            rewriting.stop()
            await asyncio.wait([preparing])
            raise
        finally:
            self._prepared.set()

    async def _give_up_rewriting(self) -> None:
        """Wait for what is being prepared and drop it: the file is about to become another. No commit is under way."""
        rewriting = self._rewriting
        if rewriting is not None:
            rewriting.stop()
            await self._prepared.wait()
            await self._pools.disk(rewriting.abandon)

    def _rewrite_later(self) -> None:
        log.warning("no_room_to_rewrite", user=self._user)
        self._rewrite_after = asyncio.get_running_loop().time() + RETRY_REWRITING_S

    async def _rebase(self, file: MemoryFile) -> None:
        """Let the index stand on what the file holds now, and on what is not committed yet. No commit is under way."""
        contents = await self._pools.disk(file.load)
        swap = await self._pools.disk(self._index.rebased, contents)
        pending = self._pending
        encoded = [self._store.encode(entry.record) for entry in pending.entries]
        swap(pending.deleted, encoded, np.stack([entry.vector for entry in pending.entries]) if encoded else None)
        self._ctx.after(0, Rebased())


def _is_wasteful(status: FileStatus, waste: float) -> bool:
    """Whether so much of a file is dead that it should be compacted."""
    return status.dead_bytes > max(SMALLEST_WASTE, waste * (status.file_bytes - status.dead_bytes))
