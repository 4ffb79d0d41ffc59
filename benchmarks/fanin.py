"""What 10,000 users with one event each cost: how long until all is committed, how many fsyncs, and who waits for whom."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks import corpus
from benchmarks.command import Settings, command
from benchmarks.daemon import Daemon
from benchmarks.figures import counter, loop, ticks
from benchmarks.filling import fill
from benchmarks.results import Result, percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.corpus import Corpus
    from memoryd import Event, Memory

USERS: Final = 10_000
RECORDS: Final = 1_000
IN_FLIGHT: Final = 48  # of 64 that a connection may have
STALL_MS: Final = 10.0
WITHIN_S: Final = 1_800.0


@dataclass(slots=True)
class _Seen:
    """What was measured in one run."""

    publish_s: float
    committed_s: float
    alone: list[float]
    beside: list[float]
    metrics: str
    ticks_before: tuple[float, float]
    stall_ms: float
    ran_s: float
    waited_s: float
    fsyncs: int = 0


def measure(settings: Settings) -> Iterator[Result]:
    """Yield the cost, and what the others notice of it."""
    users = 500 if settings.quick else USERS
    given = corpus.corpus(settings.logs, RECORDS, 1_000)
    texts = [event for event in corpus.events(corpus.SAMPLE) if event.type == "terminal.command.completed"]
    daemon = Daemon(settings.home("fanin"), counts_fsyncs=True)
    with daemon:
        seen = asyncio.run(_run(settings, daemon, given, texts, users))
    seen.fsyncs = daemon.fsyncs()
    return _results(seen, users)


def _results(seen: _Seen, users: int) -> Iterator[Result]:
    commits = counter(seen.metrics, "memoryd_commit_seconds_count")
    groups = counter(seen.metrics, "memoryd_append_seconds_count")
    alone, beside = percentiles(seen.alone), percentiles(seen.beside)
    now = ticks(seen.metrics)
    total, above = now[0] - seen.ticks_before[0], now[1] - seen.ticks_before[1]
    yield Result(
        what=f"{users:,} new users, one event each: published as `stored`",
        bound="to be stated",
        measured=f"{seen.publish_s:.2f} s, {users / seen.publish_s:,.0f} events/s, in {groups:.0f} transactions of one fsync",
        values={"publish_s": seen.publish_s, "transactions": groups},
    )
    yield Result(
        what=f"{users:,} new users, one event each: all committed",
        bound="to be stated",
        measured=f"{seen.committed_s:.1f} s after the first event, {users / seen.committed_s:,.0f} users/s; "
        f"{commits:,.0f} commits, {seen.fsyncs:,} fsyncs ({seen.fsyncs / users:.1f} a user: its file and two folders)",
        values={"committed_s": seen.committed_s, "commits": commits, "fsyncs": seen.fsyncs},
    )
    yield Result(
        what=f"recall of another user meanwhile, {RECORDS:,} records",
        bound="nobody waits for the commits of others",
        measured=f"p50 {beside['p50']:.1f}, p99 {beside['p99']:.1f}, at most {beside['max']:.0f} ms; "
        f"before p50 {alone['p50']:.1f}, p99 {alone['p99']:.1f} ms",
        values={"before_ms": alone, "meanwhile_ms": beside, "recalls": len(seen.beside)},
    )
    yield Result(
        what="event loop late at p99.9 meanwhile",
        bound=f"{STALL_MS:g} ms",
        measured=f"{above:.0f} of {total:,.0f} looks above 10 ms, where the loop ran {seen.ran_s:.1f} s and "
        f"waited {seen.waited_s:.1f} s for a processor; {seen.stall_ms:.1f} ms at p99.9 since the start",
        is_met=above <= total / 1_000,
        values={
            "ticks": total,
            "above_10_ms": above,
            "ran_s": seen.ran_s,
            "waited_s": seen.waited_s,
            "since_start_p999_ms": seen.stall_ms,
        },
    )


async def _run(settings: Settings, daemon: Daemon, given: Corpus, texts: list[Event], users: int) -> _Seen:
    async with daemon.client() as publisher, daemon.client() as asker:
        await fill(asker, "asker", given.records, given.model_sha256)
        alone = [await _recall(asker, query) for query in given.queries[:300]]
        before, loop_before = ticks(await asker.metrics()), daemon.loop_s()
        done = asyncio.Event()
        asking = asyncio.create_task(_ask(asker, given.queries, done))
        began = time.perf_counter()
        await _publish(publisher, texts, users)
        publish_s = time.perf_counter() - began
        settings.say(f"published in {publish_s:.1f} s")
        await _all_committed(publisher, RECORDS + users)
        committed_s = time.perf_counter() - began
        done.set()
        ran, waited = (after - then for after, then in zip(daemon.loop_s(), loop_before, strict=True))
        status = await asker.status()
        return _Seen(
            publish_s, committed_s, alone, await asking, await asker.metrics(), before, loop(status), ran, waited
        )


async def _publish(memory: Memory, texts: list[Event], users: int) -> None:
    """Publish one event for each user, many requests at a time."""
    waiting = iter(range(users))

    async def work() -> None:
        for number in waiting:
            event = msgspec.structs.replace(texts[number % len(texts)], id=f"fan-in-{number}")
            await memory.publish([event], user=f"user-{number}")

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())


async def _all_committed(memory: Memory, records: int) -> None:
    """Wait until so many records are durable. Raises TimeoutError."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            if counter(await memory.metrics(), "memoryd_records_total") >= records:
                return
            await asyncio.sleep(0.5)


async def _ask(memory: Memory, queries: list[str], done: asyncio.Event) -> list[float]:
    """Recall ten times a second until it is done; return the milliseconds of each."""
    took: list[float] = []
    while not done.is_set():
        took.append(await _recall(memory, queries[len(took) % len(queries)]))
        await asyncio.sleep(0.1)
    return took


async def _recall(memory: Memory, query: str) -> float:
    began = time.perf_counter()
    await memory.recall(query, user="asker")
    return (time.perf_counter() - began) * 1e3


main = command([("fanin", measure)], "10,000 users with one event each, while somebody else recalls.")

if __name__ == "__main__":
    main()
