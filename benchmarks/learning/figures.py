"""What is measured, and what it is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

FULL: Final = "full"
PLAIN: Final = "plain"
OURS: Final = "memoryd"

STREAM: Final = "stream, occurrences 2 to 4"
OCCURRENCE: Final = "stream, occurrence {}"
PARAPHRASE: Final = "paraphrase of a question fed once"
HELD_OUT: Final = "held-out, half of the questions fed"
AFTER: Final = "held-out, {} fed"
NOVEL: Final = "held-out, novel"
TOGETHER: Final = "all users in one store, held-out"
NAMING: Final = "{}, {:.0f} % name wrong memories"
OUTCOME: Final = "{}, only the outcome, {:.0f} % wrong"
FORGOTTEN: Final = "A's {} after B, {}"
KEPT: Final = "B's gain after A instead of alone, {}"
ALL_HELD: Final = "all runs held"
FEW_HELD: Final = "{} of A's runs held"
QUESTIONS: Final = "held-out questions"
PARAPHRASES: Final = "paraphrases"
LEFT: Final = 32  # of A's runs

AS_THEY_ARE: Final = "as they are"
EXCHANGED: Final = "exchanged"


@dataclass(frozen=True, slots=True)
class Bound:
    """Floors and a goal of the change, in percent."""

    floor_plain: float
    floor_full: float
    goal_full: float


BOUNDS: Final[Mapping[str, Bound]] = {
    STREAM: Bound(40, 25, 45),
    PARAPHRASE: Bound(38, 22, 40),
    **dict.fromkeys((AFTER.format(100), HELD_OUT), Bound(10, 5, 15)),
    NOVEL: Bound(0, 0, 5),
    OUTCOME.format(STREAM, 10): Bound(5, 2, 10),
    OUTCOME.format(HELD_OUT, 10): Bound(5, 2, 10),
    **{
        FORGOTTEN.format(what, held): Bound(-3, -3, -1)
        for what in (QUESTIONS, PARAPHRASES)
        for held in (ALL_HELD, FEW_HELD.format(LEFT))
    },
    **{KEPT.format(held): Bound(-10, -10, -5) for held in (ALL_HELD, FEW_HELD.format(LEFT))},
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Means over the questions of one user with one seed; what `before` and `after` are stands in the name."""

    base: str
    learner: str
    what: str
    user: str
    seed: int
    before: float
    after: float
    questions: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard said of one user's runs, as they are or exchanged."""

    base: str
    kind: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What something takes after so many runs."""

    what: str
    runs: int
    median: float
    p95: float | None  # None of what is measured once
    unit: str


@dataclass(frozen=True, slots=True)
class History:
    """nDCG@10 of each question of a history of runs, in time order, without and with learning."""

    name: str
    base: str
    learner: str
    told: str
    before: Sequence[float]
    after: Sequence[float]


@dataclass
class Figures:
    """All of it."""

    pairs: list[Pair] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over users and seeds; the change in percent with its deviation over seeds, and that of the user with the least."""

    before: float
    after: float
    change: float
    spread: float | None
    worst: float
    users: int


def summary(pairs: Sequence[Pair]) -> Summary:
    """Return what these come to, which are of one base, learner and name."""
    by_seed = [_means([pair for pair in pairs if pair.seed == seed]) for seed in sorted({pair.seed for pair in pairs})]
    by_user = [_means([pair for pair in pairs if pair.user == user]) for user in sorted({pair.user for pair in pairs})]
    changes = [_change(*each) for each in by_seed]
    before, after = _means(pairs)
    return Summary(
        before=before,
        after=after,
        change=_change(before, after),
        spread=float(np.std(changes, ddof=1)) if len(changes) > 1 else None,
        worst=min(_change(*each) for each in by_user),
        users=len(by_user),
    )


def _means(pairs: Sequence[Pair]) -> tuple[float, float]:
    return float(np.mean([pair.before for pair in pairs])), float(np.mean([pair.after for pair in pairs]))


def _change(before: float, after: float) -> float:
    return 100 * (after / before - 1) if before else 0.0
