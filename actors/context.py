"""What an actor may do besides handling: answer later, run work beside its mailbox, set a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memoryd.actors.mailbox import Deadline, Envelope
from memoryd.protocol.errors import ActorFailed, DiskFull, MemorydError, StorageFault

if TYPE_CHECKING:
    from memoryd.actors.mailbox import Mailbox


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """Control message: work beside the mailbox raised something that its actor must not survive."""

    cause: BaseException


class Detached:
    """What `handle` returns when a task beside the mailbox gives the answer."""


DETACHED = Detached()


class Context:
    """One incarnation's tasks and timers, and the message that is being handled."""

    def __init__(self, mailbox: Mailbox, path: str, incarnation: int = 1) -> None:
        self.path = path
        self.incarnation = incarnation  # counts the lives of this place from 1
        self.current: Envelope | None = None
        self._mailbox = mailbox
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    @property
    def deadline(self) -> Deadline | None:
        """The deadline of the message that is being handled."""
        return self.current.deadline if self.current else None

    @property
    def is_busy(self) -> bool:
        """Whether work runs beside the mailbox."""
        return bool(self._tasks)

    def detach(self, answer: Coroutine[object, object, object]) -> Detached:
        """Let `answer` reply to the current message while the mailbox moves on."""
        envelope, self.current = self.current, None
        if envelope is None:
            answer.close()
            raise RuntimeError("no message is being handled")
        task = self._run(self._answer(envelope, answer), answer)
        task.add_done_callback(lambda _: refuse(envelope, ActorFailed("stopped before the answer was ready")))
        return DETACHED

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run `work` beside the mailbox; what it raises ends this incarnation."""
        self._run(self._guard(work), work)

    def after(self, seconds: float, message: object) -> asyncio.TimerHandle:
        """Send `message` to this actor's control lane later, unless the incarnation ends first."""

        def fire() -> None:
            self._timers.discard(handle)
            self._mailbox.put_control(message)

        handle = asyncio.get_running_loop().call_later(seconds, fire)
        self._timers.add(handle)
        return handle

    async def close(self) -> None:
        """Cancel timers and tasks, and wait until the tasks are gone."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Wait until the work beside the mailbox is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _run(
        self, work: Coroutine[object, object, None], inner: Coroutine[object, object, object]
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=self.path)
        self._tasks.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            inner.close()  # a task that is cancelled before its first step never began it

        task.add_done_callback(done)
        return task

    async def _guard(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the kit is where a failure becomes a value
            self._mailbox.put_control(TaskFailed(error))

    async def _answer(self, envelope: Envelope, answer: Coroutine[object, object, object]) -> None:
        try:
            reply(envelope, await answer)
        except Exception as error:  # noqa: BLE001 - the kit is where a failure becomes a value
            refuse(envelope, as_error(error))
            if is_fatal(error):
                self._mailbox.put_control(TaskFailed(error))
        finally:
            del envelope, answer  # the error that they hold now would keep them


def reply(envelope: Envelope, value: object) -> None:
    """Answer an ask, if somebody still waits."""
    if envelope.reply is not None and not envelope.reply.done():
        envelope.reply.set_result(value)


def refuse(envelope: Envelope, error: MemorydError) -> None:
    """Answer an ask with an error, if somebody still waits."""
    if envelope.reply is not None and not envelope.reply.done():
        envelope.reply.set_exception(error)


def is_fatal(error: BaseException) -> bool:
    """Whether an actor must not go on after this: a refusal is an answer, a fault of the disk or the code is not.

    A full disk refuses writers, and whoever holds a file has seen to it.
    """
    if isinstance(error, DiskFull):
        return False
    return isinstance(error, StorageFault) or not isinstance(error, MemorydError)


def as_error(error: BaseException) -> MemorydError:
    """Return what the asker may see of an error: a typed one as it is, any other by the name of its class."""
    if isinstance(error, MemorydError):
        return error
    failed = ActorFailed(f"the request failed inside the daemon ({type(error).__name__})", hint="see the daemon's log")
    failed.__cause__ = error
    return failed
