"""How many findings a second become durable and searchable: `python -m benchmarks.ingest LOGS`.

Pieces of real texts, all different, of as many tokens as the model reads of them, published as events of one user. The time
ends when the last of them is committed and a recall by words and vector has seen all of them.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tokenizers import Tokenizer

from benchmarks import corpus
from benchmarks.command import Settings, command
from benchmarks.daemon import Daemon
from benchmarks.replay import publish_all
from benchmarks.results import Result, Spread
from memoryd import Event
from memoryd.embedding.onnx import resolve_model
from memoryd.protocol.ids import EventId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memoryd import Memory

SIZES: Final = ((12, 500), (53, 200))  # tokens, the markers of begin and end included, and findings a second
FINDINGS: Final = 4_000
TURNS: Final = 3
WITHIN_S: Final = 60.0
_BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)


def measure(settings: Settings) -> Iterator[Result]:
    """Yield a result for each length of text."""
    count = 500 if settings.quick else FINDINGS
    paths = (corpus.SAMPLE, *settings.logs)
    sources = [draft.text for path in paths for draft in corpus.drafts(corpus.events(path))]
    for tokens, bound in SIZES:
        texts = pieces(sources, tokens, count)
        settings.say(f"{len(texts):,} texts of {tokens} tokens")
        rates = []
        for turn in range(1 if settings.quick else TURNS):
            rates.append(len(texts) / asyncio.run(_ingest(settings, texts)))
            settings.say(f"  {turn + 1}: {rates[-1]:.0f} a second")
        spread = Spread.of(rates)
        yield Result(
            what=f"{len(texts):,} findings of {tokens} tokens, durable and searchable, one user",
            bound=f"{bound} a second",
            measured=f"{spread.text('.0f')} a second",
            is_met=spread.median >= bound,
            values={"a_second": rates, "texts": len(texts), "tokens": tokens},
        )


def pieces(texts: list[str], tokens: int, count: int) -> list[str]:
    """Cut texts into different pieces of so many tokens."""
    tokenizer = Tokenizer.from_file(str(resolve_model(corpus.MODEL) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    inside = tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
    found: dict[str, None] = {}
    for text in texts:
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        for at in range(0, len(offsets) - inside + 1, inside):
            found[text[offsets[at][0] : offsets[at + inside - 1][1]]] = None
        if len(found) >= count:
            break
    return list(found)[:count]


async def _ingest(settings: Settings, texts: list[str]) -> float:
    """Return the seconds from the first event until the last is committed and all are found by words and vectors."""
    events = [
        Event(
            id=EventId(f"finding-{number}"),
            type="worker.finding.created",
            timestamp=_BEGAN + timedelta(seconds=number),
            session_id=f"session-{number // 50}",
            payload={"claim": text},
        )
        for number, text in enumerate(texts)
    ]
    with Daemon(settings.home("ingest")) as daemon:
        async with daemon.client() as memory:
            await memory.recall("the first run is slower", user="other")
            began = time.perf_counter()
            await publish_all(memory, events, "writer")
            await _searchable(memory, texts[-1])
            seconds = time.perf_counter() - began
            status = await memory.status(user="writer")
    if status.user is None or status.user.records != len(texts):
        raise RuntimeError(f"not all findings are there: {status.user}")
    return seconds


async def _searchable(memory: Memory, text: str) -> None:
    """Wait until an answer lacks nothing. Raises TimeoutError."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            if not (await memory.recall(text, user="writer")).partial:
                return
            await asyncio.sleep(0.01)


main = command([("ingest", measure)], "Findings that become durable and searchable, a second.")

if __name__ == "__main__":
    main()
