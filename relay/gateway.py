"""The Gateway: the Unix socket on one side, the Desk on the other.

Last up and first down, so that no request meets a half-built tree. What a connection can hold is bounded: frames, requests
under way, bytes under way, and the time to say hello.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.actors.context import as_error
from memoryd.actors.mailbox import Deadline
from memoryd.protocol import messages as m
from memoryd.protocol import wire
from memoryd.protocol.errors import BadFrame, Locked, MemorydError, Overloaded, Unsupported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from memoryd.actors.context import Context
    from memoryd.protocol.ids import UserId
    from memoryd.relay.desk import Desk
    from memoryd.relay.grants import Grant, Grants

log = structlog.get_logger("memoryd.gateway")

HELLO_WITHIN_S: Final = 2.0
REQUESTS_IN_FLIGHT: Final = 64
STREAMS: Final = 64
BYTES_IN_FLIGHT: Final = 8 << 20
CONNECTIONS: Final = 256
READ_BYTES: Final = 1 << 16
LONGEST_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway listens. `group` also lets the members of the socket's group connect."""

    path: Path
    group: bool = False


@dataclass(slots=True, eq=False)
class _Connection:
    """One client."""

    writer: asyncio.StreamWriter
    grant: Grant
    requests: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    streams: int = 0  # of the requests, those without an end: they keep nobody waiting
    bytes_in_flight: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def has_room(self) -> bool:
        """Whether one more request may be under way."""
        return len(self.requests) - self.streams < REQUESTS_IN_FLIGHT and self.bytes_in_flight < BYTES_IN_FLIGHT

    async def send(self, kind: str, correlation: int, body: dict[str, Any]) -> None:
        frame = wire.encode_frame(kind, correlation, 0, body)
        async with self.sending:
            self.writer.write(frame)
            await self.writer.drain()


class Gateway(Actor):
    """Serves the socket."""

    def __init__(
        self, address: Address, desk: Desk, grants: Grants, *, server: str, model: str, within_s: float
    ) -> None:
        self._address = address
        self._desk = desk
        self._grants = grants
        self._server_name = server
        self._model = model
        self._within_s = within_s
        self._connections: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def started(self, ctx: Context) -> None:
        listener = await _listen(self._address)
        self._listening = await asyncio.start_unix_server(self._accepted, sock=listener, limit=READ_BYTES)

    async def handle(self, message: object, ctx: Context) -> object:
        return None

    async def closed(self) -> None:
        if self._listening is None:
            return
        self._listening.close()
        self._address.path.unlink(missing_ok=True)
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # --- one connection ---

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Converse in a task of our own: that of asyncio's streams reports being cancelled as an error."""
        if len(self._connections) >= CONNECTIONS:
            full = Overloaded("too many connections", hint="close one, or try again shortly", retry_after=1.0)
            writer.write(wire.encode_frame("error", 0, 0, wire.error_body(full)))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._connected(reader, writer), name="connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        metrics.CONNECTIONS.inc()
        try:
            await self._converse(reader, writer)
        except asyncio.CancelledError:
            raise
        except (ConnectionError, TimeoutError):
            pass  # the client went away, or never said hello
        except Exception as error:
            log.warning("connection_failed", error=type(error).__name__, exc_info=error)
        finally:
            metrics.CONNECTIONS.dec()
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = _frames(reader)
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(HELLO_WITHIN_S):
                connection = await self._hello(frames, writer)
            async for frame in frames:
                await self._take(connection, frame)
        except MemorydError as error:
            metrics.REQUESTS.labels("frame", type(error).__name__).inc()
            writer.write(wire.encode_frame("error", 0, 0, wire.error_body(error)))
            await writer.drain()
        finally:
            if connection is not None:
                tasks = list(connection.requests.values())
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _hello(self, frames: AsyncIterator[wire.Frame], writer: asyncio.StreamWriter) -> _Connection:
        frame = await anext(frames, None)
        if frame is None:
            raise ConnectionResetError
        if frame.kind != "hello":
            raise BadFrame("the first frame is not hello", field="kind", hint="see docs/protocol.md")
        hello = wire.from_body(frame.body, wire.Hello)
        if hello.version != wire.VERSION:
            raise Unsupported(
                "another version of the protocol", field="version", hint=f"this daemon speaks {wire.VERSION}"
            )
        grant = self._grants.resolve(_peer_uid(writer), hello.token)
        connection = _Connection(writer, grant)
        welcome = wire.Welcome(
            version=wire.VERSION, server=self._server_name, user=grant.default or "", model=self._model
        )
        await connection.send("ok", frame.correlation, wire.to_body(welcome))
        return connection

    async def _take(self, connection: _Connection, frame: wire.Frame) -> None:
        """Begin a request, or wait until there is room for it."""
        if frame.kind == "cancel":
            task = connection.requests.get(frame.correlation)
            if task is not None:
                task.cancel()
            return
        if frame.correlation in connection.requests:
            raise BadFrame("correlation in use", field="correlation", hint="count upwards")
        is_stream = frame.kind == "subscribe"
        if is_stream and connection.streams >= STREAMS:
            many = Overloaded("too many subscriptions", hint="use another connection, or cancel one")
            await connection.send("error", frame.correlation, wire.error_body(many))
            return
        while not is_stream and not connection.has_room:
            connection.room.clear()
            await connection.room.wait()
        connection.streams += is_stream
        connection.bytes_in_flight += frame.size

        def done(_: asyncio.Task[None]) -> None:
            connection.requests.pop(frame.correlation, None)
            connection.streams -= is_stream
            connection.bytes_in_flight -= frame.size
            connection.room.set()

        task = asyncio.get_running_loop().create_task(self._serve(connection, frame), name=f"request/{frame.kind}")
        connection.requests[frame.correlation] = task
        task.add_done_callback(done)

    async def _serve(self, connection: _Connection, frame: wire.Frame) -> None:
        try:
            named, message = wire.request_of(frame)
            if isinstance(message, m.Subscribe):
                await self._stream(
                    connection, frame, connection.grant.user(named) if named is not None else None, message
                )
                return
            deadline = Deadline.after(min(frame.deadline_ms / 1000 or self._within_s, LONGEST_S))
            reply = await self._desk.answer(connection.grant.user(named), message, deadline)
            if isinstance(reply, m.Tree):
                reply = _as_granted(reply, connection.grant)
            await connection.send("ok", frame.correlation, wire.to_body(reply))
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            pass  # nobody is left to tell
        except Exception as error:
            if not isinstance(error, MemorydError):
                log.warning("request_failed", kind=frame.kind, error=type(error).__name__, exc_info=error)
            with contextlib.suppress(ConnectionError):
                await connection.send("error", frame.correlation, wire.error_body(as_error(error)))

    async def _stream(
        self, connection: _Connection, frame: wire.Frame, user: UserId | None, message: m.Subscribe
    ) -> None:
        await connection.send("ok", frame.correlation, {})
        async for events in self._desk.subscribe(connection.grant, user, message):
            for event in events:
                await connection.send("event", frame.correlation, wire.to_body(event))


def _as_granted(tree: m.Tree, grant: Grant) -> m.Tree:
    """Leave out the agents of users that the grant does not name."""
    if grant.users is None:
        return tree
    hidden = (each for each in tree.actors if each.path.startswith("user/") and each.path[5:] not in grant.users)
    paths = {each.path for each in hidden}
    return m.Tree(actors=tuple(each for each in tree.actors if each.path not in paths))


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[wire.Frame]:
    decoder = wire.Decoder()
    while data := await reader.read(READ_BYTES):
        for frame in decoder.feed(data):
            yield frame


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


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    """Return the user id of the process at the other end (SO_PEERCRED, socket(7))."""
    size = struct.calcsize("3i")
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)
