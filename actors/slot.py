"""The place of an actor in the tree: mailbox, phase and restart history. It outlives every incarnation."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from memoryd.actors.actor import Actor
from memoryd.actors.context import DETACHED, Context, TaskFailed, as_error, is_fatal, refuse, reply
from memoryd.actors.exits import Exit, Failed, Killed, Passivated, Stopped, is_crash, reason
from memoryd.actors.mailbox import Envelope, Mailbox
from memoryd.actors.ref import Ref
from memoryd.protocol.errors import Expired, MemorydError, Quarantined, ShuttingDown

log = structlog.get_logger("memoryd.actors")

HANG_AFTER_S: Final = 30.0  # a handler without progress for so long counts as killed
ATTEMPTS: Final = 2  # a message that its actor failed on so often is parked


class Phase(StrEnum):
    COLD = "cold"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Stop:
    """Control message: end in order."""


@dataclass(frozen=True, slots=True)
class Passivate:
    """Control message: end in order if nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many crashes are borne within how many seconds."""

    restarts: int
    per_s: float


class Crashes:
    """Counts crashes against a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._times: deque[float] = deque()

    @property
    def recent(self) -> int:
        """How many the last budget period saw."""
        return len(self._times)

    def bears_one_more(self) -> bool:
        """Count a crash; return whether the budget bears it."""
        now = asyncio.get_running_loop().time()
        self._times.append(now)
        while now - self._times[0] > self._budget.per_s:
            self._times.popleft()
        return len(self._times) <= self._budget.restarts


Park = Callable[[str, object, BaseException], None]


class Slot:
    """Runs incarnations of one actor, one after the other; who decides about the next one is its supervisor."""

    def __init__(
        self,
        path: str,
        factory: Callable[[], Actor],
        *,
        on_exit: Callable[[Slot, Exit], None],
        on_demand: Callable[[Slot, bool], None] | None = None,
        park: Park,
        max_items: int = 1024,
        max_bytes: int = 64 << 20,
        hang_after_s: float = HANG_AFTER_S,
    ) -> None:
        self.path = path
        self.mailbox = Mailbox(max_items=max_items, max_bytes=max_bytes)
        self.ref = Ref(path, lambda: self)
        self.phase = Phase.COLD
        self.incarnations = 0
        self.restarts = 0
        self.last_error = ""
        self.last_cause: BaseException | None = None
        self.last_progress = time.monotonic()
        self.quarantined_until = 0.0
        self.actor: Actor | None = None
        self._factory = factory
        self._on_exit = on_exit
        self._on_demand = on_demand
        self._park = park
        self._hang_after_s = hang_after_s
        self._task: asyncio.Task[None] | None = None
        self._started: asyncio.Event | None = None
        self._exit: Exit | None = None

    @property
    def is_alive(self) -> bool:
        """Whether an incarnation exists."""
        return self._task is not None and not self._task.done()

    @property
    def has_crashed(self) -> bool:
        """Whether the last incarnation did not end in order."""
        return self._exit is not None and is_crash(self._exit)

    @property
    def takes_messages(self) -> bool:
        """Whether a message that is sent now will be handled, if all goes well."""
        return self.phase not in (Phase.QUARANTINED, Phase.STOPPED)

    def check(self) -> None:
        """Raise Quarantined or ShuttingDown when this place takes no messages."""
        if self.phase is Phase.QUARANTINED:
            raise self._quarantined()
        if self.phase is Phase.STOPPED:
            raise ShuttingDown("the daemon is stopping")

    def wake(self, *, urgent: bool = False) -> None:
        """Have the supervisor start an incarnation when there is none; somebody waits for it if `urgent`.

        Raises Overloaded when too many others wait for theirs.
        """
        if self.phase is Phase.COLD and self._on_demand is not None:
            self._on_demand(self, urgent)

    def estimate(self) -> float:
        """Guess in how many seconds there will be room, from the age of what waits."""
        return round(min(5.0, max(0.05, self.mailbox.oldest_age() / 2)), 3)

    def begin(self) -> None:
        """Begin an incarnation, unless one is alive."""
        if self.is_alive:
            return
        self.phase = Phase.STARTING
        self.incarnations += 1
        self._exit = None
        self._started = asyncio.Event()
        self.mailbox.drop_control(Stop, Passivate, TaskFailed)  # were meant for one that has ended
        self._task = asyncio.get_running_loop().create_task(self._live(), name=self.path)

    async def begun(self) -> Exit | None:
        """Wait until what was begun last runs; return its exit if it has ended."""
        if self._started is not None:
            await self._started.wait()
        return self._exit

    async def start(self) -> Exit | None:
        """Begin an incarnation, unless one is alive, and wait until it runs; return its exit if it ended first."""
        self.begin()
        return await self.begun()

    async def stop(self, within_s: float) -> None:
        """End the incarnation in order, or by cancelling it after `within_s` seconds. Mail that waits is kept."""
        if not self.is_alive or self._task is None:
            return
        self.mailbox.put_control(Stop())
        done, _ = await asyncio.wait([self._task], timeout=within_s)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])

    def rest_until(self, when: float) -> None:
        """Take no messages for a while and refuse those who wait; the rest of the mail is kept."""
        self.phase = Phase.QUARANTINED
        self.quarantined_until = when
        self.refuse_asks(self._quarantined())

    def refuse_asks(self, error: MemorydError) -> None:
        """Answer everybody who waits with `error`; mail that nobody waits for is kept."""
        for envelope in self.mailbox.drain():
            if envelope.reply is None:
                self.mailbox.offer(envelope)
            else:
                refuse(envelope, error)

    def close(self) -> None:
        """Take no more messages and answer those that wait."""
        self.phase = Phase.STOPPED
        for envelope in self.mailbox.drain():
            refuse(envelope, ShuttingDown("the daemon is stopping"))

    def _quarantined(self) -> Quarantined:
        rest = max(0.0, self.quarantined_until - asyncio.get_running_loop().time())
        hint = self.last_cause.hint if isinstance(self.last_cause, MemorydError) else None
        return Quarantined(
            f"this memory rests after repeated failures: {self.last_error}",
            hint=hint or "see the log; it is tried again by itself",
            retry_after=round(rest, 1),
        )

    async def _live(self) -> None:
        """One incarnation, from its factory to its exit."""
        ctx = Context(self.mailbox, self.path, self.incarnations)
        try:
            end = await self._incarnate(ctx)
        except asyncio.CancelledError:
            end = Killed("did not stop in time")
        except Exception as error:  # noqa: BLE001 - the kit is where a failure becomes a value
            end = Failed(error)
        await self._bury(ctx, end)

    async def _incarnate(self, ctx: Context) -> Exit:
        actor = self.actor = self._factory()
        await actor.started(ctx)
        self.phase = Phase.RUNNING
        if self._started is not None:
            self._started.set()
        end: Exit | None = None
        while end is None:
            if self.mailbox.is_empty:
                await actor.drained(ctx)
            envelope = await self.mailbox.get()
            self.last_progress = time.monotonic()
            match envelope.message:
                case Stop():
                    end = Stopped()
                case Passivate():
                    if self.mailbox.is_empty and not ctx.is_busy:
                        end = Passivated()
                case TaskFailed(cause):
                    raise cause
                case _ if envelope.is_dead:
                    refuse(envelope, Expired("the deadline passed in the queue", hint="allow more time"))
                case _:
                    end = await self._handle(actor, envelope, ctx)
            del envelope  # or what it brought would be kept until the next one comes
        if is_crash(end):
            return end
        self.phase = Phase.DRAINING
        await actor.stopping(ctx)
        return end

    async def _handle(self, actor: Actor, envelope: Envelope, ctx: Context) -> Exit | None:
        ctx.current = envelope
        limit = asyncio.timeout(self._hang_after_s)
        try:
            async with limit:
                answer = await actor.handle(envelope.message, ctx)
        except TimeoutError as error:
            if not limit.expired():
                raise
            self._blame(envelope, error)
            return Killed(f"no progress for {self._hang_after_s:g} s")
        except MemorydError as error:
            refuse(envelope, error)
            if is_fatal(error):
                self._blame(envelope, error)
                raise
        except Exception as error:
            self._blame(envelope, error)
            raise
        else:
            if answer is not DETACHED:
                reply(envelope, answer)
        finally:
            ctx.current = None
        return None

    def _blame(self, envelope: Envelope, error: BaseException) -> None:
        """Decide about the message an actor failed on: an ask is answered, a tell gets one more chance."""
        if envelope.is_control:
            return
        if envelope.reply is not None:
            refuse(envelope, as_error(error))
            return
        envelope.attempts += 1
        if envelope.attempts < ATTEMPTS:
            self.mailbox.put_back(envelope)
        else:
            self._park(self.path, envelope.message, error)

    async def _bury(self, ctx: Context, end: Exit) -> None:
        await ctx.close()
        actor, self.actor = self.actor, None
        if actor is not None:
            try:
                await actor.closed()
            except Exception as error:  # noqa: BLE001 - the kit is where a failure becomes a value
                end = end if is_crash(end) else Failed(error)
        self._exit = end
        if is_crash(end):
            cause = self.last_cause = end.cause if isinstance(end, Failed) else None
            why, during = reason(end), self.phase.value
            log.warning(
                "actor_failed", actor=self.path, why=why, during=during, incarnation=self.incarnations, exc_info=cause
            )
            _drop_traces(cause)
            self.last_error = self.last_cause.message if isinstance(self.last_cause, MemorydError) else reason(end)
        if self.phase is not Phase.QUARANTINED:
            self.phase = Phase.COLD
        if self._started is not None:
            self._started.set()
        self._on_exit(self, end)


def _drop_traces(error: BaseException | None) -> None:
    """Keep what a failure says, and not the files and rows that its calls had in hand.

    No frame is cleared: who got the same error for an answer may stand in its trace, and still be at work.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
