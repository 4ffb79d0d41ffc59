"""What recall and learning say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

Outcome = Literal["accepted", "refused", "too few"]  # of fitting weights anew
# What is written down of what was learned: all of it; the weights alone; patterns, as the published engine has them.
Form = Literal["state", "weights", "ruvector"]

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId, TrajectoryId, UserId
    from memoryd.protocol.messages import LearningStatus

    Vector = NDArray[np.float32]  # [dim], unit length
    Scores = NDArray[np.float32]  # [m]
    Keys = NDArray[np.uint64]  # [m], ids of records as numbers, see `keys.folded`

Judged = tuple[float, bool]  # the quality of a run, and whether somebody named what helped or harmed
UNTOLD: Final = 1 / 6  # credit of each memory that was shown to a run that went well and tells no more


@dataclass(frozen=True, slots=True)
class Intent:
    """A question as it was embedded, float32 [dim], and its words: hashes, uint64 [t] ascending, and their rarity, float32 [t].

    `asks_when` says whether it asks for a time, None when it does not say what it asks for.
    """

    vector: Vector
    terms: Keys
    rarity: Scores
    asks_when: bool | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """A finished run: a question, the memories that were `shown` for it, and what of that helped.

    The first of `keys` [m] are those of the memories shown; the others were the next candidates. `base` is the score of each
    without anything learned, `credit`, from 0 to 1, how much each helped; `harmed`, bool [m], marks what did harm. It `is_coarse`
    when nobody said which of them helped: then the credit of those shown is UNTOLD, and up to 1 where the run's later texts go back
    to one of them, if it went well, and 0 if it did not.
    """

    id: TrajectoryId
    intent: Intent
    shown: Sequence[RecordId]
    keys: Keys
    base: Scores
    credit: Scores
    harmed: NDArray[np.bool_]
    quality: float
    is_coarse: bool
    ended_us: int

    @property
    def is_positive(self) -> bool:
        """Whether something helped."""
        return bool(self.credit.any())


class Memories(Protocol):
    """The vectors of a user's memories at one moment."""

    def vectors(self, keys: Keys) -> tuple[Keys, NDArray[np.float32]]:
        """Return those of these keys, uint64 [n] ascending, whose memories live, and their vectors, float32 [m, dim]."""
        ...

    def living(self, keys: Keys) -> Keys:
        """Return those of these keys, uint64 [n] ascending, whose memories live."""
        ...

    def sample(self, count: int, rng: np.random.Generator) -> Keys:
        """Return the keys of so many living memories chosen at random, or of all of them."""
        ...


class Learned(Protocol):
    """What was learned that has to do with one question."""

    @property
    def bent(self) -> Vector | None:
        """The question as what was learned bends it; None when nothing does."""
        ...

    @property
    def helped(self) -> Sequence[RecordId]:
        """Memories that helped questions like it."""
        ...

    def parts(self, keys: Keys, moved: Scores) -> Mapping[str, Scores]:
        """Return what is added to the score of each of these memories, by summand.

        `moved`, float32 [m], is how much nearer each is to the bent question than to the question.
        """
        ...

    def evidence(self, keys: Keys) -> Scores:
        """Return how much likelier it is of each of these memories that it is right, in nats: it helped questions like this, or did not."""
        ...


class Cycle(Protocol):
    """What came of fitting anew: whether it was accepted, and what the guard said, in nats."""

    @property
    def outcome(self) -> Outcome: ...

    @property
    def gain(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Pattern:
    """Runs that asked alike: the centre of their questions, the run nearest to it, how many they are and how well they went.

    `values` says of each memory that helped or did harm to how many of them it was shown that name what did, and its mean value: 1 where it
    helped, 0 where it was shown in vain, -1 where it did harm; what helped most often first.
    """

    centre: Vector
    example: TrajectoryId
    runs: tuple[TrajectoryId, ...]
    quality: float
    values: Mapping[RecordId, tuple[int, float]]
    last_us: int


class Learner(Protocol):
    """Learns from one run after the other; nobody keeps what. Called by one at a time, and blocks."""

    def about(self, intent: Intent) -> Learned | None:
        """Return what was learned about a question; None when nothing was learned."""
        ...

    @property
    def is_due(self) -> bool:
        """Whether so much was learned that the weights should be fitted anew."""
        ...

    def learn(self, lesson: Lesson, memories: Memories) -> None:
        """Take in a finished run."""
        ...

    def refit(self, memories: Memories) -> Cycle:
        """Fit the weights anew: some tenths of a second of a processor."""
        ...


class LearningEngine(Protocol):
    """What one user's runs teach. `about` and the properties may be asked from any thread; all else is called by one at a time, and blocks."""

    def open(self) -> str:
        """Read what was learned; returns why that cannot be used, if so: learning begins anew then."""
        ...

    def about(self, intent: Intent) -> Learned | None:
        """Return what was learned that has to do with a question; None when learning is off, or nothing was learned."""
        ...

    @property
    def is_enabled(self) -> bool: ...

    @property
    def has_learned(self) -> bool:
        """Whether there is anything to be told `about` a question."""
        ...

    @property
    def threshold(self) -> float:
        """The quality from which on a run went well."""
        ...

    @property
    def resident_bytes(self) -> int: ...

    @property
    def is_due(self) -> bool:
        """Whether so much was learned that the weights should be fitted anew."""
        ...

    @property
    def is_at_boundary(self) -> bool:
        """Whether they should be before more is learned, since the user has come to ask about something else."""
        ...

    @property
    def generation(self) -> int:
        """That of the weights in use."""
        ...

    @property
    def last(self) -> Cycle | None:
        """What came of fitting them last."""
        ...

    def lesson(self, run: TrajectoryId) -> Lesson | None:
        """Return what is held of a run."""
        ...

    def says_nothing(self, run: TrajectoryId, judged: Judged) -> bool:
        """Whether it was found that a run says nothing, as it was judged then."""
        ...

    def may_have_been_learned(self, ended_us: int) -> bool:
        """Whether a run that ended then, and is not held, may have had to go for others."""
        ...

    def learn(self, lesson: Lesson, memories: Memories) -> None:
        """Take in a finished run, in the place of what was known of it."""
        ...

    def pass_over(self, run: TrajectoryId, judged: Judged) -> None:
        """Know of a finished run that it says nothing, whatever it said before: what it was shown is gone, or only repeats its question."""
        ...

    def refit(self, memories: Memories) -> Cycle:
        """Fit the weights anew: some tenths of a second of a processor."""
        ...

    def forget(self, keys: Iterable[int], runs: Container[TrajectoryId]) -> None:
        """Leave no trace of these memories and these runs."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        ...

    def knows_others(self, memories: Memories, is_here: Callable[[TrajectoryId], bool]) -> bool:
        """Whether it knows other memories than these, or runs that are not here."""
        ...

    def keep_only(self, memories: Sequence[Memories], is_here: Callable[[TrajectoryId], bool]) -> None:
        """Leave no trace of what is in none of these memories, nor of runs that are not here, nor of what was set aside."""
        ...

    def status(self) -> LearningStatus:
        """Return what can be said of it at a glance."""
        ...

    def patterns(self) -> Sequence[Pattern]:
        """Return what is asked again and again, the largest first."""
        ...

    def choose(self, *, enabled: bool | None, profile: str | None) -> None:
        """Switch it on or off, and take another profile, which begins with new weights; None leaves as it is.

        Raises InvalidMessage for a profile that does not exist.
        """
        ...

    def rollback(self, generations: int) -> None:
        """Go back to an earlier generation of weights. Raises InvalidMessage."""
        ...

    def fresh(self) -> Learner:
        """Return one that has learned nothing, in the profile of this user."""
        ...

    def exported(self, user: UserId, form: Form) -> bytes:
        """Return what was learned, to be kept or taken elsewhere. Raises NotFound when there are no weights and only they are wanted."""
        ...

    def take(
        self,
        data: bytes,
        user: UserId,
        memories: Sequence[Memories],
        is_here: Callable[[TrajectoryId], bool],
        *,
        replace: bool,
    ) -> None:
        """Begin with what was exported; with `replace` also where something was learned already.

        What it says of memories that none of these have, and of runs that are not here, because they were forgotten since or never were,
        is left out.
        Raises InvalidMessage naming the field.
        """
        ...

    def save(self) -> None:
        """Write what was learned, if that is not written. Raises StorageFault."""
        ...

    def discard(self) -> None:
        """Begin anew, and remove what is written. Raises StorageFault."""
        ...
