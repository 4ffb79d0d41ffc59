"""Lessons by their run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memoryd.protocol.ids import TrajectoryId
    from memoryd.protocol.learning import Lesson


class Lessons:
    """In the order in which they came; who derives from it says which go when there are more than there is `room` for.

    `last_us` is when the last of those that came ended, which is asked for often.
    """

    def __init__(self, room: int, lessons: Iterable[Lesson]) -> None:
        self.room = room
        self.last_us = 0
        self._lessons: dict[TrajectoryId, Lesson] = {}
        for lesson in lessons:
            self._keep(lesson)

    def __len__(self) -> int:
        return len(self._lessons)

    def __iter__(self) -> Iterator[Lesson]:
        return iter(list(self._lessons.values()))

    def __contains__(self, which: TrajectoryId) -> bool:
        return which in self._lessons

    def get(self, which: TrajectoryId) -> Lesson | None:
        """Return the lesson of a run, if it is here."""
        return self._lessons.get(which)

    def _keep(self, lesson: Lesson) -> None:
        self._lessons[lesson.id] = lesson
        self.last_us = max(self.last_us, lesson.ended_us)
