"""The whole protocol, in jobs of a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import TYPE_CHECKING, Final

from benchmarks.learning import figures as f
from benchmarks.learning import protocols, scale
from benchmarks.learning.bases import Full, Plain
from benchmarks.learning.forgetting import forgetting
from benchmarks.learning.histories import BY_NAME, BY_OUTCOME, Follower
from benchmarks.learning.protocols import Trial
from benchmarks.learning.shuffled import guard
from benchmarks.learning.stores import Store
from benchmarks.learning.users import People, User

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.conversations import Conversation
    from benchmarks.learning.bases import Base
    from benchmarks.learning.histories import Replayed
    from benchmarks.learning.pupils import Pupil
    from benchmarks.learning.stores import Encoder
    from memoryd.sona.profiles import Profile

BASES: Final[Mapping[str, Callable[[Store], Base]]] = {f.FULL: Full, f.PLAIN: Plain}
PARTS: Final = ("stream", "paraphrase", "held-out", "noise", "guard", "forgetting", "scale")
_OURS_ALONE: Final = ("noise", "guard")


@dataclass(frozen=True, slots=True)
class Job:
    """A part of the protocol on the store of some conversations, with one seed."""

    which: tuple[int, ...]
    base: str
    part: str
    seed: int


def jobs(parts: Sequence[str], users: int, seeds: int) -> list[Job]:
    """Return all jobs of these parts; those of one store stand together."""
    alone: list[tuple[int, ...]] = [(one,) for one in range(users)]
    pairs: list[tuple[int, ...]] = [(one, one + 1) for one in range(0, users - 1, 2)]
    stores = dict.fromkeys(PARTS, alone) | {"forgetting": pairs, "scale": [tuple(range(users))]}
    found = [
        Job(which, base, part, seed)
        for part in parts
        for which, base, seed in product(stores[part], BASES, range(seeds))
    ]
    return sorted(found, key=lambda job: (len(job.which), job.which, job.base))


class Whole:
    """Does jobs; what they find is in `figures`. `learners` begin to learn by name, the first of them is ours."""

    def __init__(
        self,
        conversations: Sequence[Conversation],
        encoder: Encoder,
        learners: Mapping[str, Callable[[User], Pupil]],
        chosen: Profile,
        draws: int,
    ) -> None:
        self.figures = f.Figures()
        self._conversations = conversations
        self._encoder = encoder
        self._learners = learners
        self._profile = chosen
        self._parts: Mapping[str, Callable[[Trial], None]] = {
            "stream": protocols.stream,
            "paraphrase": protocols.paraphrase,
            "held-out": protocols.held_out,
            "noise": protocols.noise,
            "guard": partial(guard, draws=draws),
            "forgetting": forgetting,
            "scale": scale.together,
        }
        # Jobs of one store stand together: what it was asked before is known as long as that.
        self._people = lru_cache(maxsize=1)(self._remembered)
        self._user = lru_cache(maxsize=1)(self._asking)

    def do(self, job: Job) -> None:
        """Do a job with every learner that it is for."""
        user = self._user(job.which, job.base)
        for learner, begin in self._learners.items():
            if learner == f.OURS or job.part not in _OURS_ALONE:
                self._parts[job.part](Trial(user, partial(begin, user), job.seed, job.base, learner, self.figures))
        if job.part == "scale" and (job.base, job.seed) == (f.FULL, 0):
            scale.costs(user, self._profile, self.figures)

    def replay(self, given: Replayed) -> Iterable[object]:
        """Have a history followed by every learner under each score; yields after each run."""
        store = Store(self._encoder)
        people = People(given.name, store, (), 0, given.began)
        followers = [
            Follower(base, learner, told, user, begin(user))
            for base, make in BASES.items()
            for user in (User(people, make),)
            for learner, begin in self._learners.items()
            for told in (BY_NAME, BY_OUTCOME)
        ]
        yield from given.replay(store, followers)
        self.figures.histories += [each.history(given.name) for each in followers]

    def _remembered(self, which: tuple[int, ...]) -> People:
        return People.of([self._conversations[one] for one in which], self._encoder)

    def _asking(self, which: tuple[int, ...], base: str) -> User:
        return User(self._people(which), BASES[base])
