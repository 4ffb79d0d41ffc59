"""The trajectories that are kept: all of them while there is room.

Then half of the room is for the last ones, half for a sample of all that came before (reservoir sampling; Vitter, 1985).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memoryd.sona.lessons import Lessons

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from memoryd.protocol.ids import TrajectoryId
    from memoryd.protocol.learning import Lesson


class Replay(Lessons):
    """At most `room` lessons, in the order in which they came."""

    def __init__(self, room: int, lessons: Iterable[Lesson] = (), seen: int = 0) -> None:
        super().__init__(room, lessons)
        self._positive = {lesson.id for lesson in self if lesson.is_positive}
        self.seen = max(seen, len(self))  # so many came in all

    @property
    def is_whole(self) -> bool:
        """Whether it still holds everything that came."""
        return self.seen == len(self._lessons)

    @property
    def positives(self) -> int:
        """In how many of them something helped."""
        return len(self._positive)

    def positive(self) -> list[Lesson]:
        """Return those in which something helped."""
        return [lesson for which, lesson in self._lessons.items() if which in self._positive]

    def last(self, count: int) -> Sequence[Lesson]:
        """Return the last ones to come."""
        return list(self._lessons.values())[max(0, len(self._lessons) - count) :]

    def replace(self, lesson: Lesson) -> None:
        """Keep a lesson in the place of an earlier state of it."""
        self._keep(lesson)
        (self._positive.add if lesson.is_positive else self._positive.discard)(lesson.id)

    def drop(self, which: TrajectoryId) -> None:
        """Let go of a lesson, if it is here, as if it had never come."""
        if self._lessons.pop(which, None) is not None:
            self._positive.discard(which)
            self.seen -= 1

    def put(self, lesson: Lesson, rng: np.random.Generator) -> Lesson | None:
        """Keep a lesson, in the place of an earlier state of it, and return the one that had to go for it."""
        is_new = lesson.id not in self._lessons
        self.replace(lesson)
        if not is_new:
            return None
        self.seen += 1
        if len(self._lessons) <= self.room:
            return None
        old = list(self._lessons)
        half = self.room // 2
        leaving = old[half]  # the earliest of the last ones
        place = int(rng.integers(0, max(1, self.seen - half)))
        if place < half:  # it stays, in the place of another of the sample
            leaving = old[place]
        self._positive.discard(leaving)
        return self._lessons.pop(leaving)
