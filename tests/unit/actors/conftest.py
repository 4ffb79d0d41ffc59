"""Actors for tests of the kit, and a tree that must leave nothing running."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from memoryd.actors.actor import Actor
from memoryd.actors.context import Context
from memoryd.actors.exits import Exit
from memoryd.actors.mailbox import Deadline
from memoryd.actors.slot import Budget, Slot
from memoryd.actors.supervisor import Child, Places, Supervisor
from memoryd.protocol.messages import Ask, Tell


class Echo(Ask[int], frozen=True, kw_only=True):
    number: int


class Later(Ask[int], frozen=True, kw_only=True):
    """Answered from a task beside the mailbox, once the gate is open."""

    number: int


class Fail(Ask[int], frozen=True, kw_only=True):
    error: Exception
    beside: bool = False  # in a task beside the mailbox


class Poison(Tell, frozen=True, kw_only=True):
    """Fails its actor whenever it is handled."""


class Heavy(Tell, frozen=True, kw_only=True):
    weight: int


class Worker(Actor):
    """Answers, fails and remembers what it saw."""

    def __init__(self, log: list[str], gate: asyncio.Event) -> None:
        self._log = log
        self._gate = gate

    async def started(self, ctx: Context) -> None:
        self._log.append("started")

    async def stopping(self, ctx: Context) -> None:
        self._log.append("stopping")

    async def closed(self) -> None:
        self._log.append("closed")

    async def handle(self, message: object, ctx: Context) -> object:
        match message:
            case Echo(number=number):
                await self._gate.wait()
                return number
            case Later(number=number):
                return ctx.detach(self._later(number))
            case Fail(error=error, beside=True):
                return ctx.detach(self._fail(error))
            case Fail(error=error):
                raise error
            case Poison():
                self._log.append("poison")
                raise RuntimeError("poison")
            case Heavy():
                await self._gate.wait()
        return None

    async def _later(self, number: int) -> int:
        await self._gate.wait()
        return number

    async def _fail(self, error: Exception) -> int:
        raise error


class Kit:
    """A supervisor with children, and what happened to them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.parked: list[tuple[str, object]] = []
        self.ends: list[Exit] = []
        self.ended = asyncio.Event()
        self.places = Places(self._park)
        self.root: Slot | None = None

    async def start(
        self,
        *names: str,
        strategy: str = "one_for_one",
        restarts: int = 3,
        factory: Callable[[], Actor] | None = None,
        **mailbox: int,
    ) -> None:
        children = [Child(name, factory or (lambda: Worker(self.log, self.gate)), **mailbox) for name in names]
        self.root = Slot(
            "root",
            lambda: Supervisor(
                self.root.ref,
                children,
                self.places,
                strategy=strategy,
                budget=Budget(restarts, 60.0),
                rng=random.Random(1),
            ),
            on_exit=self._ended,
            park=self._park,
        )
        await self.root.start()

    def slot(self, name: str) -> Slot:
        return next(slot for slot in self.places if slot.path == f"root/{name}")

    async def incarnation(self, name: str, number: int) -> None:
        """Wait until an actor lives for the nth time."""
        async with asyncio.timeout(10):
            while self.slot(name).incarnations < number or self.slot(name).phase != "running":
                await asyncio.sleep(0.01)

    def _park(self, path: str, message: object, _error: BaseException) -> None:
        self.parked.append((path, message))

    def _ended(self, _slot: Slot, end: Exit) -> None:
        self.ends.append(end)
        self.ended.set()


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    kit = Kit()
    yield kit
    kit.gate.set()
    if kit.root is not None:
        await kit.root.stop(5.0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks still run: {left}"


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test of the kit on both event loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def soon() -> Deadline:
    return Deadline.after(5.0)
