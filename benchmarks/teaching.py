"""What those who ask feel of what others' runs teach: `python -m benchmarks.teaching LOGS`.

One user asks, one question after the other, while the runs of others end. In turn these are users whose learning is off and users
whose learning is on, whose weights are fitted and judged as soon as nothing is heard of them for two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from itertools import cycle
from typing import TYPE_CHECKING, Final

from benchmarks import corpus
from benchmarks.command import Settings, command
from benchmarks.daemon import Daemon
from benchmarks.figures import counter
from benchmarks.filling import fill, slice_for
from benchmarks.results import Result, percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.corpus import Corpus
    from memoryd import Memory

EACH: Final = 1_000
USERS: Final = 8  # of each kind
BURST: Final = 30  # runs of one user, after which its weights are due
BEFORE: Final = 100  # runs of each, so that the guard can judge
PER_S: Final = 10.0
SHOWN: Final = 10


def measure(settings: Settings) -> Iterator[Result]:
    """Yield what recalls take beside runs that teach nothing and beside runs that teach."""
    turns, asked = (2, 100) if settings.quick else (4, 2_000)
    given = corpus.corpus(settings.logs, 2_000 if settings.quick else corpus.RECORDS, 1_200)
    off, on, fits, processor = asyncio.run(_measure(settings, given, turns, asked))
    times = {"off": percentiles(off), "on": percentiles(on)}

    def shown(which: str) -> str:
        return " / ".join(f"{times[which][each]:.2f}" for each in ("p50", "p90", "p99"))

    yield Result(
        what=f"recall of another user among {len(given.records):,} records while {PER_S:g} runs a second end, p50 / p90 / p99",
        bound="no later than without learning",
        measured=f"{shown('on')} ms where they teach, with {fits:.0f} fits; {shown('off')} ms where learning is off; "
        f"processor time of the daemon {processor['on']:.2f} and {processor['off']:.2f} s a second",
        values={"recall_ms": times, "fits": fits, "processor": processor},
    )


async def _measure(
    settings: Settings, given: Corpus, turns: int, asked: int
) -> tuple[list[float], list[float], float, dict[str, float]]:
    """Return the milliseconds of recalls of both kinds, how many fits there were, and the daemon's processor time of each."""
    users = {kind: [f"{kind}-{number}" for number in range(USERS)] for kind in ("off", "on")}
    took: dict[str, list[float]] = {kind: [] for kind in users}
    spent, passed = dict.fromkeys(users, 0.0), dict.fromkeys(users, 0.0)
    with Daemon(settings.home("teaching")) as daemon:
        async with daemon.client() as memory:
            await fill(memory, "asker", given.records, given.model_sha256)
            shown = {}
            for number, user in enumerate([*users["off"], *users["on"]]):
                records = slice_for(given.records, number, EACH)
                await fill(memory, user, records, given.model_sha256)
                shown[user] = [str(each.id) for each in records]
                await memory.set_learning(enabled=user in users["on"], user=user)
                settings.say(f"runs of {user}")
                for run in range(BEFORE):
                    await _run(memory, user, given.queries, shown[user], run)
            fits = 0.0
            for turn in range(turns):
                for kind, these in users.items():
                    before, cpu, began = await memory.metrics(), daemon.cpu_s(), time.perf_counter()
                    ending = asyncio.create_task(_end_runs(memory, these, given.queries, shown, turn))
                    for place in range(asked):
                        query = f"{turn} {kind}: {given.queries[place % len(given.queries)]}"
                        start = time.perf_counter()
                        await memory.recall(query, user="asker")
                        took[kind].append((time.perf_counter() - start) * 1e3)
                    ending.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await ending
                    spent[kind] += daemon.cpu_s() - cpu
                    passed[kind] += time.perf_counter() - began
                    after = await memory.metrics()
                    fits += counter(after, "memoryd_learning_fits_total") - counter(
                        before, "memoryd_learning_fits_total"
                    )
    return took["off"], took["on"], fits, {kind: spent[kind] / passed[kind] for kind in users}


async def _end_runs(
    memory: Memory, users: Sequence[str], queries: Sequence[str], shown: dict[str, list[str]], turn: int
) -> None:
    """End runs at a fixed rate, so many of one user and then of the next."""
    for round_, user in enumerate(cycle(users)):
        for run in range(BURST):
            began = time.perf_counter()
            await _run(memory, user, queries, shown[user], 10_000 * (turn + 1) + BURST * round_ + run)
            await asyncio.sleep(max(0.0, 1 / PER_S - (time.perf_counter() - began)))


async def _run(memory: Memory, user: str, queries: Sequence[str], shown: Sequence[str], number: int) -> None:
    """Begin and end a run that was shown ten memories, of which the third helped."""
    first = SHOWN * number % (len(shown) - SHOWN)
    chosen = shown[first : first + SHOWN]
    run = await memory.begin_trajectory(queries[number % len(queries)], user=user, shown=chosen)
    await memory.end_trajectory(run, quality=1.0, helped=chosen[2:3])


main = command([("teaching", measure)], "What those who ask feel of what others' runs teach.")

if __name__ == "__main__":
    main()
