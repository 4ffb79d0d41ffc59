"""Who gets the credit when a run says only how it ended: `python -m benchmarks.credit CONVERSATIONS --runs RUNS`.

Conversations are in the format of LoCoMo, each a user: the stream of `benchmarks.learning`, of whose runs only the outcome is known, one in
ten wrongly, and its half of the questions, after which the others are asked. nDCG@10 of the second to fourth time, and of questions that never
came, against the ranking without learning, by the engine itself, for the users of the first half and of the second, by each rule
(rules.py) with the kinds of later texts that it may look at (reports.py). Runs of agents, as
`benchmarks.agents` reads them, are taken in time order, with what they really said (histories.py).
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import faiss
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from benchmarks import corpus, machine
from benchmarks.conversations import load
from benchmarks.credit import tables
from benchmarks.credit.histories import crediters, replay
from benchmarks.credit.reports import Reporting
from benchmarks.credit.rules import RULES, Crediting
from benchmarks.grids import show
from benchmarks.learning import figures as f
from benchmarks.learning.bases import Full
from benchmarks.learning.histories import Replayed
from benchmarks.learning.protocols import Trial, held_out, stream
from benchmarks.learning.stores import Encoder, Store
from benchmarks.learning.users import People, User
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.sona.profiles import profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.conversations import Conversation
    from benchmarks.grids import Grid

_PROFILE: Final = profile("balanced")
_WIDTH: Final = 150
_PATH: Final = click.Path(dir_okay=False, path_type=Path)
_GIVEN: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_NAMES: Final = tuple(RULES)
_AGAIN: Final = "questions that come again"
_NEVER: Final = "questions that never came"


def _conversations(
    conversations: Sequence[Conversation],
    encoder: Encoder,
    rules: Sequence[str],
    seeds: int,
    made: list[float],
    progress: Progress,
) -> list[Grid]:
    again, never = f.Figures(), f.Figures()
    for conversation in progress.track(conversations, description="conversations"):
        user = User(People.of([conversation], encoder), Full)
        for name, (rule, kinds) in RULES.items():
            if name in rules:
                begin = partial(Crediting, user, _PROFILE, rule, made)
                for kind, seed in product(kinds, range(seeds)):
                    stream(Trial(user, begin, seed, f.FULL, name, again), Reporting(kind=kind))
                    held_out(Trial(user, begin, seed, f.FULL, name, never), Reporting(kind=kind))
    return [tables.of_users(again.pairs, _AGAIN, seeds), tables.of_users(never.pairs, _NEVER, seeds)]


def _history(
    path: Path, encoder: Encoder, rules: Sequence[str], seeds: int, made: list[float], progress: Progress
) -> Grid:
    given, store = Replayed.of(path), Store(encoder)
    followers = crediters(given, store, rules, _PROFILE, seeds, made)
    for _ in progress.track(replay(given, store, followers), total=len(given.runs), description=given.name):
        pass
    return tables.of_history(followers)


@click.command(help="Compare ways to credit memories when a run says only how it ended.")
@click.argument("files", nargs=-1, required=True, type=_GIVEN)
@click.option("--runs", "histories", multiple=True, type=_GIVEN, metavar="FILE", help="Also these runs of agents.")
@click.option("--seeds", type=click.IntRange(1, 50), default=3, show_default=True, help="How often everything is done.")
@click.option("--only", "rules", multiple=True, type=click.Choice(_NAMES), default=_NAMES, help="Only these rules.")
@click.option("--markdown", type=_PATH, metavar="FILE", help="Also write the tables for the documentation.")
def main(
    files: Sequence[Path], histories: Sequence[Path], seeds: int, rules: Sequence[str], markdown: Path | None
) -> None:
    conversations = [each for path in files for each in load(path)]
    for each in conversations:
        if not any(question.answer for question in each.questions):
            raise click.UsageError(
                f"{each.name} has no reference answers, which reports are made of: give files of LoCoMo"
            )
    faiss.omp_set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")  # as the daemon does
    console, encoder = Console(width=_WIDTH), Encoder(OnnxEmbedder.open(corpus.MODEL, threads=1))
    took: dict[str, list[float]] = {"conversations": [], "agents": []}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        about = machine.describe(Path(folder))
        grids = _conversations(conversations, encoder, rules, seeds, took["conversations"], progress)
        grids += [_history(path, encoder, rules, seeds, took["agents"], progress) for path in histories]
    notes = ["; ".join(f"{what} {value}" for what, value in about.items())]
    show([*grids, tables.of_costs(took)], notes, console, markdown)


if __name__ == "__main__":
    main()
