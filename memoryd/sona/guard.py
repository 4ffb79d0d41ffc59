"""Nothing learned is used before it was seen to help runs that it was not learned from.

In four folds over the last runs: an adapter is fitted on the others, and each run is asked as if it had not been, of a bank that is
bolder than the one in use and speaks for memories only. What counts is how much more likely what helped becomes, in nats. Labels that
mean nothing make it less likely, and the more so the bolder the bank; nDCG does not tell them apart so well (docs/research/learning.md).

The same runs say how much the adapter should count: where the score without learning says already what it could learn, no more than while
it is fitted, and more where it says less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.sona.bank import said
from memoryd.sona.contrast import LEARNED, TEMPERATURE, task
from memoryd.sona.fitting import BATCH, trained
from memoryd.sona.lora import Adapter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.learning import Lesson, Memories
    from memoryd.sona.bank import Bank
    from memoryd.sona.contrast import Task
    from memoryd.sona.lora import Floats
    from memoryd.sona.profiles import Profile

ENOUGH: Final = 64  # runs in which something helped: fewer tell too little
LEAST: Final = 0.0  # nats
STRENGTHS: Final = (LEARNED, 0.1, 0.2, 0.3)  # of a cosine, in a score
_PRICE: Final = 0.1  # nats that a strength of 1 has to gain: what gains less does no good to questions that never came
_MOST: Final = 96
_NEGATIVES: Final = 128  # memories that nobody asked for: enough to judge by
_FOLDS: Final = 4
_STEPS: Final = 12
_RATE: Final = 0.01
_BOLDER: Final = 0.4
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many nats more likely what helped becomes, in the mean over runs, and which of STRENGTHS is worth its price."""

    gain: float
    strength: float


def judge(
    lessons: Sequence[Lesson], memories: Memories, bank: Bank, profile: Profile, rng: np.random.Generator
) -> Verdict | None:
    """Return what the last of these lessons say, in each of which something helped; None when there are too few of them."""
    enough = len(lessons) >= ENOUGH
    given = task(lessons[-_MOST:], memories, memories.sample(_NEGATIVES, rng)) if enough else None
    if given is None or len(given.lessons) < ENOUGH:
        return None
    order = rng.permutation(len(given.lessons))
    changes = []
    for fold in range(_FOLDS):
        held_out, others = order[fold::_FOLDS], np.delete(order, np.s_[fold::_FOLDS])
        fresh = Adapter.fresh(given.questions.shape[1], profile.base_rank, rng)
        parts = [given.some(rows) for rows in np.array_split(others, -(-len(others) // BATCH))]
        adapter = trained(fresh, parts, _STEPS, _RATE)
        changes.append(_changes(adapter, given.some(held_out), bank))
    gains = np.concatenate(changes).mean(axis=0)
    worth = gains - _PRICE * np.array(STRENGTHS)
    return Verdict(float(gains[0]), STRENGTHS[int(worth.argmax())])


def _changes(adapter: Adapter, given: Task, bank: Bank) -> Floats:
    """Return of each run how much more likely what helped becomes with each of STRENGTHS, float32 [n, strengths]."""
    moved = adapter.bent(given.questions) @ given.vectors.T - given.cosines
    of_bank = np.zeros_like(moved)
    for row, lesson in enumerate(given.lessons):
        values = said(bank.near(lesson.intent, without={lesson.id}, bolder=_BOLDER), in_vain=0.0)
        keys = np.array(sorted(values), np.uint64)
        _, places, found = np.intersect1d(given.columns, keys, assume_unique=True, return_indices=True)
        of_bank[row, places] = [values[key] for key in keys[found].tolist()]
    before, beside = _likely(given.base, given.credit), given.base + of_bank
    after = [_likely(beside + np.float32(strength) * moved, given.credit) for strength in STRENGTHS]
    return np.stack(after, axis=1) - before[:, None]


def _likely(scores: Floats, credit: Floats) -> Floats:
    """Return the logarithm of the chance that what is chosen by score helped, float32 [n]."""
    z = scores / TEMPERATURE
    chances = np.exp(z - z.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    logs: Floats = np.log((chances * credit).sum(axis=1) + _TINY)
    return logs
