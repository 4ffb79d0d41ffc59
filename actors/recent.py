"""What was asked lately, and what it was answered: a run that begins with the same words was shown that."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memoryd.protocol.ids import RecordId

KEPT: Final = 64  # questions
WITHIN_S: Final = 900.0  # from a question to the run that it was asked for


class RecentRecalls:
    """The last questions of a user, whatever case and spaces they are written in, with the answers."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, tuple[float, tuple[RecordId, ...]]] = OrderedDict()

    def note(self, query: str, shown: Iterable[RecordId], now: float) -> None:
        """Remember an answer, given at the moment `now`, in seconds, instead of that of the longest ago."""
        self._asked[_plain(query)] = (now, tuple(shown))
        self._asked.move_to_end(_plain(query))
        if len(self._asked) > KEPT:
            self._asked.popitem(last=False)

    def shown_for(self, query: str, now: float) -> tuple[RecordId, ...]:
        """Return what was answered to these words not long ago, nothing if they were not asked."""
        when, shown = self._asked.get(_plain(query), (0.0, ()))
        return shown if now - when <= WITHIN_S else ()

    def clear(self) -> None:
        self._asked.clear()


def _plain(query: str) -> str:
    return " ".join(query.casefold().split())
