"""How much of the evidence recall finds: `python -m benchmarks.retrieval FILES`, in the formats of LoCoMo or LongMemEval.

Each conversation is a user of a daemon, asked through its own client; beside it, in the same run, vectors alone and words
alone, and with `--peers` other systems. Turns are judged one by one: recall@10 is the share of the evidence among the first
ten, averaged over the questions. Of sessions, ranked by their first turn, any@5 says whether one with evidence is among the
first five, all@5 whether each is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks import judging, machine
from benchmarks.conversations import load
from benchmarks.daemon import Daemon
from benchmarks.grids import Grid, show
from benchmarks.judging import Interval
from benchmarks.rankers.ranker import DEPTH
from benchmarks.systems import installed
from benchmarks.systems.installed import NotMeasured, Runner, Say
from memoryd import Draft
from memoryd.protocol.messages import MAX_BATCH, MAX_BATCH_BYTES
from memoryd.protocol.records import MAX_TEXT_BYTES

if TYPE_CHECKING:
    from benchmarks.conversations import Conversation, Question, Turn
    from memoryd import Memory

OURS: Final = "memoryd"
OURS_BY_WORDS: Final = "memoryd, words alone"
METRICS: Final = (*judging.of_ranked((), ("",)), *judging.of_sessions((), ()))
_OF_TURNS: Final = f"recall@{judging.K}"
_OF_SESSIONS: Final = f"session any@{judging.SESSIONS}"
_COMPARED: Final = (_OF_TURNS, f"nDCG@{judging.K}", _OF_SESSIONS)
_READY_WITHIN: Final = 600  # tenths of a second
_WIDTH: Final = 150
_RANKED_WITHIN_S: Final = 6 * 3600.0  # 500 haystacks of LongMemEval, embedded on one thread
_ENCODER: Final = ("onnxruntime", "tokenizers", "msgspec")  # what the peers' environment lacks of ours


@dataclass(frozen=True, slots=True)
class Other:
    """Another system: the module in `benchmarks.rankers` that asks it, and how that module is run."""

    module: str
    runner: Callable[[Say], Runner]
    ranks_turns: bool = True


def _peer(module: str, *packages: str, bare: Sequence[str] = (), ranks_turns: bool = True) -> Other:
    def runner(say: Say) -> Runner:
        return _run_by(installed.peers_python([*_ENCODER, *packages], say, bare=bare))

    return Other(module, runner, ranks_turns)


def _run_by(python: Path | str) -> Runner:
    return Runner([str(python), "-m", "benchmarks.rankers.ranker"], {"PYTHONPATH": str(Path(__file__).parents[1])})


def _plain(module: str) -> Other:
    return Other(module, lambda _: _run_by(sys.executable))


PLAIN: Final[Mapping[str, Other]] = {
    "vectors alone, the same encoder": _plain("vectors"),
    "words alone, FTS5 as it comes": _plain("words"),
}
PEERS: Final[Mapping[str, Other]] = {
    "engram-search 0.1.7, without a cross-encoder": _peer("engram_search", bare=["engram-search"], ranks_turns=False),
    "agentrecall-db 0.2.0": _peer("agentrecall", "agentrecall-db", "sqlite-vec", "pysqlite3-binary"),
    "Chroma 1.5.9": _peer("chroma", "chromadb"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one system made of one question: the ids it ranked, best first, how good that is, and how long it took.

    Without known turns only its sessions are judged, as are systems that do not tell turns apart.
    """

    conversation: str
    question: str
    category: str
    ranked: Sequence[str]
    scores: Mapping[str, float]
    ms: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The answers of a system, and the bytes it keeps by what they are."""

    answers: Sequence[Answer]
    sizes: Mapping[str, int]


def judged(
    conversation: Conversation, question: Question, ranked: Sequence[str], ms: float, *, ranks_turns: bool = True
) -> Answer:
    """Return how good the ranked turns are, or sessions where turns are not told apart."""
    session_of = {turn.id: turn.session for turn in conversation.turns}
    sessions = list(dict.fromkeys(session_of[turn] for turn in ranked)) if ranks_turns else ranked
    of_turns = judging.of_ranked(ranked, question.turns) if ranks_turns and question.turns else {}
    return Answer(
        conversation=conversation.name,
        question=question.text,
        category=question.category,
        ranked=ranked,
        scores={**of_turns, **judging.of_sessions(sessions, question.sessions)},
        ms=ms,
    )


# --- the daemon, through its client ---


async def ours(conversations: Sequence[Conversation], home: Path, progress: Progress) -> dict[str, Measured]:
    """Have a daemon remember every conversation, and ask it everything, with vectors and without."""
    task = progress.add_task(OURS, total=sum(len(each.questions) for each in conversations))
    answers: list[Answer] = []
    by_words: list[Answer] = []
    with Daemon(home) as daemon:
        async with daemon.client() as memory:
            for conversation in conversations:
                await _remember(memory, conversation)
                for question in conversation.questions:
                    for found, lexical in ((answers, False), (by_words, True)):
                        ranked, ms = await _ranked(memory, conversation, question, lexical=lexical)
                        found.append(judged(conversation, question, ranked, ms))
                    progress.advance(task)
    files = Counter[str]()
    for path in daemon.data_dir.glob("*/*"):
        if path.name == "memory.rvf" or path.name.startswith("words."):
            files["vectors and texts (.rvf)" if path.suffix == ".rvf" else "words"] += path.stat().st_size
    return {OURS: Measured(answers, files), OURS_BY_WORDS: Measured(by_words, {})}


async def _remember(memory: Memory, conversation: Conversation) -> None:
    for batch in _batches(conversation):
        await memory.remember_many(batch, user=conversation.name)
    for _ in range(_READY_WITHIN):
        if not (await memory.recall("ready", user=conversation.name)).partial:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the words of a conversation were not taken in")


def _batches(conversation: Conversation) -> Iterator[list[Draft]]:
    """Yield the turns in batches that fit a request."""
    batch: list[Draft] = []
    size = 0
    for turn in conversation.turns:
        for text in _parts(turn):
            weight = len(text.encode())
            if batch and (len(batch) == MAX_BATCH or size + weight > MAX_BATCH_BYTES):
                yield batch
                batch, size = [], 0
            who: dict[str, object] = {"speaker": turn.speaker, "turn": turn.id}
            batch.append(Draft(text=text, session_id=turn.session, timestamp=turn.when, metadata=who))
            size += weight
    yield batch


def _parts(turn: Turn) -> list[str]:
    """Return the text of a turn, in parts if it is longer than a memory may be."""
    if len(turn.text.encode()) <= MAX_TEXT_BYTES:
        return [turn.text]
    length = MAX_TEXT_BYTES // 4  # characters, of four bytes each at most
    parts = (turn.text[at : at + length] for at in range(0, len(turn.text), length))
    return [part for part in parts if part.strip()]


async def _ranked(
    memory: Memory, conversation: Conversation, question: Question, *, lexical: bool
) -> tuple[list[str], float]:
    """Return turns, best first, and the milliseconds until the first ten were there."""
    ask = partial(memory.recall, question.text, user=conversation.name, now=conversation.asked, lexical=lexical)
    began = time.perf_counter()
    await ask(top_k=judging.K)
    taken = (time.perf_counter() - began) * 1e3
    found = await ask(top_k=DEPTH)
    if found.partial:
        raise RuntimeError(f"an answer lacks {found.partial}")
    return list(dict.fromkeys(str(each.record.metadata["turn"]) for each in found.memories)), taken


# --- the others, each in a process of its own ---


def theirs(
    other: Other, conversations: Sequence[Conversation], files: Sequence[Path], home: Path, say: Say
) -> Measured:
    """Have another system do the same with the same files. Raises NotMeasured."""
    home.mkdir()
    printed = installed.run(other.runner(say), [other.module, str(home), *map(str, files)], _RANKED_WITHIN_S)
    report = json.loads(printed.splitlines()[-1])
    asked = [(conversation, question) for conversation in conversations for question in conversation.questions]
    answers = [
        judged(conversation, question, found["ids"], found["ms"], ranks_turns=other.ranks_turns)
        for (conversation, question), found in zip(asked, report["found"], strict=True)
    ]
    return Measured(answers, {} if report["size"] is None else {"all": report["size"]})


# --- tables ---


def overall(measured: Mapping[str, Measured]) -> Grid:
    """Return all metrics of every system."""
    rows = [[name, *_row(each.answers)] for name, each in measured.items()]
    count = len(measured[OURS].answers)
    return Grid(f"All {count:,} questions, with half of the 95 % interval", ["", *METRICS, "ms, p50 / p95"], rows)


def in_detail(name: str, measured: Measured) -> Grid:
    """Return all metrics of one system by category."""
    rows = [[category, str(len(answers)), *_row(answers)] for category, answers in _by_category(measured).items()]
    return Grid(name, ["questions", "", *METRICS, "ms, p50 / p95"], rows)


def leads(measured: Mapping[str, Measured]) -> Grid:
    """Return by how much memoryd is better on the same questions."""
    rows = []
    for name, each in measured.items():
        if name != OURS:
            pairs = list(zip(measured[OURS].answers, each.answers, strict=True))
            rows.append([name, *(_lead(pairs, metric) for metric in _COMPARED)])
    return Grid("memoryd's lead on the same questions, with its 95 % interval", ["", *_COMPARED], rows)


def by_category(measured: Mapping[str, Measured], metric: str) -> Grid:
    """Return one metric of every system by category."""
    of_each = [_by_category(each) for each in measured.values()]
    rows = [
        [category, str(len(answers)), *(_shown(given[category], metric) for given in of_each)]
        for category, answers in of_each[0].items()
    ]
    return Grid(metric, ["questions", "", *measured], rows)


def sizes(measured: Mapping[str, Measured], text: int) -> Grid:
    """Return what is kept, in bytes and as a multiple of the text."""
    rows = [
        [name if what == "all" else f"{name}: {what}", f"{size:,}", f"{size / text:.2f}"]
        for name, each in measured.items()
        for what, size in sorted(each.sizes.items())
    ]
    return Grid(f"What is kept of {text:,} bytes of text", ["", "bytes", "times the text"], rows)


def _by_category(measured: Measured) -> dict[str, list[Answer]]:
    """Return the answers by category, that with the most questions first."""
    counts = Counter(answer.category for answer in measured.answers)
    return {name: [each for each in measured.answers if each.category == name] for name, _ in counts.most_common()}


def _row(answers: Sequence[Answer]) -> list[str]:
    p50, p95 = np.percentile([answer.ms for answer in answers], (50, 95))
    return [*(_shown(answers, metric) for metric in METRICS), f"{p50:.1f} / {p95:.1f}"]


def _shown(answers: Sequence[Answer], metric: str) -> str:
    values = [answer.scores[metric] for answer in answers if metric in answer.scores]
    return Interval.of(values).shown() if values else "-"


def _lead(pairs: Sequence[tuple[Answer, Answer]], metric: str) -> str:
    both = [(a.scores[metric], b.scores[metric]) for a, b in pairs if metric in a.scores and metric in b.scores]
    return Interval.of([a - b for a, b in both]).shown_as_difference() if both else "-"


def _grids(measured: Mapping[str, Measured], text: int) -> list[Grid]:
    return [
        overall(measured),
        leads(measured),
        in_detail(OURS, measured[OURS]),
        *(by_category(measured, metric) for metric in (_OF_TURNS, _OF_SESSIONS)),
        sizes(measured, text),
    ]


# --- the command ---

_PATH: Final = click.Path(dir_okay=False, path_type=Path)


@click.command(help="Ask questions of which it is known what answers them, and count what is found.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--peers", is_flag=True, help="Ask other systems too; they are installed when they are first needed.")
@click.option("--json", "as_json", type=_PATH, metavar="FILE", help="Also write every answer.")
@click.option("--markdown", type=_PATH, metavar="FILE", help="Also write the tables for the documentation.")
def main(files: Sequence[Path], *, peers: bool, as_json: Path | None, markdown: Path | None) -> None:
    console = Console(width=_WIDTH)
    conversations = [each for path in files for each in load(path)]
    twice = [name for name, times in Counter(each.name for each in conversations).items() if times > 1]
    if twice:
        raise click.UsageError(f"several conversations are named {twice[0]}: give each file once")
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    with tempfile.TemporaryDirectory(prefix="memoryd-benchmark-") as home:
        about = machine.describe(Path(home))
        measured, absent = _measured(conversations, files, Path(home), console, peers=peers)
    grids = _grids(measured, sum(len(turn.text.encode()) for each in conversations for turn in each.turns))
    left_out = sum(each.left_out for each in conversations)
    notes = [f"not measured: {name}: {why}" for name, why in absent.items()]
    notes += [f"{left_out} questions without usable evidence are left out"] * bool(left_out)
    notes += [f"{name}: SHA-256 {digest}" for name, digest in hashes.items()]
    notes.append("; ".join(f"{name} {value}" for name, value in about.items()))
    show(grids, notes, console, markdown)
    if as_json is not None:
        systems = {
            name: {"sizes": each.sizes, "answers": [asdict(answer) for answer in each.answers]}
            for name, each in measured.items()
        }
        report = {"machine": about, "files": hashes, "not measured": absent, "systems": systems}
        as_json.write_bytes(msgspec.json.encode(report))


def _measured(
    conversations: Sequence[Conversation], files: Sequence[Path], home: Path, console: Console, *, peers: bool
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Return what every system found, and why some could not be asked."""
    with Progress(console=console) as progress:
        measured = asyncio.run(ours(conversations, home / "ours", progress))
    absent = {}
    for name, other in {**PLAIN, **(PEERS if peers else {})}.items():
        console.print(f"[dim]{name}[/]")
        try:
            measured[name] = theirs(
                other, conversations, files, home / other.module, lambda what: console.print(f"[dim]{what}[/]")
            )
        except NotMeasured as why:
            absent[name] = str(why)
    return measured, absent


if __name__ == "__main__":
    main()
