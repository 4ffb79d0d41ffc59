"""A writer without its agent: over a disk in memory, with an index that is kept as an agent keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from memoryd.actors.context import Context
from memoryd.actors.mailbox import Mailbox
from memoryd.actors.writer import Writer
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import ROOT, USER, StillClock, record_id, store

if TYPE_CHECKING:
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Entry, MemoryIndex, MemoryStore

X = record_id(1)


class NoRelay:
    """Hears how far the commits are, and does nothing."""

    def poke(self, message: object) -> None:
        pass


class OneThread:
    """The pools without threads: disk work is done a little after it is asked for, once the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()

    async def disk(self, call: Callable[..., object], *args: object) -> object:
        await self.gate.wait()
        for _ in range(3):  # others go on meanwhile
            await asyncio.sleep(0)
        return call(*args)

    disk_in_background = disk
    link = disk


class Desk:
    """A writer over a disk that can be full, and its user's index, kept as a MemoryAgent keeps it."""

    def __init__(self, disk: FaultDisk | None = None, memories: MemoryStore | None = None) -> None:
        self.disk = disk or FaultDisk()
        self.disk.put(ROOT)
        self.pools = OneThread()
        self.mailbox = Mailbox()
        self.ctx = Context(self.mailbox, "user/alice")
        self.memories = memories or store(self.disk)
        opened = self.memories.open(USER)
        self.index = opened.index
        self.writer = Writer(
            USER,
            self.memories,
            opened.file,
            opened.index,
            opened.applied_seq,
            relay=NoRelay(),
            pools=self.pools,
            clock=StillClock(),
            ctx=self.ctx,
            commit_after_s=60.0,
            commit_records=256,
        )

    def add(self, entry: Entry) -> None:
        self.index.add([self.memories.encode(entry.record)], entry.vector[None])
        self.writer.add(entry)

    def forget(self, which: RecordId = X) -> None:
        self.index.discard([which])
        self.writer.delete((which,))

    def fill(self) -> None:
        self.disk.capacity = 0

    async def is_committing(self) -> None:
        """Wait until what has gathered is on its way to the disk, where the gate holds it."""
        while self.writer._pending.since is not None:
            await asyncio.sleep(0)

    async def goes_on(self) -> None:
        """There is room again, and everything that waited is committed."""
        self.disk.heal()
        await self.writer.due()
        await self.writer.durable()

    async def reopened(self) -> tuple[list[str], dict[str, float | None]]:
        """Return the texts, and the trajectories with their qualities, that the next writer finds.

        Fails unless the index said the same of the texts.
        """
        said = self._texts(self.index)
        await self.writer.finish()
        await self.writer.close()
        opened = self.memories.open(USER)
        opened.file.close()
        assert self._texts(opened.index) == said
        return said, {each.id: each.quality for each in opened.trajectories}

    def _texts(self, index: MemoryIndex) -> list[str]:
        return [self.memories.decode(blob).text for blob in index.page(0, 100)[0]]
