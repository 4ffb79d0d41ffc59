"""One user's learner: it turns finished runs into a better order of answers.

    learned(m) = LEARNED (bent(q) - q) . m  +  value(m)  -  COMMON (n / (5 + n)),  n = how often m was shown

The first is the work of the two adapters, see `lora`: the base one is fitted in the background, the micro one moves at once, behind
it. The second is the bank's. The third holds back what is shown for everything; the bank brings it back where it helped. All is
added to the score that a memory has without learning, which stays as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.sona.bank import Bank, said
from memoryd.sona.contrast import LEARNED, slopes, task
from memoryd.sona.fitting import fitted, important
from memoryd.sona.lora import Adapter, Training
from memoryd.sona.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.learning import Intent, Keys, Lesson, Memories, Scores, Vector
    from memoryd.sona.ewc import Consolidated
    from memoryd.sona.profiles import Profile

_COMMON: Final = 0.05
_USUAL: Final = 5  # times that something is shown

_BESIDE: Final = 7  # earlier lessons in an instant step
_RECENT: Final = 200  # among which they are chosen
_OTHERS: Final = 32  # memories that nobody asked for, in an instant step
_INSTANT_STEPS: Final = 2
_INSTANT_RATE: Final = 0.003

_SEED: Final = 20260101


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned that has to do with one question: what the bank says of memories, and how often each was shown, by key."""

    bent: Vector | None
    helped: Sequence[RecordId]
    values: Mapping[int, float]
    shown: Counter[int]

    def parts(self, keys: Keys, moved: Scores) -> dict[str, Scores]:
        each = keys.tolist()
        counts = np.array([self.shown[key] for key in each], np.float32)
        return {
            "adapter": np.float32(LEARNED) * moved,
            "bank": np.array([self.values.get(key, 0.0) for key in each], np.float32),
            "common": np.float32(-_COMMON) * counts / (_USUAL + counts),
        }


class Learner:
    """Learns from lessons, one after the other, in one thread at a time; what it learned may be asked from any thread."""

    def __init__(self, dim: int, profile: Profile) -> None:
        self._dim = dim
        self._profile = profile
        self.is_enabled = True
        self._base: Adapter | None = None
        self._micro: Training | None = None
        self._held: Consolidated | None = None
        self._replay = Replay(profile.replay)
        self._bank = Bank(dim)
        self._shown: Counter[int] = Counter()

    def about(self, intent: Intent) -> Learned | None:
        """Return what was learned that has to do with a question; None when learning is off."""
        if not self.is_enabled:
            return None
        bent = intent.vector
        for adapter in (self._base, None if self._micro is None else self._micro.adapter):
            if adapter is not None:
                bent = adapter.bent(bent)
        near = self._bank.near(intent)
        return Learned(
            bent=None if bent is intent.vector else bent,
            helped=list(dict.fromkeys(record for each in near for record in each.entry.helped)),
            values=said(near),
            shown=self._shown,
        )

    def learn(self, lesson: Lesson, memories: Memories) -> None:
        """Take in a finished run, at once: it becomes an entry of the bank, and the micro adapter takes a step."""
        rng = self._rng()
        if not lesson.is_coarse and lesson.id not in self._replay:
            self._shown.update(lesson.keys[: len(lesson.shown)].tolist())
        self._bank.put(lesson)
        gone = self._replay.put(lesson, rng)
        if gone is not None:
            self._bank.drop(gone.id)
            if self._bank.is_thin:
                self._bank = Bank(self._dim, self._bank.lessons())
        if lesson.is_positive:
            self._step(lesson, memories, rng)

    def refit(self, memories: Memories) -> bool:
        """Fit the base adapter anew; the micro one begins again behind it. Returns whether there was anything to fit."""
        rng, lessons = self._rng(), list(self._replay)
        start, held = (None, None) if self._replay.is_whole else (self._base, self._held)
        base = fitted(lessons, memories, self._profile, rng, start=start, held=held)
        if base is None:
            return False
        self._held = important(self._held, base, lessons, memories, self._profile, rng)
        self._base, self._micro = base, None
        return True

    def _rng(self) -> np.random.Generator:
        """Return what chance there is: the same after a restart."""
        return np.random.default_rng([_SEED, self._replay.seen])

    def _step(self, lesson: Lesson, memories: Memories, rng: np.random.Generator) -> None:
        earlier = [each for each in self._replay.last(_RECENT) if each.is_positive and each.id != lesson.id]
        beside = [earlier[place] for place in rng.permutation(len(earlier))[:_BESIDE]]
        given = task([lesson, *beside], memories, memories.sample(_OTHERS, rng))
        if given is None:
            return
        fresh = Adapter.fresh(self._dim, self._profile.micro_rank, rng)
        training = self._micro or Training(fresh, _INSTANT_RATE)
        for _ in range(_INSTANT_STEPS):
            of_a, of_b, _ = slopes(training.adapter, given, behind=self._base)
            training.step(of_a, of_b)
        self._micro = training
