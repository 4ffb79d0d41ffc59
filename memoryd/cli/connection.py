"""From a command to the daemon and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from memoryd.client import Memory
from memoryd.paths import default_socket
from memoryd.protocol.errors import MemorydError
from memoryd.transport import SocketTransport

if TYPE_CHECKING:
    from memoryd.cli.options import Target

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection. `user` is whose memory a request without a name means, empty when there is no such one."""

    memory: Memory
    user: str


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Connection]:
    """Connect to the daemon. Raises Unreachable when none listens, Forbidden when it knows no such credential."""
    transport = await SocketTransport.connect(target.socket or default_socket(), target.token)

    async def opened() -> SocketTransport:
        return transport

    welcome = transport.welcome
    granted = welcome.user if welcome is not None else ""
    async with Memory(opened) as memory:
        yield Connection(memory, target.user or granted)


def run(work: Coroutine[object, object, T]) -> T:
    """Run a command's work to its end. Raises the MemorydError that ended it, also out of a group of tasks."""
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what a person should hear of: a MemorydError if there is one."""
    found = group.subgroup(MemorydError)
    first: BaseException = found or group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
