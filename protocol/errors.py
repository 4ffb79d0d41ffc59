"""Every error memoryd raises, named for what the caller can do about it.

A message is one lower-case clause without user text. `field` names the part of the input that was wrong, `hint` the
mend, and `details` carries the numbers that programs need. All three travel over the wire unchanged.
"""

from __future__ import annotations

from typing import ClassVar

type_of: dict[str, type[MemorydError]] = {}

Detail = str | int | float | bool | None


class MemorydError(Exception):
    """The root of the family."""

    # What the command line exits with when this error ends it (sysexits.h).
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None, **details: Detail) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint
        self.details = details

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        type_of[cls.__name__] = cls

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class Refused(MemorydError):
    """The request was understood and not carried out; nothing changed."""

    exit_code = 75


class InvalidMessage(Refused):
    """The request breaks a rule of its own kind; `field` names the place."""

    exit_code = 64


class Forbidden(Refused):
    """The credential does not grant this."""

    exit_code = 77


class NotFound(Refused):
    """What the request names does not exist for this user."""

    exit_code = 64


class Overloaded(Refused):
    """No room now; try again after `retry_after` seconds."""

    @property
    def retry_after(self) -> float:
        return float(self.details.get("retry_after") or 0.1)


class Expired(Refused):
    """The deadline passed before the work was started or finished."""


class Quarantined(Refused):
    """A memory failed too often and rests for a while."""


class ShuttingDown(Refused):
    """The daemon is stopping."""


class SlowConsumer(Refused):
    """A subscriber fell behind and was cut off; resume with `after`."""

    @property
    def after(self) -> int:
        return int(self.details.get("after") or 0)


class CursorTooOld(Refused):
    """The events after this cursor are no longer kept."""


class StorageFault(MemorydError):
    """The disk did not do what was asked."""

    exit_code = 74


class DiskFull(StorageFault):
    """No space is left; reading goes on."""


class ReadOnly(StorageFault):
    """The data directory or a file in it cannot be written."""


class Damaged(StorageFault):
    """Bytes on disk are not what was written."""


class Locked(StorageFault):
    """Another process writes here."""

    exit_code = 75


class ModelMismatch(StorageFault):
    """The store was written with another embedding model."""

    exit_code = 78


class ModelUnavailable(MemorydError):
    """The embedding model cannot be loaded."""

    exit_code = 78


class ConfigError(MemorydError):
    """The configuration cannot be used."""

    exit_code = 78


class Unreachable(MemorydError):
    """No daemon answers at this address."""

    exit_code = 69


class ActorFailed(MemorydError):
    """The actor failed while it handled the message."""


class WireError(MemorydError):
    """The bytes of a connection are not the protocol."""

    exit_code = 76


class BadFrame(WireError):
    """A frame cannot be decoded; the connection is closed."""


class TooLarge(WireError):
    """A frame or one of its parts is over the limit."""


class Unsupported(WireError):
    """An unknown kind of request or an unknown field; the connection stays."""


def rebuild(name: str, message: str, field: str | None, hint: str | None, details: dict[str, Detail]) -> MemorydError:
    """Make the error of class `name` again on the other side of a wire; an unknown class becomes the root."""
    return type_of.get(name, MemorydError)(message, field=field, hint=hint, **details)
