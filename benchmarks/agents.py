"""Does recall find the earlier runs of the same task: `python -m benchmarks.agents FILES`, which hold runs of agents.

Each file is a user. Its runs are taken in time order: before a run is published, its opening message is asked through the
daemon's own client, so that only earlier runs can answer. Of tau-bench the right ones are those of the same task, of coding
runs those on the same repository; what kind of bug it was no file says. Runs are ranked by their first memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sqlite3
import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks import corpus, machine
from benchmarks.daemon import Daemon
from benchmarks.grids import Grid, show
from benchmarks.judging import Interval
from benchmarks.rankers.words import any_word_of
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.messages import MAX_QUERY_BYTES, MAX_TOP_K

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memoryd import Event, Memory, MemoryRecord

OURS: Final = "memoryd"
RUNS: Final = 5
_FIRST: Final = 3
_CHARACTERS: Final = MAX_QUERY_BYTES // 4  # of an opening message, of four bytes each at most
_READY_WITHIN: Final = 600  # tenths of a second
_WIDTH: Final = 150
_COLUMNS: Final = (f"recall@{RUNS} of runs", "the first is right", f"successes among the first {_FIRST}")
_TAU: Final = re.compile(r"(task-\d+)-trial-\d+")


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its events; `group` is the task or the repository."""

    name: str
    group: str
    opening: str
    events: Sequence[Event]
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: the run that asks it, the earlier runs, those of them that are right, and how many memories there were."""

    run: Run
    earlier: Sequence[Run]
    right: frozenset[str]
    memories: int


def runs(path: Path) -> list[Run]:
    """Return the runs of a file in time order."""
    found = []
    for name, of in groupby(corpus.events(path), key=lambda event: event.session_id):
        events = list(of)
        task = _TAU.fullmatch(name)
        found.append(
            Run(
                name=name,
                group=task[1] if task else name.rpartition("-")[0],
                opening=str(events[0].payload["text"])[:_CHARACTERS],
                events=events,
                succeeded=float(str(events[-1].payload["quality"])) > 0,
            )
        )
    return sorted(found, key=lambda run: run.events[0].timestamp)


async def ask(memory: Memory, user: str, path: Path, progress: Progress) -> tuple[list[Asked], list[list[str]]]:
    """Publish run after run, asking before each that has an earlier one of its group; return what was asked and found."""
    earlier: list[Run] = []
    asked, found, memories = [], [], 0
    for run in progress.track(runs(path), description=path.name):
        right = frozenset(other.name for other in earlier if other.group == run.group)
        if right:
            asked.append(Asked(run, list(earlier), right, memories))
            found.append(await _ranked(memory, user, run, earlier))
        await memory.publish(run.events, user=user, ack="committed")
        memories += len(corpus.drafts(run.events))
        earlier.append(run)
    return asked, found


async def _ranked(memory: Memory, user: str, run: Run, earlier: Iterable[Run]) -> list[str]:
    """Return the runs found, best first. Raises RuntimeError when a memory does not tell how its run went."""
    succeeded = {other.name: other.succeeded for other in earlier}
    for _ in range(_READY_WITHIN):
        found = await memory.recall(run.opening, user=user, top_k=MAX_TOP_K, now=run.events[0].timestamp)
        if "words" not in found.partial:
            break
        await asyncio.sleep(0.1)
    else:
        raise TimeoutError("the words of a run were not taken in")
    for each in found.memories:
        quality = each.record.quality_score
        if quality is None or (quality > 0) != succeeded[each.record.session_id]:
            raise RuntimeError(f"a memory of {each.record.session_id} does not tell how it went")
    return list(dict.fromkeys(each.record.session_id for each in found.memories))


def alone(asked: Sequence[Asked], records: Sequence[MemoryRecord]) -> dict[str, list[list[str]]]:
    """Return what vectors alone and words alone find, among the memories that there were at each question."""
    embedder = OnnxEmbedder.open(corpus.MODEL, threads=1)
    vectors = np.stack([np.frombuffer(record.embedding, "<f4") for record in records])
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE texts USING fts5(text, content='', tokenize='porter unicode61')")
    rows = [(place, record.text) for place, record in enumerate(records)]
    database.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", rows)
    search = "SELECT rowid FROM texts WHERE texts MATCH ? AND rowid < ? ORDER BY rank LIMIT ?"
    by_vectors, by_words = [], []
    for each in asked:
        cosines = vectors[: each.memories] @ embedder.embed([each.run.opening]).vectors[0]
        by_vectors.append(np.argsort(-cosines, kind="stable")[:MAX_TOP_K].tolist())
        found = database.execute(search, (any_word_of(each.run.opening), each.memories, MAX_TOP_K))
        by_words.append([place for (place,) in found])
    ranked = {"vectors alone": by_vectors, "words alone, FTS5 as it comes": by_words}
    return {
        name: [list(dict.fromkeys(records[place].session_id for place in places)) for places in of_each]
        for name, of_each in ranked.items()
    }


def scores(asked: Asked, found: Sequence[str]) -> dict[str, float]:
    """Return how good the runs found are; of more than five right ones, five can be found."""
    succeeded = {run.name: run.succeeded for run in asked.earlier}
    values = (
        len(asked.right.intersection(found[:RUNS])) / min(RUNS, len(asked.right)),
        float(bool(found) and found[0] in asked.right),
        float(np.mean([succeeded[name] for name in found[:_FIRST]])) if found else 0.0,
    )
    return dict(zip(_COLUMNS, values, strict=True))


def by_chance(asked: Asked) -> dict[str, float]:
    """Return the same in the mean over earlier runs in any order."""
    count, right = len(asked.earlier), len(asked.right)
    values = (
        min(RUNS, count) / count * right / min(RUNS, right),
        right / count,
        float(np.mean([run.succeeded for run in asked.earlier])),
    )
    return dict(zip(_COLUMNS, values, strict=True))


def grid(title: str, asked: Sequence[Asked], found: Mapping[str, Sequence[Sequence[str]]]) -> Grid:
    """Return the figures of every system, with memoryd's lead, and what chance would give."""
    of_each = {name: [scores(*pair) for pair in zip(asked, ranked, strict=True)] for name, ranked in found.items()}
    rows = [[name, *(_mean(given, column) for column in _COLUMNS)] for name, given in of_each.items()]
    for name, given in of_each.items():
        if name != OURS:
            pairs = list(zip(of_each[OURS], given, strict=True))
            leads = (Interval.of([ours[column] - theirs[column] for ours, theirs in pairs]) for column in _COLUMNS)
            rows.append([f"memoryd's lead over {name}", *(lead.shown_as_difference() for lead in leads)])
    rows.append(["by chance", *(_mean([by_chance(each) for each in asked], column) for column in _COLUMNS)])
    of_right = [np.mean([run.succeeded for run in each.earlier if run.name in each.right]) for each in asked]
    rows.append(["by chance among the right ones", "", "", Interval.of([float(each) for each in of_right]).shown()])
    return Grid(f"{title}, {len(asked)} runs that have an earlier one of their group", ["", *_COLUMNS], rows)


def _mean(given: Sequence[Mapping[str, float]], column: str) -> str:
    return Interval.of([each[column] for each in given]).shown()


async def _all(
    files: Sequence[Path], home: Path, progress: Progress
) -> dict[str, tuple[list[Asked], dict[str, list[list[str]]]]]:
    measured = {}
    with Daemon(home) as daemon:
        async with daemon.client() as memory:
            for place, path in enumerate(files):
                user = f"file-{place}"
                asked, found = await ask(memory, user, path, progress)
                if not asked:
                    raise click.ClickException(f"no run in {path.name} has an earlier one of its task or repository")
                records = [record async for page in memory.export(user=user) for record in page.records]
                measured[path.name] = (asked, {OURS: found, **alone(asked, records)})
    return measured


_PATH: Final = click.Path(dir_okay=False, path_type=Path)


@click.command(help="Ask with the opening message of each run for the earlier runs of the same task.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", type=_PATH, metavar="FILE", help="Also write every answer.")
@click.option("--markdown", type=_PATH, metavar="FILE", help="Also write the tables for the documentation.")
def main(files: Sequence[Path], as_json: Path | None, markdown: Path | None) -> None:
    console = Console(width=_WIDTH)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    with tempfile.TemporaryDirectory(prefix="memoryd-benchmark-") as home, Progress(console=console) as progress:
        about = machine.describe(Path(home))
        measured = asyncio.run(_all(files, Path(home), progress))
    grids = [grid(name, *each) for name, each in measured.items()]
    notes = [f"{name}: SHA-256 {digest}" for name, digest in hashes.items()]
    notes.append("; ".join(f"{name} {value}" for name, value in about.items()))
    show(grids, notes, console, markdown)
    if as_json is not None:
        answers = {
            name: [
                {
                    "run": each.run.name,
                    "right": sorted(each.right),
                    "found": {system: ranked[place] for system, ranked in found.items()},
                }
                for place, each in enumerate(asked)
            ]
            for name, (asked, found) in measured.items()
        }
        as_json.write_bytes(msgspec.json.encode({"machine": about, "files": hashes, "answers": answers}))


if __name__ == "__main__":
    main()
