"""Work that begins while the encoder runs and ends with its vector, from one thread to the other past the event loop.

The way over the event loop costs half a millisecond, a fifth of the encoder's own time. The work begins when the encoder
needs the interpreter no more, or one would wait for the other.
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

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Beside(Generic[R]):
    """What `work` makes of what will hold a vector, float32 [dim], stands in `answer`; who cancels that in time gives it up."""

    work: Callable[[Future[Vectors]], R]
    answer: Future[R] = field(default_factory=Future)
    is_begun: bool = False
    _vector: Future[Vectors] = field(default_factory=Future)

    async def whole(self) -> R:
        """Wait for the answer. A cancelled caller still waits for work that has begun: nobody else may have its files."""
        try:
            return await asyncio.wrap_future(self.answer)
        except asyncio.CancelledError:
            if not self.answer.cancel():
                await asyncio.wait([asyncio.wrap_future(self.answer)])
            raise

    def begin(self, pools: Pools) -> None:
        """Begin on a thread of the searches, once. Called by any thread."""
        if not self.is_begun:
            self.is_begun = True
            pools.search_from_anywhere(self._run)

    def finish(self, vector: Vectors, pools: Pools) -> None:
        """Give the vector; the work begins at once if it had not."""
        self._vector.set_result(vector)
        self.begin(pools)

    def fail(self, error: BaseException) -> None:
        """Say that there will be no vector, to the work, or to who waits for it if it had not begun."""
        if self.is_begun:
            self._vector.set_exception(error)
        elif self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)

    def _run(self) -> None:
        if self.answer.set_running_or_notify_cancel():
            try:
                self.answer.set_result(self.work(self._vector))
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
                self.answer.set_exception(error)


class EmbedQuery(Tell, frozen=True, kw_only=True):
    """Embed a query before any text that is to be remembered, and see to what is to be done beside that."""

    query: str
    beside: Beside[Any]
    deadline: Deadline
    weight: int
