"""Measures one system: a new process for each phase, so that neither memory nor caches of one reach the next."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.machine import file_system
from benchmarks.systems.installed import run

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.given import Given
    from benchmarks.systems.installed import Runner

_WITHIN_S: Final = 900.0
_OPENINGS_S: Final = 60.0  # a system that opens slowly is opened less often


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one system did. The openings are each in a new process, to the first answer.

    `open_cold_ms` is without page cache, `open_appended_ms` after all appends, with it.
    """

    load_s: float
    query_p50_ms: float
    query_p95_ms: float
    recall: float
    open_ms: float
    open_cold_ms: float | None
    open_appended_ms: float
    append_ms: float
    append_one_ms: float
    disk_bytes: int
    private_bytes: int
    is_found_at_once: bool
    openings_ms: Sequence[float]
    openings_cold_ms: Sequence[float]
    openings_appended_ms: Sequence[float]


def measure(runner: Runner, given: Given, folder: Path, home: Path, openings: int) -> Figures:
    """Measure a system on what `folder` holds, its store in the new folder `home`. Raises NotMeasured."""
    home.mkdir()

    def phase(name: str, first: int = 0) -> dict[str, Any]:
        return _phase(runner, name, folder, home, first)

    loaded = phase("load")
    settle_disk(home, drop=False)
    disk_bytes = sum(path.stat().st_size for path in _files(home))
    queried = phase("query")
    warm = list(_openings(phase, openings))
    cold: list[dict[str, Any]] = []
    if file_system(home) not in {"tmpfs", "ramfs"}:  # there the page cache is all there is
        cold = list(_openings(phase, openings, before=home))
    appended = phase("append")
    then = list(_openings(phase, openings))
    return Figures(
        load_s=loaded["load_s"],
        query_p50_ms=float(np.percentile(queried["query_ms"], 50)),
        query_p95_ms=float(np.percentile(queried["query_ms"], 95)),
        recall=given.recall(queried["found"]),
        open_ms=_median(warm, "open_ms"),
        open_cold_ms=_median(cold, "open_ms") if cold else None,
        open_appended_ms=_median(then, "open_ms"),
        append_ms=float(np.median(appended["append_ms"])),
        append_one_ms=float(np.median(appended["append_one_ms"])),
        disk_bytes=disk_bytes,
        private_bytes=int(_median(warm, "private_bytes")),
        is_found_at_once=appended["is_found"],
        openings_ms=[each["open_ms"] for each in warm],
        openings_cold_ms=[each["open_ms"] for each in cold],
        openings_appended_ms=[each["open_ms"] for each in then],
    )


def query_ms(runner: Runner, folder: Path, home: Path) -> Sequence[float]:
    """Ask a store that was measured every query once more; return the milliseconds. Raises NotMeasured."""
    times: list[float] = _phase(runner, "query", folder, home, 0)["query_ms"]
    return times


def _phase(runner: Runner, name: str, folder: Path, home: Path, first: int) -> dict[str, Any]:
    printed = run(runner, [name, str(folder), str(home), str(first)], _WITHIN_S)
    answer: dict[str, Any] = json.loads(printed.splitlines()[-1])  # others print too; the last line is ours
    return answer


def _openings(
    phase: Callable[[str, int], dict[str, Any]], times: int, before: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Open several times, each with another first query; each time drop the files below `before` from the page cache."""
    began = time.monotonic()
    for number in range(times):
        if before is not None:
            settle_disk(before, drop=True)
        yield phase("open", number)
        if time.monotonic() - began > _OPENINGS_S:
            return


def settle_disk(home: Path, *, drop: bool) -> None:
    """Write back every file, so that no phase pays for the one before; with `drop`, forget its pages too."""
    for path in _files(home):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if drop:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def _median(answers: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.median([answer[name] for answer in answers]))
