"""What helped should stand before what was shown and did not: the contrastive loss (InfoNCE; van den Oord et al., 2018).

For a question q with what helped, G, among the columns C, all memories that any of the lessons names and some that none does:

    z_j = (o_j + LEARNED (bent(q) - q) . m_j) / TEMPERATURE + ln w_j
    L   = -ln( sum over G of c_j e^z_j / sum over C of e^z_j ) + DECAY / 2 |B|^2

o is the score of a memory without anything learned, c the credit. What was shown and did not help has weight 2, what did harm 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.sona.lora import Adapter, unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.learning import Keys, Lesson, Memories
    from memoryd.sona.lora import Floats

TEMPERATURE: Final = 1 / 22  # of scores: under it the evidence of questions is most likely
LEARNED: Final = 0.15  # of a cosine, in a score
DECAY: Final = 0.1
_IN_VAIN: Final = np.log(2.0)  # shown, and did not help
_HARMFUL: Final = np.log(4.0)


@dataclass(frozen=True, slots=True)
class Task:
    """Lessons to be fitted: questions, float32 [n, dim], as they were embedded, and the vectors of the columns, float32 [m, dim].

    Of each question and column the base score, the credit, and the logarithm of the weight, float32 [n, m].
    """

    lessons: Sequence[Lesson]
    columns: Keys
    questions: Floats
    vectors: Floats
    base: Floats
    credit: Floats
    weight: Floats

    def some(self, rows: NDArray[np.int64]) -> Task:
        """Return the task of some of its questions."""
        return replace(
            self,
            lessons=[self.lessons[row] for row in rows.tolist()],
            questions=self.questions[rows],
            base=self.base[rows],
            credit=self.credit[rows],
            weight=self.weight[rows],
        )


def task(lessons: Sequence[Lesson], memories: Memories, besides: Keys) -> Task | None:
    """Return the task of the lessons of which something that helped is still there; the keys `besides` are columns too.

    None when there are none.
    """
    named = [lesson.keys[: len(lesson.shown)] for lesson in lessons]
    columns, vectors = memories.vectors(np.unique(np.concatenate([besides, *named])))
    rows = [_row(lesson, columns) for lesson in lessons]
    kept = [(lesson, row) for lesson, row in zip(lessons, rows, strict=True) if row[1].any()]
    if not kept:
        return None
    base, credit, weight = (np.stack(parts) for parts in zip(*(row for _, row in kept), strict=True))
    questions = np.stack([lesson.intent.vector for lesson, _ in kept])
    return Task([lesson for lesson, _ in kept], columns, questions, vectors, base, credit, weight)


def _row(lesson: Lesson, columns: Keys) -> tuple[Floats, Floats, Floats]:
    """Return base score, credit and logarithm of the weight of each column; no candidate is worth less than the last of them."""
    base = np.full(len(columns), lesson.base.min(), np.float32)
    credit, weight = np.zeros(len(columns), np.float32), np.zeros(len(columns), np.float32)
    places = np.searchsorted(columns, lesson.keys)
    places[places == len(columns)] = 0
    known = np.flatnonzero(columns[places] == lesson.keys) if len(columns) else np.empty(0, np.int64)
    base[places[known]] = lesson.base[known]
    shown = known[known < len(lesson.shown)]
    credit[places[shown]] = lesson.credit[shown]
    in_vain = np.where(lesson.harmed[shown], _HARMFUL, _IN_VAIN)
    weight[places[shown]] = np.where(lesson.credit[shown] > 0, 0, in_vain)
    return base, credit, weight


def slopes(
    adapter: Adapter, given: Task, behind: Adapter | None = None, free: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Return the gradients of the mean loss: of A, of B, and of the columns' scores, float32 [m].

    The adapter stands `behind` another one, if there is one. What is `free`, float32 [m], is added to the score of each column.
    """
    first = given.questions if behind is None else behind.bent(given.questions)
    low = first @ adapter.a.T
    raw = first + low @ adapter.b.T
    lengths = np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    bent = unit(raw)
    scores = given.base + LEARNED * ((bent - given.questions) @ given.vectors.T)
    if free is not None:
        scores = scores + free
    z = scores / TEMPERATURE + given.weight
    chances = np.exp(z - z.max(axis=1, keepdims=True))
    wanted = chances * given.credit
    chances /= chances.sum(axis=1, keepdims=True)
    wanted /= np.maximum(wanted.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    of_scores = (chances - wanted) / (TEMPERATURE * len(given.questions))
    of_bent = LEARNED * (of_scores @ given.vectors)
    of_raw = (of_bent - bent * (bent * of_bent).sum(axis=1, keepdims=True)) / lengths
    of_b = of_raw.T @ low + DECAY * adapter.b
    of_a = (of_raw @ adapter.b).T @ first
    return of_a.astype(np.float32), of_b.astype(np.float32), of_scores.sum(axis=0).astype(np.float32)
