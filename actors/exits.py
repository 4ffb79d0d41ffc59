"""How an incarnation of an actor ended: values, not guesses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passivated:
    """It was idle and gave its memory back; the next message starts it again."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """It was told to stop, and did."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It raised."""

    cause: BaseException


@dataclass(frozen=True, slots=True)
class Killed:
    """It made no progress, or did not stop in time, and was cancelled."""

    why: str


Exit = Passivated | Stopped | Failed | Killed


def is_crash(end: Exit) -> bool:
    """Whether a supervisor should count this end against a budget."""
    return isinstance(end, Failed | Killed)


def reason(end: Exit) -> str:
    """Return the end in a few words, without any user text."""
    match end:
        case Failed(cause):
            return f"{type(cause).__name__}"
        case Killed(why):
            return f"killed: {why}"
        case _:
            return type(end).__name__.lower()
