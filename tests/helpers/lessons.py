"""Memories as unit vectors, and runs that found some of them useful."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memoryd.protocol.ids import TrajectoryId, record_of_key
from memoryd.protocol.learning import Intent, Lesson
from tests.helpers.memories import units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Vectors
    from memoryd.protocol.learning import Keys

DIM = 32
COUNT = 60


class Held:
    """Memories whose keys are their places; those that are `gone` live no longer."""

    def __init__(self, seed: int = 1, count: int = COUNT) -> None:
        self.all = units(count, DIM, seed)
        self.gone: set[int] = set()

    def vectors(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Vectors]:
        alive = np.array([key for key in keys.tolist() if key < len(self.all) and key not in self.gone], np.uint64)
        return alive, self.all[alive.astype(np.int64)]

    def living(self, keys: Keys) -> Keys:
        return self.vectors(keys)[0]

    def sample(self, count: int, rng: np.random.Generator) -> Keys:
        return rng.permutation(len(self.all))[:count].astype(np.uint64)


def record(key: int) -> RecordId:
    """The id of the memory with this key."""
    return record_of_key(key.to_bytes(16, "big"))


def intent(vector: Vectors, *words: int) -> Intent:
    return Intent(vector, np.array(sorted(words), np.uint64), np.ones(len(words), np.float32))


def lesson(
    number: int,
    asked: Intent,
    shown: Sequence[int],
    helped: Sequence[int] = (),
    *,
    harmed: Sequence[int] = (),
    besides: Sequence[int] = (),
    quality: float = 1.0,
    is_coarse: bool = False,
) -> Lesson:
    """A run to which `shown` was shown; the base scores fall from 1 in that order."""
    keys = [*shown, *besides]
    return Lesson(
        id=TrajectoryId(f"{number:026}"),
        intent=asked,
        keys=np.array(keys, np.uint64),
        base=np.linspace(1, 0.5, len(keys), dtype=np.float32),
        credit=np.array([float(key in helped) for key in keys], np.float32),
        harmed=np.array([key in harmed for key in keys], bool),
        shown=[record(key) for key in shown],
        quality=quality,
        is_coarse=is_coarse,
        ended_us=number,
    )
