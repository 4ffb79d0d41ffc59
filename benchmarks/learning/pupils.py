"""What learns from runs: this project's engine, and whatever is put beside it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from benchmarks.learning.users import ranked
from memoryd.actors.learning import lesson_of, names
from memoryd.protocol.ids import TrajectoryId
from memoryd.protocol.records import Step, Trajectory
from memoryd.sona.archive import reduced
from memoryd.sona.learner import Learner

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from benchmarks.learning.users import User
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Meaning, Words
    from memoryd.protocol.learning import Lesson
    from memoryd.sona.profiles import Profile

_BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Told:
    """A run as it ends: what was asked and shown, and what it says of that; nothing is named when only the outcome is known.

    `later` are the texts that it says after its question.
    """

    text: str
    shown: Sequence[RecordId]
    quality: float
    helped: Sequence[RecordId] = ()
    harmful: Sequence[RecordId] = ()
    later: Sequence[str] = ()

    @classmethod
    def naming(cls, text: str, shown: Sequence[RecordId], helped: Sequence[RecordId]) -> Told:
        """A run that names what helped; that nothing did is said of all that was shown."""
        return cls(text, shown, float(bool(helped)), helped, () if helped else shown)


class Pupil(Protocol):
    """Answers one user's questions, and learns from the runs that it is told of."""

    @property
    def is_due(self) -> bool:
        """Whether the work in the background should be done."""
        ...

    def answers(self, text: str) -> list[RecordId]:
        """Return the first ten."""
        ...

    def learn(self, told: Told) -> None: ...

    def fit(self) -> str:
        """Do the work in the background, and return what came of it."""
        ...


class Ours:
    """A `Pupil`: the engine of this project. `took` and `fitted` are the seconds of each run taken in and of a processor in each fit."""

    def __init__(self, user: User, profile: Profile) -> None:
        self.learner = Learner(user.store.dim, profile)
        self.took: list[float] = []
        self.fitted: list[float] = []
        self._user = user
        self._number = 0

    @property
    def is_due(self) -> bool:
        return self.learner.is_due

    def answers(self, text: str) -> list[RecordId]:
        words, meaning = self._user.about(text)
        return ranked(words, meaning, self.learner.about(words.intent(meaning.vector)))

    def learn(self, told: Told) -> None:
        self._number += 1
        run = Trajectory(
            id=TrajectoryId(f"{self._number:026}"),
            query=told.text,
            started=_BEGAN,
            ended=_BEGAN,
            shown=tuple(told.shown),
            helped=tuple(told.helped),
            harmful=tuple(told.harmful),
            quality=told.quality,
            steps=tuple(Step(action="report", text=text, timestamp=_BEGAN) for text in told.later),
        )
        self.take(run)

    def take(self, run: Trajectory) -> Lesson | None:
        """Learn from a run, and return what it taught."""
        lesson = self.lesson(run, *self._user.about(run.query))
        if lesson is not None:
            memories = self._user.store.memories
            began = time.perf_counter()
            self.learner.learn(lesson, memories)
            self.took.append(time.perf_counter() - began)
        return lesson

    def lesson(self, run: Trajectory, words: Words, meaning: Meaning) -> Lesson | None:
        """Return what a run says, as the daemon makes it; None when it says nothing."""
        store = self._user.store
        said = () if names(run) else store.words.said(store.view, run)
        return lesson_of(run, words, meaning, self.learner.profile.threshold, said)

    def fit(self) -> str:
        began = time.process_time()
        outcome = self.learner.refit(self._user.store.memories).outcome
        self.fitted.append(time.process_time() - began)
        return outcome

    def lose(self, left: int, rng: np.random.Generator) -> None:
        """Archive all runs but so many, chosen at random, as when there is no more room for them; the weights stay."""
        known = self.learner.snapshot()
        order = rng.permutation(len(known.lessons)).tolist()
        kept = tuple(known.lessons[place] for place in sorted(order[:left]))
        archive = (*known.archive, *(reduced(known.lessons[place]) for place in sorted(order[left:])))
        self.learner = Learner(
            self._user.store.dim, self.learner.profile, replace(known, lessons=kept, archive=archive, questions=())
        )
