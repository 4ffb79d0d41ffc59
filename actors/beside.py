"""A query that is looked up while it is embedded, and answered by whichever of the two ends last, past the event loop.

The way over the event loop costs half a millisecond, a fifth of the encoder's own time. To look up begins when the encoder needs
the interpreter no more, or one would wait for the other. Neither waits for the other: the encoder is everybody's.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from memoryd.protocol.errors import MemorydError
from memoryd.protocol.messages import Tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from memoryd.actors.mailbox import Deadline
    from memoryd.actors.pools import Pools
    from memoryd.protocol.interfaces import Meaning

L = TypeVar("L")
R = TypeVar("R")


class Beside(Generic[L, R]):
    """What `look` finds, and what `end` makes of that and of the meaning of a question, or of None when none came.

    Both run on threads, and no more than once. Everything here but `whole` may be called from any thread.
    """

    def __init__(self, look: Callable[[], L], end: Callable[[L, Meaning | None], R]) -> None:
        self._look = look
        self._end = end
        self._answer: Future[R] = Future()
        self._lock = Lock()
        self._is_begun = False
        self._looked: list[L] = []  # or nothing yet
        self._meaning: list[Meaning | None] = []
        self._at_work = 0
        self._is_given_up = False
        self._is_released: Future[None] = Future()

    def begin(self, pools: Pools) -> None:
        """Look up on a thread of the searches, if nobody has begun to."""
        if self._begins():
            pools.search_soon(self._look_up)

    def finish(self, meaning: Meaning | None) -> None:
        """Say the meaning, or that there is none; what is said later counts no more. Answers here if it is looked up already."""
        with self._lock:
            if self._meaning:
                return
            self._meaning.append(meaning)
            ends = bool(self._looked)
        if ends:
            self._run(self._answer_now)

    def alone(self, pools: Pools) -> None:
        """Answer on a thread of the searches without a meaning, unless there is one."""
        pools.search_soon(self._answer_alone)

    async def whole(self) -> R:
        """Wait for the answer, and raise what was raised. Who is cancelled waits until no thread is at work here any more.

        Nobody else may have the files of that work before.
        """
        try:
            return await asyncio.wrap_future(self._answer)
        except asyncio.CancelledError:
            with self._lock:
                self._is_given_up = True
                if not self._at_work:
                    self._is_released.set_result(None)
            released = asyncio.wrap_future(self._is_released)
            while not released.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(released)
            raise
        finally:
            del self  # an error that is raised here would keep it, and it the error

    def _begins(self) -> bool:
        with self._lock:
            begins, self._is_begun = not self._is_begun, True
        return begins

    def _answer_alone(self) -> None:
        self.finish(None)
        if self._begins():
            self._look_up()

    def _look_up(self) -> None:
        self._run(self._look_up_now)

    def _look_up_now(self) -> None:
        looked = self._look()
        with self._lock:
            self._looked.append(looked)
            ends = bool(self._meaning)
        if ends:
            self._answer_now()

    def _answer_now(self) -> None:
        answer = self._end(self._looked[0], self._meaning[0])
        if self._answer.set_running_or_notify_cancel():
            self._answer.set_result(answer)

    def _run(self, work: Callable[[], None]) -> None:
        """Do some work, unless nobody wants it any more; what it raises is the answer."""
        with self._lock:
            if self._is_given_up:
                return
            self._at_work += 1
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
            if self._answer.set_running_or_notify_cancel():
                # The trace of a refusal tells nobody anything, and would keep all this until the collector comes.
                self._answer.set_exception(error.with_traceback(None) if isinstance(error, MemorydError) else error)
        with self._lock:
            self._at_work -= 1
            if self._is_given_up and not self._at_work:
                self._is_released.set_result(None)


class EmbedQuery(Tell, frozen=True, kw_only=True):
    """Embed a query before any text that is to be remembered, and have it looked up and answered."""

    query: str
    beside: Beside[Any, Any]
    deadline: Deadline
    weight: int
