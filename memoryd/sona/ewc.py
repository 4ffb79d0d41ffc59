"""Elastic weight consolidation (Kirkpatrick et al., PNAS 2017), online (Schwarz et al., ICML 2018): what earlier lessons needed stays.

Needed only for lessons that replay no longer holds. The importance of a number of an adapter is the mean square of its gradient,
rescaled to a mean of 1, so that one strength fits all users:

    penalty = strength / 2 * sum of importance * (theta - anchor)^2,   importance <- .9 importance + .1 new
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memoryd.sona.lora import Adapter, Floats

_KEPT: Final = 0.9
_GROWTH: Final = 0.1  # of the strength, with each task
_MOST: Final = 15.0
_SCALE: Final = 2_000.0 / 3  # of the published engine's lambda: its usual 2,000 is 3


def strength(ewc_lambda: float, tasks: int) -> float:
    """Return how much the penalty counts after so many tasks."""
    return min(_MOST, ewc_lambda / _SCALE * (1 + _GROWTH * tasks))


@dataclass(frozen=True, slots=True)
class Consolidated:
    """How important each number of an adapter was, of the shapes of A and B, where it stood, and over how many tasks."""

    of_a: Floats
    of_b: Floats
    anchor: Adapter
    tasks: int

    def pull(self, adapter: Adapter, much: float) -> tuple[Floats, Floats]:
        """Return the gradient of the penalty. Raises ValueError when the adapter has another shape."""
        if (adapter.a.shape, adapter.b.shape) != (self.of_a.shape, self.of_b.shape):
            raise ValueError("an adapter of another shape was consolidated")
        return much * self.of_a * (adapter.a - self.anchor.a), much * self.of_b * (adapter.b - self.anchor.b)


def consolidated(
    before: Consolidated | None, adapter: Adapter, gradients: Iterable[tuple[Floats, Floats]]
) -> Consolidated:
    """Return what is important now, by gradients of A and B on some lessons. Raises ValueError when shapes differ."""
    of_a, of_b = np.zeros_like(adapter.a), np.zeros_like(adapter.b)
    for slope_a, slope_b in gradients:
        if (slope_a.shape, slope_b.shape) != (of_a.shape, of_b.shape):
            raise ValueError("gradients of another adapter")
        of_a += slope_a * slope_a
        of_b += slope_b * slope_b
    of_a, of_b = _rescaled(of_a), _rescaled(of_b)
    if before is None or before.of_a.shape != of_a.shape:
        return Consolidated(of_a, of_b, adapter, 1)
    mixed_a = _KEPT * before.of_a + (1 - _KEPT) * of_a
    mixed_b = _KEPT * before.of_b + (1 - _KEPT) * of_b
    return Consolidated(mixed_a.astype(np.float32), mixed_b.astype(np.float32), adapter, before.tasks + 1)


def _rescaled(squares: Floats) -> Floats:
    mean = float(squares.mean())
    return squares / np.float32(mean) if mean > 0 else squares
