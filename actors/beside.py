"""A query that is looked up while it is embedded, and answered on the encoder's thread, past the event loop.

The way over the event loop costs half a millisecond, a fifth of the encoder's own time. To look up begins when the encoder needs
the interpreter no more, or one would wait for the other.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from memoryd.protocol.messages import Tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from memoryd.actors.mailbox import Deadline
    from memoryd.actors.pools import Pools
    from memoryd.protocol.interfaces import Vectors

L = TypeVar("L")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Beside(Generic[L, R]):
    """What is looked up beside the encoder, and what `end` makes of that and of a vector, float32 [dim], if there is one.

    `end` is called on the thread of the encoder, and what it returns or raises stands in `answer`.
    """

    look: Callable[[], L]
    end: Callable[[L, Vectors | None], R]
    answer: Future[R] = field(default_factory=Future)
    is_begun: bool = False
    _looked: Future[L] = field(default_factory=Future)

    def begin(self, pools: Pools) -> None:
        """Look up on a thread of the searches. Called by the encoder's thread, once."""
        pools.search_from_anywhere(self._look)
        self.is_begun = True

    def finish(self, vector: Vectors | None) -> None:
        """Answer on this thread, without a vector if there will be none, and look up before if that has not begun."""
        if not self.is_begun:
            self.is_begun = True
            self._look()
        _fill(self.answer, lambda: self.end(self._looked.result(), vector))

    def fail(self, error: BaseException) -> None:
        """Say that nothing was begun."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)

    async def whole(self) -> R:
        """Wait for the answer. A cancelled caller gives up what has not begun, and waits until the rest has returned.

        Nobody else may have the files of that.
        """
        try:
            return await asyncio.wrap_future(self.answer)
        except asyncio.CancelledError:
            begun = [asyncio.wrap_future(each) for each in (self.answer, self._looked) if not each.cancel()]
            if begun:
                await asyncio.wait(begun)
            raise

    def _look(self) -> None:
        _fill(self._looked, self.look)


def _fill(future: Future[R], call: Callable[[], R]) -> None:
    """Call and keep what comes of it, unless nobody wants it any more."""
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
            future.set_exception(error)


class EmbedQuery(Tell, frozen=True, kw_only=True):
    """Embed a query before any text that is to be remembered, and have it looked up and answered."""

    query: str
    beside: Beside[Any, Any]
    deadline: Deadline
    weight: int
