"""How quick a learner is on this machine: on made-up unit vectors, so it says nothing of how good one is.

Questions differ from what helps them by the same direction, or else the guard would refuse the fits and these would be quick.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from threadpoolctl import threadpool_limits

from memoryd.protocol.ids import RecordId, TrajectoryId
from memoryd.protocol.learning import Intent, Lesson
from memoryd.sona.bank import Bank, said
from memoryd.sona.learner import Learner
from memoryd.sona.lora import unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from memoryd.protocol.learning import Keys
    from memoryd.sona.lora import Floats
    from memoryd.sona.profiles import Profile

ENTRIES: Final = 1_000  # of the bank
CYCLES: Final = 10  # in the background; each takes a tenth of a second or more
MEMORIES: Final = 1_000
_SHOWN: Final = 10
_BESIDES: Final = 64
_WORDS: Final = 8
_DRIFT: Final = 0.8
_SEED: Final = 20260101


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that something takes, half of the times and 19 times in 20, beside the bound for the half and the aim."""

    what: str
    p50_s: float
    p95_s: float
    floor_s: float
    goal_s: float


class MadeUp:
    """Memories that are nothing but unit vectors, with their places as keys."""

    def __init__(self, dim: int, rng: np.random.Generator) -> None:
        self.all = unit(rng.standard_normal((MEMORIES, dim)))

    def vectors(self, keys: Keys) -> tuple[Keys, Floats]:
        return keys, self.all[keys.astype(np.int64)]

    def living(self, keys: Keys) -> Keys:
        return keys

    def sample(self, count: int, rng: np.random.Generator) -> Keys:
        return rng.permutation(MEMORIES)[:count].astype(np.uint64)


def measure(dim: int, profile: Profile, iterations: int, advance: Callable[[], None]) -> list[Speed]:
    """Return how quick each part is; calls `advance` so often as `steps` says."""
    rng = np.random.default_rng(_SEED)
    memories = MadeUp(dim, rng)
    drift = unit(rng.standard_normal(dim))
    lessons = [_lesson(number, memories, drift, rng) for number in range(ENTRIES + iterations)]
    with threadpool_limits(limits=1, user_api="blas"):  # as in the daemon
        learner, bank = Learner(dim, profile), Bank(dim, lessons[:ENTRIES])
        for lesson in lessons[:ENTRIES]:
            learner.learn(lesson, memories)
        cycles = _timed(CYCLES, lambda _: learner.refit(memories), advance, time.process_time)
        coming = lessons[ENTRIES:]
        instant = _timed(iterations, lambda number: learner.learn(coming[number], memories), advance)
        searches = _timed(iterations, lambda number: said(bank.near(coming[number].intent)), advance)
        known = learner.snapshot()
        adapters = [each for each in (known.base, known.micro.adapter if known.micro else None) if each is not None]

        def bent(number: int) -> None:
            question = coming[number].intent.vector
            for adapter in adapters:
                question = adapter.bent(question)

        bends = _timed(iterations, bent, advance)
    return [
        _speed("query transform", bends, 20e-6, 10e-6),
        _speed("instant step", instant, 1e-3, 0.3e-3),
        _speed(f"search among {ENTRIES:,} entries", searches, 0.3e-3, 0.1e-3),
        _speed("background, processor, a run", cycles / profile.refit_every, 3e-3, 1e-3),
    ]


def steps(iterations: int) -> int:
    """Return how often `measure` calls `advance`."""
    return CYCLES + 3 * iterations


def _timed(
    times: int,
    call: Callable[[int], object],
    advance: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Return how long each call took, in seconds of the clock, float64 [times]."""
    took = np.empty(times, np.float64)
    for number in range(times):
        began = clock()
        call(number)
        took[number] = clock() - began
        advance()
    return took


def _speed(what: str, took: NDArray[np.float64], floor_s: float, goal_s: float) -> Speed:
    p50, p95 = np.percentile(took, (50, 95)).tolist()
    return Speed(what, p50, p95, floor_s, goal_s)


def _lesson(number: int, memories: MadeUp, drift: Floats, rng: np.random.Generator) -> Lesson:
    """Return a run to which ten memories were shown, one of which helped, with a question and words of its own."""
    places = rng.choice(MEMORIES, _SHOWN + _BESIDES, replace=False)
    target = int(rng.integers(_SHOWN))
    credit = np.zeros(len(places), np.float32)
    credit[target] = 1
    return Lesson(
        id=TrajectoryId(f"{number:026}"),
        intent=Intent(
            unit(memories.all[places[target]] - _DRIFT * drift),
            np.sort(rng.integers(0, 1 << 63, _WORDS).astype(np.uint64)),
            np.ones(_WORDS, np.float32),
        ),
        shown=[RecordId(f"{place:026}") for place in places[:_SHOWN].tolist()],
        keys=places.astype(np.uint64),
        base=np.linspace(1, 0.5, len(places), dtype=np.float32),
        credit=credit,
        harmed=np.zeros(len(places), bool),
        quality=1.0,
        is_coarse=False,
        ended_us=number,
    )
