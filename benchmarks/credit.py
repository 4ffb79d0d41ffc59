"""Who gets the credit when a run says only how it ended: `python -m benchmarks.credit CONVERSATIONS --runs RUNS`.

Conversations are in the format of LoCoMo, each a user: 60 questions in four phrasings each, in random order, scored before each run, of
which only the outcome is known, one in ten wrongly. nDCG@10 of the second to fourth time against the ranking without learning, by the
engine itself, for the users of the first half and of the second. What a run says later is made of the question's reference answer, which
is an idealised report; so it is spoiled, too. A run that was shown no evidence reports the answer of another question:

- answer: the answer, and nothing else,
- other: the answer, and that of another question,
- quoted: the question and the answer, and one of the memories shown that is no evidence, word by word,
- wrong: the answer of another question only,
- mixed: one of these, or the question and such a quotation, or nothing, each as often.

Runs of agents, as `benchmarks.agents` reads them, are taken in time order, with what they really said and how they really ended. Right is
what comes from an earlier run of the same task or repository; these agents saw no memories, so their outcomes do not depend on them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click
import faiss
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from benchmarks import agents, corpus, machine
from benchmarks.conversations import Conversation, load
from benchmarks.grids import Grid, show
from benchmarks.judging import K
from benchmarks.learning import Runs, User
from benchmarks.rewording import WAYS, reworded
from memoryd.actors.learning import lesson_of
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.files import RealFiles
from memoryd.protocol.ids import BEFORE_ALL, TrajectoryId
from memoryd.protocol.interfaces import Contents
from memoryd.protocol.learning import UNTOLD
from memoryd.protocol.records import ANY, MemoryRecord, Step, Trajectory
from memoryd.rvf.records import decode_record, encode_record
from memoryd.sona.learner import Learner
from memoryd.sona.profiles import profile
from memoryd.vectors.index import VectorIndex
from memoryd.words.credit import later_texts, told
from memoryd.words.hybrid import Question, WordsIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Matched, Vectors, Words
    from memoryd.protocol.learning import Lesson

_INTENTS: Final = 60
_WRONG: Final = 0.1
_FEW: Final = 5
_BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)
_KINDS: Final = ("answer", "other", "quoted", "wrong")
_REPORTS: Final = (*_KINDS, "mixed")
_NEAR: Final = 0.1  # of a cosine: so much nearer than what is by chance is told for sure
_GAINS: Final = 1 / np.log2(np.arange(2, K + 2))
_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Told:
    """What a rule may look at: a run that went well, its question and its later texts, and the credit that it gets as shipped."""

    run: Trajectory
    words: Question
    vector: Vectors
    said: Sequence[Matched]
    lesson: Lesson
    embed: Callable[[str], Vectors]

    @property
    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of what was shown and of the next candidates."""
        given, found, chosen = self.words.chosen(self.vector, self.lesson.shown)
        return found.rows[chosen[: len(given)]], found.rows[chosen[len(given) :]]


Shares = Callable[[Told], "NDArray[np.float32]"]


def shipped(given: Told) -> NDArray[np.float32]:
    """Credit what the later texts go back to, as the daemon does."""
    return given.lesson.credit[: len(given.lesson.shown)]


def alike(given: Told) -> NDArray[np.float32]:
    """Credit all alike."""
    return np.full(len(given.lesson.shown), UNTOLD, np.float32)


def first_few(given: Told) -> NDArray[np.float32]:
    """Credit the first five."""
    return np.where(np.arange(len(given.lesson.shown)) < _FEW, np.float32(UNTOLD), np.float32(0))


def by_place(given: Told) -> NDArray[np.float32]:
    """Credit more what stands further behind: the inverse of how often a user looks there, 1 / log2(1 + place)."""
    return np.asarray(UNTOLD / _GAINS[: len(given.lesson.shown)], np.float32)


def without_chance(given: Told) -> NDArray[np.float32]:
    """Credit by words, whatever those share with the texts that were not shown."""
    shown, others = given.rows
    return _credit(told(given.said, given.words.matched, shown, others[:0]))


def of_each(given: Told) -> NDArray[np.float32]:
    """Credit by words, each memory by itself: what several of them hold counts for each of them."""
    shown, others = given.rows
    alone = [told(given.said, given.words.matched, shown[place : place + 1], others)[0] for place in range(len(shown))]
    return _credit(np.array(alone, np.float32))


def by_vectors(given: Told) -> NDArray[np.float32]:
    """Credit what is nearer to one of the later texts than nine in ten of the next candidates are."""
    shown, others = given.rows
    texts = later_texts(given.run, given.words.view, decode_record)
    nearest = np.zeros(len(shown) + len(others), np.float32)
    rows = np.concatenate([shown, others])
    order = np.argsort(rows)
    for text in texts:
        nearest[order] = np.maximum(nearest[order], given.words.view.cosines(given.embed(text), rows[order]))
    usual = np.quantile(nearest[len(shown) :], 0.9) if len(others) else 0
    return _credit(np.clip((nearest[: len(shown)] - usual) / _NEAR, 0, 1))


def by_both(given: Told) -> NDArray[np.float32]:
    """Credit by words or by vectors, whichever is more."""
    return np.maximum(shipped(given), by_vectors(given))


RULES: Final[dict[str, tuple[Shares, Sequence[str]]]] = {
    "outcome alone": (alike, ("none",)),
    "outcome alone, the first five": (first_few, ("none",)),
    "outcome alone, divided by the propensity of the place": (by_place, ("none",)),
    "by words, as shipped": (shipped, _REPORTS),
    "by words, chance not taken off": (without_chance, ("answer", "mixed")),
    "by words, each memory by itself": (of_each, ("answer", "mixed")),
    "by vectors": (by_vectors, ("answer", "mixed")),
    "by words or vectors": (by_both, ("answer", "mixed")),
}


def _credit(shares: NDArray[np.floating]) -> NDArray[np.float32]:
    return (UNTOLD + (1 - UNTOLD) * shares).astype(np.float32)


@dataclass
class Teller:
    """Makes lessons of runs by one of the rules; `took` is what that takes, in seconds of a processor."""

    rule: Shares
    embed: Callable[[str], Vectors]
    took: list[float] = field(default_factory=list)

    def lesson(
        self, run: Trajectory, words: Words, vector: Vectors, said: Callable[[], Sequence[Matched]], least: float
    ) -> Lesson | None:
        """Return what a run teaches."""
        began = time.process_time()
        matched = said()
        made = lesson_of(run, words, vector, least, matched)
        self.took.append(time.process_time() - began)
        if made is None or not (made.is_coarse and made.is_positive):
            return made
        credit = np.zeros_like(made.credit)
        given = Told(run, cast("Question", words), vector, matched, made, self.embed)
        credit[: len(made.shown)] = np.clip(self.rule(given), 0, 1)
        return replace(made, credit=credit)


class Reporter(User):
    """A user whose runs say something later, of so many kinds."""

    def __init__(self, conversation: Conversation, embedder: OnnxEmbedder, folder: Path) -> None:
        super().__init__(conversation, embedder, folder)
        records = map(decode_record, self.view.records(np.arange(self.view.rows)))
        self._texts = {record.id: record.text for record in records}
        self._answers = [question.answer for question in conversation.questions]

    def said(self, run: Trajectory) -> Sequence[Matched]:
        """Look up what a run said later."""
        return self._words.said(self.view, run)

    def later(self, kind: str, question: int, text: str, shown: Sequence[RecordId], seed: Sequence[int]) -> list[str]:
        """Return the later texts of a run that was shown this."""
        rng = np.random.default_rng(seed)
        gold = self.gold[question]
        other = self._answers[int(rng.integers(len(self._answers)))]
        answer = self._answers[question] if gold.intersection(shown) else other
        vain = [record for record in shown if record not in gold]
        quoted = self._texts[vain[int(rng.integers(len(vain)))]] if vain else ""
        kinds = {
            "none": [],
            "answer": [answer],
            "other": [answer, other],
            "quoted": [text, answer, quoted],
            "wrong": [other],
            "quoted only": [text, quoted],
        }
        return kinds[list(kinds)[int(rng.integers(len(kinds)))] if kind == "mixed" else kind]


def stream(user: Reporter, teller: Teller, kind: str, seed: int) -> tuple[float, float]:
    """Return the mean nDCG of the second to fourth time a question is asked, without and with learning."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(user.questions))[:_INTENTS].tolist()
    items = [(question, text) for question in chosen for text in _phrasings(user, question)]
    runs, seen = Runs(user, "balanced"), set[int]()
    before, after = [], []
    for number in rng.permutation(len(items)).tolist():
        question, text = items[number]
        shown = user.answers(text, runs.learner)
        if question in seen:
            before.append(user.quality(user.answers(text), question))
            after.append(user.quality(shown, question))
        seen.add(question)
        went_well = any(record in user.gold[question] for record in shown) != (rng.random() < _WRONG)
        texts = user.later(kind, question, text, shown, (seed, number))
        run = Trajectory(
            id=TrajectoryId(f"{number:026}"),
            query=text,
            started=_BEGAN,
            ended=_BEGAN,
            shown=tuple(shown),
            quality=float(went_well),
            steps=tuple(Step(action="report", text=each, timestamp=_BEGAN) for each in texts),
        )
        words, vector = user.about(text)
        lesson = teller.lesson(run, words, vector, partial(user.said, run), runs.learner.profile.threshold)
        if lesson is not None:
            runs.learner.learn(lesson, user.memories)
        if runs.learner.is_due:
            runs.fit()
    return float(np.mean(before)), float(np.mean(after))


def _phrasings(user: User, question: int) -> list[str]:
    rng = np.random.default_rng(question)
    text = user.questions[question]
    return [text, *(reworded(text, way, rng) for way in range(WAYS))]


def grid_of_streams(
    conversations: Sequence[Conversation], embedder: OnnxEmbedder, folder: Path, seeds: int, progress: Progress
) -> tuple[Grid, list[float]]:
    """Measure every rule on every user; the deviation is over seeds. Also return what a run took."""
    users = [Reporter(each, embedder, folder) for each in conversations]
    embed = _remembering(embedder)
    half, rows, took = len(users) // 2, [], list[float]()
    measures = [(name, rule, kind) for name, (rule, kinds) in RULES.items() for kind in kinds]
    for name, rule, kind in progress.track(measures, description="credit"):
        teller = Teller(rule, embed)
        pairs = [[stream(user, teller, kind, seed) for seed in range(seeds)] for user in users]
        means = np.array(pairs)
        of_seeds = [_gain(means[:, seed]) for seed in range(seeds)]
        spread = f" ± {np.std(of_seeds, ddof=1):.1f}" if seeds > 1 else ""
        parts = [means[:half], means[half:]] if half else [means]
        of_parts = [f"{_gain(part):+.1f} %" for part in parts]
        worst = min(_gain(of_user) for of_user in means)
        rows.append([name, kind, f"{_gain(means):+.1f} %{spread}", *of_parts, f"{worst:+.1f} %"])
        took += teller.took
    without = float(np.array(pairs)[..., 0].mean())
    title = f"{len(users)} users, {seeds} seeds, nDCG@{K} against {without:.3f} without learning"
    halves = [f"first {half}", f"last {len(users) - half}"] if half else ["all"]
    return Grid(title, ["credit", "later texts", "all", *halves, "worst user"], rows), took


def _gain(means: NDArray[np.float64]) -> float:
    return 100 * float(means[..., 1].mean() / means[..., 0].mean() - 1)


def _remembering(embedder: OnnxEmbedder) -> Callable[[str], Vectors]:
    known: dict[str, Vectors] = {}

    def embed(text: str) -> Vectors:
        if text not in known:
            known[text] = embedder.embed([text]).vectors[0]
        return known[text]

    return embed


@dataclass
class Agents:
    """What came of the runs of one file: nDCG without and with learning, and of credited runs the share of credit that is right."""

    pairs: list[tuple[float, float]] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    told: int = 0


def replay(path: Path, rule: Shares | None, embedder: OnnxEmbedder, seed: int, took: list[float]) -> Agents:
    """Let the runs of a file come one after the other; without a rule they name what is right, and nothing is flipped."""
    found, rng = Agents(), np.random.default_rng(seed)
    runs = agents.runs(path)
    drafts = [corpus.drafts(run.events) for run in runs]
    vectors = corpus.vectors_of(embedder, [draft.text for of_run in drafts for draft in of_run])
    index = VectorIndex(Contents((), vectors[:0], [], (), BEFORE_ALL))
    words = WordsIndex(None, RealFiles(), decode_record)
    learner = Learner(vectors.shape[1], profile("balanced"))
    teller = Teller(rule or shipped, _remembering(embedder), took)
    group: dict[RecordId, str] = {}
    at = 0
    for number, (run, of_run) in enumerate(zip(runs, drafts, strict=True)):
        view = index.view()
        words.cover(view, _AT_ONCE)
        asked = words.match(view, run.opening, ANY, 0)
        vector = embedder.embed([words.addressed(run.opening)]).vectors[0]
        ranked = [decode_record(hit.record).id for hit in asked.rank(vector, k=K).hits]
        learned = learner.about(asked.intent(vector))
        shown = [decode_record(hit.record).id for hit in asked.rank(vector, k=K, learned=learned).hits]
        count = sum(each == run.group for each in group.values())
        if count:
            pair = [_quality([group[each] == run.group for each in ids], count) for ids in (ranked, shown)]
            found.pairs.append((pair[0], pair[1]))
        records = [
            MemoryRecord(
                id=draft.id,
                text=draft.text,
                kind=draft.kind,
                source=draft.source,
                timestamp=draft.timestamp,
                session_id=draft.session_id,
                metadata=draft.metadata,
            )
            for draft in of_run
            if draft.id is not None and draft.timestamp is not None
        ]
        index.add([encode_record(each) for each in records], vectors[at : at + len(of_run)])
        at += len(of_run)
        trajectory = Trajectory(
            id=TrajectoryId(f"{number:026}"),
            query=run.opening,
            started=records[0].timestamp,
            ended=records[-1].timestamp,
            shown=tuple(shown),
            quality=float(run.succeeded != (rng.random() < _WRONG)),
            run_id=run.name,
        )
        if rule is None:
            right = tuple(each for each in shown if group[each] == run.group)
            named = {"helped": right, "harmful": () if right else tuple(shown), "quality": float(bool(right))}
            trajectory = msgspec.structs.replace(trajectory, **named)
        if shown:
            view = index.view()
            words.cover(view, _AT_ONCE)
            asked = words.match(view, run.opening, ANY, 0)
            said = partial(words.said, view, trajectory)
            lesson = teller.lesson(trajectory, asked, vector, said, learner.profile.threshold)
            if lesson is not None:
                _judge(lesson, [group[each] == run.group for each in lesson.shown], found)
                learner.learn(lesson, view.memories())
            if learner.is_due:
                learner.refit(view.memories())
        group.update({each.id: run.group for each in records})
    return found


def _quality(are_right: Sequence[bool], count: int) -> float:
    return float(_GAINS[: len(are_right)][np.array(are_right, bool)].sum() / _GAINS[: min(K, count)].sum())


def _judge(lesson: Lesson, are_right: Sequence[bool], found: Agents) -> None:
    """Note of a run that was shown right and wrong ones how much of what its texts credit beyond the usual is right."""
    if not (lesson.is_coarse and lesson.is_positive) or all(are_right) or not any(are_right):
        return
    beyond = np.maximum(lesson.credit[: len(lesson.shown)] - np.float32(UNTOLD), 0)
    if beyond.max() > 0:
        found.told += 1
        found.right.append(float(beyond[np.array(are_right)].sum() / beyond.sum()))
        found.first.append(float(np.mean(are_right[:_FEW])))


def grid_of_agents(path: Path, embedder: OnnxEmbedder, seeds: int, took: list[float]) -> Grid:
    """Measure on the runs of one file."""
    rows = []
    rules: dict[str, Shares | None] = {
        "outcome alone": alike,
        "outcome alone, the first five": first_few,
        "by words, as shipped": shipped,
        "what is right is named": None,
    }
    for name, rule in rules.items():
        every = [replay(path, rule, embedder, seed, took) for seed in range(seeds)]
        of_seeds = [_gain(np.array(each.pairs)) for each in every]
        spread = f" ± {np.std(of_seeds, ddof=1):.1f}" if seeds > 1 else ""
        right = [share for each in every for share in each.right]
        first = [share for each in every for share in each.first]
        precision = [f"{np.mean(right):.2f}", f"{np.mean(first):.2f}", str(len(right))] if right else ["", "", "0"]
        rows.append([name, f"{np.mean(of_seeds):+.1f} %{spread}", *precision])
    without = np.array(every[0].pairs)[:, 0].mean()
    title = f"{path.name}: {len(every[0].pairs)} runs, nDCG@{K} against {without:.3f} without learning"
    return Grid(title, ["credit", "", "of it is right", "of the first five", "runs that tell"], rows)


_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(help="Compare ways to credit memories when a run says only how it ended.")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--runs", "logs", multiple=True, type=_FILE, help="Runs of agents.")
@click.option("--seeds", type=click.IntRange(1, 50), default=3, show_default=True, help="How often everything is done.")
@click.option(
    "--markdown", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write the tables."
)
def main(files: Sequence[Path], logs: Sequence[Path], seeds: int, markdown: Path | None) -> None:
    faiss.omp_set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")  # as the daemon does
    console, embedder = Console(), OnnxEmbedder.open(corpus.MODEL, threads=1)
    conversations = [each for path in files for each in load(path)]
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        about = machine.describe(Path(folder))
        streams, took = grid_of_streams(conversations, embedder, Path(folder), seeds, progress)
        long = list[float]()
        of_agents = [grid_of_agents(path, embedder, seeds, long) for path in logs]
    costs = [
        [name, f"{1e3 * np.median(of_runs):.1f} ms", f"{1e3 * np.quantile(of_runs, 0.95):.1f} ms"]
        for name, of_runs in (("conversations", took), ("agents", long))
        if of_runs
    ]
    notes = ["; ".join(f"{what} {value}" for what, value in about.items())]
    cost = Grid("a lesson of a run, of a processor", ["", "p50", "p95"], costs)
    show([streams, *of_agents, cost], notes, console, markdown)


if __name__ == "__main__":
    main()
