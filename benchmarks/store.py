"""The store by itself, against its bounds: `python -m benchmarks.store [--rows 10000 --rows 100000] [LOGS]`.

What it takes to open, to ask, to ask with a filter, and to wake, on real embeddings, clustered and random vectors, with the
recall beside the exact answers. `python -m benchmarks.peers` has other stores beside it. A million rows take 8 GB of memory.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks import filtered, given, linking, scanning, waking
from benchmarks.command import Settings, command
from benchmarks.results import Result, Spread
from benchmarks.systems import installed
from benchmarks.systems.installed import NotMeasured
from benchmarks.systems.measured import measure, query_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.filtered import Filtered
    from benchmarks.given import Given
    from benchmarks.systems.measured import Figures

SIZES: Final = (10_000, 100_000)
KINDS: Final = ("real", "clustered", "uniform")
LEVELS: Final = ("AVX512", "AVX2", "NONE")  # of the instructions that faiss may use
OPENINGS: Final = 9
APPENDS: Final = 3
USERS: Final = 1_000
RECALL: Final = 0.99
FILTERED_RECALL: Final = 0.98
TIMES_BANDWIDTH: Final = 1.5
SCANNED: Final = 100_000  # rows from which the scan is held against the bandwidth; fewer take no time
MB: Final = 1e6

# Bounds by rows; there are none for other numbers of them.
QUERY_MS: Final = {10_000: 0.2, 100_000: 0.6, 1_000_000: 4.0}
OPEN_MS: Final = {10_000: (3.0, 10.0), 100_000: (5.0, 20.0)}
FILTERED_MS: Final = {10_000: 0.5, 100_000: 2.0}
PRIVATE_MB: Final = {10_000: 2.0, 100_000: 12.0}
LINKING_S: Final = {10_000: 0.1, 100_000: 1.0}


def results(settings: Settings) -> Iterator[Result]:
    """Yield every figure; the sizes one after the other."""
    openings, users = (2, 50) if settings.quick else (OPENINGS, USERS)
    for size in (2_100,) if settings.quick else settings.sizes:
        figures: dict[str, Figures] = {}
        opened: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        passing: dict[str, list[Filtered]] = {}
        for kind in KINDS:
            settings.say(f"{size:,} rows, {kind}")
            made = given.real(settings.logs, size, APPENDS) if kind == "real" else given.random(kind, size, APPENDS)
            home = settings.home(kind)
            made.write(home / "given", APPENDS)
            figures[kind] = measure(installed.ours(), made, home / "given", home / "store", openings)
            if kind == "real":
                yield _levels(size, home)
                if size in LINKING_S or settings.quick:
                    yield _linked(size, made)
                if size >= SCANNED:
                    yield from _scan(size, made)
            shutil.rmtree(home)
            opened[kind] = waking.openings(made, openings, home)
            shutil.rmtree(home)
            if size in FILTERED_MS or settings.quick:
                passing[kind] = list(filtered.measure(made, home))
                shutil.rmtree(home)
        anew = {kind: (one.openings_ms, one.openings_cold_ms) for kind, one in figures.items()}
        yield from _opened(f"{size:,} rows, by a process that has opened others", opened, size)
        yield from _opened(f"{size:,} rows, by a new process", anew, size)
        yield from _asked(size, figures)
        yield from _filtered(size, passing)
    yield waking.result(settings, users)


def _opened(what: str, openings: Mapping[str, tuple[Sequence[float], Sequence[float]]], size: int) -> Iterator[Result]:
    bounds = OPEN_MS.get(size, (None, None))
    for place, (cache, bound) in enumerate(zip(("warm", "dropped"), bounds, strict=True)):
        spreads = {kind: Spread.of(taken[place]) for kind, taken in openings.items() if taken[place]}
        if spreads:  # some file systems are all page cache
            yield Result(
                what=f"open to first answer, page cache {cache}, {what}",
                bound=f"{bound:g} ms" if bound else "none",
                measured=f"{'; '.join(f'{kind} {spread.text()}' for kind, spread in spreads.items())} ms",
                is_met=all(spread.median <= bound for spread in spreads.values()) if bound else None,
                values={kind: spread.median for kind, spread in spreads.items()},
            )


def _asked(size: int, figures: Mapping[str, Figures]) -> Iterator[Result]:
    memory = {kind: one.private_bytes / MB for kind, one in figures.items()}
    what = f"memory that no file stands behind, codes resident, {size:,} rows"
    yield _each(what, memory, {}, "MB", PRIVATE_MB.get(size), None)
    times = {kind: one.query_p50_ms for kind, one in figures.items()}
    recalls = {kind: one.recall for kind, one in figures.items()}
    yield _each(f"query at p50, {size:,} rows", times, recalls, "ms", QUERY_MS.get(size), RECALL)


def _filtered(size: int, passing: Mapping[str, list[Filtered]]) -> Iterator[Result]:
    for row in zip(*passing.values(), strict=True):
        found = dict(zip(passing, row, strict=True))
        one = row[0]
        where = "the query's own topic passes" if one.is_near else "the topic furthest from the query passes"
        result = _each(
            f"query at p50 where {one.share:.1%} pass, {where}, {size:,} rows",
            {kind: each.p50_ms for kind, each in found.items()},
            {kind: each.recall for kind, each in found.items()},
            "ms",
            FILTERED_MS.get(size),
            FILTERED_RECALL,
        )
        plans = "; ".join(f"{kind}: {', '.join(each.plans)}" for kind, each in found.items())
        yield replace(result, measured=f"{result.measured}\nby {plans}")


def _each(
    what: str,
    values: Mapping[str, float],
    recalls: Mapping[str, float],
    unit: str,
    bound: float | None,
    least: float | None,
) -> Result:
    """Return one figure of each kind of vectors; all must be within the bound."""
    shown = [f"{kind} {value:.2f}" + (f" at {recalls[kind]:.3f}" if recalls else "") for kind, value in values.items()]
    is_met = bound is not None and all(value <= bound for value in values.values())
    is_met = is_met and all(recall >= (least or 0.0) for recall in recalls.values())
    asked = f", recall@{given.K} {least:g}" if least is not None else ""
    return Result(
        what=what,
        bound=f"{bound:g} {unit}{asked}" if bound is not None else "none",
        measured=f"{'; '.join(shown)} {unit}" if not recalls else f"{'; '.join(shown)} ({unit} at recall@{given.K})",
        is_met=is_met if bound is not None else None,
        values={**values, **{f"recall_{kind}": recall for kind, recall in recalls.items()}},
    )


def _levels(size: int, home: Path) -> Result:
    """Ask the same store with faiss kept from using wider instructions."""
    ours = installed.ours()
    values: dict[str, object] = {}
    for level in LEVELS:
        kept = replace(ours, environment={**ours.environment, "FAISS_SIMD_LEVEL": level})
        try:
            values[level] = float(np.median(query_ms(kept, home / "given", home / "store")))
        except NotMeasured as why:
            values[level] = str(why)
    shown = [
        f"{level} {value:.2f}" if isinstance(value, float) else f"{level} {value}" for level, value in values.items()
    ]
    return Result(
        what=f"query at p50 by the widest instructions that faiss uses, {size:,} rows, real",
        bound="none",
        measured=f"{'; '.join(shown)} ms",
        values=values,
    )


def _linked(size: int, made: Given) -> Result:
    found, bound = linking.measure(made), LINKING_S.get(size)
    return Result(
        what=f"graph of {size:,} rows: from the file into faiss / packed for the file, off the request path",
        bound=f"{bound:g} / {bound:g} s" if bound else "none",
        measured=f"{found.restored_s:.3f} / {found.packed_s:.3f} s for {found.bytes / MB:.1f} MB; made in {found.made_s:.1f} s",
        is_met=max(found.restored_s, found.packed_s) <= bound if bound else None,
        values={"restored_s": found.restored_s, "packed_s": found.packed_s, "made_s": found.made_s},
    )


def _scan(size: int, made: Given) -> Iterator[Result]:
    from_memory, from_cache = scanning.measure(made)
    for place, scan, bound in (("memory", from_memory, TIMES_BANDWIDTH), ("the processor's cache", from_cache, None)):
        yield Result(
            what=f"scan of the codes of {size:,} rows that stand in {place}, beside reading as many bytes",
            bound=f"{bound:g} times" if bound else "none",
            measured=f"{scan.times:.2f} times: {scan.scan_ms:.3f} ms for {scan.bytes / MB:.1f} MB, "
            f"which are read in {scan.read_ms:.3f} ms ({scan.gb_per_s:.0f} GB/s)",
            is_met=scan.times <= bound if bound else None,
            values={"times": scan.times, "scan_ms": scan.scan_ms, "read_ms": scan.read_ms},
        )


main = command([("store", results)], "The store by itself, against its bounds.", sizes=SIZES)

if __name__ == "__main__":
    main()
