"""Decides by a seed which tasks are carried out and in which order a worker tries what comes to mind."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from demo.record.subject import Subject

# With three or four candidates, about two runs of three succeed and one in three truly fails.
_BUDGETS: Final = (1, 1, 2, 2, 3)
_NOTES_SHARE: Final = 0.25
_PROGRESS_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task in one repository, with all that chance has to say about it."""

    subject: Subject
    repository: str
    ask: str
    look: str
    order: tuple[int, ...]
    keeps_notes: bool
    tells_progress: bool

    @property
    def budget(self) -> int:
        """How many candidates may be tried."""
        return len(self.order)


def plan(subjects: Sequence[Subject], *, tasks: int, seed: int) -> list[Task]:
    """Return `tasks` tasks; each round takes every subject once, in other words and another repository."""
    chance = random.Random(seed)  # noqa: S311 - the choice of tasks is no secret
    return [_task(subject, turn, chance) for subject, turn in _turns(subjects, tasks, chance)]


def _turns(subjects: Sequence[Subject], tasks: int, chance: random.Random) -> Iterator[tuple[Subject, int]]:
    for number in range(tasks):
        turn, place = divmod(number, len(subjects))
        if place == 0:
            shuffled = chance.sample(subjects, len(subjects))
        yield shuffled[place], turn


def _task(subject: Subject, turn: int, chance: random.Random) -> Task:
    variant = turn % len(subject.variants)
    filled = subject.variant(variant)
    budget = min(chance.choice(_BUDGETS), len(filled.candidates))
    return Task(
        subject=filled,
        repository=subject.repository(variant),
        ask=filled.asks[turn % len(filled.asks)],
        look=chance.choice(filled.looks) if filled.looks else "",
        order=tuple(chance.sample(range(len(filled.candidates)), budget)),
        keeps_notes=chance.random() < _NOTES_SHARE,
        tells_progress=chance.random() < _PROGRESS_SHARE,
    )
