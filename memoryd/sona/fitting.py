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
_IMPORTANT: Final = 128  # lessons that tell what is important
_TOGETHER: Final = 16


def fitted(
    lessons: Sequence[Lesson],
    memories: Memories,
    profile: Profile,
    rng: np.random.Generator,
    *,
    start: Adapter | None = None,
    held: Consolidated | None = None,
) -> Adapter | None:
    """Return an adapter under which what helped comes first, None when nothing of what helped is there any more."""
    positive = [lesson for lesson in lessons if lesson.is_positive]
    if len(positive) > _MOST:
        positive = [positive[place] for place in np.sort(rng.permutation(len(positive))[:_MOST])]
    given = task(positive, memories, memories.sample(profile.negatives, rng)) if positive else None
    if given is None:
        return None
    start = start or Adapter.fresh(given.questions.shape[1], profile.base_rank, rng)
    much = 0.0 if held is None else strength(profile.ewc_lambda, held.tasks)
    return trained(start, given, profile.steps, profile.rate, rng, held, much)


def trained(
    start: Adapter,
    given: Task,
    steps: int,
    rate: float,
    rng: np.random.Generator,
    held: Consolidated | None = None,
    much: float = 0.0,
) -> Adapter:
    """Return an adapter after so many steps of size `rate`, each on a batch of the task in turn; what was `held` pulls so `much`."""
    training = Training(start, rate)
    free = Adam(np.zeros(len(given.vectors), np.float32), _FREE_RATE)
    batches = _batches(given, rng)
    for step in range(steps):
        some = batches[step % len(batches)]
        of_a, of_b, of_columns = slopes(training.adapter, some, free=free.value)
        if held is not None:
            pull_a, pull_b = held.pull(training.adapter, much)
            of_a, of_b = of_a + pull_a, of_b + pull_b
        training.step(of_a, of_b)
        free.step(of_columns + _FREE_DECAY * free.value)
    return training.adapter.bounded()


def _batches(given: Task, rng: np.random.Generator) -> list[Task]:
    """Return a task in equal parts of no more than a batch; they are made once, since to make one takes as long as a step."""
    count = len(given.questions)
    if count <= BATCH:
        return [given]
    return [given.some(rows) for rows in np.array_split(rng.permutation(count), -(-count // BATCH))]


def important(
    before: Consolidated | None,
    adapter: Adapter,
    lessons: Sequence[Lesson],
    memories: Memories,
    profile: Profile,
    rng: np.random.Generator,
) -> Consolidated | None:
    """Return what these lessons need of an adapter; None when nothing of what helped is there any more."""
    positive = [lesson for lesson in lessons if lesson.is_positive][-_IMPORTANT:]
    given = task(positive, memories, memories.sample(profile.negatives, rng)) if positive else None
    if given is None:
        return None
    count = len(given.questions)
    batches = (given.some(np.arange(at, min(at + _TOGETHER, count))) for at in range(0, count, _TOGETHER))
    return consolidated(before, adapter, (slopes(adapter, batch)[:2] for batch in batches))
