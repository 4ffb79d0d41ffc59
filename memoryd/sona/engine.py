"""The learning of one user, kept in a file: `Learner` and `state` as the actors use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from memoryd.files import replace_file
from memoryd.protocol.errors import Damaged, ModelMismatch
from memoryd.protocol.records import microseconds
from memoryd.sona.learner import Learner
from memoryd.sona.profiles import profile
from memoryd.sona.state import dump, load

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from memoryd.clock import Clock
    from memoryd.files import FileSystem
    from memoryd.protocol.ids import TrajectoryId
    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.protocol.learning import Intent, Lesson, Memories
    from memoryd.sona.learner import Cycle, Learned

NAME: Final = "sona.json"
ASIDE: Final = ".damaged"  # behind the name of a state that could not be used
_TEMPORARY: Final = ".tmp"
_LARGEST: Final = 1 << 28  # bytes of a state that is read
_LESSON_BYTES: Final = 4_096  # of one run in memory, about: its vector, its keys and what the bank says of it


@dataclass(frozen=True, slots=True)
class Settings:
    """What a learner begins with; a state that is there says otherwise for itself."""

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
        self._fresh = 0  # runs since the last cycle
        self._learner = self._begun()

    def open(self) -> str:
        """Read the state, if there is one. One that cannot be used is set aside; returns why, otherwise nothing."""
        if not self._files.exists(self._path):
            return ""
        file = self._files.open(self._path, writable=False)
        try:
            data = file.read(0, min(file.size(), _LARGEST))
        finally:
            file.close()
        try:
            self._learner, self._beside = load(data, self._model)
        except (Damaged, ModelMismatch) as error:
            self._files.rename(self._path, self._path.with_name(self._path.name + ASIDE))
            self._files.sync_folder(self._path.parent)
            return error.message
        return ""

    def about(self, intent: Intent) -> Learned | None:
        return self._learner.about(intent)

    @property
    def is_enabled(self) -> bool:
        return self._learner.is_enabled

    @property
    def threshold(self) -> float:
        return self._learner.profile.threshold

    @property
    def learned_until_us(self) -> int:
        return max((lesson.ended_us for lesson in self._learner.snapshot().lessons), default=0)

    @property
    def resident_bytes(self) -> int:
        return _LESSON_BYTES * len(self._learner)

    @property
    def is_due(self) -> bool:
        return self._fresh >= self._learner.profile.refit_every

    def learn(self, lesson: Lesson, memories: Memories) -> None:
        self._learner.learn(lesson, memories)
        self._fresh += 1
        self._unsaved = True

    def refit(self, memories: Memories) -> Cycle:
        self._fresh = 0
        self._unsaved = True
        return self._learner.refit(memories)

    def forget(self, keys: Iterable[int], runs: Container[TrajectoryId]) -> None:
        if self._learner.forget(keys, runs):
            self._fresh = self._learner.profile.refit_every  # weights are to be fitted to what is left
            self._unsaved = True

    def save(self) -> None:
        if self._unsaved:
            data = dump(self._learner, self._model, microseconds(self._clock.now()), self._beside)
            temporary = self._path.with_name(self._path.name + _TEMPORARY)
            self._files.unlink(temporary)
            replace_file(self._files, self._path, temporary, iter((data,))).close()
            self._unsaved = False

    def discard(self) -> None:
        self._learner, self._beside = self._begun(), {}
        self._fresh, self._unsaved = 0, False
        for name in (NAME, NAME + ASIDE, NAME + _TEMPORARY):
            self._files.unlink(self._path.with_name(name))

    def _begun(self) -> Learner:
        learner = Learner(self._model.dim, profile(self._settings.profile))
        learner.is_enabled = self._settings.is_enabled
        return learner
