"""The client: the same methods over the socket and in this process. Imports no engine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from memoryd.paths import default_socket
from memoryd.protocol import messages as m
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.events import Ack, Event, Receipt, StoredEvent, weight_of
from memoryd.protocol.ids import BranchName, RecordId, Seq, TrajectoryId
from memoryd.protocol.learning import Form
from memoryd.protocol.records import (
    ANY,
    Draft,
    MemoryFilter,
    MemoryKind,
    MemoryRecord,
    MemorySource,
    TimeUse,
    Trajectory,
)
from memoryd.transport import SocketTransport, Transport

E = TypeVar("E", bound=StrEnum)

WITHIN_S: Final = 30.0
PUBLISH_WITHIN_S: Final = 120.0
EVALUATE_WITHIN_S: Final = 600.0
BATCH_BYTES: Final = 512 << 10  # half a frame: room for the names around the texts
BATCH_ITEMS: Final = 256


class Memory:
    """A connection to a memory. Use it with `async with`; every method may raise MemorydError.

    `user` names whose memory is meant; without it, the user that the credential grants.
    """

    def __init__(self, connect: Callable[[], Coroutine[object, object, Transport]]) -> None:
        self._connect = connect
        self._transport: Transport | None = None

    async def __aenter__(self) -> Self:
        self._transport = await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    # --- events ---

    async def publish(
        self, events: Iterable[Event], *, user: str | None = None, ack: Ack = "stored", within: float = PUBLISH_WITHIN_S
    ) -> list[Receipt]:
        """Publish events, in batches that fit a frame; return a receipt for each, in order.

        `queued`: in the daemon's memory, lost by a crash. `stored`: in the event log, fsynced. `committed`: in the
        user's file, fsynced, and visible to the next recall.
        """
        receipts: list[Receipt] = []
        for batch in batches(events):
            reply = await self._use.request(user, m.Publish(events=batch, ack=ack), within)
            receipts += reply.receipts
        return receipts

    async def subscribe(
        self, topic: str = "*", *, after: int | None = None, user: str | None = None
    ) -> AsyncIterator[StoredEvent]:
        """Yield events as they come; with `after`, first those that were missed. `event.seq` is the cursor to keep.

        Raises SlowConsumer when this reader falls too far behind; subscribe again with its `after`.
        """
        message = m.Subscribe(topic=topic, after=None if after is None else Seq(after))
        async for event in self._use.stream(user, message, StoredEvent):
            yield event

    # --- memories ---

    async def remember(
        self,
        text: str,
        *,
        user: str | None = None,
        kind: MemoryKind | str = MemoryKind.FINDING,
        source: MemorySource | str = MemorySource.WORKER_RESULT,
        session_id: str = "",
        timestamp: datetime | None = None,
        quality_score: float | None = None,
        metadata: dict[str, object] | None = None,
    ) -> MemoryRecord:
        """Keep a text; durable when this returns."""
        draft = Draft(
            text=text,
            kind=_member(MemoryKind, kind, "kind"),
            source=_member(MemorySource, source, "source"),
            session_id=session_id,
            timestamp=timestamp,
            quality_score=quality_score,
            metadata=metadata or {},
        )
        return (await self.remember_many([draft], user=user))[0]

    async def remember_many(
        self, items: Sequence[Draft], *, user: str | None = None, within: float = PUBLISH_WITHIN_S
    ) -> list[MemoryRecord]:
        """Keep several texts as one durable batch. Raises TooLarge when they do not fit one message."""
        return list((await self.import_drafts(items, user=user, within=within)).records)

    async def recall(
        self,
        query: str,
        *,
        user: str | None = None,
        top_k: int = 5,
        filter: MemoryFilter = ANY,  # noqa: A002 - the word of the domain
        deadline: float = WITHIN_S,
        now: datetime | None = None,
        timezone: str | None = None,
        time: TimeUse = "prefer",
        branch: str | None = None,
        as_of: datetime | None = None,
        explain: bool = False,
        lexical: bool = False,
        min_relevance: float = 0.0,
    ) -> m.Recalled:
        """Find what was like this before. `deadline` is in seconds: in a hurry words alone answer; after it, Expired.

        When the query speaks of a time, such as "last week", memories of then come sooner; no others answer when `time` is
        "filter", and with "ignore" it means nothing. It counts from `now`, the daemon's clock if absent, in `timezone`, an IANA name.
        `branch` asks another branch than the one in use, `as_of` the memory as it stood then. With `explain` each memory says
        why it has its score, and the answer how it came about. `lexical` asks for words alone, which saves the embedding. What
        is less relevant than `min_relevance`, from 0 to 1, is left out: CONTEXT_RELEVANCE before a model reads it.
        """
        message = m.Recall(
            query=query,
            top_k=top_k,
            filter=filter,
            now=now,
            timezone=timezone,
            time=time,
            branch=_branch(branch),
            as_of=as_of,
            explain=explain,
            lexical=lexical,
            min_relevance=min_relevance,
        )
        return await self._use.request(user, message, deadline)

    async def why(
        self,
        record: str,
        query: str,
        *,
        user: str | None = None,
        filter: MemoryFilter = ANY,  # noqa: A002 - the word of the domain
        now: datetime | None = None,
        timezone: str | None = None,
        time: TimeUse = "prefer",
        branch: str | None = None,
        as_of: datetime | None = None,
    ) -> m.Explained:
        """Say where the memory with the id `record` stands among those that `query` asks for, and why, whether it would be found or not."""
        message = m.Why(
            query=query,
            id=RecordId(record),
            filter=filter,
            now=now,
            timezone=timezone,
            time=time,
            branch=_branch(branch),
            as_of=as_of,
        )
        return await self._use.request(user, message, WITHIN_S)

    async def forget(
        self,
        *,
        user: str | None = None,
        ids: Iterable[str] = (),
        session_id: str | None = None,
        before: datetime | None = None,
        everything: bool = False,
        now: bool = False,
        everywhere: bool = False,
    ) -> m.Forgotten:
        """Forget by id, by session, what is older than `before`, or everything of the user; hidden at once.

        With `now` the bytes are gone when this returns, and the answer proves it; `everywhere` means other branches too.
        """
        message = m.Forget(
            ids=tuple(RecordId(each) for each in ids),
            session_id=session_id,
            before=before,
            everything=everything,
            now=now,
            everywhere=everywhere,
        )
        return await self._use.request(user, message, PUBLISH_WITHIN_S)

    async def export(
        self, *, user: str | None = None, page: int = BATCH_ITEMS, branch: str | None = None
    ) -> AsyncIterator[m.Exported]:
        """Yield all memories with their vectors, page by page, in the order of arrival."""
        after: int | None = 0
        while after is not None:
            exported = await self._use.request(
                user, m.Export(after=after, limit=page, branch=_branch(branch)), WITHIN_S
            )
            yield exported
            after = exported.next

    async def import_records(
        self, records: Sequence[MemoryRecord], *, model_sha256: str, user: str | None = None
    ) -> m.Remembered:
        """Keep records with the vectors they bring; one durable batch."""
        message = m.Import(records=tuple(records), model_sha256=model_sha256)
        return await self._use.request(user, message, PUBLISH_WITHIN_S)

    # --- branches ---

    async def branches(self, *, user: str | None = None) -> list[m.BranchInfo]:
        """Return the branches of a memory, the main line first."""
        return list((await self._use.request(user, m.ListBranches(), WITHIN_S)).branches)

    async def create_branch(self, name: str, *, of: str | None = None, user: str | None = None) -> None:
        """Begin a branch of what the branch `of` holds now; without one, of the branch in use."""
        await self._use.request(user, m.CreateBranch(name=BranchName(name), of=_branch(of)), WITHIN_S)

    async def switch_branch(self, name: str, *, user: str | None = None) -> None:
        """Use this branch from now on: what comes is added to it, and it answers."""
        await self._use.request(user, m.SwitchBranch(name=BranchName(name)), PUBLISH_WITHIN_S)

    async def compare_branches(
        self, name: str, other: str | None = None, *, limit: int = 20, user: str | None = None
    ) -> m.Compared:
        """Return what only the one, and what only the other branch holds; without `other`, the one in use."""
        message = m.CompareBranches(name=BranchName(name), other=_branch(other), limit=limit)
        return await self._use.request(user, message, WITHIN_S)

    async def merge_branch(self, name: str, *, user: str | None = None) -> m.Merged:
        """Bring what happened on a branch to the one in use; durable when this returns."""
        return await self._use.request(user, m.MergeBranch(name=BranchName(name)), PUBLISH_WITHIN_S)

    async def drop_branch(self, name: str, *, user: str | None = None) -> None:
        """Remove a branch, and what only it holds."""
        await self._use.request(user, m.DropBranch(name=BranchName(name)), WITHIN_S)

    async def import_drafts(
        self, items: Sequence[Draft], *, user: str | None = None, within: float = PUBLISH_WITHIN_S
    ) -> m.Remembered:
        """Keep texts like `remember_many`, and learn how many of those that bring an id were there before."""
        return await self._use.request(user, m.Remember(drafts=tuple(items)), within)

    # --- trajectories ---

    async def begin_trajectory(self, query: str, *, user: str | None = None, shown: Iterable[str] = ()) -> Run:
        """Open a trajectory: what was asked, and the ids of the memories that were shown for it."""
        message = m.BeginTrajectory(query=query, shown=tuple(RecordId(each) for each in shown))
        reply = await self._use.request(user, message, WITHIN_S)
        return Run(reply.id, user)

    async def add_step(self, run: Run | str, *, action: str, text: str = "", user: str | None = None) -> None:
        """Add what was done."""
        which, whose = _run(run, user)
        await self._use.request(whose, m.AddStep(id=which, action=action, text=text), WITHIN_S)

    async def end_trajectory(
        self,
        run: Run | str,
        *,
        quality: float,
        helped: Iterable[str] = (),
        harmful: Iterable[str] = (),
        report: str = "",
        user: str | None = None,
    ) -> Trajectory:
        """Close the trajectory with its outcome from 0.0 to 1.0, and in words in a `report`; durable when this returns."""
        which, whose = _run(run, user)
        message = m.EndTrajectory(
            id=which,
            quality=quality,
            helped=tuple(RecordId(each) for each in helped),
            harmful=tuple(RecordId(each) for each in harmful),
            report=report,
        )
        return await self._use.request(whose, message, WITHIN_S)

    async def trajectories(self, *, user: str | None = None, limit: int = 100) -> list[Trajectory]:
        """Return the newest trajectories, the last one first."""
        return list((await self._use.request(user, m.ListTrajectories(limit=limit), WITHIN_S)).trajectories)

    # --- learning ---

    async def learning(self, *, user: str | None = None) -> m.LearningStatus:
        """Return what was learned from the user's runs, at a glance."""
        return await self._use.request(user, m.GetLearning(), WITHIN_S)

    async def set_learning(
        self, *, enabled: bool | None = None, profile: str | None = None, user: str | None = None
    ) -> m.LearningStatus:
        """Switch the user's learning on or off, or choose another profile, which begins with new weights."""
        return await self._use.request(user, m.SetLearning(enabled=enabled, profile=profile), WITHIN_S)

    async def rollback_learning(self, generations: int = 1, *, user: str | None = None) -> m.LearningStatus:
        """Go back to an earlier generation of weights."""
        return await self._use.request(user, m.RollbackLearning(generations=generations), WITHIN_S)

    async def evaluate_learning(
        self, *, runs: int = 1_000, user: str | None = None, within: float = EVALUATE_WITHIN_S
    ) -> m.LearningEvaluated:
        """Go through the user's last runs again, and return whether what was learned from earlier ones helps later ones."""
        return await self._use.request(user, m.EvaluateLearning(runs=runs), within)

    async def export_learning(self, form: Form = "state", *, user: str | None = None) -> bytes:
        """Return what was learned, to be kept, or with "weights" to be the start value of others."""
        data, after, sha256 = b"", 0, ""
        while True:
            page = await self._use.request(user, m.ExportLearning(form=form, after=after, sha256=sha256), WITHIN_S)
            data, sha256 = data + page.data, page.sha256
            if page.next is None:
                return data
            after = page.next

    async def import_learning(self, data: bytes, *, replace: bool = False, user: str | None = None) -> m.LearningStatus:
        """Have a user who has learned nothing begin with what was exported; with `replace` any user."""
        size = len(data)
        for after in range(0, max(size, 1), BATCH_BYTES):
            part = data[after : after + BATCH_BYTES]
            message = m.ImportLearning(data=part, size=size, after=after, replace=replace)
            status = await self._use.request(user, message, WITHIN_S)
        return status

    async def patterns(self, query: str = "", *, limit: int = 20, user: str | None = None) -> list[m.PatternInfo]:
        """Return what is asked again and again, the largest first; with a query what is nearest to it."""
        return list((await self._use.request(user, m.ListPatterns(limit=limit, query=query), WITHIN_S)).patterns)

    async def lessons(self, *, limit: int = 20, user: str | None = None) -> list[m.LessonInfo]:
        """Return the runs that learning knows or awaits, the newest first."""
        return list((await self._use.request(user, m.ListLessons(limit=limit), WITHIN_S)).lessons)

    # --- the global store ---

    async def publish_global(self, ids: Iterable[str], *, user: str | None = None) -> None:
        """Copy memories into the store that every user's recall may answer from."""
        await self._use.request(user, m.PublishGlobal(ids=tuple(RecordId(each) for each in ids)), WITHIN_S)

    async def unpublish_global(self, ids: Iterable[str], *, user: str | None = None) -> None:
        """Take them out again."""
        await self._use.request(user, m.UnpublishGlobal(ids=tuple(RecordId(each) for each in ids)), WITHIN_S)

    # --- operations ---

    async def status(self, *, user: str | None = None) -> m.Status:
        """Return how the daemon is; with `user`, also how that memory is."""
        return await self._use.request(user, m.GetStatus(of_user=user is not None), WITHIN_S)

    async def tree(self) -> m.Tree:
        """Return the supervision tree."""
        return await self._use.request(None, m.GetTree(), WITHIN_S)

    async def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return (await self._use.request(None, m.GetMetrics(), WITHIN_S)).text

    async def verify(self, *, user: str | None = None, repair: bool = False) -> list[m.VerifyFinding]:
        """Check every byte of the user's files; an empty list means all is well.

        With `repair`, what follows from records and vectors is made anew before, where something is wrong.
        """
        return list((await self._use.request(user, m.Verify(repair=repair), PUBLISH_WITHIN_S)).findings)

    async def backup(self, folder: str | Path) -> AsyncIterator[m.BackupProgress]:
        """Add a snapshot of everything to the backup in `folder`, which is absolute and on the daemon's machine.

        Yields how far it is, at last with what was `made`; who leaves before that gives it up. Raises Forbidden unless the
        credential grants every user.
        """
        async for progress in self._use.stream(None, m.Backup(folder=str(folder)), m.BackupProgress):
            yield progress

    async def parked(self, *, user: str | None = None) -> list[m.ParkedItem]:
        """Return the events that were put aside because they broke their reader."""
        return list((await self._use.request(user, m.GetParked(), WITHIN_S)).items)

    async def unpark(self, seqs: Iterable[int], *, drop: bool = False, user: str | None = None) -> int:
        """Try parked events again, or drop them; return how many."""
        message = m.Unpark(seqs=tuple(Seq(each) for each in seqs), drop=drop)
        return (await self._use.request(user, message, WITHIN_S)).events

    @property
    def _use(self) -> Transport:
        if self._transport is None:
            raise RuntimeError("not connected: use it with 'async with'")
        return self._transport


class Run:
    """The handle of an open trajectory: its id, and whose it is."""

    __slots__ = ("id", "user")

    def __init__(self, run: TrajectoryId, user: str | None) -> None:
        self.id = run
        self.user = user

    def __str__(self) -> str:
        return self.id


def connect(socket: str | Path | None = None, *, token: str | None = None) -> Memory:
    """Return a client of the daemon at `socket`; without one, the default of this machine and user.

    `token` is taken from MEMORYD_TOKEN when it is not given.
    """
    path = Path(socket) if socket is not None else default_socket()
    credential = token if token is not None else os.environ.get("MEMORYD_TOKEN", "")

    async def open_connection() -> Transport:
        return await SocketTransport.connect(path, credential)

    return Memory(open_connection)


def batches(events: Iterable[Event]) -> Iterator[tuple[Event, ...]]:
    """Cut events into batches that fit a frame."""
    batch: list[Event] = []
    size = 0
    for event in events:
        weight = weight_of((event,)) * 2  # texts may grow by their escapes and names
        if batch and (len(batch) >= BATCH_ITEMS or size + weight > BATCH_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(event)
        size += weight
    if batch:
        yield tuple(batch)


def _run(run: Run | str, user: str | None) -> tuple[TrajectoryId, str | None]:
    if isinstance(run, Run):
        return run.id, user if user is not None else run.user
    return TrajectoryId(run), user


def _branch(name: str | None) -> BranchName | None:
    return None if name is None else BranchName(name)


def _member(members: type[E], value: str, field: str) -> E:
    try:
        return members(value)
    except ValueError:
        raise InvalidMessage(f"unknown {field}", field=field, hint="one of " + ", ".join(members)) from None
