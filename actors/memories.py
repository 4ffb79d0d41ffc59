"""The MemorySupervisor: users are started when somebody needs them and put to rest when nobody does.

A user who is cold costs nothing: no task, no queue, no slot. A sick user is put in quarantine and harms nobody; many sick
users at once mean a sick disk, and that escalates.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.actors.exits import Exit, Failed, is_crash, reason
from memoryd.actors.memory import IngestFailed, MemoryAgent
from memoryd.actors.ref import Ref
from memoryd.actors.slot import Budget, Crashes, Passivate, Phase, Slot
from memoryd.actors.supervisor import ChildExited, Escalated, back_off_s
from memoryd.protocol.errors import Overloaded, StorageFault
from memoryd.protocol.ids import UserId
from memoryd.protocol.internal import Crashed
from memoryd.protocol.messages import UserStatus

if TYPE_CHECKING:
    from memoryd.actors.context import Context
    from memoryd.actors.slot import Park

log = structlog.get_logger("memoryd.memories")

ACTIVATIONS: Final = 8  # users opened at once for requests
PATIENT_ACTIVATIONS: Final = (
    2  # and for events that nobody waits for: opening is work of the interpreter, which recalls need
)
WAITING_ACTIVATIONS: Final = 256  # requests that may wait for their user to open; more are refused
USER_BUDGET: Final = Budget(3, 60.0)
POISON_BUDGET: Final = Budget(20, 60.0)  # of failures on events: each brings their parking nearer
QUARANTINE_S: Final = 300.0
MANY_SICK: Final = Budget(20, 10.0)  # distinct users; more is not the users' fault
SWEEP_EVERY_S: Final = 2.0
SWEEP_USERS: Final = 64  # looked at in one go
REST_BETWEEN_S: Final = 1.0  # between two evictions of the same user
AGENT_STOP_WITHIN_S: Final = 10.0
AGENT_BASE_BYTES: Final = 32 << 10  # what a resident costs beside its rows: task, mailbox, file, tables
AGENT_MAIL: Final = 1_024
AGENT_MAIL_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Residency:
    """How long and how many users stay resident."""

    idle_after_s: float
    resident_bytes: int
    resident_users: int


@dataclass(frozen=True, slots=True)
class Activate:
    """Control message: somebody sent to a user who is cold."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Control message: the pause of a failed user is over."""

    user: UserId


@dataclass(frozen=True, slots=True)
class Sweep:
    """Control message: put idle users to rest."""


class Residents:
    """The slots of all users that are not cold. Sending to a user who has none makes one."""

    def __init__(self, make_agent: Callable[[UserId], MemoryAgent], park: Park) -> None:
        self.urgent: deque[UserId] = deque()
        self.patient: deque[UserId] = deque()
        self.unsettled: set[Slot] = set()  # whose end the supervisor has not dealt with
        self._make_agent = make_agent
        self._park = park
        self._slots: dict[UserId, Slot] = {}
        self._supervisor: Ref | None = None

    def supervise(self, supervisor: Ref) -> None:
        """Say who is told about wishes and ends."""
        self._supervisor = supervisor

    def ref(self, user: UserId) -> Ref:
        """Return the address of a user's agent."""
        return Ref(f"user/{user}", lambda: self.slot(user))

    def slot(self, user: UserId) -> Slot:
        """Return the user's slot, made if there is none."""
        slot = self._slots.get(user)
        if slot is None:
            slot = self._slots[user] = Slot(
                f"user/{user}",
                lambda: self._make_agent(user),
                on_exit=self._exited,
                on_demand=lambda _, urgent: self._wanted(user, urgent),
                park=self._park,
                max_items=AGENT_MAIL,
                max_bytes=AGENT_MAIL_BYTES,
            )
        return slot

    def known(self, user: UserId) -> Slot | None:
        """Return the user's slot if there is one."""
        return self._slots.get(user)

    def evict(self, user: UserId) -> None:
        """Forget a user who is cold."""
        self._slots.pop(user, None)

    def __iter__(self) -> Iterator[tuple[UserId, Slot]]:
        return iter(list(self._slots.items()))

    def __len__(self) -> int:
        return len(self._slots)

    def states(self) -> dict[UserId, UserStatus]:
        """Return the figures of every user that runs."""
        return {
            user: slot.actor.status()
            for user, slot in self
            if slot.phase is Phase.RUNNING and isinstance(slot.actor, MemoryAgent)
        }

    def _wanted(self, user: UserId, urgent: bool) -> None:  # noqa: FBT001 - the shape of Slot's callback
        if urgent and len(self.urgent) >= WAITING_ACTIVATIONS:
            raise Overloaded("too many users are being opened", hint="try again shortly", retry_after=0.5)
        (self.urgent if urgent else self.patient).append(user)
        if self._supervisor is not None:
            self._supervisor.poke(Activate())

    def _exited(self, slot: Slot, end: Exit) -> None:
        if self._supervisor is not None:
            self.unsettled.add(slot)
            self._supervisor.poke(ChildExited(slot, end))


class MemorySupervisor(Actor):
    """Opens, watches, restarts and puts to rest the agents of all users."""

    def __init__(
        self, ref: Ref, residents: Residents, relay: Callable[[], Ref], residency: Residency, rng: random.Random
    ) -> None:
        self._residents = residents
        self._relay = relay
        self._residency = residency
        self._rng = rng
        self._opening: set[UserId] = set()
        self._crashes: dict[UserId, Crashes] = {}
        self._poisonings: dict[UserId, Crashes] = {}
        self._sick: dict[UserId, float] = {}
        self._rested: dict[UserId, float] = {}
        residents.supervise(ref)

    async def started(self, ctx: Context) -> None:
        for user, slot in self._residents:
            # Left over from an incarnation before this one: whoever has mail or lost something is opened again.
            if slot.phase is Phase.COLD and (slot.has_crashed or not slot.mailbox.is_empty):
                self._residents.patient.append(user)
            elif not slot.is_alive:
                self._residents.evict(user)
        self._open_next(ctx)
        ctx.after(SWEEP_EVERY_S, Sweep())

    async def handle(self, message: object, ctx: Context) -> None:
        match message:
            case Activate():
                self._open_next(ctx)
            case ChildExited(slot=slot, end=end):
                self._exited(slot, end, ctx)
            case Restart(user=user):
                self._restart(user, ctx)
            case Sweep():
                ctx.spawn(self._sweep(ctx))

    async def closed(self) -> None:
        await asyncio.gather(*(slot.stop(AGENT_STOP_WITHIN_S) for _, slot in self._residents))

    # --- opening ---

    def _open_next(self, ctx: Context) -> None:
        """Open users who are wanted, those somebody waits for first, a few at a time."""
        residents = self._residents
        while residents.urgent or residents.patient:
            if len(self._opening) >= (ACTIVATIONS if residents.urgent else PATIENT_ACTIVATIONS):
                return
            user = (residents.urgent or residents.patient).popleft()
            slot = residents.slot(user)
            # Whose end has not been dealt with is opened then, later if it was a failure.
            if slot.phase is Phase.COLD and slot not in residents.unsettled:
                self._opening.add(user)
                slot.begin()  # at once: who has been begun is not evicted
                ctx.spawn(self._opened(user, slot, ctx))

    async def _opened(self, user: UserId, slot: Slot, ctx: Context) -> None:
        try:
            await slot.begun()  # a failure comes back as ChildExited
        finally:
            self._opening.discard(user)
        self._open_next(ctx)

    # --- ends ---

    def _exited(self, slot: Slot, end: Exit, ctx: Context) -> None:
        self._residents.unsettled.discard(slot)
        user = UserId(slot.path.removeprefix("user/"))
        if slot.is_alive or self._residents.known(user) is not slot:
            return
        if is_crash(end):
            self._crashed(user, slot, end, ctx)
        elif not slot.mailbox.is_empty:
            self._residents.urgent.append(user)
            self._open_next(ctx)
        else:
            self._rested[user] = asyncio.get_running_loop().time()
            self._residents.evict(user)

    def _crashed(self, user: UserId, slot: Slot, end: Exit, ctx: Context) -> None:
        cause = end.cause if isinstance(end, Failed) else None
        slot.restarts += 1
        metrics.RESTARTS.inc()
        self._escalate_if_many(user)
        if isinstance(cause, StorageFault):
            slot.refuse_asks(cause)
        if isinstance(cause, IngestFailed):
            error = type(cause.__cause__).__name__
            self._relay().poke(Crashed(user=user, seqs=cause.seqs, error=error))
            crashes = self._poisonings.setdefault(user, Crashes(POISON_BUDGET))
        else:
            crashes = self._crashes.setdefault(user, Crashes(USER_BUDGET))
        if crashes.bears_one_more():
            ctx.after(back_off_s(crashes.recent, self._rng), Restart(user))
            return
        slot.rest_until(asyncio.get_running_loop().time() + QUARANTINE_S)
        log.error("user_quarantined", user=user, why=reason(end), for_s=QUARANTINE_S)
        ctx.after(QUARANTINE_S, Restart(user))

    def _escalate_if_many(self, user: UserId) -> None:
        now = asyncio.get_running_loop().time()
        self._sick[user] = now
        self._sick = {each: when for each, when in self._sick.items() if now - when <= MANY_SICK.per_s}
        if len(self._sick) > MANY_SICK.restarts:
            self._sick.clear()
            raise Escalated(f"more than {MANY_SICK.restarts} users failed within {MANY_SICK.per_s:g} s")

    def _restart(self, user: UserId, ctx: Context) -> None:
        slot = self._residents.known(user)
        if slot is None or slot.is_alive:
            return
        if slot.phase is Phase.QUARANTINED:
            slot.phase = Phase.COLD
            self._crashes.pop(user, None)
            self._poisonings.pop(user, None)
        self._residents.patient.append(user)
        self._open_next(ctx)

    # --- rest ---

    async def _sweep(self, ctx: Context) -> None:
        """Ask idle users to rest; over the budget also those who were used last the longest ago."""
        now = asyncio.get_running_loop().time()
        self._rested = {user: when for user, when in self._rested.items() if now - when < REST_BETWEEN_S}
        states: list[tuple[float, UserId, int]] = []
        generations = 0
        for number, (user, slot) in enumerate(self._residents):
            if slot.phase is Phase.RUNNING and isinstance(slot.actor, MemoryAgent):
                states.append((slot.actor.last_used, user, slot.actor.resident_bytes + AGENT_BASE_BYTES))
                generations += slot.actor.generation
            if number % SWEEP_USERS == SWEEP_USERS - 1:
                await asyncio.sleep(0)  # a full house must not hold up the loop
        held, count = sum(size for _, _, size in states), len(states)
        metrics.RESIDENTS.set(count)
        metrics.RESIDENT_BYTES.set(held)
        metrics.GENERATIONS.set(generations)
        for last_used, user, size in sorted(states):
            crowded = held > self._residency.resident_bytes or count > self._residency.resident_users
            is_idle = now - last_used >= self._residency.idle_after_s
            if not is_idle and not crowded:
                break  # the rest was used later still
            known = self._residents.known(user)
            if known is None or known.mailbox.depth or (not is_idle and user in self._rested):
                continue
            known.mailbox.put_control(Passivate())
            held -= size
            count -= 1
        ctx.after(SWEEP_EVERY_S, Sweep())


def quarantined(residents: Residents) -> int:
    """Count the users who rest after repeated failures."""
    return sum(slot.phase is Phase.QUARANTINED for _, slot in residents)
