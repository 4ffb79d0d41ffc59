"""Fits the base adapter to the lessons that replay holds.

While replay holds everything that came, it is fitted from nothing; afterwards from where it stands, held by what was consolidated.
Beside it each memory gets a free score, which is thrown away: what helped often whatever was asked is no reason to bend a question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.sona.contrast import slopes, task
from memoryd.sona.ewc import consolidated, strength
from memoryd.sona.lora import Adam, Adapter, Training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.learning import Lesson, Memories
    from memoryd.sona.contrast import Task
    from memoryd.sona.ewc import Consolidated
    from memoryd.sona.profiles import Profile

BATCH: Final = 64  # lessons of a step, at most
_MOST: Final = 6 * BATCH  # lessons of a fit
_FREE_RATE: Final = 0.03
_FREE_DECAY: Final = 0.001
_IMPORTANT: Final = 2  # batches that tell what is important
_TOGETHER: Final = 16


def prepared(lessons: Sequence[Lesson], memories: Memories, profile: Profile, rng: np.random.Generator) -> list[Task]:
    """Return tasks of lessons in which something helped, in equal parts of no more than a batch, by chance.

    Each has the memories that its own lessons name as columns, and the same ones that nobody asked for. There is none when nothing of
    what helped is there any more.
    """
    chosen = rng.permutation(len(lessons))[:_MOST]
    if not len(chosen):
        return []
    besides = memories.sample(profile.negatives, rng)
    parts = np.array_split(chosen, -(-len(chosen) // BATCH))
    found = (task([lessons[place] for place in np.sort(part).tolist()], memories, besides) for part in parts)
    return [each for each in found if each is not None]


def fitted(
    batches: Sequence[Task],
    profile: Profile,
    rng: np.random.Generator,
    *,
    start: Adapter | None = None,
    held: Consolidated | None = None,
) -> Adapter:
    """Return an adapter under which what helped in these tasks comes first."""
    start = start or Adapter.fresh(batches[0].questions.shape[1], profile.base_rank, rng)
    much = 0.0 if held is None else strength(profile.ewc_lambda, held.tasks)
    return trained(start, batches, profile.steps, profile.rate, held, much)


def trained(
    start: Adapter,
    batches: Sequence[Task],
    steps: int,
    rate: float,
    held: Consolidated | None = None,
    much: float = 0.0,
) -> Adapter:
    """Return an adapter after so many steps of size `rate`, each on a task in turn; what was `held` pulls so `much`."""
    training = Training(start, rate)
    columns = np.unique(np.concatenate([each.columns for each in batches]))
    places = [np.searchsorted(columns, each.columns) for each in batches]
    free = Adam(np.zeros(len(columns), np.float32), _FREE_RATE)
    for step in range(steps):
        turn = step % len(batches)
        of_a, of_b, of_columns = slopes(training.adapter, batches[turn], free.value[places[turn]])
        if held is not None:
            pull_a, pull_b = held.pull(training.adapter, much)
            of_a, of_b = of_a + pull_a, of_b + pull_b
        training.step(of_a, of_b)
        of_free = np.float32(_FREE_DECAY) * free.value
        of_free[places[turn]] += of_columns
        free.step(of_free)
    return training.adapter.bounded()


def important(before: Consolidated | None, adapter: Adapter, batches: Sequence[Task]) -> Consolidated:
    """Return what the first of these tasks need of an adapter."""
    parts = (
        batch.some(np.arange(at, min(at + _TOGETHER, len(batch.questions))))
        for batch in batches[:_IMPORTANT]
        for at in range(0, len(batch.questions), _TOGETHER)
    )
    return consolidated(before, adapter, (slopes(adapter, part)[:2] for part in parts))
