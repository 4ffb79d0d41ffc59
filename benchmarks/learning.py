"""What a user's runs teach recall: `python -m benchmarks.learning FILES`, in the format of LoCoMo. Each conversation is a user.

A run asks a question, is shown the first ten answers, and says which of them are evidence; what was not shown is never told. nDCG@10
of this project's own ranking without and with learning, in the same run, by the engine itself:

- stream: 60 questions in four phrasings each, in random order, scored before each run; the second to fourth time,
- paraphrase: 60 questions asked once each, then in three other phrasings,
- held-out: half of the questions are runs, the other half is asked; and those of them that share no evidence with a run (novel),
- outcome alone: the stream again, but a run says only whether any answer was evidence, and one in ten says the opposite,
- guard: 90 runs, as they are and with what helped exchanged among the answers of each.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import faiss
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from benchmarks import corpus, machine
from benchmarks.conversations import Conversation, load
from benchmarks.grids import Grid, show
from benchmarks.judging import K
from benchmarks.rewording import WAYS, reworded
from benchmarks.turns import embedded, remembered
from memoryd.actors.learning import lesson_of
from memoryd.actors.timing import timing
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.files import RealFiles
from memoryd.protocol.ids import BEFORE_ALL, TrajectoryId
from memoryd.protocol.interfaces import Contents
from memoryd.protocol.records import ANY, Trajectory
from memoryd.rvf.records import decode_record, encode_record
from memoryd.sona.learner import Learner
from memoryd.sona.profiles import PROFILES, profile
from memoryd.times import spoken
from memoryd.vectors.index import VectorIndex
from memoryd.words.hybrid import WordsIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Meaning, Words

_INTENTS: Final = 60
_GUARDED: Final = 90
_WRONG: Final = 0.1
_BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)
_GAINS: Final = 1 / np.log2(np.arange(2, K + 2))


class User:
    """One conversation, asked as the daemon asks, and the questions about it with their evidence."""

    def __init__(self, conversation: Conversation, embedder: OnnxEmbedder, folder: Path) -> None:
        records, vectors = embedded(remembered(conversation), embedder)
        encoded = [encode_record(each) for each in records]
        self.view = VectorIndex(Contents((), vectors, encoded, (), BEFORE_ALL)).view()
        self.memories = self.view.memories()
        self.dim = vectors.shape[1]
        ids = {turn.id: record.id for turn, record in zip(conversation.turns, records, strict=True)}
        self.questions = [question.text for question in conversation.questions]
        self.gold = [frozenset(ids[turn] for turn in question.turns) for question in conversation.questions]
        self._words = WordsIndex(folder / conversation.name, RealFiles(), decode_record)
        self._words.cover(self.view, len(records))
        self._embedder = embedder
        self._asked = conversation.asked
        self._known: dict[str, tuple[Words, Meaning]] = {}
        self._unlearned: dict[str, list[RecordId]] = {}

    def about(self, text: str) -> tuple[Words, Meaning]:
        """Return a question with its words looked up, and its meaning."""
        if text not in self._known:
            said = spoken(text, self._asked, UTC)
            event = self._words.event(self.view, text, said.event, 0) if said.event else None
            words = self._words.match(self.view, text, ANY, 0, timing(said, event, "prefer", ANY).preferred)
            self._known[text] = (words, self._embedder.embed([self._words.addressed(text)]).meaning(0))
        return self._known[text]

    def answers(self, text: str, learner: Learner | None = None) -> list[RecordId]:
        """Return the first ten answers; the same question without learning is answered once."""
        if learner is None and text in self._unlearned:
            return self._unlearned[text]
        words, meaning = self.about(text)
        learned = None if learner is None else learner.about(words.intent(meaning.vector))
        found = [decode_record(hit.record).id for hit in words.rank(meaning, k=K, learned=learned).hits]
        if learner is None:
            self._unlearned[text] = found
        return found

    def quality(self, answers: Sequence[RecordId], question: int) -> float:
        """Return nDCG@10."""
        hits = [answer in self.gold[question] for answer in answers]
        return float(_GAINS[: len(hits)][hits].sum() / _GAINS[: min(K, len(self.gold[question]))].sum())


@dataclass
class Runs:
    """A user's runs, one after the other, and what each taking in and each fit took, in seconds."""

    user: User
    profile: str
    took: list[float] = field(default_factory=list)
    fitted: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.learner = Learner(self.user.dim, profile(self.profile))
        self._number = 0

    def ran(self, text: str, shown: Sequence[RecordId], question: int) -> None:
        """Learn from a run that says which of what it was shown is evidence."""
        self.named(text, shown, [record for record in shown if record in self.user.gold[question]])

    def named(self, text: str, shown: Sequence[RecordId], helped: Sequence[RecordId]) -> None:
        """Learn from a run that names what helped; that nothing did is said of all of them."""
        self._learn(text, shown, helped, () if helped else shown, float(bool(helped)))

    def ended(self, text: str, shown: Sequence[RecordId], quality: float) -> None:
        """Learn from a run that says only how it ended."""
        self._learn(text, shown, (), (), quality)

    def _learn(
        self,
        text: str,
        shown: Sequence[RecordId],
        helped: Sequence[RecordId],
        harmful: Sequence[RecordId],
        quality: float,
    ) -> None:
        self._number += 1
        run = Trajectory(
            id=TrajectoryId(f"{self._number:026}"),
            query=text,
            started=_BEGAN,
            ended=_BEGAN,
            shown=tuple(shown),
            helped=tuple(helped),
            harmful=tuple(harmful),
            quality=quality,
        )
        words, meaning = self.user.about(text)
        lesson = lesson_of(run, words, meaning, self.learner.profile.threshold)
        if lesson is not None:
            began = time.perf_counter()
            self.learner.learn(lesson, self.user.memories)
            self.took.append(time.perf_counter() - began)

    def fit(self) -> str:
        """Fit the weights if the guard lets them pass; return what came of it."""
        began = time.process_time()
        outcome = self.learner.refit(self.user.memories).outcome
        self.fitted.append(time.process_time() - began)
        return outcome


@dataclass
class Figures:
    """Means of nDCG@10 over questions, without and with learning, of each user and seed, by what was asked."""

    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    guarded: dict[str, list[str]] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    fitted: list[float] = field(default_factory=list)

    def add(self, what: str, before: Sequence[float], after: Sequence[float]) -> None:
        if before:
            self.pairs.setdefault(what, []).append((float(np.mean(before)), float(np.mean(after))))

    def merge(self, runs: Runs) -> None:
        self.took += runs.took
        self.fitted += runs.fitted


def stream(user: User, name: str, rng: np.random.Generator, figures: Figures, *, is_coarse: bool) -> None:
    """Ask the same questions in four phrasings, in random order, each run after its answer was scored."""
    chosen = rng.permutation(len(user.questions))[:_INTENTS].tolist()
    phrasings = {question: [user.questions[question], *_reworded(user, question)] for question in chosen}
    items = [(question, text) for question in chosen for text in phrasings[question]]
    runs, seen = Runs(user, name), set[int]()
    before, after = [], []
    for number in rng.permutation(len(items)).tolist():
        question, text = items[number]
        shown = user.answers(text, runs.learner)
        if question in seen:
            before.append(user.quality(user.answers(text), question))
            after.append(user.quality(shown, question))
        seen.add(question)
        if is_coarse:
            went_well = any(record in user.gold[question] for record in shown) != (rng.random() < _WRONG)
            runs.ended(text, shown, float(went_well))
        else:
            runs.ran(text, shown, question)
        if runs.learner.is_due:
            runs.fit()
    figures.add(
        "outcome alone, one in ten wrong: stream" if is_coarse else "stream, second to fourth time", before, after
    )
    figures.merge(runs)


def paraphrase(user: User, name: str, rng: np.random.Generator, figures: Figures) -> None:
    """Ask each question once, then in other words."""
    chosen = rng.permutation(len(user.questions))[:_INTENTS].tolist()
    runs = Runs(user, name)
    for question in chosen:
        runs.ran(user.questions[question], user.answers(user.questions[question]), question)
    runs.fit()
    asked = [(question, text) for question in chosen for text in _reworded(user, question)]
    figures.add(
        "paraphrase of a question fed once",
        [user.quality(user.answers(text), question) for question, text in asked],
        [user.quality(user.answers(text, runs.learner), question) for question, text in asked],
    )
    figures.merge(runs)


def held_out(user: User, name: str, rng: np.random.Generator, figures: Figures) -> None:
    """Learn from half of the questions, and ask the others."""
    order = rng.permutation(len(user.questions)).tolist()
    fed, asked = order[: len(order) // 2], order[len(order) // 2 :]
    runs = Runs(user, name)
    for question in fed:
        runs.ran(user.questions[question], user.answers(user.questions[question]), question)
    runs.fit()
    known = frozenset().union(*(user.gold[question] for question in fed))
    of_all: dict[str, tuple[list[float], list[float]]] = {"held-out": ([], []), "held-out, novel": ([], [])}
    for question in asked:
        text = user.questions[question]
        before = user.quality(user.answers(text), question)
        after = user.quality(user.answers(text, runs.learner), question)
        for what, pair in of_all.items():
            if what == "held-out" or not user.gold[question] & known:
                pair[0].append(before)
                pair[1].append(after)
    for what, pair in of_all.items():
        figures.add(what, *pair)
    figures.merge(runs)


def guard(user: User, name: str, rng: np.random.Generator, figures: Figures) -> None:
    """Let the guard judge runs, and the same with what helped exchanged."""
    chosen = rng.permutation(len(user.questions))[:_GUARDED].tolist()
    for kind in ("as they are", "exchanged"):
        runs = Runs(user, name)
        for question in chosen:
            text = user.questions[question]
            shown = user.answers(text)
            told = shown if kind == "as they are" else [shown[place] for place in rng.permutation(len(shown))]
            is_gold = [record in user.gold[question] for record in shown]
            helped = [record for record, helps in zip(told, is_gold, strict=True) if helps]
            runs.named(text, shown, helped)
        figures.guarded.setdefault(kind, []).append(runs.fit())


def _reworded(user: User, question: int) -> list[str]:
    rng = np.random.default_rng(question)
    return [reworded(user.questions[question], way, rng) for way in range(WAYS)]


def grids(figures: Figures, users: int, seeds: int) -> list[Grid]:
    """Return what was measured as tables; the deviation is over seeds, of the mean over users."""
    rows = []
    for what, pairs in figures.pairs.items():
        means = np.array(pairs).reshape(users, seeds, 2)
        before, after = means.mean(axis=(0, 1)).tolist()
        of_seeds = 100 * (means[:, :, 1].mean(axis=0) / means[:, :, 0].mean(axis=0) - 1)
        of_users = 100 * (means[:, :, 1].mean(axis=1) / means[:, :, 0].mean(axis=1) - 1)
        spread = f" ± {of_seeds.std(ddof=1):.1f}" if seeds > 1 else ""
        rows.append(
            [
                what,
                f"{before:.3f}",
                f"{after:.3f}",
                f"{100 * (after / before - 1):+.1f} %{spread}",
                f"{of_users.min():+.1f} %",
            ]
        )
    learned = Grid(f"{users} users, {seeds} seeds, nDCG@{K}", ["", "without", "with", "", "worst user"], rows)
    accepted = [
        [f"runs {kind}", f"{outcomes.count('accepted')} of {len(outcomes)}"]
        for kind, outcomes in figures.guarded.items()
    ]
    costs = [
        ["an instant step, p50", f"{1e3 * float(np.median(figures.took)):.2f} ms"],
        ["fitting and judging, p50", f"{1e3 * float(np.median(figures.fitted)):.0f} ms of a processor"],
    ]
    return [learned, Grid("the guard accepted", ["", ""], accepted), Grid("what it took", ["", ""], costs)]


_PATH: Final = click.Path(dir_okay=False, path_type=Path)


@click.command(help="Measure what runs teach recall, on conversations in the format of LoCoMo.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seeds", type=click.IntRange(1, 50), default=3, show_default=True, help="How often everything is done.")
@click.option("--profile", "name", type=click.Choice(sorted(PROFILES)), default="balanced", show_default=True)
@click.option("--json", "as_json", type=_PATH, metavar="FILE", help="Also write every mean.")
@click.option("--markdown", type=_PATH, metavar="FILE", help="Also write the tables for the documentation.")
def main(files: Sequence[Path], seeds: int, name: str, as_json: Path | None, markdown: Path | None) -> None:
    faiss.omp_set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")  # as the daemon does
    console, embedder, figures = Console(), OnnxEmbedder.open(corpus.MODEL, threads=1), Figures()
    conversations = [each for path in files for each in load(path)]
    parts: list[Callable[[User, np.random.Generator], None]] = [
        lambda user, rng: stream(user, name, rng, figures, is_coarse=False),
        lambda user, rng: stream(user, name, rng, figures, is_coarse=True),
        lambda user, rng: paraphrase(user, name, rng, figures),
        lambda user, rng: held_out(user, name, rng, figures),
        lambda user, rng: guard(user, name, rng, figures),
    ]
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        about = machine.describe(Path(folder))
        task = progress.add_task("learning", total=len(conversations) * seeds * len(parts))
        for conversation in conversations:
            user = User(conversation, embedder, Path(folder))
            for seed in range(seeds):
                for part in parts:
                    part(user, np.random.default_rng(seed))
                    progress.advance(task)
    notes = [f"profile {name}; " + "; ".join(f"{what} {value}" for what, value in about.items())]
    show(grids(figures, len(conversations), seeds), notes, console, markdown)
    if as_json is not None:
        known = {"machine": about, "profile": name, "pairs": figures.pairs, "guard": figures.guarded}
        as_json.write_bytes(msgspec.json.encode(known))


if __name__ == "__main__":
    main()
