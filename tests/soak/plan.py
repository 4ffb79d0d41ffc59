"""When to kill: everything that chance decides, from one seed, so that a failure can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum


class Mode(Enum):
    """In the midst of what the daemon is killed."""

    LOAD = "load"  # all clients at work
    FORGET = "forget"  # rewriting its files because something was forgotten
    STOPPING = "stopping"  # draining after SIGTERM
    CATCHING_UP = "catching up"  # replaying what the kill before interrupted
    STARTING = "starting"  # before it is ready


_WEIGHTS = {Mode.LOAD: 50, Mode.FORGET: 20, Mode.STOPPING: 10, Mode.CATCHING_UP: 10, Mode.STARTING: 10}


@dataclass(frozen=True, slots=True)
class Plan:
    """One kill. `load_s` is how long the clients work before, `delay_s` how long after that it comes.

    For STARTING, `delay_s` is a share of the time that the start usually takes. `module` is the daemon: the usual one, or
    one that rewrites its files all the time.
    """

    number: int
    mode: Mode
    load_s: float
    delay_s: float
    settings: dict[str, object]
    module: str
    seed: str

    def rng(self, purpose: str) -> random.Random:
        """Return a new generator for whatever else is chosen at random."""
        return random.Random(f"{self.seed}/{purpose}")


def plan(seed: int, number: int) -> Plan:
    """Return the plan of kill `number`; the same for the same seed."""
    own = f"{seed}/{number}"
    rng = random.Random(own)
    mode = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    settings: dict[str, object] = {
        "memory.commit_after_s": rng.choice((0.01, 0.05, 0.3, 1.0)),
        "memory.commit_records": rng.choice((1, 4, 16, 256)),
        "memory.idle_after_s": rng.choice((0.1, 0.5, 120.0)),
        "memory.resident_users": rng.choice((1, 3, 1000)),
    }
    match mode:
        case Mode.LOAD:
            # A user is put to rest every 2 s at the earliest, so some lives must be longer.
            load_s, delay_s = 0.0, rng.uniform(1.8, 3.0) if rng.random() < 0.05 else rng.uniform(0.0, 1.5)
        case Mode.FORGET:
            load_s, delay_s = rng.uniform(0.1, 0.8), rng.uniform(0.0, 0.04)
        case Mode.STOPPING:
            load_s, delay_s = rng.uniform(0.1, 0.8), rng.uniform(0.0, 0.15)
        case Mode.CATCHING_UP:
            load_s, delay_s = 0.0, rng.uniform(0.0, 0.15)
        case Mode.STARTING:
            load_s, delay_s = 0.0, rng.uniform(0.5, 1.1)
    module = random.Random(f"{own}/module").choice(("memoryd", "tests.soak.small"))
    return Plan(number, mode, load_s, delay_s, settings, module, own)
