"""One user's learner: it turns finished runs into a better order of answers.

    learned(m) = strength (bent(q) - q) . m  +  value(m)  -  COMMON (n / (20 + n)),  n = how often m was shown

The first is the work of the two adapters, see `lora`: the base one is fitted in the background, and the guard says how much both count;
the micro one moves at once, behind it. The second is the bank's. The third holds back what is shown for everything; the bank brings it
back where it helped. All is added to the score that a memory has without learning, which stays as it is.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from sys import intern
from typing import TYPE_CHECKING, Final

import numpy as np
from threadpoolctl import threadpool_limits

from memoryd.protocol.errors import InvalidMessage, NotFound
from memoryd.protocol.ids import RecordId
from memoryd.protocol.messages import LearningStatus
from memoryd.sona.archive import Archive, reduced
from memoryd.sona.bank import Bank, said
from memoryd.sona.boundary import LAST, MOST, is_boundary
from memoryd.sona.contrast import LEARNED, TEMPERATURE, slopes, task
from memoryd.sona.fitting import fitted, important, prepared
from memoryd.sona.guard import ENOUGH, LEAST, judge
from memoryd.sona.lora import Adapter, Training
from memoryd.sona.patterns import patterns
from memoryd.sona.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from memoryd.protocol.ids import TrajectoryId
    from memoryd.protocol.learning import Intent, Judged, Keys, Lesson, Memories, Outcome, Pattern, Scores, Vector
    from memoryd.sona.ewc import Consolidated
    from memoryd.sona.profiles import Profile

_COMMON: Final = 2 * TEMPERATURE
_USUAL: Final = 20  # times that something is shown

_BESIDE: Final = 7  # earlier lessons in an instant step
_RECENT: Final = 200  # among which they are chosen
_OTHERS: Final = 32  # memories that nobody asked for, in an instant step
_INSTANT_STEPS: Final = 2
_INSTANT_RATE: Final = 0.003

_LOOKED_FOR: Final = 5  # runs between two times that a task boundary is looked for, which takes a tenth of a step
_MOST_OF_IT: Final = 0.8  # of the room for runs
_MOST_SILENT: Final = 10_000  # runs of which it is known that they say nothing
_GENERATIONS: Final = 5  # earlier ones that are kept
_SEED: Final = 20260101


@dataclass(frozen=True, slots=True)
class Cycle:
    """What came of a cycle in the background, and what the guard said, in nats."""

    outcome: Outcome
    gain: float | None


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned that has to do with one question: what the bank says of memories, and how often each was shown, by key."""

    bent: Vector | None
    strength: float
    helped: Sequence[RecordId]
    values: Mapping[int, float]
    shown: Counter[int]

    def parts(self, keys: Keys, moved: Scores) -> dict[str, Scores]:
        counts = np.array([self.shown[key] for key in keys.tolist()], np.float32)
        return {
            "adapter": np.float32(self.strength) * moved,
            "bank": self._values(keys),
            "common": np.float32(-_COMMON) * counts / (_USUAL + counts),
        }

    def evidence(self, keys: Keys) -> Scores:
        # What is shown for everything, and where the question is bent to, are reasons for an order, not for this memory.
        return self._values(keys) / np.float32(TEMPERATURE)

    def _values(self, keys: Keys) -> Scores:
        return np.array([self.values.get(key, 0.0) for key in keys.tolist()], np.float32)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a learner knows: `lessons` are those that replay holds.

    The bank follows from them and the archive; `questions` are those of them that it holds for one question, in its order, and nothing
    when it is to find that out. So many of the last runs are known to be `in_task`; `is_at_boundary` until a fit when it has just begun.
    """

    base: Adapter | None
    earlier: tuple[tuple[int, Adapter | None], ...]
    micro: Training | None
    held: Consolidated | None
    lessons: tuple[Lesson, ...]
    seen: int
    shown: Counter[int]
    generation: int
    refused: int
    since_refit: int
    accepted: int = 0
    last: Cycle | None = None
    archive: tuple[Lesson, ...] = ()
    questions: tuple[Sequence[Lesson], ...] = ()
    in_task: int = 0
    is_at_boundary: bool = False
    silent: Mapping[TrajectoryId, Judged] = field(default_factory=dict)
    forgotten_us: int = 0


_NOTHING: Final = Snapshot(None, (), None, None, (), 0, Counter(), 0, 0, 0)


class Learner:
    """Learns from lessons, one after the other, in one thread at a time; what it learned may be asked from any thread."""

    def __init__(self, dim: int, profile: Profile, known: Snapshot = _NOTHING) -> None:
        self.profile = profile
        self.is_enabled = True
        self.generation = known.generation
        self.accepted = known.accepted
        self.refused = known.refused
        self.last = known.last
        self.forgotten_us = known.forgotten_us  # weights of before may not come back
        self._since_refit = known.since_refit  # so many runs came
        self._in_task = known.in_task
        self._is_at_boundary = known.is_at_boundary
        self._dim = dim
        self._base = known.base
        self._earlier = deque(known.earlier, maxlen=_GENERATIONS)
        self._micro = known.micro
        self._held = known.held
        self._replay = Replay(profile.replay, known.lessons, known.seen)
        self._archive = Archive(profile.archive, known.archive)
        lessons = () if known.questions else (*known.archive, *known.lessons)
        self._bank = Bank(dim, lessons, questions=known.questions)
        self._shown = Counter(known.shown)
        self._silent = dict(known.silent)  # runs that say nothing, as they were judged then

    def snapshot(self) -> Snapshot:
        """Return what it knows now; the bank is as one that is made of it, to the order of its sums."""
        self._bank = self._bank.compact()
        return Snapshot(
            base=self._base,
            earlier=tuple(self._earlier),
            micro=self._micro,
            held=self._held,
            lessons=tuple(self._replay),
            seen=self._replay.seen,
            shown=Counter(self._shown),
            generation=self.generation,
            refused=self.refused,
            since_refit=self._since_refit,
            accepted=self.accepted,
            last=self.last,
            archive=tuple(self._archive),
            questions=tuple(self._bank.questions()),
            in_task=self._in_task,
            is_at_boundary=self._is_at_boundary,
            silent=dict(self._silent),
            forgotten_us=self.forgotten_us,
        )

    def __len__(self) -> int:
        """How many runs it holds."""
        return len(self._replay)

    @property
    def archived(self) -> int:
        """How many runs it has beside those that it holds."""
        return len(self._archive)

    @property
    def is_whole(self) -> bool:
        """Whether it knows all runs that came."""
        return self._replay.seen == len(self._replay) + len(self._archive)

    def status(self) -> LearningStatus:
        """Return what can be said of it at a glance."""
        return LearningStatus(
            enabled=self.is_enabled,
            profile=self.profile.name,
            runs=len(self._replay),
            seen=self._replay.seen,
            room=self.profile.replay,
            positive=self._replay.positives,
            generation=self.generation,
            accepted=self.accepted,
            refused=self.refused,
            earlier=len(self._earlier),
            due_in=max(0, self._runs_to_go, ENOUGH - self._replay.positives),
            outcome=self.last.outcome if self.last else "",
            gain=self.last.gain if self.last else None,
            base=0.0 if self._base is None else self._base.size,
            micro=0.0 if self._micro is None else self._micro.adapter.size,
            tasks=0 if self._held is None else self._held.tasks,
            archived=len(self._archive),
        )

    def patterns(self) -> list[Pattern]:
        """Return what is asked again and again, the largest first."""
        return patterns(self._known, self.profile.clusters, self._rng())

    def weights(self) -> Learner:
        """Return one that has these weights, and knows nothing else. Raises NotFound when there are none."""
        if not self._has_weights:
            raise NotFound(
                "there are no weights yet", field="form", hint="they come with the first runs that name what helped"
            )
        return Learner(self._dim, self.profile, replace(_NOTHING, base=self._base, micro=self._micro, held=self._held))

    def others(
        self, memories: Iterable[Memories], is_here: Callable[[TrajectoryId], bool]
    ) -> tuple[set[int], set[TrajectoryId]]:
        """Return the keys of what it knows and none of these memories has, and the runs that are not here."""
        shown = np.fromiter(self._shown, np.uint64, len(self._shown))
        keys = np.unique(np.concatenate([shown, *(lesson.keys for lesson in self._known)]))
        living = np.concatenate([keys[:0], *(each.living(keys) for each in memories)])
        runs = chain((lesson.id for lesson in self._known), self._silent)
        return set(np.setdiff1d(keys, living).tolist()), {run for run in runs if not is_here(run)}

    def keep_only(self, memories: Iterable[Memories], is_here: Callable[[TrajectoryId], bool]) -> bool:
        """Forget what none of these memories has, and the runs that are not here; return whether that changed anything."""
        gone, runs = self.others(memories, is_here)
        return bool(gone or runs) and self.forget(gone, runs)

    def in_profile(self, profile: Profile) -> Learner:
        """Return one of another profile that holds the last of these runs, archives the others, and has no weights yet."""
        known = replace(
            _NOTHING,
            lessons=tuple(self._replay.last(profile.replay)),
            seen=self._replay.seen,
            shown=self._shown,
            since_refit=profile.refit_every,
            in_task=self._in_task,
            silent=self._silent if profile.threshold == self.profile.threshold else {},
            forgotten_us=self.forgotten_us,
        )
        other = Learner(self._dim, profile, known)
        for lesson in self._known:
            if lesson.id not in other._replay:
                other._bank.put(lesson)
                other._put_away(lesson)
        other.is_enabled = self.is_enabled
        return other

    @property
    def is_due(self) -> bool:
        """Whether so many runs came, or weights went, or so much of the room is taken, that the base adapter should be fitted anew.

        Or the user has come to ask about something else. And whether the guard can judge it.
        """
        return self._runs_to_go <= 0 and self._replay.positives >= ENOUGH

    @property
    def is_at_boundary(self) -> bool:
        """Whether it is due before more is learned, since the user has come to ask about something else."""
        return self._is_at_boundary and self.is_due

    @property
    def _runs_to_go(self) -> int:
        """In how many runs the next fit is due: once, before any had to go for others, when most of the room is taken."""
        if self._is_at_boundary:
            return 0
        left = self.profile.refit_every - self._since_refit
        taken = int(_MOST_OF_IT * self.profile.replay)
        was_before = self._replay.seen - self._since_refit < taken
        return min(left, taken - self._replay.seen) if was_before else left

    @property
    def is_empty(self) -> bool:
        """Whether it knows nothing."""
        return not (self.has_learned or len(self._replay) or len(self._archive) or self._silent)

    @property
    def has_learned(self) -> bool:
        """Whether anything was shown in the runs that came, or there are weights to begin with."""
        return bool(self._shown) or self._has_weights

    @property
    def _has_weights(self) -> bool:
        return self._base is not None or self._micro is not None

    def lesson(self, run: TrajectoryId) -> Lesson | None:
        """Return what it knows of a run."""
        return self._replay.get(run) or self._archive.get(run)

    def says_nothing(self, run: TrajectoryId, judged: Judged) -> bool:
        """Whether it was found that a run says nothing, as it was judged then."""
        return self._silent.get(run) == judged

    @property
    def last_us(self) -> int:
        """When the last of the runs that it knows ended."""
        return max(self._replay.last_us, self._archive.last_us)

    def about(self, intent: Intent) -> Learned | None:
        """Return what was learned that has to do with a question; None when learning is off, or nothing was learned."""
        if not self.is_enabled or not self.has_learned:
            return None
        bent = intent.vector
        for adapter in (self._base, None if self._micro is None else self._micro.adapter):
            if adapter is not None:
                bent = adapter.bent(bent)
        near = self._bank.near(intent)
        return Learned(
            bent=None if bent is intent.vector else bent,
            strength=LEARNED if self._base is None else self._base.strength,
            helped=list(dict.fromkeys(record for each in near for record in each.entry.helped)),
            values=said(near),
            shown=self._shown,
        )

    def learn(self, lesson: Lesson, memories: Memories) -> None:
        """Take in a finished run, at once: it becomes an entry of the bank, and the micro adapter takes a step.

        A run that was known is judged anew.
        """
        lesson, rng = _rounded(lesson), self._rng()
        self._silent.pop(lesson.id, None)
        is_new = self.lesson(lesson.id) is None
        if is_new:
            self._shown.update(lesson.keys[: len(lesson.shown)].tolist())
        self._since_refit += 1
        self._bank.put(lesson)
        leaving = lesson if lesson.id in self._archive else self._replay.put(lesson, rng)
        if leaving is not None:
            self._put_away(leaving)
        if is_new:
            self._look_for_boundary()
        if lesson.is_positive and not lesson.is_coarse:
            self._step(lesson, memories, rng)

    def pass_over(self, run: TrajectoryId, judged: Judged) -> None:
        """Know of a finished run that it says nothing, whatever it said before; the earliest of too many are no longer known."""
        self._let_go(run)
        self._silent[run] = judged
        if len(self._silent) > _MOST_SILENT:
            del self._silent[next(iter(self._silent))]

    def refit(self, memories: Memories) -> Cycle:
        """Fit the base adapter anew, if the guard lets it pass; the micro one begins again behind it."""
        self._since_refit, self._is_at_boundary = 0, False
        with threadpool_limits(limits=1, user_api="blas"):  # more threads spin for products as small as these
            self.last = self._refitted(memories)
        return self.last

    def _refitted(self, memories: Memories) -> Cycle:
        rng, lessons = self._rng(), self._replay.positive()
        verdict = judge(lessons, memories, self._bank, self.profile, rng)
        if verdict is None:
            return Cycle("too few", None)
        if verdict.gain < LEAST:
            self.refused += 1
            return Cycle("refused", verdict.gain)
        start, held = (None, None) if self._replay.is_whole else (self._base, self._held)
        batches = prepared(lessons, memories, self.profile, rng)
        if not batches:
            return Cycle("too few", verdict.gain)
        base = fitted(batches, self.profile, rng, start=start, held=held)
        self._held = important(self._held, base, batches)
        self._earlier.append((self.generation, self._base))
        self._base, self._micro = replace(base, strength=verdict.strength), None
        self.generation += 1
        self.accepted += 1
        return Cycle("accepted", verdict.gain)

    def rollback(self, generations: int = 1) -> int:
        """Go back so many generations of the base adapter; return which one is in use. Raises InvalidMessage."""
        if not 1 <= generations <= len(self._earlier):
            raise InvalidMessage(
                "no such generation",
                field="generations",
                hint=f"one may go back by 1 to {len(self._earlier)}" if self._earlier else "there is no earlier one",
            )
        for _ in range(generations):
            self.generation, self._base = self._earlier.pop()
        self._micro, self._held = None, None
        return self.generation

    def forget(self, keys: Iterable[int], runs: Container[TrajectoryId] = ()) -> bool:
        """Leave no trace of these memories, nor of these runs; return whether that changed anything.

        Weights cannot forget one example, and any memory may have been one that nobody asked for: they go, and those of every earlier
        generation, until the next cycle fits them to what is left.
        """
        gone = set(keys)
        touched = [each for each in self._known if each.id in runs or not gone.isdisjoint(each.keys.tolist())]
        were_silent = [run for run in self._silent if run in runs]
        for run in were_silent:
            del self._silent[run]
        was_shown = gone.intersection(self._shown)
        for key in was_shown:
            del self._shown[key]
        in_task = {each.id for each in self._replay.last(self._in_task)}
        for each in touched:
            left = None if each.id in runs else _without(each, gone)
            if left is None:
                self._let_go(each.id)
            else:
                self._bank.replace(left)
                (self._replay if left.id in self._replay else self._archive).replace(left)
        self._in_task = sum(each.id in in_task for each in self._replay)
        self._bank = self._bank.compact()
        had_weights = self.drop_weights()
        return bool(touched or was_shown or were_silent or had_weights)

    def _let_go(self, run: TrajectoryId) -> None:
        """Know nothing of a run any more, if it is known."""
        lesson = self.lesson(run)
        if lesson is None:
            return
        if run in self._archive:
            self._replay.seen -= 1
        self._replay.drop(run)
        self._archive.drop(run)
        self._bank.drop(run)
        for key in lesson.keys[: len(lesson.shown)].tolist():
            if self._shown[key] > 1:
                self._shown[key] -= 1
            else:
                del self._shown[key]

    def drop_weights(self) -> bool:
        """Throw the weights of all generations away, so that the next cycle is due; return whether there were any."""
        if not self._has_weights and not self._earlier:
            return False
        self._base, self._micro, self._held = None, None, None
        self._earlier.clear()
        self._since_refit = self.profile.refit_every
        return True

    @staticmethod
    def micro_of(adapter: Adapter) -> Training:
        """Return a micro adapter that goes on from here."""
        return Training(adapter, _INSTANT_RATE)

    @property
    def _known(self) -> list[Lesson]:
        """The lessons of all runs that it knows, those that are archived first."""
        return [*self._archive, *self._replay]

    def _put_away(self, lesson: Lesson) -> None:
        """Archive a lesson that the bank has."""
        kept = reduced(lesson)
        self._bank.replace(kept)
        for which in self._archive.put(kept, self._bank.alike(kept.id)):
            self._bank.drop(which)
        if self._bank.is_thin:
            self._bank = self._bank.compact()

    def _look_for_boundary(self) -> None:
        self._in_task = min(MOST, self._in_task + 1)
        if self._replay.seen % _LOOKED_FOR:
            return
        half = self._replay.room // 2  # before that stands a sample, from which what came between is missing
        if is_boundary(self._replay.last(min(self._in_task, half))):
            self._in_task, self._is_at_boundary = LAST, True

    def _rng(self) -> np.random.Generator:
        """Return what chance there is: the same after a restart."""
        return np.random.default_rng([_SEED, self._replay.seen])

    def _step(self, lesson: Lesson, memories: Memories, rng: np.random.Generator) -> None:
        recent = self._replay.last(_RECENT)
        shuffled = (recent[place] for place in rng.permutation(len(recent)).tolist())
        earlier = (each for each in shuffled if each.is_positive and not each.is_coarse and each.id != lesson.id)
        given = task([lesson, *islice(earlier, _BESIDE)], memories, memories.sample(_OTHERS, rng))
        if given is None:
            return
        if self._base is not None:
            given = given.behind(self._base)
        training = self._micro or self.micro_of(Adapter.fresh(self._dim, self.profile.micro_rank, rng))
        for _ in range(_INSTANT_STEPS):
            of_a, of_b, _ = slopes(training.adapter, given)
            training.step(of_a, of_b)
        training.bound()  # it begins anew with a fit only, and there may long be none
        self._micro = training


def _rounded(lesson: Lesson) -> Lesson:
    """Return a lesson as it is read again from a state, in which numbers are float16; ids that it shares with others are held once."""
    intent = lesson.intent
    return replace(
        lesson,
        shown=tuple(RecordId(intern(record)) for record in lesson.shown),
        intent=replace(intent, vector=_half(intent.vector), rarity=_half(intent.rarity)),
        base=_half(lesson.base),
        credit=_half(lesson.credit),
    )


def _half(numbers: Scores) -> Scores:
    return numbers.astype(np.float16).astype(np.float32)


def _without(lesson: Lesson, gone: Container[int]) -> Lesson | None:
    """Return a lesson without the memories that are gone, None when nothing that was shown is left."""
    kept = np.array([key not in gone for key in lesson.keys.tolist()], bool)
    shown = [record for record, stays in zip(lesson.shown, kept.tolist(), strict=False) if stays]
    if not shown:
        return None
    return replace(
        lesson,
        shown=shown,
        keys=lesson.keys[kept],
        base=lesson.base[kept],
        credit=lesson.credit[kept],
        harmed=lesson.harmed[kept],
    )
