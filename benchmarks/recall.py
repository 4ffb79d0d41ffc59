"""How long a recall takes through the socket beside the embedding of its question.

A single client, 10,000 records, real questions. Every question is also embedded alone, by an embedder in this process
while the daemon is idle, in turn with the recalls; its median is subtracted from every single recall of that question. Every
question is also asked by words alone, and once more, when its vector is still known.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks import corpus
from benchmarks.command import Settings, command
from benchmarks.daemon import Daemon
from benchmarks.figures import loop
from benchmarks.filling import fill
from benchmarks.results import Result, percentiles
from memoryd.actors.recalling import QUESTION_CHARACTERS
from memoryd.embedding.onnx import OnnxEmbedder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.corpus import Corpus

QUERIES: Final = 1_200
TURNS: Final = 3
P50_MS: Final = 2.0
P99_MS: Final = 10.0
LEXICAL_P50_MS: Final = 4.0


def measure(settings: Settings) -> Iterator[Result]:
    """Yield the results at p50 and p99."""
    settings.say("embedding the corpus, which is kept for the next run")
    size = 2_000 if settings.quick else corpus.RECORDS
    given = corpus.corpus(settings.logs, size, 200 if settings.quick else QUERIES)
    settings.say(f"{len(given.records):,} records of {given.what}")
    seen = asyncio.run(_measure(settings, given))
    recalls, alone = seen.recalls, seen.alone
    # float [turns, queries], milliseconds
    beside = (recalls - np.median(alone, axis=0)).ravel().tolist()
    found, embedding, cost = (percentiles(each) for each in (recalls.ravel().tolist(), alone.ravel().tolist(), beside))
    values = {"recall_ms": found, "embedding_ms": embedding, "beside_ms": cost, "corpus": given.what, **seen.figures}
    sizes = f"{len(given.records):,} records, {recalls.size:,} recalls of {recalls.shape[1]:,} questions"
    for name, bound in (("p50", P50_MS), ("p99", P99_MS)):
        yield Result(
            what=f"recall through the socket, {sizes}, {name}",
            bound=f"embedding + {bound:g} ms",
            measured=f"embedding + {cost[name]:.2f} ms (recall {found[name]:.2f}, embedding {embedding[name]:.2f} ms); "
            f"processor time of the daemon {seen.figures['daemon_cpu_ms']:.2f} ms a recall, "
            f"of the embedding alone {seen.figures['embedding_cpu_ms']:.2f} ms",
            is_met=cost[name] <= bound,
            values=values,
        )
    lexical = percentiles(seen.lexical.ravel().tolist())
    yield Result(
        what=f"recall by words alone through the socket, {sizes}, p50",
        bound=f"{LEXICAL_P50_MS:g} ms",
        measured=f"{lexical['p50']:.2f} ms (p99 {lexical['p99']:.2f} ms), by words and vectors {found['p50']:.2f} ms",
        is_met=lexical["p50"] <= LEXICAL_P50_MS,
        values={"recall_ms": lexical, "corpus": given.what},
    )
    again = percentiles(seen.again.ravel().tolist())
    yield Result(
        what=f"the same question again, {sizes}, p50",
        bound="to be stated",
        measured=f"{again['p50']:.2f} ms (p99 {again['p99']:.2f} ms)",
        values={"recall_ms": again, "corpus": given.what},
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """The milliseconds of every recall, also by words alone and once more, and of every embedding, and what else was measured.

    Each is float [turns, queries].
    """

    recalls: np.ndarray
    lexical: np.ndarray
    again: np.ndarray
    alone: np.ndarray
    figures: dict[str, float]


async def _measure(settings: Settings, given: Corpus) -> _Seen:
    embedder = OnnxEmbedder.open(corpus.MODEL, threads=1)
    turns = 1 if settings.quick else TURNS
    recalls = np.zeros((turns, len(given.queries)))
    alone, lexical, again = (np.zeros_like(recalls) for _ in range(3))
    # The daemon knows the vector of a question that it was asked before.
    asked_in = [[f"{turn}: {query}" for query in given.queries] for turn in range(turns)]
    with Daemon(settings.home("recall")) as daemon:
        async with daemon.client() as memory:
            await fill(memory, "asker", given.records, given.model_sha256)
            for query in given.queries[:50]:
                await memory.recall(query, user="asker")
                embedder.embed([query])
            daemon_cpu, own_cpu = daemon.cpu_s(), 0.0
            for turn, queries in enumerate(asked_in):
                for place, query in enumerate(queries):
                    began = time.perf_counter()
                    await memory.recall(query, user="asker")
                    asked, cpu = time.perf_counter(), time.thread_time()
                    embedder.embed([query[:QUESTION_CHARACTERS]])
                    ended = time.perf_counter()
                    own_cpu += time.thread_time() - cpu
                    recalls[turn, place] = (asked - began) * 1e3
                    alone[turn, place] = (ended - asked) * 1e3
            figures = {
                "daemon_cpu_ms": (daemon.cpu_s() - daemon_cpu) * 1e3 / recalls.size,
                "embedding_cpu_ms": own_cpu * 1e3 / recalls.size,
                "stall_p999_ms": loop(await memory.status()),
            }
            for turn, queries in enumerate(asked_in):
                for place, query in enumerate(queries):
                    began = time.perf_counter()
                    await memory.recall(query, user="asker", lexical=True)
                    by_words = time.perf_counter()
                    await memory.recall(query, user="asker")
                    lexical[turn, place] = (by_words - began) * 1e3
                    again[turn, place] = (time.perf_counter() - by_words) * 1e3
            return _Seen(recalls, lexical, again, alone, figures)


main = command([("recall", measure)], "Recall among 10,000 records of the sample and LOGS, beside the embedding.")

if __name__ == "__main__":
    main()
