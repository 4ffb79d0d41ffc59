"""Supervisors: children are specified, started left to right, watched, and stopped right to left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from memoryd.actors.actor import Actor
from memoryd.actors.exits import Exit, is_crash
from memoryd.actors.ref import Ref
from memoryd.actors.slot import Budget, Crashes, Slot

if TYPE_CHECKING:
    from memoryd.actors.context import Context
    from memoryd.actors.slot import Park

BACK_OFF_S: Final = (0.1, 10.0)  # first and longest pause before a restart

Strategy = Literal["one_for_one", "rest_for_one"]
Restart = Literal["permanent", "transient"]


class Escalated(Exception):
    """A supervisor gave up: its children failed more often than its budget bears."""


@dataclass(frozen=True, slots=True)
class Child:
    """How one child is made, kept and stopped."""

    name: str
    factory: Callable[[], Actor]
    restart: Restart = "permanent"
    stop_within_s: float = 5.0
    max_items: int = 1024
    max_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class ChildExited:
    """Control message to a supervisor: one of its children ended."""

    slot: Slot
    end: Exit


class Places:
    """All slots of the static tree, by path; they outlive the supervisors that fill them."""

    def __init__(self, park: Park) -> None:
        self._slots: dict[str, Slot] = {}
        self._park = park

    def place(self, path: str, child: Child, on_exit: Callable[[Slot, Exit], None]) -> Slot:
        """Return the slot at `path`, made on first use."""
        slot = self._slots.get(path)
        if slot is None:
            slot = self._slots[path] = Slot(
                path,
                child.factory,
                on_exit=on_exit,
                park=self._park,
                max_items=child.max_items,
                max_bytes=child.max_bytes,
            )
        return slot

    def ref(self, path: str) -> Ref:
        """Return the address of `path`, which need not be filled yet."""
        return Ref(path, lambda: self._slots[path])

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())


class Supervisor(Actor):
    """Keeps its children running within a budget; over it, it fails itself."""

    def __init__(
        self,
        ref: Ref,
        children: Sequence[Child],
        places: Places,
        *,
        strategy: Strategy,
        budget: Budget,
        rng: random.Random,
    ) -> None:
        self._children = children
        self._strategy = strategy
        self._budget = budget
        self._rng = rng
        self._slots = [
            places.place(f"{ref.name}/{child.name}", child, lambda slot, end: ref.poke(ChildExited(slot, end)))
            for child in children
        ]
        self._crashes = Crashes(budget)

    async def started(self, ctx: Context) -> None:
        failed = await self._start_from(0)
        if failed is not None:
            await self._restart(failed)

    async def handle(self, message: object, ctx: Context) -> None:
        if isinstance(message, ChildExited) and not message.slot.is_alive:
            await self._child_exited(message.slot, message.end)

    async def closed(self) -> None:
        await self._stop_from(0)

    async def _child_exited(self, slot: Slot, end: Exit) -> None:
        if not is_crash(end):
            return
        await self._restart(slot)

    async def _restart(self, slot: Slot) -> None:
        """Start a child again, and those after it where the strategy says so, until it holds or the budget is spent."""
        failed: Slot | None = slot
        while failed is not None:
            failed.restarts += 1
            if not self._crashes.bears_one_more():
                raise Escalated(
                    f"{failed.path} failed too often ({self._crashes.recent} times lately)"
                ) from failed.last_cause
            await asyncio.sleep(back_off_s(self._crashes.recent, self._rng))
            position = self._slots.index(failed)
            if self._strategy == "rest_for_one":
                await self._stop_from(position + 1)
                failed = await self._start_from(position)
            else:
                failed = await self._start_from(position, only=1)

    async def _start_from(self, position: int, only: int | None = None) -> Slot | None:
        """Start children in order; return the first that did not come up."""
        last = None if only is None else position + only
        for slot in self._slots[position:last]:
            end = await slot.start()
            if end is not None and is_crash(end):
                return slot
        return None

    async def _stop_from(self, position: int) -> None:
        for child, slot in reversed(list(zip(self._children, self._slots, strict=True))[position:]):
            await slot.stop(child.stop_within_s)


def back_off_s(crashes: int, rng: random.Random) -> float:
    """Return the pause before restart number `crashes`: doubling, bounded, with jitter against herds."""
    first, longest = BACK_OFF_S
    return min(longest, first * 2.0 ** max(0, crashes - 1)) * rng.uniform(0.5, 1.0)
