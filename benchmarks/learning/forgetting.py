"""Two users in one store: the first one's questions are learned, then the second one's, and the first one's are asked again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.learning import figures as f
from benchmarks.learning.protocols import INTENTS, feed
from benchmarks.learning.pupils import Ours

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.learning.protocols import Trial
    from memoryd.protocol.ids import RecordId

    Asked = Sequence[tuple[int, str]]

_HELD: Final = {f.ALL_HELD: None, f.FEW_HELD.format(f.LEFT): f.LEFT}  # how many of A's runs, when B comes


@dataclass(frozen=True, slots=True)
class Half:
    """What is told of one user's questions, and what is asked: those never told of, and those told of in other words."""

    fed: Sequence[int]
    held_out: Asked
    paraphrases: Asked

    @classmethod
    def of(cls, trial: Trial, questions: Sequence[int], rng: np.random.Generator) -> Half:
        """Split these questions of the trial's user."""
        order = [questions[place] for place in rng.permutation(len(questions)).tolist()]
        fed, others = order[: len(order) // 2], order[len(order) // 2 :]
        user = trial.user
        return cls(
            fed,
            [(question, user.questions[question].text) for question in others],
            [(question, text) for question in fed[:INTENTS] for text in user.phrasings(question)],
        )

    @property
    def asked(self) -> dict[str, Asked]:
        return {f.QUESTIONS: self.held_out, f.PARAPHRASES: self.paraphrases}


def forgetting(trial: Trial) -> None:
    """Learn from half of A's questions, then of B's; note what A's answers lose, and what B gains instead of alone.

    With all runs held, and with all but a few of A's gone from where they are held before B comes.
    """
    rng, user = trial.rng, trial.user
    first = user.people.first
    a = Half.of(trial, range(first), rng)
    b = Half.of(trial, range(first, len(user.questions)), rng)
    of_b = [*b.held_out, *b.paraphrases]
    without = _qualities(trial, user.unlearned, of_b)
    alone = trial.begin()
    feed(trial, alone, b.fed)
    alone.fit()
    gained = np.subtract(_qualities(trial, alone.answers, of_b), without)
    for held, left in _HELD.items():
        pupil = trial.begin()
        feed(trial, pupil, a.fed)
        pupil.fit()
        earlier = {what: _qualities(trial, pupil.answers, asked) for what, asked in a.asked.items()}
        if left is not None:
            if not isinstance(pupil, Ours):
                continue  # what another learner holds is its own affair
            pupil.lose(left, rng)
        feed(trial, pupil, b.fed)
        pupil.fit()
        for what, asked in a.asked.items():
            trial.add(f.FORGOTTEN.format(what, held), earlier[what], _qualities(trial, pupil.answers, asked))
        after = np.subtract(_qualities(trial, pupil.answers, of_b), without)
        trial.add(f.KEPT.format(held), gained.tolist(), after.tolist())


def _qualities(trial: Trial, answers: Callable[[str], Sequence[RecordId]], asked: Asked) -> list[float]:
    return [trial.user.quality(answers(text), question) for question, text in asked]
