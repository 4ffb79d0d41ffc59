"""How much of the evidence recall finds: `python -m benchmarks.retrieval FILES`, in the formats of LoCoMo or LongMemEval.

Each conversation is a user of a daemon, asked through its own client; beside it, in the same run, vectors alone and words
alone. Turns are judged one by one: recall@10 is the share of the evidence among the first ten, averaged over the questions.
Of sessions, ranked by their first turn, any@5 says whether one with evidence is among the first five.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sqlite3
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import corpus, machine
from benchmarks.conversations import load
from benchmarks.daemon import Daemon
from memoryd import Draft
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.messages import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from benchmarks.conversations import Conversation, Question
    from memoryd import Memory
    from memoryd.protocol.interfaces import Vectors

K: Final = 10
SESSIONS: Final = 5
_DEPTH: Final = 50  # turns that are ranked, for the sessions
_READY_WITHIN: Final = 600  # tenths of a second
_RESAMPLED: Final = 2_000
_SEED: Final = 20260101
_GAINS: Final = 1 / np.log2(np.arange(2, K + 2))


@dataclass(frozen=True, slots=True)
class Answer:
    """What one system made of one question: the places of turns, best first, and how long that took."""

    conversation: str
    question: str
    category: str
    ranked: Sequence[str]
    recall: float | None
    ndcg: float | None
    any_session: bool
    all_sessions: bool
    ms: float


class System(Protocol):
    name: str

    async def load(self, conversation: Conversation) -> None: ...

    async def rank(self, conversation: Conversation, question: str) -> tuple[list[str], float]:
        """Return the ids of turns, best first, and the milliseconds it took."""
        ...


class Ours:
    """The daemon, through its client."""

    name = "memoryd"
    is_lexical = False

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def load(self, conversation: Conversation) -> None:
        drafts = [
            Draft(
                text=turn.text,
                session_id=turn.session,
                timestamp=turn.when,
                metadata={"speaker": turn.speaker, "turn": turn.id},
            )
            for turn in conversation.turns
        ]
        for at in range(0, len(drafts), MAX_BATCH):
            await self._memory.remember_many(drafts[at : at + MAX_BATCH], user=conversation.name)
        for _ in range(_READY_WITHIN):
            if not (await self._memory.recall("ready", user=conversation.name)).partial:
                return
            await asyncio.sleep(0.1)
        raise RuntimeError("the words of a conversation were not taken in")

    async def rank(self, conversation: Conversation, question: str) -> tuple[list[str], float]:
        user, now = conversation.name, conversation.asked
        began = time.perf_counter()
        await self._memory.recall(question, user=user, top_k=K, now=now, lexical=self.is_lexical)
        taken = (time.perf_counter() - began) * 1e3
        found = await self._memory.recall(question, user=user, top_k=_DEPTH, now=now, lexical=self.is_lexical)
        if found.partial:
            raise RuntimeError(f"an answer lacks {found.partial}")
        return [str(each.record.metadata["turn"]) for each in found.memories], taken


class OursByWords(Ours):
    """The daemon without vectors, on what it was given before."""

    name = "memoryd, words alone"
    is_lexical = True

    async def load(self, conversation: Conversation) -> None:
        """Leave what is there."""


class Dense:
    """Cosines of the texts as they are, by the same encoder."""

    name = "vectors alone"

    def __init__(self) -> None:
        self._embedder = OnnxEmbedder.open(corpus.MODEL, threads=1)
        self._vectors: Vectors = np.empty((0, 0), np.float32)

    async def load(self, conversation: Conversation) -> None:
        texts = [turn.text for turn in conversation.turns]
        self._vectors = np.concatenate([self._embedder.embed([text]).vectors for text in texts])

    async def rank(self, conversation: Conversation, question: str) -> tuple[list[str], float]:
        began = time.perf_counter()
        order = np.argsort(-(self._vectors @ self._embedder.embed([question]).vectors[0]), kind="stable")[:_DEPTH]
        taken = (time.perf_counter() - began) * 1e3
        return [conversation.turns[place].id for place in order.tolist()], taken


class PlainWords:
    """FTS5 as it comes: every word of the question, joined with OR, ordered by bm25."""

    name = "words alone (FTS5)"

    async def load(self, conversation: Conversation) -> None:
        self._database = sqlite3.connect(":memory:")
        self._database.execute("CREATE VIRTUAL TABLE turns USING fts5(text, content='', tokenize='porter unicode61')")
        rows = [(place, f"{turn.speaker}: {turn.text}") for place, turn in enumerate(conversation.turns)]
        self._database.executemany("INSERT INTO turns (rowid, text) VALUES (?, ?)", rows)

    async def rank(self, conversation: Conversation, question: str) -> tuple[list[str], float]:
        began = time.perf_counter()
        asked = " OR ".join(f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", question.lower())))
        found = self._database.execute(
            "SELECT rowid FROM turns WHERE turns MATCH ? ORDER BY rank LIMIT ?", (asked, _DEPTH)
        ).fetchall()
        taken = (time.perf_counter() - began) * 1e3
        return [conversation.turns[place].id for (place,) in found], taken


def judged(conversation: Conversation, question: Question, ranked: Sequence[str], ms: float) -> Answer:
    """Return how good an answer is. Without known turns only its sessions are judged."""
    session_of = {turn.id: turn.session for turn in conversation.turns}
    sessions = set(list(dict.fromkeys(session_of[turn] for turn in ranked))[:SESSIONS])
    recall = ndcg = None
    if question.turns:
        is_gold = np.array([turn in question.turns for turn in ranked[:K]], bool)
        recall = float(is_gold.sum()) / len(question.turns)
        ndcg = float(_GAINS[: len(is_gold)][is_gold].sum() / _GAINS[: len(question.turns)].sum())
    return Answer(
        conversation=conversation.name,
        question=question.text,
        category=question.category,
        ranked=ranked[:K],
        recall=recall,
        ndcg=ndcg,
        any_session=bool(question.sessions & sessions),
        all_sessions=question.sessions <= sessions,
        ms=ms,
    )


async def measure(system: System, conversations: Sequence[Conversation], progress: Progress) -> list[Answer]:
    """Ask one system everything."""
    task = progress.add_task(system.name, total=sum(len(each.questions) for each in conversations))
    answers = []
    for conversation in conversations:
        await system.load(conversation)
        for question in conversation.questions:
            ranked, ms = await system.rank(conversation, question.text)
            answers.append(judged(conversation, question, ranked, ms))
            progress.advance(task)
    return answers


def table(answers: dict[str, list[Answer]], category: str | None) -> Table:
    """Return the figures of all questions, or of those of a category."""
    count = sum(1 for each in next(iter(answers.values())) if category in (None, each.category))
    made = Table(title=f"{category or 'all'}: {count:,} questions", title_justify="left")
    for column in ("system", "recall@10", "nDCG@10", "session any@5", "session all@5", "ms p50 / p95"):
        made.add_column(column, justify="left" if column == "system" else "right")
    for name, given in answers.items():
        chosen = [each for each in given if category in (None, each.category)]
        p50, p95 = np.percentile([each.ms for each in chosen], (50, 95))
        made.add_row(
            name,
            _interval([each.recall for each in chosen if each.recall is not None]),
            _interval([each.ndcg for each in chosen if each.ndcg is not None]),
            _interval([each.any_session for each in chosen]),
            _interval([each.all_sessions for each in chosen]),
            f"{p50:.1f} / {p95:.1f}",
        )
    return made


def _interval(values: Sequence[float]) -> str:
    """Return the mean and half of its 95 % interval, by resampling the questions."""
    if not values:
        return "-"
    random, given = np.random.default_rng(_SEED), np.array(values, float)
    means: NDArray[np.float64] = given[random.integers(len(given), size=(_RESAMPLED, len(given)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return f"{given.mean():.3f} ± {(high - low) / 2:.3f}"


async def _all(conversations: Sequence[Conversation], home: Path, progress: Progress) -> dict[str, list[Answer]]:
    answers = {}
    with Daemon(home) as daemon:
        async with daemon.client() as memory:
            systems: Iterable[System] = (Ours(memory), OursByWords(memory), Dense(), PlainWords())
            for system in systems:
                answers[system.name] = await measure(system, conversations, progress)
    return answers


@click.command(help="Ask questions of which it is known what answers them, and count what is found.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", type=click.Path(dir_okay=False, path_type=Path), help="Also write every answer.")
def main(files: Sequence[Path], as_json: Path | None) -> None:
    console = Console()
    conversations = [each for path in files for each in load(path)]
    with tempfile.TemporaryDirectory(prefix="memoryd-benchmark-") as home, Progress(console=console) as progress:
        about = machine.describe(Path(home))
        answers = asyncio.run(_all(conversations, Path(home), progress))
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for category in (None, *sorted({question.category for each in conversations for question in each.questions})):
        console.print(table(answers, category))
    console.print("; ".join(f"{name} {value}" for name, value in {**hashes, **about}.items()))
    if as_json is not None:
        rows = {name: [asdict(each) for each in given] for name, given in answers.items()}
        report = {"machine": about, "files": hashes, "answers": rows}
        as_json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))


if __name__ == "__main__":
    main()
