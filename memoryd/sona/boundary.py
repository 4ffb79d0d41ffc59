"""Whether a user has come to ask about something else: a task boundary, by distance.

    |mean of the last 30 questions - mean of those before| > 3 sqrt(variance (1 / 30 + 1 / n))

The right side is three standard errors of the left one when all ask about the same: with unit vectors the variance of n questions about
their mean is 1 - |mean|^2. What was learned is consolidated there, so that EWC (`ewc`) knows what the earlier task needs (online EWC:
Schwarz et al., ICML 2018, who are told of boundaries). docs/research/learning.md has how often one is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.learning import Lesson

LAST: Final = 30
MOST: Final = LAST + 200  # lessons that are looked at
_LEAST: Final = 30  # before the last ones
_ERRORS: Final = 3.0


def is_boundary(lessons: Sequence[Lesson]) -> bool:
    """Return whether the last of these, which come from one task on in their order, ask about something else than the others."""
    if len(lessons) < LAST + _LEAST:
        return False
    vectors = np.stack([lesson.intent.vector for lesson in lessons])
    before, last = vectors[:-LAST].mean(axis=0), vectors[-LAST:].mean(axis=0)
    variance = max(0.0, 1 - float(before @ before)) * (1 / LAST + 1 / (len(lessons) - LAST))
    return float(np.sum((last - before) ** 2)) > _ERRORS**2 * variance
