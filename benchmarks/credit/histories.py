"""Runs of agents in time order, with what they really said and how they really ended, of which one in ten is told wrongly.

Right is what comes from an earlier run of the same task or repository; these agents saw no memories, so their outcomes do not depend on
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.credit.reports import FLIPPED
from benchmarks.credit.rules import ALIKE, BY_WORDS, FEW, FIRST, RULES, Crediting
from benchmarks.learning import figures as f
from benchmarks.learning.bases import Full
from benchmarks.learning.histories import BY_NAME, BY_OUTCOME, Follower
from benchmarks.learning.pupils import Ours, Told
from benchmarks.learning.users import People, User
from memoryd.protocol.ids import TrajectoryId
from memoryd.protocol.learning import UNTOLD
from memoryd.protocol.records import Trajectory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from benchmarks.agents import Run
    from benchmarks.learning.histories import Replayed
    from benchmarks.learning.stores import Store
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.learning import Lesson
    from memoryd.sona.profiles import Profile

NAMED: Final = "what is right is named"
_ASKED: Final = (ALIKE, FIRST, BY_WORDS)


@dataclass
class Crediter(Follower):
    """A follower who learns from a run once its memories are there, as the daemon does.

    `right` and `first` are, of each run shown right and wrong ones whose texts credit beyond the usual, the share of that credit which
    is right, and of the first five memories.
    """

    pupil: Ours
    seed: int = 0
    right: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._asked: tuple[list[RecordId], Collection[RecordId]] | None = None
        self._runs = 0

    @property
    def pair(self) -> f.Pair:
        """The means over all runs that were scored."""
        name, before, after = self.user.people.name, float(np.mean(self.before)), float(np.mean(self.after))
        return f.Pair(self.base, self.learner, name, name, self.seed, before, after, len(self.before))

    def follow(self, run: Run, right: Collection[RecordId]) -> None:
        """Ask, and score if anything is right."""
        self._asked = self.ask(run, right), right

    def learn(self, run: Run) -> None:
        """Learn from a run that was followed."""
        if self._asked is None:  # the first one, when there was nothing to be asked
            return
        shown, right = self._asked
        self._runs += 1
        outcome = float(run.succeeded != (self._rng.random() < FLIPPED))
        told = Told(run.opening, shown, outcome)
        if self.told == BY_NAME:
            told = Told.naming(run.opening, shown, [record for record in shown if record in right])
        lesson = self.pupil.take(
            Trajectory(
                id=TrajectoryId(f"{self._runs:026}"),
                query=told.text,
                started=run.events[0].timestamp,
                ended=run.events[-1].timestamp,
                shown=tuple(told.shown),
                helped=tuple(told.helped),
                harmful=tuple(told.harmful),
                quality=told.quality,
                run_id=run.name,
            )
        )
        if lesson is not None:
            self._judge(lesson, np.array([record in right for record in lesson.shown]))
        if self.pupil.is_due:
            self.pupil.fit()

    def _judge(self, lesson: Lesson, are_right: NDArray[np.bool_]) -> None:
        if not (lesson.is_coarse and lesson.is_positive) or are_right.all() or not are_right.any():
            return
        beyond = np.maximum(lesson.credit[: len(are_right)] - np.float32(UNTOLD), 0)
        if beyond.any():
            self.right.append(float(beyond[are_right].sum() / beyond.sum()))
            self.first.append(float(are_right[:FEW].mean()))


def crediters(
    given: Replayed, store: Store, rules: Sequence[str], profile: Profile, seeds: int, made: list[float]
) -> list[Crediter]:
    """Return who follows in an empty store: of each seed one by each of these rules that is asked here, and one who is told what is right."""
    user = User(People(given.name, store, (), 0, given.began), Full)
    found = [
        Crediter(f.FULL, rule, BY_OUTCOME, user, Crediting(user, profile, RULES[rule][0], made), seed=seed)
        for rule in _ASKED
        if rule in rules
        for seed in range(seeds)
    ]
    return [*found, *(Crediter(f.FULL, NAMED, BY_NAME, user, Ours(user, profile), seed=seed) for seed in range(seeds))]


def replay(given: Replayed, store: Store, followers: Sequence[Crediter]) -> Iterable[Run]:
    """Have each run followed and learned from by all, and yield it when it is."""
    for run in given.replay(store, followers):
        for each in followers:
            each.learn(run)
        yield run
