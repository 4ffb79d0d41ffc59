"""The Gateway: listens on the Unix socket. Last up and first down, so that no request meets a half-built tree."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memoryd.actors.actor import Actor
from memoryd.protocol.errors import Locked
from memoryd.relay.connection import Connection, Reception

if TYPE_CHECKING:
    from memoryd.actors.context import Context


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway listens. `group` also lets the members of the socket's group connect."""

    path: Path
    group: bool = False


class Gateway(Actor):
    """Serves the socket."""

    def __init__(self, address: Address, reception: Reception) -> None:
        self._address = address
        self._reception = reception
        self._listening: asyncio.Server | None = None

    async def started(self, ctx: Context) -> None:
        listener = await _listen(self._address)
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_unix_server(lambda: Connection(self._reception), sock=listener)

    async def handle(self, message: object, ctx: Context) -> object:
        return None

    async def closed(self) -> None:
        if self._listening is None:
            return
        self._listening.close()
        self._address.path.unlink(missing_ok=True)
        await asyncio.gather(*(each.close() for each in self._reception.connections))


async def _listen(address: Address) -> socket.socket:
    """Bind the socket with its mode from the first moment; a dead one is removed. Raises Locked."""
    path = address.path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_socket():
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            writer.close()
            raise Locked("another daemon serves this socket", hint="stop it, or choose another --socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o117 if address.group else 0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise Locked(f"cannot listen: {error.strerror}", field="socket", hint="choose another --socket") from error
    finally:
        os.umask(old)
    return listener
