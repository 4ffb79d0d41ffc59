"""Fits the weights of the fusion of words and vectors: `python -m benchmarks.fusion FILES`, in the format of LoCoMo.

Given the candidates of a question, the weights are those under which its evidence is most likely (a conditional logit, by
Newton's method, with a small penalty on their squares). What the table says of a conversation is found with weights that
were fitted on the others.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import faiss
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import corpus
from benchmarks.conversations import Conversation, load
from benchmarks.turns import embedded, remembered
from memoryd.actors.timing import timing
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.files import RealFiles
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.interfaces import Contents
from memoryd.protocol.records import ANY
from memoryd.rvf.records import decode_record, encode_record
from memoryd.times import spoken
from memoryd.vectors.index import VectorIndex
from memoryd.words.fusion import BY_VECTORS, WEIGHTS, WEIGHTS_OF_PIECES
from memoryd.words.hybrid import WordsIndex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

FEATURES: Final = tuple(WEIGHTS_OF_PIECES)  # those of WEIGHTS come first
# Chosen by hand: hardly a question about a conversation is without its words, and those about runs of agents are too few to fit.
FIXED: Final = "unsaid"

_K: Final = 10
_SESSIONS: Final = 5
_PENALTY: Final = 1e-3
_STEPS: Final = 20
_SMALLEST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Case:
    """A question: the features of its candidates, float64 [m, features], who of them is evidence, and how much there is.

    `sessions` int64 [m] are those of the candidates, and `right` those that hold evidence.
    """

    features: Numbers
    is_gold: NDArray[np.bool_]
    gold: int
    category: str
    sessions: NDArray[np.int64]
    right: frozenset[int]


def cases(conversation: Conversation, embedder: OnnxEmbedder, folder: Path) -> list[Case]:
    """Return what the product's own fusion sees of each question."""
    records, vectors = embedded(remembered(conversation), embedder)
    contents = Contents((), vectors, [encode_record(each) for each in records], (), BEFORE_ALL)
    view = VectorIndex(contents).view()
    words = WordsIndex(folder / conversation.name, RealFiles(), decode_record)
    words.cover(view, len(records))
    queries = [embedder.embed([words.addressed(question.text)]).meaning(0) for question in conversation.questions]
    alive = view.passing(ANY)
    places = {turn.id: place for place, turn in enumerate(conversation.turns)}
    names = sorted({turn.session for turn in conversation.turns})
    numbers = {name: number for number, name in enumerate(names)}
    session = np.array([numbers[turn.session] for turn in conversation.turns])
    found = []
    for question, meaning in zip(conversation.questions, queries, strict=True):
        nearest = view.nearest(meaning.vector, alive, k=BY_VECTORS, is_filtered=False)
        said = spoken(question.text, conversation.asked, UTC)
        event = words.event(view, question.text, said.event, 0) if said.event else None
        meant = timing(said, event, "prefer", ANY).preferred
        of = words.match(view, question.text, ANY, 0, meant).candidates(meaning, nearest)
        gold = [places[turn] for turn in question.turns]
        found.append(
            Case(
                features=np.stack([of.features[name] for name in FEATURES], axis=1).astype(np.float64),
                is_gold=np.isin(of.rows, gold),
                gold=len(gold),
                category=question.category,
                sessions=session[of.rows],
                right=frozenset(numbers[name] for name in question.sessions),
            )
        )
    words.close()
    return found


def fit(given: Sequence[Case], like: Mapping[str, float]) -> Numbers:
    """Return weights of the features that `like` has, the others 0: those above 0 add up to 1, but for the one that is FIXED."""
    is_fitted = np.array([name in like and name != FIXED for name in FEATURES])
    weights = np.zeros(len(FEATURES))
    weights[is_fitted] = _most_likely([replace(case, features=case.features[:, is_fitted]) for case in given])
    weights /= weights[weights > 0].sum()  # so that no score is above 1
    weights[FEATURES.index(FIXED)] = like[FIXED]
    return weights


def _most_likely(given: Sequence[Case]) -> Numbers:
    usable = [case for case in given if case.is_gold.any()]
    weights = np.zeros(usable[0].features.shape[1])
    likelihood = _likelihood(usable, weights)
    for _ in range(_STEPS):
        slope, curve = -2 * _PENALTY * weights, 2 * _PENALTY * np.eye(len(weights))
        for case in usable:
            chances = _chances(case.features @ weights)
            mean = case.features.T @ chances
            slope += (case.features[case.is_gold].mean(axis=0) - mean) / len(usable)
            curve += ((case.features.T * chances) @ case.features - np.outer(mean, mean)) / len(usable)
        step = np.linalg.solve(curve, slope)
        while (reached := _likelihood(usable, weights + step)) < likelihood:
            step /= 2
            if np.abs(step).max() < _SMALLEST:
                return weights
        weights, likelihood = weights + step, reached
    return weights


def _likelihood(given: Sequence[Case], weights: Numbers) -> float:
    """Return the mean logarithm of the chance of a piece of evidence, less the penalty."""
    logs = [np.log(_chances(case.features @ weights)[case.is_gold] + 1e-300).mean() for case in given]
    return float(np.mean(logs) - _PENALTY * weights @ weights)


def quality(case: Case, weights: Numbers) -> tuple[float, float, float]:
    """Return recall and nDCG among the first ten, and whether a right session is among the first five."""
    order = np.argsort(-(case.features @ weights), kind="stable")
    hits = case.is_gold[order[:_K]]
    gains = 1 / np.log2(np.arange(2, _K + 2))
    sessions = list(dict.fromkeys(case.sessions[order].tolist()))[:_SESSIONS]
    best = gains[: min(_K, case.gold)].sum()
    found = float(gains[: len(hits)][hits].sum() / best)
    return float(hits.sum() / case.gold), found, float(bool(case.right & set(sessions)))


def _chances(sums: Numbers) -> Numbers:
    raised: Numbers = np.exp(sums - sums.max())
    raised /= raised.sum()
    return raised


@click.command(help="Fit the weights of words, vectors and neighbours on conversations in the format of LoCoMo.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(files: Sequence[Path]) -> None:
    faiss.omp_set_num_threads(1)
    console, embedder = Console(), OnnxEmbedder.open(corpus.MODEL, threads=1)
    conversations = [each for path in files for each in load(path)]
    with tempfile.TemporaryDirectory() as folder:
        of_each = [cases(each, embedder, Path(folder)) for each in track(conversations, "embedding", console=console)]
    for title, like in (("without word pieces", WEIGHTS), ("with word pieces", WEIGHTS_OF_PIECES)):
        shipped = np.array([like.get(name, 0) for name in FEATURES])
        left_out, as_shipped = [], []
        for place, given in enumerate(track(of_each, "fitting", console=console)):
            weights = fit([case for other, each in enumerate(of_each) if other != place for case in each], like)
            left_out += [(case.category, *quality(case, weights)) for case in given]
            as_shipped += [(case.category, *quality(case, shipped)) for case in given]
        table = Table(title=f"{title}: recall@10 / nDCG@10 / session any@5")
        for column in ("questions", "fitted on the other conversations", "weights as shipped"):
            table.add_column(column)
        for category in ("all", *sorted({row[0] for row in left_out})):
            table.add_row(category, _shown(left_out, category), _shown(as_shipped, category))
        console.print(table)
        weights = fit([case for given in of_each for case in given], like)
        for name, weight in zip(FEATURES, weights, strict=True):
            if name in like:
                console.print(f'    "{name}": {weight:.3f},')


def _shown(rows: Sequence[tuple[str, float, float, float]], category: str) -> str:
    means = np.mean([row[1:] for row in rows if category in ("all", row[0])], axis=0)
    return " / ".join(f"{mean:.3f}" for mean in means)


if __name__ == "__main__":
    main()
