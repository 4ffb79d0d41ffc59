"""What is done to a disk with a fault: commits, and what is folded, linked and compacted beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.ids import Seq, TrajectoryId
from memoryd.protocol.interfaces import Batch
from memoryd.rvf import ledger, rewriting
from tests.helpers.memories import (
    CODED,
    ROOT,
    USER,
    Expected,
    codebook,
    entries,
    history,
    record_id,
    ring,
    store,
    trajectory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memoryd.protocol.interfaces import Entry, MemoryFile, MemoryStore, Rewriting
    from tests.helpers.faultfs import FaultDisk


@contextmanager
def small_pieces() -> Iterator[None]:
    """Fold, seal and link a few rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_FOLD_COMMITS", 2)
        patch.setattr(ledger, "_MERGES", ((100, 2),))
        patch.setattr(ledger, "MAX_ROWS", 6)
        patch.setattr(ledger, "_LINKED_ROWS", 3)
        for module in (ledger, rewriting):
            patch.setattr(module, "SEALED_ROWS", 2)
        yield


def nothing_beside(_memory: MemoryFile, _number: int) -> Rewriting | None:
    return None


@dataclass(frozen=True, eq=False)
class Workload:
    """Batches, what is begun beside the commit behind each of them, and when the writer changes."""

    name: str
    make_store: Callable[[FaultDisk], MemoryStore]
    batches: Sequence[Batch]
    beside: Callable[[MemoryFile, int], Rewriting | None] = nothing_beside
    compact_after: frozenset[int] = frozenset()
    reopen_after: frozenset[int] = frozenset()
    setting: Callable[[], AbstractContextManager[None]] = field(default=nullcontext, repr=False)

    @cached_property
    def states(self) -> list[Expected]:
        """What the memory holds before the first batch and after each of them."""
        return history(self.batches)

    def __str__(self) -> str:
        return self.name


class Work:
    """One doing of a workload, from the batch behind the first `done` of them. Knows what was acknowledged."""

    def __init__(self, workload: Workload, disk: FaultDisk, done: int = 0) -> None:
        disk.put(ROOT)
        self.acknowledged = done
        self._workload = workload
        self._disk = disk

    def run(self) -> None:
        workload = self._workload
        memory = self._open()
        beside: Rewriting | None = None
        try:
            for number, batch in enumerate(workload.batches[self.acknowledged :], self.acknowledged + 1):
                memory.commit(batch)
                self.acknowledged = number
                if beside is not None:
                    memory.finish(beside)
                if number in workload.compact_after:
                    memory.compact()
                beside = workload.beside(memory, number)
                if number in workload.reopen_after:
                    memory.close()
                    memory, beside = self._open(), None
                if beside is not None:
                    assert beside.prepare()
        finally:
            if beside is not None:
                beside.abandon()
            memory.close()

    def _open(self) -> MemoryFile:
        return self._workload.make_store(self._disk).open(USER).file


def _small_store(disk: FaultDisk) -> MemoryStore:
    return store(disk)


def _full_store(disk: FaultDisk) -> MemoryStore:
    return store(disk, model=CODED, book=codebook(), link=ring)


COMMITS = Workload(
    "commits",
    _small_store,
    (
        Batch(entries=entries([1]), applied_seq=Seq(1)),
        Batch(entries=entries([2, 3, 4]), applied_seq=Seq(4), trajectories=[trajectory(1)]),
        Batch(deleted=[record_id(2)], applied_seq=Seq(4)),
        Batch(entries=entries([5, 6]), deleted=[record_id(1)], applied_seq=Seq(6)),
        Batch(trajectories=[trajectory(1, quality=0.5), trajectory(2)], applied_seq=Seq(7)),
        Batch(entries=entries([7]), applied_seq=Seq(8)),
        Batch(entries=entries([6]), applied_seq=Seq(9)),
        Batch(entries=entries([5, 8, 9]), deleted=[record_id(5)], applied_seq=Seq(11)),
        Batch(deleted=[record_id(8), record_id(3)], applied_seq=Seq(11)),
        Batch(
            entries=entries([10]),
            trajectories=[trajectory(2, quality=0.0), trajectory(3, quality=1.0)],
            dropped=[TrajectoryId("run 1"), TrajectoryId("run 2")],
            applied_seq=Seq(12),
        ),
    ),
    compact_after=frozenset({4, 9}),
    reopen_after=frozenset({6}),
)


def _rewritten_beside(memory: MemoryFile, number: int) -> Rewriting | None:
    """Return what is offered: small pieces are folded; when there are none, the rows of the large ones get a graph."""
    return memory.compaction() if number == 8 else memory.fold() or memory.linking()


def _entries(numbers: Iterable[int]) -> list[Entry]:
    return entries(numbers, CODED.dim)


REWRITINGS = Workload(
    "rewritings",
    _full_store,
    (
        Batch(entries=_entries(range(1, 6)), trajectories=[trajectory(1)], applied_seq=Seq(1)),
        Batch(entries=_entries([6, 7]), deleted=[record_id(2)], applied_seq=Seq(2)),
        Batch(entries=_entries([3, 8]), trajectories=[trajectory(2)], applied_seq=Seq(3)),  # 3 for a sealed one
        Batch(deleted=[record_id(1), record_id(8)], dropped=[TrajectoryId("run 1")], applied_seq=Seq(4)),
        Batch(entries=_entries(range(9, 14)), applied_seq=Seq(5)),
        Batch(trajectories=[trajectory(2, quality=1.0), trajectory(3)], applied_seq=Seq(6)),
        Batch(entries=_entries([5, 14]), deleted=[record_id(6)], applied_seq=Seq(7)),
        Batch(entries=_entries([15]), applied_seq=Seq(8)),
        Batch(entries=_entries([16, 17]), deleted=[record_id(16)], dropped=[TrajectoryId("run 3")], applied_seq=Seq(9)),
        Batch(entries=_entries(range(18, 24)), applied_seq=Seq(10)),
        Batch(entries=_entries([24]), deleted=[record_id(18), record_id(9)], applied_seq=Seq(11)),
    ),
    _rewritten_beside,
    reopen_after=frozenset({4, 9}),
    setting=small_pieces,
)

WORKLOADS = (COMMITS, REWRITINGS)
