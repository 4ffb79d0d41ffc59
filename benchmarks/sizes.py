"""How long a recall takes through the socket in memories of different sizes: questions of ten words, none measured twice.

A single client. Every question is also embedded alone in this process, in turn with the recalls. Memories larger than there
are records hold halves of two of them beside these, with the mean of their vectors, in the session of the first.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from benchmarks import corpus
from benchmarks.command import Settings, command
from benchmarks.daemon import Daemon
from benchmarks.filling import fill
from benchmarks.results import Result, percentiles
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.ids import EventId, derived_record_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memoryd import MemoryRecord

QUESTIONS: Final = 1_200
WARMING: Final = 50
WORDS: Final = 10
QUIET_S: Final = 10.0  # in which what is made beside recalls is made: the words index merged, the file folded
LOOKS: Final = 30
BOUNDS_MS: Final = {1_000: (4.0, 8.0), 10_000: (6.0, 12.0), 100_000: (15.0, 30.0)}


@dataclass(frozen=True, slots=True)
class _Seen:
    """Milliseconds of every recall and of every embedding alone, and how the last recall was answered."""

    recalls: list[float]
    alone: list[float]
    path: str


def measure(settings: Settings) -> Iterator[Result]:
    """Yield a result for each size."""
    settings.say("embedding the corpus, which is kept for the next run")
    given = corpus.corpus(settings.logs, corpus.RECORDS, QUESTIONS)
    questions = list(dict.fromkeys(" ".join(query.split()[:WORDS]) for query in given.queries))
    if settings.quick:
        questions = questions[: 4 * WARMING]
    for size in settings.sizes or (min(BOUNDS_MS),):
        settings.say(f"{size:,} records")
        records = _records(given.records, size)
        seen = asyncio.run(_measure(settings, records, questions, given.model_sha256))
        found = percentiles(seen.recalls) | {"p95": float(np.percentile(seen.recalls, 95))}
        alone = percentiles(seen.alone)
        bound = BOUNDS_MS.get(size)
        yield Result(
            what=f"recall through the socket, {size:,} records, {len(seen.recalls):,} questions of {WORDS} words, p50 / p95",
            bound=f"{bound[0]:g} / {bound[1]:g} ms" if bound else "to be stated",
            measured=f"{found['p50']:.2f} / {found['p95']:.2f} ms ({seen.path}), the embedding alone {alone['p50']:.2f} ms",
            is_met=None if bound is None else found["p50"] <= bound[0] and found["p95"] <= bound[1],
            values={"recall_ms": found, "embedding_ms": alone, "corpus": given.what},
        )


async def _measure(
    settings: Settings, records: Sequence[MemoryRecord], questions: Sequence[str], model_sha256: str
) -> _Seen:
    embedder = OnnxEmbedder.open(corpus.MODEL, threads=1)
    recalls, alone = [], []
    with Daemon(settings.home("sizes")) as daemon:
        async with daemon.client() as memory:
            await fill(memory, "asker", records, model_sha256)
            for _ in range(LOOKS):  # until all words are taken in
                await asyncio.sleep(QUIET_S)
                if not (await memory.recall(questions[0], user="asker")).partial:
                    break
            else:
                raise RuntimeError("the words of this memory are still being taken in")
            for question in questions:
                began = time.perf_counter()
                answer = await memory.recall(question, user="asker")
                asked = time.perf_counter()
                embedder.embed([question])
                recalls.append((asked - began) * 1e3)
                alone.append((time.perf_counter() - asked) * 1e3)
    return _Seen(recalls[WARMING:], alone[WARMING:], answer.tier)


def _records(real: Sequence[MemoryRecord], size: int) -> list[MemoryRecord]:
    """Return `size` records, mixtures of two among them when there are not so many."""
    random, records = np.random.default_rng(1), list(real[:size])
    vectors = np.stack([np.frombuffer(record.embedding, "<f4") for record in records])
    latest = max(record.timestamp for record in records)
    for number in range(size - len(records)):
        one, other = (int(place) for place in random.integers(len(real), size=2))
        mean = vectors[one] + vectors[other]
        texts = real[one].text, real[other].text
        when = latest + timedelta(seconds=number + 1)
        records.append(
            msgspec.structs.replace(
                real[one],
                id=derived_record_id(when, EventId(f"mixture-{number}"), 0),
                text="\n".join(text[: 1 + len(text) // 2] for text in texts),
                timestamp=when,
                embedding=(mean / np.linalg.norm(mean)).astype("<f4").tobytes(),
            )
        )
    return records


main = command([("sizes", measure)], "Recall in memories of different sizes.", sizes=tuple(BOUNDS_MS))

if __name__ == "__main__":
    main()
