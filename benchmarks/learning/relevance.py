"""What learning does to relevance: `python -m benchmarks.learning.relevance FILES`, in the format of LoCoMo; two conversations at least.

Half of the questions of a conversation are runs, which name what helped of the first ten answers. Then these are asked again, in other
words too, and the other half, and questions of another conversation, which have no answer here. Of the first five answers to each it
says how many are let through before a model, with what was learned in their relevance and without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import faiss
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import corpus
from benchmarks.conversations import load
from benchmarks.learning.bases import Full
from benchmarks.learning.pupils import Ours, Told
from benchmarks.learning.stores import Encoder
from benchmarks.learning.users import People, User
from benchmarks.relevance import renamed, speakers
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.records import CONTEXT_RELEVANCE
from memoryd.rvf.records import decode_record
from memoryd.sona.contrast import TEMPERATURE
from memoryd.sona.profiles import profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from benchmarks.conversations import Conversation
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Hit

    Numbers = NDArray[np.float64]

WAYS: Final = ("again", "in other words", "never came", "of another conversation", "the same, its names changed")
SEEDS: Final = 2
_MOST: Final = 50  # questions of each way
_K: Final = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was asked in one way: which of its answers are right, bool [m], and their relevance without and with learning, [m]."""

    way: str
    is_right: NDArray[np.bool_]
    without: Numbers
    learned: Numbers


def taught(user: User, runs: Sequence[int]) -> Ours:
    """Return who has learned from these questions."""
    pupil = Ours(user, profile("balanced"))
    for run in runs:
        text, gold = user.questions[run].text, user.questions[run].gold
        shown = pupil.answers(text)
        pupil.learn(Told.naming(text, shown, [each for each in shown if each in gold]))
        if pupil.is_due:
            pupil.fit()
    return pupil


def asked(user: User, pupil: Ours, way: str, text: str, gold: frozenset[RecordId]) -> Asked:
    words, meaning = user.about(text)
    learned = pupil.learner.about(words.intent(meaning.vector))
    hits = words.rank(meaning, k=_K, explain=True, learned=learned).hits
    chances = np.array([hit.relevance for hit in hits], np.float64)
    return Asked(
        way,
        np.array([decode_record(hit.record).id in gold for hit in hits], bool),
        _odds_less(chances, np.array([_bank(hit) for hit in hits]) / TEMPERATURE),
        chances,
    )


def _bank(hit: Hit) -> float:
    return hit.explanation.parts.get("sona_bank", 0.0) if hit.explanation else 0.0


def _odds_less(chances: Numbers, nats: Numbers) -> Numbers:
    """Return chances without the evidence that is in them."""
    odds = chances / np.maximum(1 - chances, 1e-9) * np.exp(-nats)
    return odds / (1 + odds)


def of_user(user: User, here: Conversation, elsewhere: Conversation, seed: int) -> Iterator[Asked]:
    """Teach half of a conversation, and ask in every way."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(user.questions)).tolist()
    runs, others = order[: len(order) // 2], order[len(order) // 2 :]
    pupil, names = taught(user, runs), dict(zip(speakers(elsewhere), speakers(here), strict=False))
    for run in runs[:_MOST]:
        given = user.questions[run]
        yield asked(user, pupil, WAYS[0], given.text, given.gold)
        yield asked(user, pupil, WAYS[1], user.phrasings(run)[0], given.gold)
    for question in (user.questions[other] for other in others[:_MOST]):
        yield asked(user, pupil, WAYS[2], question.text, question.gold)
    for place in rng.permutation(len(elsewhere.questions))[:_MOST].tolist():
        text = elsewhere.questions[place].text
        yield asked(user, pupil, WAYS[3], text, frozenset())
        yield asked(user, pupil, WAYS[4], renamed(text, names), frozenset())


def table(found: Sequence[Asked]) -> Table:
    """Return, by way, how much is let through, and what relevance loses by the logarithm, in nats an answer."""
    shown = Table(
        title=f"of the first {_K} answers, with a relevance of {CONTEXT_RELEVANCE} and more: without learning, and with it"
    )
    for column in ("", "questions", "right ones", "wrong ones", "questions that keep one", "log loss"):
        shown.add_column(column, justify="right" if column else "left")
    for way in WAYS:
        of_way = [each for each in found if each.way == way]
        right = np.concatenate([each.is_right for each in of_way])
        row = [way, f"{len(of_way):,}"]
        pairs = [_figures([each.without for each in of_way], right), _figures([each.learned for each in of_way], right)]
        shown.add_row(*row, *(f"{before} to {after}" for before, after in zip(*pairs, strict=True)))
    return shown


def _figures(relevance: Sequence[Numbers], right: NDArray[np.bool_]) -> list[str]:
    chances = np.clip(np.concatenate(relevance), 1e-6, 1 - 1e-6)
    is_let = chances >= CONTEXT_RELEVANCE
    keeps = np.mean([(each >= CONTEXT_RELEVANCE).any() for each in relevance])
    loss = -np.log(np.where(right, chances, 1 - chances)).mean()
    kept = f"{is_let[right].mean():.3f}" if right.any() else "-"
    return [kept, f"{is_let[~right].mean():.3f}", f"{keeps:.3f}", f"{loss:.3f}"]


@click.command(help="Say what learning does to relevance, on conversations in the format of LoCoMo; two at least.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(files: Sequence[Path]) -> None:
    faiss.omp_set_num_threads(1)
    console, encoder = Console(), Encoder(OnnxEmbedder.open(corpus.MODEL, threads=1))
    conversations = [each for path in files for each in load(path)]
    found: list[Asked] = []
    for place, here in enumerate(track(conversations, "asking", console=console)):
        user = User(People.of([here], encoder), Full)
        elsewhere = conversations[(place + 1) % len(conversations)]
        for seed in range(SEEDS):
            found += of_user(user, here, elsewhere, seed)
    console.print(table(found))


if __name__ == "__main__":
    main()
