"""The scan of the codes beside reading as many bytes: from memory, and from the processor's cache.

Each is done in turn, so that both meet the same neighbours on the machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import faiss
import numpy as np

from benchmarks.given import K
from memoryd.vectors.blocks import Blocks
from memoryd.vectors.codes import Codebook, Codes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.given import Given

_CACHE_BYTES: Final = 128 << 20  # more than any cache of the processor holds
_ROUNDS: Final = 40
_PADDED: Final = 32


@dataclass(frozen=True, slots=True)
class Scan:
    """Medians of the milliseconds of one scan and of reading as many bytes."""

    bytes: int
    scan_ms: float
    read_ms: float

    @property
    def times(self) -> float:
        return self.scan_ms / self.read_ms

    @property
    def gb_per_s(self) -> float:
        return self.bytes / self.read_ms / 1e6


def measure(made: Given) -> tuple[Scan, Scan]:
    """Return the scan of codes that come from memory, and of codes that stand in the cache."""
    faiss.omp_set_num_threads(1)
    codebook = Codebook.shipped(made.model_sha256)
    if codebook is None:
        raise ValueError("the shipped model has no codebook")
    rows = made.rows[: len(made.rows) // _PADDED * _PADDED]
    codes = Codes.over(codebook, Blocks(rows), len(rows))
    copies = -(-_CACHE_BYTES // codes.bytes_to_read)
    indexes = [codes, *(codes.extended(Blocks(rows), len(rows)) for _ in range(copies - 1))]
    plain = [np.ones(codes.bytes_to_read // 8, np.int64) for _ in indexes]
    return _measured(made, indexes, plain), _measured(made, indexes[:1], plain[:1])


def _measured(made: Given, indexes: Sequence[Codes], plain: Sequence[NDArray[np.int64]]) -> Scan:
    scans, reads = [], []
    for turn in range(_ROUNDS * len(indexes)):
        place, query = turn % len(indexes), made.queries[turn % len(made.queries)]
        began = time.perf_counter()
        indexes[place].nearest(query, K)
        scanned = time.perf_counter()
        plain[place].max()
        scans.append((scanned - began) * 1e3)
        reads.append((time.perf_counter() - scanned) * 1e3)
    return Scan(indexes[0].bytes_to_read, float(np.median(scans)), float(np.median(reads)))
