"""How a client's requests reach a daemon: over the Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

from msgspec import Struct

from memoryd.protocol import wire
from memoryd.protocol.errors import Expired, MemorydError, Unreachable
from memoryd.protocol.messages import KIND_OF, REPLIES, Ask
from memoryd.protocol.stream import FrameStream

R = TypeVar("R")
S = TypeVar("S", bound=Struct)

HELLO_WITHIN_S: Final = 10.0
STREAM_WITHIN_S: Final = 60.0  # until it begins; after that it takes as long as it takes
GRACE_S: Final = 0.5  # how much longer than its deadline a client waits for the daemon's own word
STREAM_ITEMS: Final = 256


class Transport(Protocol):
    """Carries requests to a tree of actors, in this process or another."""

    async def request(self, user: str | None, message: Ask[R], within_s: float) -> R:
        """Return the reply. Raises MemorydError."""
        ...

    def stream(self, user: str | None, message: Ask[object], item: type[S]) -> AsyncIterator[S]:
        """Yield what answers a subscription or a backup, each of it an `item`. Raises MemorydError."""
        ...

    async def close(self) -> None: ...


class SocketTransport(FrameStream):
    """One connection; requests overlap, and each answer finds its request by its correlation."""

    def __init__(self, socket: Path, token: str) -> None:
        super().__init__()
        self._socket = socket
        self._token = token
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[wire.Frame]] = {}
        self._streamed = 0  # the one request that is answered more than once
        self._items: asyncio.Queue[wire.Frame | None] = asyncio.Queue()  # None: there will be no more
        self._broken: MemorydError | None = None
        self._closed = asyncio.Event()
        self.welcome: wire.Welcome | None = None

    @classmethod
    async def connect(cls, socket: Path, token: str) -> SocketTransport:
        """Connect and say hello. Raises Unreachable or Forbidden."""
        try:
            _, transport = await asyncio.get_running_loop().create_unix_connection(
                lambda: cls(socket, token), str(socket)
            )
        except OSError as error:
            raise Unreachable(
                f"no daemon listens at {socket}", hint="start one with: memoryd serve", errno=error.errno
            ) from error
        try:
            await transport.hello()
        except BaseException:
            await transport.close()
            raise
        return transport

    async def hello(self) -> None:
        """Introduce ourselves. Raises Forbidden."""
        hello = wire.Hello(version=wire.VERSION, token=self._token)
        self.welcome = wire.from_body(await self._exchange("hello", wire.to_body(hello), HELLO_WITHIN_S), wire.Welcome)

    async def request(self, user: str | None, message: Ask[R], within_s: float) -> R:
        body = wire.to_body(message)
        if user is not None:
            body["user"] = user
        kind = KIND_OF[type(message)]
        reply = wire.from_body(await self._exchange(kind, body, within_s), REPLIES[type(message)])
        return cast("R", reply)  # REPLIES pairs every message with its reply

    async def stream(self, user: str | None, message: Ask[object], item: type[S]) -> AsyncIterator[S]:
        # On a connection of its own: a reader that takes its time must not hold up the answers to other requests.
        own = await SocketTransport.connect(self._socket, self._token)
        try:
            async for each in own.items(user, message, item):
                yield each
        finally:
            await own.close()

    async def items(self, user: str | None, message: Ask[object], item: type[S]) -> AsyncIterator[S]:
        """Yield what comes of the one stream this connection is for."""
        body = wire.to_body(message)
        if user is not None:
            body["user"] = user
        self._streamed = next(self._numbers)
        await self._exchange(KIND_OF[type(message)], body, STREAM_WITHIN_S, self._streamed)
        while frame := await self._items.get():
            self.take_more()
            if frame.kind == "error":
                raise wire.error_of(frame.body)
            if frame.kind == "end":
                return
            yield wire.from_body(frame.body, item)
        raise self._lost()

    async def close(self) -> None:
        self._transport.close()
        await self._closed.wait()

    # --- what arrives ---

    def take(self, frame: wire.Frame) -> None:
        if frame.correlation == 0 and frame.kind == "error":
            raise wire.error_of(frame.body)
        answer = self._answers.pop(frame.correlation, None)
        if answer is not None and not answer.done():
            answer.set_result(frame)
        elif frame.correlation == self._streamed:
            self._items.put_nowait(frame)

    @property
    def has_room(self) -> bool:
        """Whether the reader of the stream keeps up. If not the daemon waits, and then cuts it off."""
        return self._items.qsize() < STREAM_ITEMS

    def failed(self, error: Exception) -> None:
        self._broken = error if isinstance(error, MemorydError) else _gone()
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._closed.set()
        self._broken = self._lost()
        self._items.put_nowait(None)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._broken)

    def _lost(self) -> MemorydError:
        return self._broken or _gone()

    async def _exchange(
        self, kind: str, body: dict[str, Any], within_s: float, number: int | None = None
    ) -> dict[str, Any]:
        if self._broken is not None:
            raise self._broken
        number = number or next(self._numbers)
        answer: asyncio.Future[wire.Frame] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            async with asyncio.timeout(within_s + GRACE_S):
                await self.send(kind, number, max(1, int(within_s * 1000)), body)
                frame = await answer
        except TimeoutError:
            if self._flowing.is_set():  # else the daemon does not read, and would not read this
                with contextlib.suppress(ConnectionError):
                    await self.send("cancel", number, 0, {})
            raise Expired("no answer in time", hint="allow more time, or see memoryd status") from None
        except ConnectionError as error:
            raise self._lost() from error
        finally:
            self._answers.pop(number, None)
        if frame.kind == "error":
            raise wire.error_of(frame.body)
        return frame.body


def _gone() -> MemorydError:
    return Unreachable("the daemon closed the connection", hint="see its log, or start it with: memoryd serve")
