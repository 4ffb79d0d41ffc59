"""How much the way from an event to a committed memory costs beside the embedding itself.

The same texts on the same threads, once by the embedder alone and once as events through a daemon until the last of
them is committed, in turn. It should reach 0.9 of the embedder's own speed at least. The daemon knows the vectors of texts
that came shortly before; what it reaches for those that it does embed is told, too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Final

from benchmarks import corpus
from benchmarks.command import Settings, command
from benchmarks.daemon import Daemon
from benchmarks.figures import counter, loop
from benchmarks.results import Result, Spread
from memoryd.actors.embedder import RUN_CHARACTERS
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.records import as_embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memoryd import Event, Memory

BOUND: Final = 0.9
TURNS: Final = 5
QUICK_EVENTS: Final = 1_000
WITHIN_S: Final = 3_600.0
_READ: Final = 4_000  # characters of a text that are embedded, about


def measure(settings: Settings) -> Iterator[Result]:
    """Yield one result for each file."""
    embedder = OnnxEmbedder.open(corpus.MODEL, threads=1)
    for path in (corpus.SAMPLE, *settings.logs):
        yield _compare(settings, path, embedder)


def _compare(settings: Settings, path: Path, embedder: OnnxEmbedder) -> Result:
    events = corpus.events(path)[: QUICK_EVENTS if settings.quick else None]
    drafts = corpus.drafts(events)
    texts = [as_embedded(draft.text, draft.metadata) for draft in drafts]
    is_repeated = corpus.repeated(texts)
    threads = corpus.embedding_threads()
    again = sum(is_repeated)
    settings.say(f"{path.name}: {len(events):,} events, {len(texts):,} texts, {again:,} of them known from before")
    alone, chain, late, embedded = [_embed(embedder, texts, threads)], [], [], 0.0
    for turn in range(1 if settings.quick else TURNS):
        seconds, embedded, stall = asyncio.run(_replay(settings, events, len(drafts)))
        chain.append(seconds)
        late.append(stall)
        alone.append(_embed(embedder, texts, threads))
        settings.say(f"  {turn + 1}: through the daemon {chain[-1]:.2f} s, embedder alone then {alone[-1]:.2f} s")
    # A machine that others share changes its pace: each turn is compared with the encoder before and after it.
    each = [(before + after) / 2 / c for before, after, c in zip(alone, alone[1:], chain, strict=False)]
    read = [min(len(text), _READ) for text in texts]
    first_time = 1 - sum(size for size, known in zip(read, is_repeated, strict=True) if known) / sum(read)
    ratios = Spread.of(each)
    return Result(
        what=f"replay of {path.name}, {len(events):,} events, into committed, one user",
        bound=f"{BOUND} of the embedder's own speed",
        measured=f"{ratios.text('.3f')} on {threads} threads, {ratios.median * first_time:.3f} of what it embeds; "
        f"{len(drafts) / Spread.of(chain).median:.0f} records/s; "
        f"event loop late by {Spread.of(late).text('.1f')} ms at p99.9",
        is_met=ratios.median >= BOUND,
        values={
            "ratios": each,
            "first_time": first_time,
            "alone_s": alone,
            "chain_s": chain,
            "records": len(drafts),
            "texts": len(texts),
            "texts_embedded_by_daemon": embedded,
            "stall_p999_ms": late,
        },
    )


def _embed(embedder: OnnxEmbedder, texts: Sequence[str], threads: int) -> float:
    """Return the seconds the embedder takes for all texts, as many in each run as in the daemon."""
    embedder.embed(["the first run is slower"])
    runs = _runs(texts)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                run = next(runs, None)
            if run is None:
                return
            embedder.embed(run)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began


def _runs(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in order, up to RUN_CHARACTERS at once, and at least one."""
    run: list[str] = []
    size = 0
    for text in texts:
        if run and size + len(text) > RUN_CHARACTERS:
            yield run
            run, size = [], 0
        run.append(text)
        size += len(text)
    if run:
        yield run


async def _replay(settings: Settings, events: Sequence[Event], records: int) -> tuple[float, float, float]:
    """Return the seconds from the first event to the last commit, the texts embedded, and the loop's lateness."""
    with Daemon(settings.home("replay")) as daemon:
        async with daemon.client() as memory:
            await memory.recall("the first run is slower", user="other")
            before = counter(await memory.metrics(), "memoryd_texts_embedded_total")
            began = time.perf_counter()
            await publish_all(memory, events, "replayed")
            seconds = time.perf_counter() - began
            embedded = counter(await memory.metrics(), "memoryd_texts_embedded_total") - before
            status = await memory.status(user="replayed")
    if status.user is None or status.user.records != records:
        raise RuntimeError(f"not all records are there: {status.user}")
    return seconds, embedded, loop(status)


async def publish_all(memory: Memory, events: Sequence[Event], user: str) -> None:
    """Publish as fast as it goes and return when the last event is committed."""
    await memory.publish(events, user=user, within=WITHIN_S)
    await memory.publish(events[-1:], user=user, ack="committed", within=600.0)


main = command([("replay", measure)], "Replay the sample, and LOGS of agent runs, into one user's memory.")

if __name__ == "__main__":
    main()
