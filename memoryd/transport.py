"""How a client's requests reach a daemon: over the Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

from memoryd.protocol import wire
from memoryd.protocol.errors import Expired, MemorydError, Unreachable
from memoryd.protocol.events import StoredEvent
from memoryd.protocol.messages import KIND_OF, REPLIES, Ask, Subscribe

R = TypeVar("R")

READ_BYTES: Final = 1 << 16
HELLO_WITHIN_S: Final = 10.0
GRACE_S: Final = 0.5  # how much longer than its deadline a client waits for the daemon's own word
STREAM_EVENTS: Final = 256


class Transport(Protocol):
    """Carries requests to a tree of actors, in this process or another."""

    async def request(self, user: str | None, message: Ask[R], within_s: float) -> R:
        """Return the reply. Raises MemorydError."""
        ...

    def stream(self, user: str | None, message: Subscribe) -> AsyncIterator[StoredEvent]:
        """Yield the events of a subscription. Raises MemorydError."""
        ...

    async def close(self) -> None: ...


class SocketTransport:
    """One connection; requests overlap, and each answer finds its request by its correlation."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket: Path, token: str) -> None:
        self._socket = socket
        self._token = token
        self._reader = reader
        self._writer = writer
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Queue[wire.Frame | MemorydError]] = {}
        self._broken: MemorydError | None = None
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        self.welcome: wire.Welcome | None = None

    @classmethod
    async def connect(cls, socket: Path, token: str) -> SocketTransport:
        """Connect and say hello. Raises Unreachable or Forbidden."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(socket), limit=READ_BYTES)
        except OSError as error:
            raise Unreachable(
                f"no daemon listens at {socket}", hint="start one with: memoryd serve", errno=error.errno
            ) from error
        transport = cls(reader, writer, socket, token)
        try:
            hello = wire.Hello(version=wire.VERSION, token=token)
            body = await transport._exchange("hello", wire.to_body(hello), HELLO_WITHIN_S)
            transport.welcome = wire.from_body(body, wire.Welcome)
        except BaseException:
            await transport.close()
            raise
        return transport

    async def request(self, user: str | None, message: Ask[R], within_s: float) -> R:
        body = wire.to_body(message)
        if user is not None:
            body["user"] = user
        kind = KIND_OF[type(message)]
        reply = wire.from_body(await self._exchange(kind, body, within_s), REPLIES[type(message)])
        return cast("R", reply)  # REPLIES pairs every message with its reply

    async def stream(self, user: str | None, message: Subscribe) -> AsyncIterator[StoredEvent]:
        # On a connection of its own: a reader that takes its time must not hold up the answers to other requests.
        own = await SocketTransport.connect(self._socket, self._token)
        try:
            async for event in own.events(user, message):
                yield event
        finally:
            await own.close()

    async def events(self, user: str | None, message: Subscribe) -> AsyncIterator[StoredEvent]:
        """Yield the events of the one subscription this connection is for."""
        number, answers = self._open(maxsize=STREAM_EVENTS)
        body = wire.to_body(message)
        if user is not None:
            body["user"] = user
        await self._send("subscribe", number, 0, body)
        while True:
            frame = await answers.get()
            if isinstance(frame, MemorydError):
                raise frame
            if frame.kind == "error":
                raise wire.error_of(frame.body)
            if frame.kind == "event":
                yield wire.from_body(frame.body, StoredEvent)

    async def close(self) -> None:
        self._listening.cancel()
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._writer.wait_closed()

    async def _exchange(self, kind: str, body: dict[str, Any], within_s: float) -> dict[str, Any]:
        number, answers = self._open(maxsize=1)
        try:
            async with asyncio.timeout(within_s + GRACE_S):
                await self._send(kind, number, max(1, int(within_s * 1000)), body)
                frame = await answers.get()
        except TimeoutError:
            with contextlib.suppress(MemorydError, ConnectionError):
                await self._send("cancel", number, 0, {})
            raise Expired("no answer in time", hint="allow more time, or see memoryd status") from None
        finally:
            self._answers.pop(number, None)
        if isinstance(frame, MemorydError):
            raise frame
        if frame.kind == "error":
            raise wire.error_of(frame.body)
        return frame.body

    def _open(self, maxsize: int) -> tuple[int, asyncio.Queue[wire.Frame | MemorydError]]:
        if self._broken is not None:
            raise self._broken
        number = next(self._numbers)
        answers: asyncio.Queue[wire.Frame | MemorydError] = asyncio.Queue(maxsize)
        self._answers[number] = answers
        return number, answers

    async def _send(self, kind: str, number: int, deadline_ms: int, body: dict[str, Any]) -> None:
        try:
            self._writer.write(wire.encode_frame(kind, number, deadline_ms, body))
            await self._writer.drain()
        except OSError as error:
            raise self._broken or _gone() from error

    async def _listen(self) -> None:
        """Hand every frame to whoever waits for it. A full stream makes the daemon wait, and then cut it off."""
        decoder = wire.Decoder()
        failure: MemorydError = _gone()
        try:
            while data := await self._reader.read(READ_BYTES):
                for frame in decoder.feed(data):
                    if frame.correlation == 0 and frame.kind == "error":
                        failure = wire.error_of(frame.body)
                        return
                    answers = self._answers.get(frame.correlation)
                    if answers is not None:
                        await answers.put(frame)
        except OSError:
            pass  # the daemon went away; `failure` says so
        except MemorydError as error:
            failure = error
        finally:
            self._broken = failure
            for answers in self._answers.values():
                if answers.full():
                    answers.get_nowait()
                answers.put_nowait(failure)


def _gone() -> MemorydError:
    return Unreachable("the daemon closed the connection", hint="see its log, or start it with: memoryd serve")
