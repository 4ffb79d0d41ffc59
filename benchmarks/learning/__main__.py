"""What runs teach recall: `python -m benchmarks.learning FILES`, in the format of LoCoMo, with `--runs FILE` of agents.

Each conversation is a user. A run asks a question, is shown the first ten answers, and says which of them are evidence; what was not
shown is never told. nDCG@10 without and with learning, in the same run, of two scores: *full* is this project's own ranking, *plain*
cosine + .05 BM25. Beside this project's engine learns the published one, with its defaults and with a high rate. The parts:

- stream: 60 questions in four phrasings each, in random order, scored before each run,
- paraphrase: 60 questions asked once each, then in three other phrasings,
- held-out: up to half of the questions are runs, the other half is asked; and those of them that share no evidence with a run (novel),
- noise: stream and held-out, when runs name wrong memories, and when they say only how they ended,
- forgetting: two users in one store; one's questions are learned, then the other's,
- guard: 90 runs, as they are and with what helped exchanged among the answers of each,
- scale: all users in one store, and what learning takes after ever more runs.

`--runs` replays histories of agents in time order besides.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import faiss
import msgspec
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from benchmarks import corpus, machine
from benchmarks.conversations import load
from benchmarks.grids import show
from benchmarks.learning import figures as f
from benchmarks.learning import plots, tables
from benchmarks.learning.histories import Replayed
from benchmarks.learning.published import NAME, VERSION, Node, Published
from benchmarks.learning.pupils import Ours
from benchmarks.learning.stores import Encoder
from benchmarks.learning.whole import PARTS, Job, Whole, jobs
from benchmarks.systems.installed import NotMeasured
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.sona.profiles import PROFILES, profile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.learning.pupils import Pupil
    from benchmarks.learning.users import User

    Learners = dict[str, Callable[[User], Pupil]]

_HIGH_RATE: Final = 1.0  # of the published engine, whose default is .001
_WIDTH: Final = 170
_PATH: Final = click.Path(dir_okay=False, path_type=Path)
_GIVEN: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def _published(node: Node) -> Learners:
    return {
        f"{NAME} {VERSION}": partial(Published, node=node),
        f"{NAME} {VERSION}, rate {_HIGH_RATE:g}": partial(Published, node=node, rate=_HIGH_RATE),
    }


def _do(whole: Whole, asked: Sequence[Job], histories: Sequence[Path], progress: Progress) -> None:
    if asked:
        for job in progress.track(asked, description="learning"):
            whole.do(job)
    for given in (Replayed.of(path) for path in histories):
        for _ in progress.track(whole.replay(given), total=len(given.runs), description=given.name):
            pass


@click.command(help="Measure what runs teach recall, on conversations in the format of LoCoMo and on runs of agents.")
@click.argument("files", nargs=-1, type=_GIVEN)
@click.option("--runs", "histories", multiple=True, type=_GIVEN, metavar="FILE", help="Also these runs of agents.")
@click.option("--seeds", type=click.IntRange(1, 50), default=3, show_default=True, help="How often everything is done.")
@click.option(
    "--draws", type=click.IntRange(1, 100), default=6, show_default=True, help="Shuffles of each user and seed."
)
@click.option("--only", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, help="Only these parts.")
@click.option("--profile", "name", type=click.Choice(sorted(PROFILES)), default="balanced", show_default=True)
@click.option("--without-published", is_flag=True, help="Without the published engine, which needs node.")
@click.option("--json", "as_json", type=_PATH, metavar="FILE", help="Also write every mean.")
@click.option("--markdown", type=_PATH, metavar="FILE", help="Also write the tables for the documentation.")
@click.option(
    "--plots", "pictures", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", help="Also draw."
)
def main(
    files: Sequence[Path],
    histories: Sequence[Path],
    seeds: int,
    draws: int,
    parts: Sequence[str],
    name: str,
    *,
    without_published: bool,
    as_json: Path | None,
    markdown: Path | None,
    pictures: Path | None,
) -> None:
    if not files and not histories:
        raise click.UsageError("name conversations, or runs of agents with --runs")
    faiss.omp_set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")  # as the daemon does
    console, encoder = Console(width=_WIDTH), Encoder(OnnxEmbedder.open(corpus.MODEL, threads=1))
    conversations = [each for path in files for each in load(path)]
    learners: Learners = {f.OURS: lambda user: Ours(user, profile(name))}
    notes = [f"{path.name}: SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in (*files, *histories)]
    with ExitStack() as stack:
        about = machine.describe(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        node = None
        if not without_published:
            try:
                node = stack.enter_context(Node(console.print))
                learners |= _published(node)
            except NotMeasured as why:
                notes.append(f"{NAME} was not measured: {why}")
        whole = Whole(conversations, encoder, learners, profile(name), draws)
        progress = stack.enter_context(Progress(console=console))
        _do(whole, jobs(parts, len(conversations), seeds) if conversations else (), histories, progress)
    if node is not None:
        notes.append(node.told())
    notes.append(f"profile {name}; " + "; ".join(f"{what} {value}" for what, value in about.items()))
    show(tables.grids(whole.figures, seeds), notes, console, markdown)
    if pictures is not None:
        plots.draw(whole.figures, pictures)
    if as_json is not None:
        as_json.write_bytes(msgspec.json.encode({"notes": notes, "seeds": seeds, "figures": whole.figures}))


if __name__ == "__main__":
    main()
