"""Runs of agents in time order: each asks with its opening message, is scored, and only then told of and taken in.

Right is every memory of an earlier run of the same task (tau-bench) or on the same repository (coding).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks import agents, corpus
from benchmarks.learning import figures as f
from benchmarks.learning.pupils import Told
from benchmarks.learning.users import quality

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from benchmarks.learning.pupils import Pupil
    from benchmarks.learning.stores import Store
    from benchmarks.learning.users import User
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.records import MemoryRecord

BY_NAME: Final = "named"
BY_OUTCOME: Final = "the run's own outcome"


@dataclass
class Follower:
    """Somebody who learns from a history, how its runs tell what helped, and the scores so far."""

    base: str
    learner: str
    told: str
    user: User
    pupil: Pupil
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def follow(self, run: agents.Run, right: Collection[RecordId]) -> None:
        """Ask, score if anything is right, and learn."""
        shown = self.ask(run, right)
        if self.told == BY_OUTCOME:
            self.pupil.learn(Told(run.opening, shown, float(run.succeeded)))
        else:
            self.pupil.learn(Told.naming(run.opening, shown, [record for record in shown if record in right]))
        if self.pupil.is_due:
            self.pupil.fit()

    def ask(self, run: agents.Run, right: Collection[RecordId]) -> list[RecordId]:
        """Ask, score if anything is right, and return what is shown."""
        shown = self.pupil.answers(run.opening)
        if right:
            self.before.append(quality(self.user.unlearned(run.opening), right))
            self.after.append(quality(shown, right))
        return shown

    def history(self, name: str) -> f.History:
        return f.History(name, self.base, self.learner, self.told, self.before, self.after)


@dataclass(frozen=True, slots=True)
class Replayed:
    """The runs of a file in time order, and the memories that each leaves."""

    name: str
    runs: Sequence[agents.Run]
    left: Sequence[Sequence[MemoryRecord]]

    @property
    def began(self) -> datetime:
        return self.runs[0].events[0].timestamp

    @classmethod
    def of(cls, path: Path) -> Replayed:
        runs = agents.runs(path)
        by_run: dict[str, list[MemoryRecord]] = defaultdict(list)
        for record in corpus.remembered(corpus.drafts([event for run in runs for event in run.events])):
            by_run[record.session_id].append(record)
        return cls(path.name, runs, [by_run[run.name] for run in runs])

    def replay(self, store: Store, followers: Sequence[Follower]) -> Iterable[agents.Run]:
        """Have each run followed by all, and yield it when it is."""
        earlier: dict[str, set[RecordId]] = defaultdict(set)
        for run, left in zip(self.runs, self.left, strict=True):
            if store.texts:  # somebody has run before
                for each in followers:
                    each.user.asked = run.events[0].timestamp
                    each.follow(run, earlier[run.group])
            store.add(left)
            earlier[run.group].update(record.id for record in left)
            yield run
