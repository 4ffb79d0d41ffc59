"""What runs taught that replay holds no longer: their questions, what was shown for them, and what of that helped.

The candidates that were not shown are left out, which only a fit looks at. Of one question a later run takes the place of those before
that name nothing which helped but what it names too. When there is no more room those go first in which nothing helped, and then those
that ended longest ago: what is asked again comes again as a later run.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import replace
from typing import TYPE_CHECKING

from memoryd.sona.lessons import Lessons

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memoryd.protocol.ids import TrajectoryId
    from memoryd.protocol.learning import Lesson

    Worth = tuple[bool, int, TrajectoryId]


class Archive(Lessons):
    """At most `room` lessons."""

    def __init__(self, room: int, lessons: Iterable[Lesson] = ()) -> None:
        super().__init__(room, lessons)
        self._by_worth = sorted(map(_worth, self))

    def put(self, lesson: Lesson, alike: Iterable[Lesson]) -> list[TrajectoryId]:
        """Keep a lesson, in the place of an earlier state of it; return which had to go for it, of all or of those `alike`.

        Those ask the same. It may be the one that goes.
        """
        self.drop(lesson.id)
        known = [each for each in alike if each.id in self._lessons]
        gone = [each.id for each in known if _is_said(each, lesson)]
        if any(_is_said(lesson, each) for each in known):  # which ended later, and left replay sooner
            gone.append(lesson.id)
        self._keep(lesson)
        insort(self._by_worth, _worth(lesson))
        for which in gone:
            self.drop(which)
        while len(self._lessons) > self.room:
            gone.append(self._by_worth[0][-1])
            self.drop(gone[-1])
        return gone

    def replace(self, lesson: Lesson) -> None:
        """Keep a lesson in the place of an earlier state of it, which is here."""
        del self._by_worth[bisect_left(self._by_worth, _worth(self._lessons[lesson.id]))]
        self._keep(lesson)
        insort(self._by_worth, _worth(lesson))

    def drop(self, which: TrajectoryId) -> None:
        """Let go of a lesson, if it is here."""
        lesson = self._lessons.pop(which, None)
        if lesson is not None:
            del self._by_worth[bisect_left(self._by_worth, _worth(lesson))]


def reduced(lesson: Lesson) -> Lesson:
    """Return a lesson without the candidates that were not shown."""
    count = len(lesson.shown)
    return replace(
        lesson,
        keys=lesson.keys[:count].copy(),
        base=lesson.base[:count].copy(),
        credit=lesson.credit[:count].copy(),
        harmed=lesson.harmed[:count].copy(),
    )


def _worth(lesson: Lesson) -> Worth:
    return lesson.is_positive, lesson.ended_us, lesson.id


def _is_said(earlier: Lesson, later: Lesson) -> bool:
    """Whether a run names what helped, or that nothing did, and another one that ended later names all of that."""
    if earlier.is_coarse or later.is_coarse or (earlier.ended_us, earlier.id) > (later.ended_us, later.id):
        return False
    return set(earlier.keys[earlier.credit > 0].tolist()).issubset(later.keys[later.credit > 0].tolist())
