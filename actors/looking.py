"""Memories that are only looked at: other branches, and this one as it stood at an earlier moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memoryd.actors.trajectories import Trajectories
from memoryd.protocol.records import microseconds

if TYPE_CHECKING:
    from datetime import datetime

    from memoryd.actors.pools import Pools
    from memoryd.clock import Clock
    from memoryd.protocol.ids import BranchName, UserId
    from memoryd.protocol.interfaces import Looked, MemoryStore

MOST: Final = 4  # that are kept open, those used last


class Looks:
    """What a user's files hold, read when it is asked for. Must be closed when a file is written that it may show."""

    def __init__(self, user: UserId, store: MemoryStore, pools: Pools, clock: Clock) -> None:
        self._user = user
        self._store = store
        self._pools = pools
        self._clock = clock
        self._closings = 0
        self._open: dict[tuple[BranchName, datetime | None], tuple[Looked, Trajectories]] = {}

    async def at(self, branch: BranchName, moment: datetime | None = None) -> tuple[Looked, Trajectories]:
        """Return a branch as it is, or as it was at a moment. Raises NotFound or StorageFault."""
        place = branch, moment
        found = self._open.pop(place, None)
        while found is None:
            closings, moment_us = self._closings, None if moment is None else microseconds(moment)
            looked = await self._pools.disk(self._store.look, self._user, branch, moment_us)
            if closings == self._closings:  # otherwise it may show what is gone since
                found = looked, Trajectories(looked.trajectories)
        if moment is None or moment < self._clock.now():  # of one that has not come yet more will be known
            self._open[place] = found
        while len(self._open) > MOST:
            del self._open[next(iter(self._open))]
        return found

    def close(self) -> None:
        """Read everything anew from now on."""
        self._closings += 1
        self._open.clear()

    @property
    def resident_bytes(self) -> int:
        return sum(looked.index.resident_bytes for looked, _ in self._open.values())
