"""Fits what relevance is made of: `python -m benchmarks.relevance FILES`, in the format of LoCoMo.

Every question is asked of its conversation, of its conversation without the turns that answer it, and, with the names
changed, of another conversation; as often where there is an answer as where there is none. A logistic regression on the
first ten answers says how many of them are right. What the tables say of a conversation was found with weights that were
fitted on the others.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import faiss
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import corpus
from benchmarks.conversations import Conversation, Question, load
from benchmarks.turns import embedded, remembered
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.files import RealFiles
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.interfaces import Contents, Nearest
from memoryd.protocol.records import ANY
from memoryd.relevance import BY_BOTH, BY_VECTORS, BY_WORDS, features
from memoryd.rvf.records import decode_record, encode_record
from memoryd.vectors.index import VectorIndex
from memoryd.words import fusion
from memoryd.words.hybrid import WordsIndex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import Meaning

    Numbers = NDArray[np.float64]

TIERS: Final[Mapping[str, Mapping[str, float]]] = {"BY_BOTH": BY_BOTH, "BY_WORDS": BY_WORDS, "BY_VECTORS": BY_VECTORS}

ANSWERED: Final = "as it is"
WITHOUT_TURNS: Final = "without the turns that answer"
WITHOUT_NEIGHBOURS: Final = "and without those beside them"
WITHOUT_SESSIONS: Final = "without their sessions"
OF_OTHERS: Final = "asked of another conversation"
RENAMED: Final = "the same, its names changed"
FITTED: Final = {ANSWERED: 2, WITHOUT_TURNS: 1, RENAMED: 1}  # how much each counts

KEPT: Final = 0.95  # of the questions that have an answer

_K: Final = 10
_STEPS: Final = 30
_PENALTY: Final = 1e-6
_NOTHING: Final = Nearest(np.empty(0, np.float32), np.empty(0, np.int64), "")


@dataclass(frozen=True, slots=True)
class Case:
    """A question asked in one way: the features of the first answers by tier, float64 [m, features], and which are right."""

    way: str
    features: Mapping[str, Numbers]
    is_right: Mapping[str, NDArray[np.bool_]]


class Store:
    """A conversation in a store of its own."""

    def __init__(self, conversation: Conversation, embedder: OnnxEmbedder, folder: Path) -> None:
        self.conversation = conversation
        self._embedder = embedder
        self._records, vectors = embedded(remembered(conversation), embedder)
        self._contents = Contents((), vectors, [encode_record(each) for each in self._records], (), BEFORE_ALL)
        self._words = WordsIndex(folder / conversation.name, RealFiles(), decode_record)
        self._words.cover(VectorIndex(self._contents).view(), len(self._records))
        self._places = {turn.id: place for place, turn in enumerate(conversation.turns)}

    def _asked(self, query: str) -> Meaning:
        return self._embedder.embed([self._words.addressed(query)]).meaning(0)

    def close(self) -> None:
        self._words.close()

    def cases(self, question: Question, other: Question, renamed: str) -> list[Case]:
        """Ask a question with and without its answer, and one of another conversation, as it is and `renamed`."""
        turns = self.conversation.turns
        right = {self._places[turn] for turn in question.turns}
        beside = {place + step for place in right for step in (-1, 0, 1) if 0 <= place + step < len(turns)}
        beside = {place for place in beside if turns[place].session in question.sessions}
        sessions = {place for place, turn in enumerate(turns) if turn.session in question.sessions}
        meaning = self._asked(question.text)
        ways = {ANSWERED: set[int](), WITHOUT_TURNS: right, WITHOUT_NEIGHBOURS: beside, WITHOUT_SESSIONS: sessions}
        found = [self._case(way, question.text, meaning, hidden, right) for way, hidden in ways.items()]
        for way, text in ((OF_OTHERS, other.text), (RENAMED, renamed)):
            found.append(self._case(way, text, self._asked(text), set(), set()))
        return found

    def _case(self, way: str, query: str, meaning: Meaning, hidden: set[int], right: set[int]) -> Case:
        index = VectorIndex(self._contents)
        index.discard([self._records[place].id for place in hidden])
        view = index.view()
        asked = self._words.match(view, query, ANY, 0)
        nearest = view.nearest(meaning.vector, asked.mask, k=fusion.BY_VECTORS, is_filtered=bool(hidden))
        both, lexical = asked.candidates(meaning, nearest), asked.candidates(None, _NOTHING)
        given = {
            "BY_BOTH": (both.rows, both.scores, both.features_of_relevance(asked.match)),
            "BY_WORDS": (lexical.rows, lexical.scores, lexical.features_of_relevance(asked.match)),
            "BY_VECTORS": (
                nearest.rows,
                nearest.scores,
                features(nearest.scores, np.zeros_like(nearest.scores), nearest.scores, 0),
            ),
        }
        firsts = {tier: np.argsort(-scores, kind="stable")[:_K] for tier, (_, scores, _) in given.items()}
        return Case(
            way,
            {
                tier: np.stack([of[name][firsts[tier]] for name in TIERS[tier]], axis=1).astype(np.float64)
                for tier, (_, _, of) in given.items()
            },
            {tier: np.isin(rows[firsts[tier]], list(right)) for tier, (rows, _, _) in given.items()},
        )


def fit(given: Sequence[Case], tier: str) -> Numbers:
    """Return the weights of a tier, float64 [features], by Newton's method with a small penalty on their squares."""
    rows, right, counts = _stacked(given, tier)
    counts /= counts.sum()
    weights, penalty = np.zeros(rows.shape[1]), _PENALTY * np.eye(rows.shape[1])
    for _ in range(_STEPS):
        chances = _chances(rows @ weights)
        slope = rows.T @ (counts * (right - chances)) - penalty @ weights
        weights += np.linalg.solve((rows.T * (counts * chances * (1 - chances))) @ rows + penalty, slope)
    return weights


def _stacked(given: Sequence[Case], tier: str) -> tuple[Numbers, Numbers, Numbers]:
    """Return the features of all answers, whether each is right, 1 or 0, and how much it counts."""
    fitted = [case for case in given if case.way in FITTED]
    rows = np.concatenate([case.features[tier] for case in fitted])
    right = np.concatenate([case.is_right[tier] for case in fitted]).astype(np.float64)
    counts = np.concatenate([np.full(len(case.is_right[tier]), FITTED[case.way], np.float64) for case in fitted])
    return rows, right, counts


def _chances(sums: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-sums)), np.float64)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was found with weights that were fitted on other conversations: of every answer, and the best of every question."""

    relevance: Numbers
    right: Numbers
    counts: Numbers
    best: Mapping[str, Numbers]


def left_out(of_each: Sequence[Sequence[Case]], tier: str) -> LeftOut:
    answers: list[tuple[Numbers, Numbers, Numbers]] = []
    best: dict[str, list[float]] = {}
    for place, given in enumerate(of_each):
        weights = fit([case for other, each in enumerate(of_each) if other != place for case in each], tier)
        rows, right, counts = _stacked(given, tier)
        answers.append((_chances(rows @ weights), right, counts))
        for case in given:
            best.setdefault(case.way, []).append(_chances(case.features[tier] @ weights).max(initial=0))
    relevance, right, counts = (np.concatenate(each) for each in zip(*answers, strict=True))
    return LeftOut(relevance, right, counts, {way: np.array(each) for way, each in best.items()})


def reliability(found: LeftOut) -> tuple[Table, float]:
    """Return, by tenths of relevance, how many answers were right, and by how much that differs in the mean."""
    table = Table(title="relevance, and how much of it was right")
    for column in ("from", "answers", "relevance", "right", ""):
        table.add_column(column, justify="left" if not column else "right")
    tenths, error = np.minimum((found.relevance * 10).astype(int), 9), 0.0
    for tenth in np.unique(tenths):
        chosen = tenths == tenth
        counts = found.counts[chosen] / found.counts[chosen].sum()
        said, was = float(counts @ found.relevance[chosen]), float(counts @ found.right[chosen])
        error += float(found.counts[chosen].sum() / found.counts.sum()) * abs(said - was)
        table.add_row(f".{tenth}", f"{chosen.sum():,}", f"{said:.3f}", f"{was:.3f}", "█" * round(40 * was))
    return table, error


def _cases(conversations: Sequence[Conversation], folder: Path, console: Console) -> list[list[Case]]:
    embedder = OnnxEmbedder.open(corpus.MODEL, threads=1)
    stores = [Store(each, embedder, folder) for each in track(conversations, "embedding", console=console)]
    found = []
    for place, store in enumerate(track(stores, "asking", console=console)):
        other = conversations[(place + 1) % len(conversations)]
        names = dict(zip(speakers(other), speakers(store.conversation), strict=False))
        pairs = zip(store.conversation.questions, cycle(other.questions), strict=False)
        of_this = [store.cases(question, foreign, renamed(foreign.text, names)) for question, foreign in pairs]
        found.append([case for cases in of_this for case in cases])
        store.close()
    return found


def speakers(conversation: Conversation) -> list[str]:
    return list(dict.fromkeys(turn.speaker for turn in conversation.turns))


def renamed(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text)


@click.command(help="Fit relevance on conversations in the format of LoCoMo; two at least.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(files: Sequence[Path]) -> None:
    faiss.omp_set_num_threads(1)
    console = Console()
    conversations = [each for path in files for each in load(path)]
    with tempfile.TemporaryDirectory() as folder:
        of_each = _cases(conversations, Path(folder), console)
    refused = Table(title=f"questions refused, at {KEPT:.0%} of those with an answer kept")
    refused.add_column("")
    for tier in TIERS:
        refused.add_column(tier, justify="right")
    found = {tier: left_out(of_each, tier) for tier in TIERS}
    bounds = {tier: float(np.quantile(each.best[ANSWERED], 1 - KEPT)) for tier, each in found.items()}
    for way in found["BY_BOTH"].best:
        refused.add_row(way, *(f"{(found[tier].best[way] < bounds[tier]).mean():.3f}" for tier in TIERS))
    console.print(refused)
    for tier, each in found.items():
        table, error = reliability(each)
        console.print(f"\n{tier}: kept from {bounds[tier]:.3f}, calibrated to {error:.4f} in the mean")
        console.print(table)
        weights = fit([case for given in of_each for case in given], tier)
        for name, weight in zip(TIERS[tier], weights, strict=True):
            console.print(f'    "{name}": {weight:.2f},')


if __name__ == "__main__":
    main()
