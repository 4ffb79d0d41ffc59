"""What is asked and told in which order: every answer is scored before its run is told of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.learning import figures as f
from benchmarks.learning.pupils import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.learning.pupils import Pupil
    from benchmarks.learning.users import User
    from memoryd.protocol.ids import RecordId

INTENTS: Final = 60
AMOUNTS: Final = (10, 25, 50, 100)


@dataclass(frozen=True, slots=True)
class Trial:
    """One user, one learner and one seed."""

    user: User
    begin: Callable[[], Pupil]
    seed: int
    base: str
    learner: str
    figures: f.Figures

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def add(self, what: str, before: Sequence[float], after: Sequence[float]) -> None:
        """Note the means of some questions; nothing when there are none."""
        if before:
            means = float(np.mean(before)), float(np.mean(after))
            pair = f.Pair(self.base, self.learner, what, self.user.people.name, self.seed, *means, len(before))
            self.figures.pairs.append(pair)

    def compare(self, what: str, pupil: Pupil, asked: Sequence[tuple[int, str]]) -> None:
        """Note how good the answers to these questions are without and with what was learned."""
        user = self.user
        before = [user.quality(user.unlearned(text), question) for question, text in asked]
        self.add(what, before, [user.quality(pupil.answers(text), question) for question, text in asked])


@dataclass(frozen=True, slots=True)
class Telling:
    """How runs say what helped: by name, or only by the outcome; and which share of them, by chance, wrongly."""

    is_coarse: bool = False
    wrong: float = 0.0

    def named(self, what: str) -> str:
        """Return what is measured, with how runs tell."""
        if self.is_coarse:
            return f.OUTCOME.format(what, 100 * self.wrong)
        return f.NAMING.format(what, 100 * self.wrong) if self.wrong else what

    def of(self, user: User, question: int, text: str, shown: Sequence[RecordId], rng: np.random.Generator) -> Told:
        """Return what a run says to which `shown` was shown. What was not shown is never told."""
        gold = user.questions[question].gold
        helped = [record for record in shown if record in gold]
        is_wrong = rng.random() < self.wrong
        if self.is_coarse:
            return Told(text, shown, float(bool(helped) != is_wrong))
        if is_wrong:
            others = [record for record in shown if record not in gold]
            places = rng.permutation(len(others))[: max(1, len(helped))]
            helped = [others[place] for place in sorted(places.tolist())]
        return Told.naming(text, shown, helped)


NAMED: Final = Telling()
NOISY: Final = (
    Telling(wrong=0.1),
    Telling(wrong=0.2),
    Telling(is_coarse=True),
    Telling(is_coarse=True, wrong=0.1),
    Telling(is_coarse=True, wrong=0.2),
)


def stream(trial: Trial, telling: Telling = NAMED) -> None:
    """Ask the same questions in four phrasings, in random order; what a run teaches is known to those behind it."""
    user, rng, pupil = trial.user, trial.rng, trial.begin()
    chosen = rng.permutation(len(user.questions))[:INTENTS].tolist()
    items = [
        (question, text) for question in chosen for text in (user.questions[question].text, *user.phrasings(question))
    ]
    came: Counter[int] = Counter()
    scores: dict[int, tuple[list[float], list[float]]] = {}
    for place in rng.permutation(len(items)).tolist():
        question, text = items[place]
        shown = pupil.answers(text)
        came[question] += 1
        before, after = scores.setdefault(came[question], ([], []))
        before.append(user.quality(user.unlearned(text), question))
        after.append(user.quality(shown, question))
        pupil.learn(telling.of(user, question, text, shown, rng))
        if pupil.is_due:
            pupil.fit()
    again = [pair for occurrence, pair in scores.items() if occurrence > 1]
    trial.add(
        telling.named(f.STREAM),
        [each for pair in again for each in pair[0]],
        [each for pair in again for each in pair[1]],
    )
    if telling == NAMED:
        for occurrence, pair in sorted(scores.items()):
            trial.add(f.OCCURRENCE.format(occurrence), *pair)


def paraphrase(trial: Trial) -> None:
    """Ask each question once, then in other words."""
    chosen = trial.rng.permutation(len(trial.user.questions))[:INTENTS].tolist()
    pupil = trial.begin()
    feed(trial, pupil, chosen)
    pupil.fit()
    asked = [(question, text) for question in chosen for text in trial.user.phrasings(question)]
    trial.compare(f.PARAPHRASE, pupil, asked)


def held_out(trial: Trial, telling: Telling = NAMED) -> None:
    """Learn from half of the questions, and ask the others; if runs are not wrong, after so many of them, too."""
    user, rng, pupil = trial.user, trial.rng, trial.begin()
    order = rng.permutation(len(user.questions)).tolist()
    fed, others = order[: len(order) // 2], order[len(order) // 2 :]
    asked = [(question, user.questions[question].text) for question in others]
    done = 0
    for amount in AMOUNTS if telling == NAMED else ():
        if amount <= len(fed):
            feed(trial, pupil, fed[done:amount], telling, rng)
            done = amount
            pupil.fit()
            trial.compare(f.AFTER.format(amount), pupil, asked)
    feed(trial, pupil, fed[done:], telling, rng)
    pupil.fit()
    trial.compare(telling.named(f.HELD_OUT), pupil, asked)
    if telling == NAMED:
        known = {record for question in fed for record in user.questions[question].gold}
        novel = [(question, text) for question, text in asked if known.isdisjoint(user.questions[question].gold)]
        trial.compare(f.NOVEL, pupil, novel)


def noise(trial: Trial) -> None:
    """The stream, and half of the questions, with runs that are wrong or know only how they ended."""
    for telling in NOISY:
        stream(trial, telling)
        held_out(trial, telling)


def feed(
    trial: Trial,
    pupil: Pupil,
    questions: Sequence[int],
    telling: Telling = NAMED,
    rng: np.random.Generator | None = None,
) -> None:
    """Tell of one run for each of these questions, to which was shown what is found without learning."""
    user, chance = trial.user, rng or trial.rng
    for question in questions:
        text = user.questions[question].text
        pupil.learn(telling.of(user, question, text, user.unlearned(text), chance))
