"""What helped should stand before what was shown and did not: the contrastive loss (InfoNCE; van den Oord et al., 2018).

For a question q with what helped, G, among the columns C, all memories that any of the lessons names and some that none does:

    z_j = (o_j + LEARNED (bent(q) - q) . m_j) / TEMPERATURE + ln w_j
    L   = -ln( sum over G of c_j e^z_j / sum over C of e^z_j ) + DECAY / 2 |B|^2

o is the score of a memory without anything learned, c the credit. What was shown and did not help has weight 2, what did harm 4.

A step multiplies nothing by all numbers of all columns but B: with |q + B A q| = l, bent(q) . m = (q . m + A q . B^T m) / l, of
which q . m stays what it is while an adapter is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.learning import Keys, Lesson, Memories
    from memoryd.sona.lora import Adapter, Floats

TEMPERATURE: Final = 1 / 22  # of scores: under it the evidence of questions is most likely
LEARNED: Final = 0.05  # of a cosine, in a score, while an adapter is fitted; the guard may find that more is better
DECAY: Final = 0.1
_IN_VAIN: Final = np.log(2.0)  # shown, and did not help
_HARMFUL: Final = np.log(4.0)


@dataclass(frozen=True, slots=True)
class Task:
    """Lessons to be fitted: questions, float32 [n, dim], as they were embedded, and the vectors of the columns, float32 [m, dim].

    Of each question and column the base score, the credit, the logarithm of the weight, the cosine, and what z is but for the
    cosine of the bent question, less its greatest of the question, float32 [n, m]. `helped` has the rows and the columns of
    what has credit, int64 [p], of which there is little.
    """

    lessons: Sequence[Lesson]
    columns: Keys
    questions: Floats
    vectors: Floats
    base: Floats
    credit: Floats
    weight: Floats
    cosines: Floats
    offset: Floats
    helped: tuple[NDArray[np.int64], NDArray[np.int64]]

    def some(self, rows: NDArray[np.int64]) -> Task:
        """Return the task of some of its questions."""
        return replace(
            self,
            lessons=[self.lessons[row] for row in rows.tolist()],
            questions=self.questions[rows],
            base=self.base[rows],
            credit=self.credit[rows],
            weight=self.weight[rows],
            cosines=self.cosines[rows],
            offset=self.offset[rows],
            helped=_helped(self.credit[rows]),
        )

    def behind(self, adapter: Adapter) -> Task:
        """Return it as an adapter sees it that stands behind this one."""
        questions = adapter.bent(self.questions)
        return replace(self, questions=questions, cosines=questions @ self.vectors.T)


def task(lessons: Sequence[Lesson], memories: Memories, besides: Keys) -> Task | None:
    """Return the task of the lessons of which something that helped is still there; the keys `besides` are columns too.

    None when there are none.
    """
    named = [lesson.keys[: len(lesson.shown)] for lesson in lessons]
    columns, vectors = memories.vectors(np.unique(np.concatenate([besides, *named])))
    base, credit, weight = _numbers(lessons, columns)
    kept = np.flatnonzero(credit.any(axis=1))
    if not len(kept):
        return None
    if len(kept) < len(lessons):
        base, credit, weight = base[kept], credit[kept], weight[kept]
    found = [lessons[row] for row in kept.tolist()]
    questions = np.stack([lesson.intent.vector for lesson in found])
    cosines = questions @ vectors.T
    offset = np.asarray((base - LEARNED * cosines) / TEMPERATURE + weight, np.float32)
    offset -= offset.max(axis=1, keepdims=True)
    return Task(found, columns, questions, vectors, base, credit, weight, cosines, offset, _helped(credit))


def _helped(credit: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.nonzero(credit)
    return rows, columns


def _numbers(lessons: Sequence[Lesson], columns: Keys) -> tuple[Floats, Floats, Floats]:
    """Return base score, credit and logarithm of the weight of each lesson and column, float32 [n, m].

    No candidate is worth less than the last one of its lesson.
    """
    lowest = np.array([lesson.base.min() for lesson in lessons], np.float32)
    base = np.repeat(lowest[:, None], len(columns), axis=1)
    credit, weight = np.zeros_like(base), np.zeros_like(base)
    if not len(columns):
        return base, credit, weight
    keys = np.concatenate([lesson.keys for lesson in lessons])
    places = np.searchsorted(columns, keys)
    places[places == len(columns)] = 0
    is_known = columns[places] == keys
    rows = np.repeat(np.arange(len(lessons)), [len(lesson.keys) for lesson in lessons])
    base[rows[is_known], places[is_known]] = np.concatenate([lesson.base for lesson in lessons])[is_known]
    was_shown = np.concatenate([np.arange(len(lesson.keys)) < len(lesson.shown) for lesson in lessons])
    rows, places, is_shown = rows[was_shown], places[was_shown], is_known[was_shown]
    of_shown = np.concatenate([lesson.credit[: len(lesson.shown)] for lesson in lessons])
    harmed = np.concatenate([lesson.harmed[: len(lesson.shown)] for lesson in lessons])
    logarithms = np.where(of_shown > 0, 0, np.where(harmed, _HARMFUL, _IN_VAIN))
    credit[rows[is_shown], places[is_shown]] = of_shown[is_shown]
    weight[rows[is_shown], places[is_shown]] = logarithms[is_shown]
    return base, credit, weight


def slopes(adapter: Adapter, given: Task, free: Floats | None = None) -> tuple[Floats, Floats, Floats]:
    """Return the gradients of the mean loss: of A, of B, and of the columns' scores, float32 [m].

    What is `free`, float32 [m], is added to the score of each column.
    """
    questions = given.questions
    low = questions @ adapter.a.T  # [n, rank]
    seen = given.vectors @ adapter.b  # [m, rank]
    raw = questions + low @ adapter.b.T
    lengths = np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    # What follows goes through [n, m] numbers as seldom as it can, and in place.
    products = low @ seen.T  # raw . m
    products += given.cosines
    z = products * (np.float32(LEARNED / TEMPERATURE) / lengths)
    z += given.offset
    if free is not None:
        z += free / np.float32(TEMPERATURE)
    chances = np.exp(z, out=z)  # without their greatest: what is added to the offset is no more than some tens
    rows, columns = given.helped
    wanted = chances[rows, columns] * given.credit[rows, columns]
    wanted /= np.maximum(np.bincount(rows, wanted, len(questions)), np.finfo(np.float32).tiny)[rows]
    chances *= 1 / chances.sum(axis=1, keepdims=True)
    chances[rows, columns] -= wanted
    of_scores = chances  # but for 1 / TEMPERATURE n
    # bent . m = raw . m / |raw|, whose gradient is (m - (bent . m) raw / |raw|) / |raw| of raw = q + B A q.
    along = np.einsum("nm,nm->n", of_scores, products)[:, None] / lengths**2
    of_low = (of_scores @ seen - along * (raw @ adapter.b)) / lengths
    scaled = low / lengths
    of_b = given.vectors.T @ (of_scores.T @ scaled) - raw.T @ (along * scaled)
    each = np.float32(1 / (TEMPERATURE * len(questions)))
    of_a = np.float32(LEARNED) * each * (of_low.T @ questions)
    of_b = np.float32(LEARNED) * each * of_b + np.float32(DECAY) * adapter.b
    return of_a, of_b, each * of_scores.sum(axis=0)
