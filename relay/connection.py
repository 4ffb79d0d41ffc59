"""One client of the gateway: from its hello to the answers of its requests.

What a connection can hold is bounded: frames, requests under way, bytes under way, and the time to say hello.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from memoryd import metrics
from memoryd.actors.context import as_error
from memoryd.actors.mailbox import Deadline
from memoryd.protocol import messages as m
from memoryd.protocol import wire
from memoryd.protocol.errors import BadFrame, MemorydError, Overloaded, Unsupported
from memoryd.protocol.stream import FrameStream

if TYPE_CHECKING:
    from memoryd.protocol.ids import UserId
    from memoryd.relay.desk import Desk
    from memoryd.relay.grants import Grant, Grants

log = structlog.get_logger("memoryd.gateway")

HELLO_WITHIN_S: Final = 2.0
REQUESTS_IN_FLIGHT: Final = 64
STREAMS: Final = 64
STREAMED: Final = frozenset({"subscribe", "backup"})  # the kinds that are answered by a stream
BYTES_IN_FLIGHT: Final = 8 << 20
CONNECTIONS: Final = 256
LONGEST_S: Final = 600.0


@dataclass(slots=True, eq=False)
class Reception:
    """What all connections share. `within_s` is the time of a request that names none."""

    desk: Desk
    grants: Grants
    server: str
    model: str
    within_s: float
    connections: set[Connection] = field(default_factory=set)


class Connection(FrameStream):
    """One client."""

    def __init__(self, reception: Reception) -> None:
        super().__init__()
        self._reception = reception
        self._grant: Grant | None = None  # none before hello
        self._patience: asyncio.TimerHandle | None = None
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._streams = 0  # of the requests, those without an end: they keep nobody waiting
        self._bytes_in_flight = 0
        self._next: wire.Frame | None = None  # a request that waits for room

    async def close(self) -> None:
        """Give up what is under way and hang up."""
        tasks = list(self._requests.values())
        for task in tasks:
            task.cancel()
        self._transport.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what happens to the socket ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._reception.connections) >= CONNECTIONS:
            self.failed(Overloaded("too many connections", hint="close one, or try again shortly", retry_after=1.0))
            return
        self._reception.connections.add(self)
        metrics.CONNECTIONS.inc()
        self._patience = asyncio.get_running_loop().call_later(HELLO_WITHIN_S, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()
        for task in self._requests.values():
            task.cancel()
        if self in self._reception.connections:
            self._reception.connections.remove(self)
            metrics.CONNECTIONS.dec()

    # --- frames ---

    def take(self, frame: wire.Frame) -> None:
        if self._grant is None:
            self._grant = self._hello(frame)
        elif frame.kind == "cancel":
            if task := self._requests.get(frame.correlation):
                task.cancel()
        elif frame.correlation in self._requests:
            raise BadFrame("correlation in use", field="correlation", hint="count upwards")
        elif self._has_room(frame):
            self._begin(frame, self._grant)
        else:
            self._next = frame

    @property
    def has_room(self) -> bool:
        return self._next is None

    def failed(self, error: Exception) -> None:
        if not isinstance(error, MemorydError):
            log.warning("connection_failed", error=type(error).__name__, exc_info=error)
        metrics.REQUESTS.labels("frame", type(error).__name__).inc()
        self._transport.write(wire.encode_frame("error", 0, 0, wire.error_body(as_error(error))))
        self._transport.close()

    def _hello(self, frame: wire.Frame) -> Grant:
        if frame.kind != "hello":
            raise BadFrame("the first frame is not hello", field="kind", hint="see docs/protocol.md")
        hello = wire.from_body(frame.body, wire.Hello)
        if hello.version != wire.VERSION:
            raise Unsupported(
                "another version of the protocol", field="version", hint=f"this daemon speaks {wire.VERSION}"
            )
        grant = self._reception.grants.resolve(_peer_uid(self._transport), hello.token)
        if self._patience is not None:
            self._patience.cancel()
        welcome = wire.Welcome(
            version=wire.VERSION,
            server=self._reception.server,
            user=grant.default or "",
            model=self._reception.model,
        )
        self._transport.write(wire.encode_frame("ok", frame.correlation, 0, wire.to_body(welcome)))
        return grant

    # --- requests ---

    def _is_stream(self, frame: wire.Frame) -> bool:
        """Whether a request is a stream there is room for."""
        return frame.kind in STREAMED and self._streams < STREAMS

    def _has_room(self, frame: wire.Frame) -> bool:
        """Whether one more request may be under way."""
        requests = len(self._requests) - self._streams
        return self._is_stream(frame) or (requests < REQUESTS_IN_FLIGHT and self._bytes_in_flight < BYTES_IN_FLIGHT)

    def _begin(self, frame: wire.Frame, grant: Grant) -> None:
        is_stream = self._is_stream(frame)
        self._streams += is_stream
        self._bytes_in_flight += frame.size

        def done(_: asyncio.Task[None]) -> None:
            del self._requests[frame.correlation]
            self._streams -= is_stream
            self._bytes_in_flight -= frame.size
            waited = self._next
            if waited is not None and self._has_room(waited) and not self._transport.is_closing():
                self._next = None
                self._begin(waited, grant)
                self.take_more()

        task = asyncio.get_running_loop().create_task(
            self._serve(frame, grant, is_stream), name=f"request/{frame.kind}"
        )
        self._requests[frame.correlation] = task
        task.add_done_callback(done)

    async def _serve(self, frame: wire.Frame, grant: Grant, is_stream: bool) -> None:  # noqa: FBT001 - private
        try:
            named, message = wire.request_of(frame)
            if frame.kind in STREAMED:
                await self._stream(frame, grant, named, message, has_room=is_stream)
            else:
                await self._answer(frame, grant, grant.user(named), message)
        except ConnectionError:
            pass  # nobody is left to tell
        except Exception as error:
            if not isinstance(error, MemorydError):
                log.warning("request_failed", kind=frame.kind, error=type(error).__name__, exc_info=error)
            with contextlib.suppress(ConnectionError):
                await self.send("error", frame.correlation, 0, wire.error_body(as_error(error)))

    async def _answer(self, frame: wire.Frame, grant: Grant, user: UserId, message: m.Ask[object]) -> None:
        deadline = Deadline.after(min(frame.deadline_ms / 1000 or self._reception.within_s, LONGEST_S))
        reply = await self._reception.desk.answer(user, message, deadline)
        if isinstance(reply, m.Tree):
            reply = _as_granted(reply, grant)
        await self.send("ok", frame.correlation, 0, wire.to_body(reply))

    async def _stream(
        self, frame: wire.Frame, grant: Grant, named: str | None, message: m.Ask[object], *, has_room: bool
    ) -> None:
        if not has_room:
            raise Overloaded("too many streams", hint="use another connection, or cancel one")
        if isinstance(message, m.Subscribe):
            await self._subscribe(frame, grant, grant.user(named) if named is not None else None, message)
        elif isinstance(message, m.Backup):
            await self._back_up(frame, grant, message)

    async def _subscribe(self, frame: wire.Frame, grant: Grant, user: UserId | None, message: m.Subscribe) -> None:
        await self.send("ok", frame.correlation, 0, {})
        async for events in self._reception.desk.subscribe(grant, user, message):
            for event in events:
                await self.send("event", frame.correlation, 0, wire.to_body(event))

    async def _back_up(self, frame: wire.Frame, grant: Grant, message: m.Backup) -> None:
        async with self._reception.desk.backup(grant, message) as step:
            progress = await step()  # what is wrong from the beginning is the answer
            await self.send("ok", frame.correlation, 0, {})
            await self.send("event", frame.correlation, 0, wire.to_body(progress))
            while progress.made is None:
                progress = await step()
                await self.send("event", frame.correlation, 0, wire.to_body(progress))
        await self.send("end", frame.correlation, 0, {})


def _as_granted(tree: m.Tree, grant: Grant) -> m.Tree:
    """Leave out the agents of users that the grant does not name."""
    if grant.users is None:
        return tree
    hidden = (each for each in tree.actors if each.path.startswith("user/") and each.path[5:] not in grant.users)
    paths = {each.path for each in hidden}
    return m.Tree(actors=tuple(each for each in tree.actors if each.path not in paths))


def _peer_uid(transport: asyncio.BaseTransport) -> int:
    """Return the user id of the process at the other end (SO_PEERCRED, socket(7))."""
    size = struct.calcsize("3i")
    raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)
