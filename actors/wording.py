"""The words index of one user, kept in step with the memory. Its faults cost words, never an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from memoryd.protocol.errors import Damaged, StorageFault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from memoryd.actors.context import Context
    from memoryd.actors.pools import Pools
    from memoryd.protocol.ids import RecordId, UserId
    from memoryd.protocol.interfaces import IndexView, Matched, Numbers, Words, WordsIndex
    from memoryd.protocol.records import MemoryFilter, Trajectory

log = structlog.get_logger("memoryd.memory")

MANY: Final = 64  # rows that are not in the index yet; fewer are taken in when somebody asks
WAITED_FOR: Final = 512  # rows that a recall takes in before it looks, some 20 ms
# The index is made quicker to look up after so many rows, and this share of all: that writes all of it anew.
MERGED: Final = 256
MERGED_SHARE: Final = 0.125
AT_ONCE: Final = 64  # rows that are taken in beside recalls: these wait for it, some 3 ms


class Wording:
    """Looks words up, and takes in what is new beside recalls. Who made the index closes it."""

    def __init__(
        self, user: UserId, words: WordsIndex, view: Callable[[], IndexView], pools: Pools, ctx: Context
    ) -> None:
        self._user = user
        self._words = words
        self._view = view
        self._pools = pools
        self._ctx = ctx
        self._seen = view().rows  # those from here on are not in the index yet, and maybe some before
        self._is_covering = False
        self._unmerged = 0
        self.addressed: Final = words.addressed

    @property
    def is_open(self) -> bool:
        """Whether it is known who speaks."""
        return self._words.is_open

    def match(
        self,
        view: IndexView,
        query: str,
        where: MemoryFilter,
        preferred: MemoryFilter | None,
        without: Numbers | None = None,
    ) -> Words:
        """Look the words of a query up; the rows `without`, int64 [m], are no answers.

        Called on a thread; what is found, or raised, is to be heeded on the loop. Raises StorageFault.
        """
        return self._words.match(view, query, where, WAITED_FOR, preferred, without)

    def event(self, view: IndexView, query: str, name: str) -> tuple[RecordId, datetime] | None:
        """Return the memory of an event that the query names, and its moment; None without one. As `match` otherwise."""
        return self._words.event(view, query, name, WAITED_FOR)

    def said(self, view: IndexView, run: Trajectory) -> Sequence[Matched]:
        """Look up what a run said later. As `match` otherwise."""
        return self._words.said(view, run)

    async def heed(self, found: Words | StorageFault) -> None:
        """Take in soon what the index lacked for an answer, or see to its fault."""
        if isinstance(found, StorageFault):
            await self._failed(found)
        elif found.lacking:
            self._cover()

    def follow(self) -> None:
        """Take in what has been added, once it is much."""
        if self._view().rows >= self._seen + MANY:
            self._cover()

    async def purge(self, others: Sequence[IndexView]) -> None:
        """Begin anew if the index holds something that neither this memory nor `others`, of branches, hold any more."""
        try:
            erased = await self._pools.disk_in_background(self._words.others, [self._view(), *others])
        except StorageFault as error:
            await self._failed(error)
            return
        if len(erased):
            await self.discard()
            self._cover()

    async def discard(self) -> None:
        """Remove the index, which is made anew."""
        self._seen = 0
        await self._pools.disk(self._words.discard)

    def _cover(self) -> None:
        if not self._is_covering:
            self._is_covering = True
            self._ctx.spawn(self._cover_all())

    async def _cover_all(self) -> None:
        try:
            left = 1
            while left:
                view = self._view()
                left = await self._pools.disk_in_background(self._words.cover, view, AT_ONCE)
                self._seen = view.rows
                self._unmerged += AT_ONCE
            if self._unmerged >= max(MERGED, MERGED_SHARE * self._seen):
                self._unmerged = 0
                while await self._pools.disk_in_background(self._words.merge):
                    pass
        except StorageFault as error:
            await self._failed(error)
        finally:
            self._is_covering = False

    async def _failed(self, error: StorageFault) -> None:
        log.error("words_failed", user=self._user, error=f"{type(error).__name__}: {error.message}")
        if isinstance(error, Damaged):
            await self.discard()
