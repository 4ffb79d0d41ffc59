"""Real events, real texts, and their vectors, which are kept between runs because they take minutes."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from memoryd.actors.embedded import REMEMBERED
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.ids import EventId, derived_record_id
from memoryd.protocol.records import Draft, MemoryRecord
from memoryd.relay.mapping import EventMapping, default_rules
from memoryd.sources.lines import read_events

if TYPE_CHECKING:
    from memoryd import Event
    from memoryd.protocol.interfaces import Vectors

MODEL: Final = "all-MiniLM-L6-v2"
SAMPLE: Final = Path(__file__).parents[1] / "demo" / "sample.jsonl.gz"
RECORDS: Final = 10_000
QUERY_BYTES: Final = 16_384
_CACHE: Final = Path(tempfile.gettempdir()) / "memoryd-benchmark-vectors"

_mapping = EventMapping(default_rules())


def events(path: Path) -> list[Event]:
    """Return the events of one file, whatever it holds."""
    return [event for parsed in read_events(path) for event in parsed.events]


def drafts(of: Sequence[Event]) -> list[Draft]:
    """Return what the events become, each id once."""
    found: dict[str, Draft] = {}
    for event in of:
        mapped = _mapping.apply(event)
        for draft in mapped.drafts if mapped is not None else ():
            found.setdefault(str(draft.id), draft)
    return list(found.values())


def remembered(of: Sequence[Draft]) -> list[MemoryRecord]:
    """Return drafts that have a timestamp as records, without vectors."""
    return [
        MemoryRecord(
            id=derived_record_id(draft.timestamp, EventId(f"benchmark-{row}"), 0),
            text=draft.text,
            kind=draft.kind,
            source=draft.source,
            timestamp=draft.timestamp,
            session_id=draft.session_id,
            metadata=draft.metadata,
        )
        for row, draft in enumerate(of)
        if draft.timestamp is not None
    ]


def repeated(texts: Sequence[str]) -> list[bool]:
    """Return of which texts the daemon knows the vector still, when they come in this order."""
    recent: OrderedDict[str, None] = OrderedDict()
    found = []
    for text in texts:
        found.append(text in recent)
        recent[text] = None
        recent.move_to_end(text)
        if len(recent) > REMEMBERED:
            recent.popitem(last=False)
    return found


@dataclass(frozen=True, slots=True)
class Corpus:
    """Records with their vectors, and questions; `what` says where they come from."""

    records: list[MemoryRecord]
    queries: list[str]
    what: str
    model_sha256: str


def corpus(logs: Sequence[Path], size: int, queries: int) -> Corpus:
    """Return `size` real records and up to `queries` distinct real questions."""
    sources = [SAMPLE, *logs]
    found = [event for path in sources for event in events(path)]
    made = drafts(found)
    what = f"{len(made):,} texts of {', '.join(path.name for path in sources)}"
    if len(made) < size:
        what = f"{what}, the others windows of two and more of them, one after the other"
        made += islice(_windows(made), size - len(made))
    made = made[:size]
    embedder = OnnxEmbedder.open(MODEL, threads=1)
    vectors = vectors_of(embedder, [draft.text for draft in made])
    records = [
        msgspec.structs.replace(record, embedding=vectors[row].astype("<f4").tobytes())
        for row, record in enumerate(remembered(made))
    ]
    questions, asked = _questions(found, made, queries)
    return Corpus(records, questions, f"{what}; questions: {asked}", embedder.model.sha256)


def embedding_threads() -> int:
    """Return on how many threads the daemon embeds unless it is told otherwise."""
    return len(os.sched_getaffinity(0))


def _questions(found: Sequence[Event], made: Sequence[Draft], wanted: int) -> tuple[list[str], str]:
    """Return distinct texts, first what users really said, then other texts, and how many there are of each."""
    said = dict.fromkeys(draft.text for draft in drafts([event for event in found if event.type == "chat.user_msg"]))
    texts = dict.fromkeys([*said, *(draft.text for draft in made)])
    chosen = [text for text in texts if len(text.encode()) <= QUERY_BYTES][:wanted]
    users = sum(text in said for text in chosen)
    return chosen, f"{users:,} messages of users" + (f", {len(chosen) - users:,} other texts" * (users < len(chosen)))


def _windows(made: Sequence[Draft]) -> Iterator[Draft]:
    """Yield ever longer windows over texts that follow each other."""
    for width in count(2):
        for place in range(len(made) - width):
            text = "\n".join(draft.text for draft in made[place : place + width])
            yield msgspec.structs.replace(made[place], text=text)


def vectors_of(embedder: OnnxEmbedder, texts: Sequence[str]) -> Vectors:
    """Return the vectors of the texts, float32 [n, dim], from an earlier run if there was one."""
    name = blake2b("\0".join([embedder.model.sha256, *texts]).encode(errors="replace"), digest_size=16).hexdigest()
    path = _CACHE / f"{name}.npy"
    if path.exists():
        vectors: Vectors = np.load(path)
        return vectors
    with ThreadPoolExecutor(embedding_threads()) as pool:
        rows = list(pool.map(lambda text: embedder.embed([text]).vectors[0], texts))
    _CACHE.mkdir(exist_ok=True)
    np.save(path, np.stack(rows))
    return np.stack(rows)
