"""Forgetting: what is named goes from every answer at once, from the files when they are compacted, or at once with a proof."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.actors.mailbox import Deadline
from memoryd.actors.trajectories import Trajectories
from memoryd.protocol import messages as m
from memoryd.protocol.ids import EventId
from memoryd.protocol.interfaces import Erasure
from memoryd.protocol.internal import EraseEvents, ForgetTexts, RemoveGlobal
from memoryd.protocol.records import ANY, MemoryFilter, microseconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memoryd.actors.branching import Branching
    from memoryd.actors.learning import Learning
    from memoryd.actors.ref import Ref
    from memoryd.actors.wording import Wording
    from memoryd.clock import Clock
    from memoryd.protocol.ids import BranchName, RecordId, TrajectoryId
    from memoryd.protocol.interfaces import MemoryIndex, MemoryStore, Scan, Vectors
    from memoryd.protocol.records import MemoryRecord

ERASE_WITHIN_S: Final = 30.0
HISTORY: Final = "history"


@dataclass(frozen=True, slots=True)
class _Named:
    """What a request means on one branch: records, their vectors float32 [n, dim], and the trajectories that tell of them."""

    records: Sequence[MemoryRecord]
    vectors: Vectors
    trajectories: Sequence[TrajectoryId]

    @property
    def ids(self) -> tuple[RecordId, ...]:
        return tuple(record.id for record in self.records)


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Answers what is to be forgotten of one user's memory."""

    branching: Branching
    wording: Wording
    learning: Learning
    embedder: Ref
    knowledge: Ref
    event_relay: Ref

    async def forget(self, message: m.Forget) -> m.Forgotten:
        """Erase the events they came from, hide them, delete them durably; and, if it is asked for, rewrite the files.

        In this order a crash leaves what can still be seen, and so be forgotten again.
        """
        async with self.branching.alone:
            return await self._forget(message)

    async def _forget(self, message: m.Forget) -> m.Forgotten:
        at = self.branching
        at.write.refuse_when_full()
        named = await at.pools.search(_named_by, at.store, at.index, at.trajectories, message)
        elsewhere = await self._elsewhere(message, named)
        everywhere = [named, *elsewhere.values()] if message.everywhere else [named]
        ids = tuple({each: None for one in everywhere for each in one.ids})
        if ids:  # first the copies: what is forgotten must not answer others
            await self.knowledge.ask(RemoveGlobal(user=at.user, ids=ids), deadline=Deadline.after(ERASE_WITHIN_S))
        records = {record.id: record for one in everywhere for record in one.records}
        events = tuple({EventId(str(e)) for record in records.values() if (e := record.metadata.get("event_id"))})
        erased = await self.erase_events(events) if events else 0
        at.index.discard(named.ids)
        at.write.delete(named.ids)
        dropped = at.trajectories.forget(named.records, message.before)
        for trajectory in dropped:
            at.write.drop(trajectory)
        at.looks.close()
        runs = {*dropped, *(run for one in elsewhere.values() if message.everywhere for run in one.trajectories)}
        if message.now or message.everywhere:
            await self.wording.discard()
            await self.embedder.tell(ForgetTexts())
        if message.everywhere:
            await at.write.exchange(partial(self._erase, {**elsewhere, at.current: named}))
        elif message.now:
            at.write.compact_soon()
        await at.write.durable()
        await self.learning.forget(ids, runs)  # if it comes to that no more, the next opening sees to it
        if message.now:
            at.write.refuse_when_full()  # deleted, but there was no room yet for the file without their bytes
        at.looks.close()
        return m.Forgotten(
            records=len(records),
            events=erased,
            kept_in=_kept_in(message, named, elsewhere),
            proof=await self._proof(message.ids, everywhere) if message.now or message.everywhere else None,
        )

    async def erase_events(self, events: tuple[EventId, ...] | None) -> int:
        """Overwrite what these events said, or all events of the user; return how many there were."""
        message = EraseEvents(user=self.branching.user, events=events)
        return await self.event_relay.ask(message, deadline=Deadline.after(ERASE_WITHIN_S), wait_for_room=True)

    async def _elsewhere(self, message: m.Forget, named: _Named) -> dict[BranchName, _Named]:
        """Return what each of the other branches holds of it."""
        at = self.branching
        wanted = m.Forget(ids=named.ids, now=message.now) if named.ids and not message.everywhere else message
        found = {}
        for branch in await at.pools.disk(at.store.branches, at.user) if at.store.has_branches(at.user) else ():
            if branch.name != at.current:
                looked, trajectories = await at.looks.at(branch.name)
                found[branch.name] = await at.pools.search(_named_by, at.store, looked.index, trajectories, wanted)
        return found

    def _erase(self, named: Mapping[BranchName, _Named]) -> None:
        """Rewrite the files of all branches: one that holds nothing of it any more may still keep it for looking back."""
        at = self.branching
        erasures = {branch: Erasure(one.ids, one.trajectories) for branch, one in named.items()}
        at.store.erase_from(at.user, erasures, microseconds(at.clock.now()))

    async def _proof(self, ids: Sequence[RecordId], everywhere: Sequence[_Named]) -> m.ErasureProof:
        at = self.branching
        vectors = {i: v for one in everywhere for i, v in zip(one.ids, one.vectors, strict=True)}
        records = {record.id: record for one in everywhere for record in one.records}
        stacked = np.stack(list(vectors.values())) if vectors else np.empty((0, 0), np.float32)
        scan = await at.pools.disk_in_background(at.store.scan, at.user, ids, list(records.values()), stacked)
        return _proven(at.clock, records, vectors, scan)


def _proven(
    clock: Clock, records: Mapping[RecordId, MemoryRecord], vectors: Mapping[RecordId, Vectors], scan: Scan
) -> m.ErasureProof:
    erased = [
        m.ErasedRecord(
            id=each,
            text_sha256=hashlib.sha256(record.text.encode()).hexdigest(),
            vector_sha256=hashlib.sha256(vectors[each].tobytes()).hexdigest(),
        )
        for each, record in records.items()
    ]
    whole = hashlib.sha256("".join(f"{e.id}{e.text_sha256}{e.vector_sha256}" for e in erased).encode())
    return m.ErasureProof(
        at=clock.now(),
        records=tuple(erased[: m.MAX_PROVEN]),
        records_sha256=whole.hexdigest(),
        files=tuple(m.ScannedFile(file=one.file, bytes=one.bytes, sha256=one.sha256) for one in scan.files),
        traces=tuple(
            m.FoundTrace(file=one.file, offset=one.offset, what=one.what) for one in scan.traces[: m.MAX_PROVEN]
        ),
    )


def _kept_in(message: m.Forget, named: _Named, elsewhere: Mapping[BranchName, _Named]) -> tuple[str, ...]:
    """Return where it still is after this."""
    if message.everywhere:
        return ()
    is_in_history = named.records and not message.now
    return (
        *((HISTORY,) if is_in_history else ()),
        *(f"branch {name}" for name, one in elsewhere.items() if one.records),
    )


def _named_by(store: MemoryStore, index: MemoryIndex, told: Trajectories, message: m.Forget) -> _Named:
    """Return what a request means, the records in order of arrival."""
    ids: Sequence[RecordId] = message.ids
    if not ids:
        where = ANY if message.session_id is None else MemoryFilter(session_id=message.session_id)
        ids = index.select(where, message.before)
    records = [store.decode(record) for record in index.records(ids)]
    # Only who asks for a proof needs them, and they are large.
    wanted = [record.id for record in records] if message.now or message.everywhere else []
    vectors = index.vectors(wanted)
    return _Named(records, vectors, Trajectories(told.all()).forget(records, message.before))
