"""The address of an actor: the only thing others hold of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from memoryd.actors.mailbox import Deadline, Envelope
from memoryd.protocol.errors import Expired, Overloaded

if TYPE_CHECKING:
    from memoryd.actors.slot import Slot
    from memoryd.protocol.messages import Ask, Tell

R = TypeVar("R")


class Ref:
    """Sends to a slot, which it looks up anew each time: sending may outlive any incarnation."""

    def __init__(self, name: str, resolve: Callable[[], Slot]) -> None:
        self.name = name
        self._resolve = resolve

    async def ask(self, message: Ask[R], *, deadline: Deadline, wait_for_room: bool = False) -> R:
        """Send and wait for the answer.

        Raises Overloaded at once when the mailbox is full, unless the sender has time to wait for room; Expired at the
        deadline; and what the actor raises.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[object] = loop.create_future()
        envelope = Envelope(message, deadline, answer)
        if envelope.is_dead:
            raise Expired("the deadline had passed", hint="allow more time")
        slot = self._resolve()
        slot.check()
        slot.wake(urgent=not wait_for_room)
        if wait_for_room:
            try:
                await slot.mailbox.put(envelope)
            except TimeoutError:
                raise _expired() from None
        elif not slot.mailbox.offer(envelope):
            raise Overloaded(f"{self.name} is busy", hint="try again shortly", retry_after=slot.estimate())
        timer = loop.call_at(deadline.at, _expire, answer)
        try:
            return cast("R", await answer)
        finally:
            timer.cancel()
            del answer, envelope, timer  # an error that is raised here would keep them, and they the error

    async def tell(self, message: Tell) -> None:
        """Send, waiting for room; returns when the message is accepted, not when it is handled."""
        slot = self._resolve()
        slot.check()
        await slot.mailbox.put(Envelope(message))
        slot.wake()

    def offer(self, message: Tell) -> bool:
        """Send if there is room and somebody to receive it; the twin of `tell` that does not wait."""
        slot = self._resolve()
        if not slot.takes_messages:
            return False
        accepted = slot.mailbox.offer(Envelope(message))
        slot.wake()
        return accepted

    def poke(self, message: object) -> None:
        """Send on the control lane: small and seldom, always accepted."""
        slot = self._resolve()
        slot.mailbox.put_control(message)
        slot.wake()


def _expire(answer: asyncio.Future[object]) -> None:
    if not answer.done():
        answer.set_exception(_expired())


def _expired() -> Expired:
    return Expired("no answer in time", hint="allow more time, or try again")
