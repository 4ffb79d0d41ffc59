"""The graph of a file: how long it takes to make, to pack into the file, and to get from there back into faiss."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import faiss
import numpy as np

from memoryd.rvf.adjacency import pack_adjacency, unpack_adjacency
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.graph import Graph, link

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.given import Given

_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Linked:
    """Seconds, medians but for the making, and the bytes of the packed graph."""

    made_s: float
    packed_s: float
    restored_s: float
    bytes: int


def measure(made: Given) -> Linked:
    """Make the graph over the rows once, pack and restore it several times; on one thread, as the daemon does."""
    faiss.omp_set_num_threads(1)
    began = time.perf_counter()
    graph = link(made.rows, None, lambda: True)
    made_s = time.perf_counter() - began
    if graph is None:
        raise ValueError("no graph was made")
    ids, rows = np.arange(len(made.rows), dtype=np.uint64), Blocks(made.rows)
    packed = pack_adjacency(ids, graph)
    return Linked(
        made_s=made_s,
        packed_s=_median_s(lambda: pack_adjacency(ids, graph)),
        restored_s=_median_s(lambda: Graph.restored(unpack_adjacency(packed)[1], rows)),
        bytes=len(packed),
    )


def _median_s(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))
