"""How much memory the daemon takes: with the model loaded and nobody active, and with 200 of 10,000 users active.

The users who are only known are copies of one small file in folders of their own: a file does not say whose it is.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from typing import TYPE_CHECKING, Final

from benchmarks import corpus
from benchmarks.command import Settings, command
from benchmarks.daemon import Daemon
from benchmarks.figures import loop, ticks
from benchmarks.filling import fill, slice_for
from benchmarks.results import Result, percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.corpus import Corpus
    from memoryd import Memory

IDLE_MB: Final = 180.0
ACTIVE_MB: Final = 1_200.0
STALL_MS: Final = 10.0
KNOWN: Final = 10_000
ACTIVE: Final = 200
EACH: Final = 1_000
RATE: Final = 50.0
MB: Final = 1e6


def measure(settings: Settings) -> Iterator[Result]:
    """Yield the resident memory idle and busy, and the lateness of the event loop while busy."""
    yield asyncio.run(_idle(settings))
    known, active, seconds = (500, 20, 5.0) if settings.quick else (KNOWN, ACTIVE, 60.0)
    given = corpus.corpus(settings.logs, 2_000 if settings.quick else corpus.RECORDS, 1_000)
    yield from asyncio.run(_busy(settings, given, known, active, seconds))


async def _idle(settings: Settings) -> Result:
    with Daemon(settings.home("idle"), {"memory.idle_after_s": 1.0}) as daemon:
        async with daemon.client() as memory:
            at_start = daemon.rss_bytes() / MB
            await memory.remember("the login test fails after the session change", user="somebody")
            await memory.recall("why does the login fail?", user="somebody")
            active = daemon.rss_bytes() / MB
            await _until_nobody(memory)
            idle = daemon.rss_bytes() / MB
    return Result(
        what="resident memory, model loaded, one recall made, nobody active",
        bound=f"{IDLE_MB:g} MB",
        measured=f"{idle:.0f} MB ({at_start:.0f} MB when ready, {active:.0f} MB after the recall)",
        is_met=idle <= IDLE_MB,
        values={"ready_mb": at_start, "after_recall_mb": active, "idle_mb": idle},
    )


async def _until_nobody(memory: Memory) -> None:
    async with asyncio.timeout(30):
        while (await memory.status()).users_resident:  # noqa: ASYNC110 - another process has no event to wait for
            await asyncio.sleep(0.5)


async def _busy(settings: Settings, given: Corpus, known: int, active: int, seconds: float) -> Iterator[Result]:
    daemon = Daemon(settings.home("busy"))
    daemon.start()
    async with daemon.client() as memory:
        await memory.remember("the login test fails after the session change", user="known-0")
    daemon.stop()
    for number in range(1, known):
        shutil.copytree(daemon.data_dir / "known-0", daemon.data_dir / f"known-{number}")
    with daemon:
        async with daemon.client() as memory:
            at_start = daemon.rss_bytes() / MB
            for user in range(active):
                await fill(memory, f"known-{user}", slice_for(given.records, user, EACH), given.model_sha256)
            filled = daemon.rss_bytes() / MB
            settings.say(f"{active} users active, {filled:.0f} MB; {RATE:g} recalls a second for {seconds:g} s")
            before, loop_before = ticks(await memory.metrics()), daemon.loop_s()
            took = await _ask(memory, given.queries, active, seconds)
            late, loop_after = ticks(await memory.metrics()), daemon.loop_s()
            status = await memory.status()
            asked = daemon.rss_bytes() / MB
    ran, waited = (after - then for after, then in zip(loop_after, loop_before, strict=True))
    total, above = late[0] - before[0], late[1] - before[1]
    sizes = f"{status.users_known:,} known users, {status.users_resident} active of {EACH:,} records"
    most = max(filled, asked)
    times = percentiles(took)
    return iter(
        (
            Result(
                what=f"resident memory, {sizes}",
                bound=f"{ACTIVE_MB:g} MB",
                measured=f"{most:.0f} MB ({at_start:.0f} MB with nobody active, {filled:.0f} MB after filling, "
                f"{asked:.0f} MB after {len(took):,} recalls)",
                is_met=most <= ACTIVE_MB,
                values={"ready_mb": at_start, "filled_mb": filled, "asked_mb": asked},
            ),
            Result(
                what=f"event loop late at p99.9, {RATE:g} recalls/s over them",
                bound=f"{STALL_MS:g} ms",
                measured=f"{above:.0f} of {total:,.0f} looks above 10 ms, where the loop ran {ran:.1f} s and waited "
                f"{waited:.1f} s for a processor; since the start, filling included, "
                f"{loop(status):.1f} ms at p99.9, {status.loop_stall_max_ms:.0f} ms at most; "
                f"recall p50 {times['p50']:.1f}, p99 {times['p99']:.1f} ms",
                is_met=above <= total / 1_000,
                values={
                    "ticks": total,
                    "above_10_ms": above,
                    "ran_s": ran,
                    "waited_s": waited,
                    "since_start_p999_ms": loop(status),
                    "recall_ms": times,
                },
            ),
        )
    )


async def _ask(memory: Memory, queries: list[str], active: int, seconds: float) -> list[float]:
    """Recall at a fixed rate, whatever the answers take; return the milliseconds of each."""
    rng = random.Random(1)  # noqa: S311 - the same users each time
    took: list[float] = []

    async def one(query: str, user: str) -> None:
        began = time.perf_counter()
        await memory.recall(query, user=user)
        took.append((time.perf_counter() - began) * 1e3)

    clock = asyncio.get_running_loop()
    start = clock.time()
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * RATE)):
            await asyncio.sleep(max(0.0, start + number / RATE - clock.time()))
            group.create_task(one(rng.choice(queries), f"known-{rng.randrange(active)}"))
    return took


main = command([("memory", measure)], "Resident memory, idle and with 200 of 10,000 users active.")

if __name__ == "__main__":
    main()
