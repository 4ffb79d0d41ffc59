"""The ApplicationSupervisor's children: the shape of the tree, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from memoryd.actors.slot import Budget, Slot
from memoryd.actors.supervisor import Child, Places, Supervisor

if TYPE_CHECKING:
    from memoryd.actors.actor import Actor
    from memoryd.actors.exits import Exit
    from memoryd.actors.ref import Ref
    from memoryd.actors.slot import Park

ROOT: Final = "app"

# Three at once may be bad luck, a fourth within a minute is not: the process ends and the service manager decides.
APPLICATION_BUDGET: Final = Budget(3, 60.0)
SESSION_BUDGET: Final = Budget(5, 60.0)

Factory = Callable[[], "Actor"]


@dataclass(frozen=True, slots=True)
class Factories:
    """How each permanent child is made. Without a gateway the tree serves this process alone."""

    bus: Factory
    event_relay: Factory
    embedder: Factory
    knowledge: Factory
    memories: Factory
    memory_relay: Factory
    gateway: Factory | None = None


class Application:
    """The static tree: its slots, and the addresses of those others send to."""

    def __init__(self, make: Factories, park: Park, rng: random.Random, on_exit: Callable[[Slot, Exit], None]) -> None:
        self.places = Places(park)
        self._rng = rng
        self._session_children: Sequence[Child] = (
            Child("memories", make.memories, stop_within_s=15.0),
            Child("memory_relay", make.memory_relay),
        )
        children = [
            Child("bus", make.bus),
            Child("event_relay", make.event_relay),
            Child("embedder", make.embedder),
            Child("knowledge", make.knowledge),
            Child("session", self._session, stop_within_s=20.0),
        ]
        if make.gateway is not None:
            children.append(Child("gateway", make.gateway, stop_within_s=5.0))  # last up, first down
        self.root = Slot(ROOT, lambda: self._application(children), on_exit=on_exit, park=park)

    def ref(self, name: str) -> Ref:
        """Return the address of a permanent actor, `bus` or `session/memories`; it holds through every restart."""
        return self.places.ref(f"{ROOT}/{name}")

    def _application(self, children: Sequence[Child]) -> Supervisor:
        root = Supervisor(
            self.root.ref,
            children,
            self.places,
            strategy="rest_for_one",
            budget=APPLICATION_BUDGET,
            rng=self._rng,
        )
        self._session()  # gives its children their places: a backlog is on its way to them before the session starts
        return root

    def _session(self) -> Supervisor:
        return Supervisor(
            self.ref("session"),
            self._session_children,
            self.places,
            strategy="one_for_one",
            budget=SESSION_BUDGET,
            rng=self._rng,
        )
