"""The learning of one user, kept in a file: `Learner` and `state` as the actors use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from memoryd.files import replace_file
from memoryd.protocol.errors import Damaged, InvalidMessage, ModelMismatch, StorageFault
from memoryd.protocol.records import microseconds
from memoryd.sona.learner import Learner
from memoryd.sona.profiles import profile as profile_of
from memoryd.sona.published import published
from memoryd.sona.state import dump, load

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence
    from pathlib import Path

    from memoryd.clock import Clock
    from memoryd.files import FileSystem
    from memoryd.protocol.ids import TrajectoryId, UserId
    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.protocol.learning import Form, Intent, Judged, Lesson, Memories, Pattern
    from memoryd.protocol.messages import LearningStatus
    from memoryd.sona.learner import Cycle, Learned

NAME: Final = "sona.json"
ASIDE: Final = ".damaged"  # behind the name of a state that could not be used
_TEMPORARY: Final = ".tmp"
_USER: Final = "user"  # beside a state that is exported
_LARGEST: Final = 1 << 28  # bytes of a state that is read
# Of one run in memory, about: its vector twice, its keys and what the bank says of it, all as objects.
_LESSON_BYTES: Final = 7_168
_ARCHIVED_BYTES: Final = 6_144


@dataclass(frozen=True, slots=True)
class Settings:
    """The profile of who begins to learn, and whether anybody does."""

    profile: str
    is_enabled: bool


class SonaEngine:
    """A `LearningEngine`. What it learned may be asked from any thread; all else is called by one at a time, and blocks."""

    def __init__(self, path: Path, files: FileSystem, model: ModelInfo, settings: Settings, clock: Clock) -> None:
        self._path = path
        self._files = files
        self._model = model
        self._settings = settings
        self._clock = clock
        self._beside: dict[str, object] = {}
        self._unsaved = False
        self._is_readable = True
        self._learner = self._begun()

    def open(self) -> str:
        """Read the state, if there is one; returns why it cannot be used, if so.

        A damaged one is set aside. One that cannot be read stays as it is, and nothing is written over it.
        """
        try:
            if self._files.exists(self._path):
                self._learner, self._beside = load(self._read(), self._model)
        except (Damaged, ModelMismatch) as error:
            self._forgotten()  # nobody knows what was, and when
            return f"{error.message}{self._set_aside()}"
        except StorageFault as error:
            self._is_readable = False
            return error.message
        return ""

    def about(self, intent: Intent) -> Learned | None:
        return self._learner.about(intent) if self._settings.is_enabled else None

    @property
    def is_enabled(self) -> bool:
        return self._settings.is_enabled and self._learner.is_enabled

    @property
    def has_learned(self) -> bool:
        return self.is_enabled and self._learner.has_learned

    @property
    def threshold(self) -> float:
        return self._learner.profile.threshold

    @property
    def resident_bytes(self) -> int:
        return _LESSON_BYTES * len(self._learner) + _ARCHIVED_BYTES * self._learner.archived

    @property
    def is_due(self) -> bool:
        return self._learner.is_due

    @property
    def is_at_boundary(self) -> bool:
        return self._learner.is_at_boundary

    @property
    def generation(self) -> int:
        return self._learner.generation

    @property
    def last(self) -> Cycle | None:
        return self._learner.last

    def lesson(self, run: TrajectoryId) -> Lesson | None:
        return self._learner.lesson(run)

    def says_nothing(self, run: TrajectoryId, judged: Judged) -> bool:
        return self._learner.says_nothing(run, judged)

    def may_have_been_learned(self, ended_us: int) -> bool:
        return not self._learner.is_whole and ended_us <= self._learner.last_us

    def learn(self, lesson: Lesson, memories: Memories) -> None:
        self._learner.learn(lesson, memories)
        self._unsaved = True

    def pass_over(self, run: TrajectoryId, judged: Judged) -> None:
        self._learner.pass_over(run, judged)
        self._unsaved = True

    def refit(self, memories: Memories) -> Cycle:
        self._unsaved = True
        return self._learner.refit(memories)

    def forget(self, keys: Iterable[int], runs: Container[TrajectoryId]) -> None:
        knew_something = len(self._learner) > 0 or self._learner.has_learned
        if self._learner.forget(keys, runs) or knew_something:
            self._forgotten()
        self._remove_aside()

    @property
    def is_empty(self) -> bool:
        return self._learner.is_empty

    def knows_others(self, memories: Memories, is_here: Callable[[TrajectoryId], bool]) -> bool:
        return any(self._learner.others([memories], is_here))

    def keep_only(self, memories: Sequence[Memories], is_here: Callable[[TrajectoryId], bool]) -> None:
        if self._learner.keep_only(memories, is_here):
            self._forgotten()
        self._remove_aside()

    def status(self) -> LearningStatus:
        known = self._learner.status()
        return known if self._settings.is_enabled else replace(known, enabled=False)

    def patterns(self) -> Sequence[Pattern]:
        return self._learner.patterns()

    def choose(self, *, enabled: bool | None, profile: str | None) -> None:
        if profile is not None and profile != self._learner.profile.name:
            self._learner = self._learner.in_profile(profile_of(profile))
        if enabled is not None:
            self._learner.is_enabled = enabled
        self._unsaved = True

    def rollback(self, generations: int) -> None:
        self._learner.rollback(generations)
        self._unsaved = True

    def fresh(self) -> Learner:
        return Learner(self._model.dim, self._learner.profile)

    def exported(self, user: UserId, form: Form) -> bytes:
        if form == "ruvector":
            return published(self._learner)
        if form == "weights":  # for others: nothing of what is beside the state either
            weights = self._learner.weights()
            weights.forgotten_us = self._now_us()  # nothing forgotten is in them; when that was is nobody's business
            return self._dumped(weights, {})
        return self._dumped(self._learner, {**self._beside, _USER: user})

    def take(
        self,
        data: bytes,
        user: UserId,
        memories: Sequence[Memories],
        is_here: Callable[[TrajectoryId], bool],
        *,
        replace: bool,
    ) -> None:
        if not replace and (len(self._learner) or self._learner.has_learned):
            raise InvalidMessage(
                "something was learned here",
                field="replace",
                hint="with replace it goes, and the other takes its place",
            )
        try:
            learner, beside = load(data, self._model)
        except (Damaged, ModelMismatch) as error:  # of what was sent, not of what is kept
            raise InvalidMessage(error.message, field=error.field, hint="export it again") from error
        whose = beside.pop(_USER, None)
        if whose not in (None, user):
            raise InvalidMessage(
                "what was learned is another user's", field=_USER, hint="an export of the weights alone is for others"
            )
        if learner.forgotten_us < self._learner.forgotten_us:
            if whose is None:
                raise InvalidMessage(
                    "these weights were exported before something was forgotten here",
                    field="forgotten_us",
                    hint="export them again",
                )
            learner.drop_weights()
        learner.forgotten_us = max(learner.forgotten_us, self._learner.forgotten_us)
        learner.keep_only(memories, is_here)
        learner.is_enabled = self._learner.is_enabled
        self._learner, self._beside, self._unsaved = learner, beside, True

    def save(self) -> None:
        if self._unsaved and self._is_readable:
            data = self._dumped(self._learner, self._beside)
            temporary = self._path.with_name(self._path.name + _TEMPORARY)
            self._files.unlink(temporary)
            replace_file(self._files, self._path, temporary, iter((data,))).close()
            self._unsaved = False

    def discard(self) -> None:
        self._learner, self._beside = self._begun(), {}
        self._unsaved, self._is_readable = False, True
        for name in (NAME, NAME + ASIDE, NAME + _TEMPORARY):
            self._files.unlink(self._path.with_name(name))

    def _remove_aside(self) -> None:
        """Remove what was set aside or is unfinished: it may name what is forgotten."""
        for suffix in (ASIDE, _TEMPORARY):
            self._files.unlink(self._path.with_name(self._path.name + suffix))

    def _forgotten(self) -> None:
        self._learner.forgotten_us = max(self._now_us(), self._learner.forgotten_us + 1)  # the clock may have gone back
        self._unsaved = True

    def _now_us(self) -> int:
        return microseconds(self._clock.now())

    def _dumped(self, learner: Learner, beside: Mapping[str, object]) -> bytes:
        return dump(learner, self._model, self._now_us(), beside)

    def _read(self) -> bytes:
        file = self._files.open(self._path, writable=False)
        try:
            return file.read(0, min(file.size(), _LARGEST))
        finally:
            file.close()

    def _set_aside(self) -> str:
        """Put the state where nobody reads it; returns what is to be said if that fails, and then nothing is written over it."""
        try:
            self._files.rename(self._path, self._path.with_name(self._path.name + ASIDE))
            self._files.sync_folder(self._path.parent)
        except StorageFault as error:
            self._is_readable = False
            return f"; it could not be set aside: {error.message}"
        return ""

    def _begun(self) -> Learner:
        return Learner(self._model.dim, profile_of(self._settings.profile))
