"""Low-rank adapters (Hu et al., LoRA, ICLR 2022) that bend a question towards what helped others like it.

    bent(q) = norm(q + B A q),  A float32 [rank, dim],  B float32 [dim, rank]

A begins random and B at zero, so an adapter that learned nothing changes nothing, and both factors receive gradient from the second
step on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from memoryd.sona.contrast import LEARNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_FIRST: Final = (
    0.9  # of the moments of Adam (Kingma and Ba, ICLR 2015); the second is shorter than usual, since steps are few
)
_SECOND: Final = 0.99
_TINY: Final = 1e-8
_SHORTEST: Final = np.finfo(np.float32).tiny
LARGEST: Final = 4.0  # of |B A|: no question is bent further


def unit(rows: NDArray[np.floating[Any]]) -> Floats:
    """Return vectors, float32 [dim] or [n, dim], at unit length."""
    lengths = np.sqrt(np.vecdot(rows, rows))[..., None]
    scaled: Floats = (rows / np.maximum(lengths, _SHORTEST)).astype(np.float32, copy=False)
    return scaled


@dataclass(frozen=True, slots=True)
class Adapter:
    """One pair of factors, and how much of a cosine counts in a score that it moves; never changed, only replaced."""

    a: Floats
    b: Floats
    strength: float = LEARNED

    @classmethod
    def fresh(cls, dim: int, rank: int, rng: np.random.Generator) -> Self:
        """Return one that changes nothing yet."""
        a = rng.standard_normal((rank, dim)) / np.sqrt(dim)
        return cls(a.astype(np.float32), np.zeros((dim, rank), np.float32))

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def size(self) -> float:
        """Frobenius norm of B A: how far it may move a question."""
        # |BA|_F^2 = tr(A A^T B^T B), which is [rank, rank] only.
        a, b = self.a.astype(np.float64), self.b.astype(np.float64)
        return float(np.sqrt(np.maximum(np.trace(a @ a.T @ (b.T @ b)), 0)))

    def bounded(self) -> Self:
        """Return it with a smaller B when it would bend too far."""
        size = self.size
        return self if size <= LARGEST else replace(self, b=self.b * np.float32(LARGEST / size))

    def bent(self, questions: Floats) -> Floats:
        """Return questions, float32 [dim] or [n, dim], bent, at unit length."""
        return unit(questions + (questions @ self.a.T) @ self.b.T)


class Adam:
    """An array on its way along gradients; `first` and `second` are their moments after so many `steps`."""

    def __init__(self, value: Floats, rate: float) -> None:
        self.value = value
        self.first = np.zeros_like(value)
        self.second = np.zeros_like(value)
        self.steps = 0
        self._rate = np.float32(rate)

    def step(self, slope: Floats) -> None:
        """Go one step against a gradient. Raises ValueError when its shape is another one."""
        if slope.shape != self.value.shape:
            raise ValueError(f"a gradient of {slope.shape} for {self.value.shape}")
        self.steps += 1
        self.first += np.float32(1 - _FIRST) * (slope - self.first)
        self.second += np.float32(1 - _SECOND) * (slope * slope - self.second)
        spread = np.sqrt(self.second * np.float32(1 / (1 - _SECOND**self.steps)))
        spread += np.float32(_TINY)
        rate = self._rate / np.float32(1 - _FIRST**self.steps)
        self.value = self.value - rate * self.first / spread  # a new one: an adapter has the old one


class Training:
    """An adapter on its way."""

    def __init__(self, adapter: Adapter, rate: float) -> None:
        self.a = Adam(adapter.a, rate)
        self.b = Adam(adapter.b, rate)

    @property
    def adapter(self) -> Adapter:
        return Adapter(self.a.value, self.b.value)

    def step(self, of_a: Floats, of_b: Floats) -> None:
        """Go one step against the gradients of both factors. Raises ValueError when they are of another adapter."""
        self.a.step(of_a)
        self.b.step(of_b)

    def bound(self) -> None:
        """Let it bend no further than an adapter may."""
        self.b.value = self.adapter.bounded().b
