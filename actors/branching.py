"""The branches of one user: making, comparing, merging, switching and dropping them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from memoryd.protocol import messages as m
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.interfaces import Entry
from memoryd.protocol.records import microseconds, moment_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.actors.looking import Looks
    from memoryd.actors.pools import Pools
    from memoryd.actors.trajectories import Trajectories
    from memoryd.actors.writer import Writer
    from memoryd.clock import Clock
    from memoryd.protocol.ids import BranchName, RecordId, UserId
    from memoryd.protocol.interfaces import IndexView, MemoryIndex, MemoryStore
    from memoryd.protocol.records import MemoryRecord

MERGED: Final = 64  # records that are brought over before others have their turn


@dataclass(slots=True)
class Branching:
    """Answers what is asked about branches; `current` is the one in use."""

    user: UserId
    current: BranchName
    store: MemoryStore
    index: MemoryIndex
    write: Writer
    trajectories: Trajectories
    looks: Looks
    pools: Pools
    clock: Clock
    # Who changes or erases branches, or switches them, does so alone: the branch in use stays the same in between.
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def create(self, message: m.CreateBranch) -> m.Done:
        async with self.alone:
            parent = message.of or self.current
            await self.write.beside_commits(partial(self.store.branch, self.user, message.name, parent))
        return m.Done()

    async def list(self) -> m.Branches:
        await self.write.settle()
        found = await self.pools.disk(self.store.branches, self.user)
        return m.Branches(
            branches=tuple(
                m.BranchInfo(
                    name=each.name,
                    parent=each.parent,
                    created=None if each.created_us is None else moment_of(each.created_us),
                    is_current=each.is_current,
                    records=each.records,
                    own_records=each.own_records,
                    file_bytes=each.file_bytes,
                )
                for each in found
            )
        )

    async def others(self) -> Sequence[tuple[IndexView, Trajectories]]:
        """Return what each branch holds that is not in use. Raises NotFound or StorageFault."""
        if not self.store.has_branches(self.user):
            return []
        branches = await self.pools.disk(self.store.branches, self.user)
        looked = [await self.looks.at(branch.name) for branch in branches if branch.name != self.current]
        return [(each.index.view(), told) for each, told in looked]

    async def switch(self, message: m.SwitchBranch) -> m.Done:
        """Go on with another branch; what is not committed yet goes there."""
        async with self.alone:
            if message.name != self.current:
                opened = await self.write.exchange(
                    lambda: self.store.switch(self.user, message.name, self.write.committed_seq)
                )
                self.trajectories.replace([*opened.trajectories, *self.write.kept()])
                self.current = opened.branch
                self.looks.close()
        return m.Done()

    async def compare(self, message: m.CompareBranches) -> m.Compared:
        other = message.other or self.current
        await self.write.settle()
        self.looks.close()
        here = await self.pools.disk(self.store.compare, self.user, message.name, other)
        there = await self.pools.disk(self.store.compare, self.user, other, message.name)
        # What was merged stands in rows of both.
        both = {*here.lacking} & {*there.lacking}
        only_here = [each for each in here.lacking if each not in both]
        only_there = [each for each in there.lacking if each not in both]
        return m.Compared(
            name=message.name,
            other=other,
            only_here=len(only_here),
            only_there=len(only_there),
            here=await self._newest(message.name, only_here, message.limit),
            there=await self._newest(other, only_there, message.limit),
        )

    async def merge(self, message: m.MergeBranch) -> m.Merged:
        """Bring over what happened on a branch since it and the one in use parted; durable when this returns.

        After a crash in between, to merge again brings the rest.
        """
        async with self.alone:
            return await self._merge(message)

    async def _merge(self, message: m.MergeBranch) -> m.Merged:
        if message.name == self.current:
            raise InvalidMessage(
                "a branch cannot be merged into itself", field="name", hint="switch to another one first"
            )
        self.write.refuse_when_full()
        await self.write.settle()
        self.looks.close()
        since = await self.pools.disk(self.store.compare, self.user, message.name, self.current)
        looked, told = await self.looks.at(message.name)
        removed = tuple(self.index.known(since.removed))
        self.index.discard(removed)
        self.write.delete(removed)
        added = 0
        for start in range(0, len(since.added), MERGED):
            added += self._bring(looked.index, since.added[start : start + MERGED])
            self.write.schedule()
            await asyncio.sleep(0)
        runs = [run for run in told.all() if self.trajectories.is_news(run)]
        for run in runs:
            self.trajectories.put(run)
            self.write.keep(run)
        await self.write.durable()
        return m.Merged(added=added, removed=len(removed), trajectories=len(runs))

    async def drop(self, message: m.DropBranch) -> m.Done:
        async with self.alone:
            await self.write.beside_commits(partial(self.store.drop, self.user, message.name))
            self.looks.close()
        return m.Done()

    def _bring(self, source: MemoryIndex, ids: Sequence[RecordId]) -> int:
        known = self.index.known(ids)
        new = [each for each in ids if each not in known]
        encoded, vectors = source.records(new), source.vectors(new)
        self.index.add(encoded, vectors)
        now_us = microseconds(self.clock.now())
        for record, vector in zip(encoded, vectors, strict=True):
            self.write.add(Entry(self.store.decode(record), vector, now_us))
        return len(encoded)

    async def _newest(self, branch: BranchName, ids: Sequence[RecordId], limit: int) -> tuple[MemoryRecord, ...]:
        looked, told = await self.looks.at(branch)
        found = [self.store.decode(record) for record in looked.index.records(ids[-limit:] if limit else [])]
        return tuple(told.with_outcome(record) for record in reversed(found))
