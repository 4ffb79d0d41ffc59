"""A daemon inside the test's process, on real files, that must leave nothing behind.

    async with running(tmp_path) as house:
        await house.memory.remember("added a mutex", user="alice")

The memory speaks to the tree directly, or with `listen=True` through the socket. At the end the daemon is stopped, and
the test fails when a task, a thread or a descriptor is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
import structlog

import memoryd
from memoryd import log as logging
from memoryd.actors.context import TaskFailed
from memoryd.actors.slot import Phase, Slot
from memoryd.app import Daemon, LocalTransport
from memoryd.client import Memory
from memoryd.config import Config
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol import wire
from memoryd.protocol.errors import MemorydError
from memoryd.protocol.events import Event
from memoryd.protocol.ids import EventId, UserId

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Embedder, Embeddings
    from memoryd.protocol.messages import Recalled
    from memoryd.protocol.records import MemoryRecord
    from memoryd.transport import Transport

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENCE_S = 20.0  # what a condition may take on a busy machine; nothing waits this long when all is well


class PoisonedEmbedder(HashingEmbedder):
    """Fails on every text that holds the word, as long as it is poisoned."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word
        self.is_poisoned = True

    def embed(self, texts: Iterable[str], running: Callable[[], None] | None = None) -> Embeddings:
        texts = list(texts)
        for text in texts:
            if self.is_poisoned and self.word in text:
                raise ValueError(f"cannot embed {text!r}")  # as foreign code does, it quotes
        return super().embed(texts, running)


class HeldEmbedder(HashingEmbedder):
    """Waits before every text that holds the word `slow`, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.waiting = 0

    def embed(self, texts: Iterable[str], running: Callable[[], None] | None = None) -> Embeddings:
        texts = list(texts)
        if any("slow" in text for text in texts):
            self.waiting += 1
            assert self.go.wait(PATIENCE_S)
        return super().embed(texts, running)


@dataclass(slots=True)
class House:
    """A running daemon, a memory that its owner uses, and ways to disturb it."""

    daemon: Daemon
    root: Path
    memory: Memory
    _open: list[Memory] = field(default_factory=list)

    async def connect(self, token: str = "") -> Memory:
        """Return a client on a connection of its own, closed with the house."""
        client = memoryd.connect(self.daemon.socket, token=token)
        await client.__aenter__()
        self._open.append(client)
        return client

    async def raw(self) -> Raw:
        """Return a connection to the socket without any manners."""
        return Raw(*await asyncio.open_unix_connection(str(self.daemon.socket)))

    async def raw_as(self, uid: int) -> Raw:
        """Return a connection that another system user opened; only root can make one."""
        self.daemon.socket.chmod(0o666)
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.seteuid(uid)  # what the kernel notes of a peer is who it is while it connects
        try:
            client.connect(str(self.daemon.socket))
        except OSError:
            client.close()
            raise
        finally:
            os.seteuid(0)
        client.setblocking(False)
        return Raw(*await asyncio.open_unix_connection(sock=client))

    def slot(self, name: str) -> Slot:
        """Return the place of a permanent actor, by the end of its path."""
        return next(slot for slot in self.daemon.application.places if slot.path.endswith(f"/{name}"))

    def user_slot(self, user: str) -> Slot | None:
        return self.daemon.residents.known(UserId(user))

    async def kill(self, slot: Slot) -> None:
        """Have an actor fail as if work beside its mailbox had raised, and wait until another one runs."""
        before = slot.incarnations
        slot.mailbox.put_control(TaskFailed(RuntimeError("killed by a test")))
        await until(lambda: slot.incarnations > before and slot.phase is Phase.RUNNING)

    async def settled(self) -> None:
        """Wait until every stored event is committed by its user, or put aside."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.memory.status()).lag_events:
                await asyncio.sleep(0.01)

    async def passivated(self, user: str) -> None:
        """Wait until the user is cold."""
        await until(lambda: self.user_slot(user) is None)

    def file(self, user: str) -> Path:
        return self.root / user / "memory.rvf"

    async def close_clients(self) -> None:
        for client in self._open:
            await client.__aexit__(None, None, None)
        self._open.clear()


@dataclass(slots=True)
class Raw:
    """A bare connection: bytes out, frames in."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _decoder: wire.Decoder = field(default_factory=wire.Decoder)
    _frames: list[wire.Frame] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def hello(self, token: str = "", version: int = wire.VERSION) -> wire.Frame | None:
        return await self.ask("hello", 1, {"version": version, "token": token})

    async def ask(
        self, kind: str, correlation: int, body: dict[str, object], deadline_ms: int = 0
    ) -> wire.Frame | None:
        await self.send(wire.encode_frame(kind, correlation, deadline_ms, body))
        return await self.answer()

    async def send(self, data: bytes) -> None:
        """Write bytes; a daemon that has hung up is no error here."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def answer(self) -> wire.Frame | None:
        """Return the next frame, None when the daemon hung up."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._frames:
                try:
                    data = await self.reader.read(1 << 16)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    async def error(self) -> MemorydError | None:
        """Return the error in the next frame, None when the daemon hung up without a word."""
        frame = await self.answer()
        if frame is None:
            return None
        assert frame.kind == "error", frame
        return wire.error_of(frame.body)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def config_of(root: Path, socket_path: Path, **sections: dict[str, object]) -> Config:
    """Return the configuration of a test: commits come soon, one thread embeds."""
    tree: dict[str, dict[str, object]] = {
        "server": {"data_dir": str(root), "socket": str(socket_path)},
        "embedding": {"threads": 1},
        "memory": {"commit_after_s": 0.02},
    }
    for name, settings in sections.items():
        tree[name] = {**tree.get(name, {}), **settings}
    return msgspec.convert(tree, Config)


@asynccontextmanager
async def running(
    folder: Path,
    *,
    listen: bool = False,
    embedder: Embedder | None = None,
    model: Path | None = None,
    before_start: Callable[[Daemon], None] = lambda _: None,
    **sections: dict[str, object],
) -> AsyncIterator[House]:
    """Run a daemon on `folder / "data"`; its settings are given by section, `memory={"idle_after_s": 1.0}`.

    Without the folder of a `model`, it embeds by `embedder`, if not given by hashing.
    """
    before = _Left.now()
    if model is not None:
        sections["embedding"] = {"model": str(model)}
    elif embedder is None:
        embedder = HashingEmbedder()
    root = folder / "data"
    logging.configure("json", "info")
    daemon = Daemon(config_of(root, folder / "d.sock", **sections), listen=listen, embedder=embedder)
    before_start(daemon)
    await daemon.start()

    async def transport() -> Transport:
        return _Borrowed(daemon)

    memory = memoryd.connect(daemon.socket, token="") if listen else Memory(transport)
    house = House(daemon, root, memory)
    try:
        async with memory:
            yield house
    finally:
        await house.close_clients()
        await daemon.stop()
        structlog.reset_defaults()
        await before.nothing_else_is_left()


class _Borrowed(LocalTransport):
    """Requests to a daemon that somebody else stops."""

    async def close(self) -> None:
        """Leave the daemon alone."""


@dataclass(frozen=True, slots=True)
class _Left:
    """What a process holds that a daemon may not leave behind."""

    tasks: frozenset[asyncio.Task[object]]
    threads: frozenset[str]
    descriptors: frozenset[str]

    @classmethod
    def now(cls) -> _Left:
        threads = (thread.name for thread in threading.enumerate())
        return cls(
            frozenset(asyncio.all_tasks()),
            # The loop's own pool keeps its threads until the loop is closed.
            frozenset(name for name in threads if not name.startswith(("asyncio_", "uvloop_"))),
            frozenset(_descriptors()),
        )

    async def nothing_else_is_left(self) -> None:
        """Fail unless all is as before; what the loop closes in its next turns is waited for."""
        for turn in range(1_000):
            after = _Left.now()
            left = (after.tasks - self.tasks, after.threads - self.threads, after.descriptors - self.descriptors)
            if not any(left):
                return
            if turn % 100 == 10:
                gc.collect()  # what waits in a cycle for its finaliser
            await asyncio.sleep(0.002)
        raise AssertionError(f"the daemon left behind: {left}")


def _descriptors() -> Iterable[str]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(link.readlink())
            # libuv keeps one spare descriptor for each loop that listens.
            if not target.startswith(("/proc", "/dev/null")):
                yield f"{link.name} -> {target}"


async def until(condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Wait until the condition holds; TimeoutError when it never does."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


def event(name: str, text: str, type_: str = "chat.user_msg", **fields: object) -> Event:
    """Return an event that says `text`; its moment follows from nothing but its place in `fields`."""
    payload = {"text": text, **fields.pop("payload", {})}
    known: dict[str, object] = {"timestamp": NOON, **fields}
    return Event(id=EventId(name), type=type_, payload=payload, **known)


def events(count: int, prefix: str = "e", first: int = 0) -> list[Event]:
    """Return events that can be told apart, a minute between them."""
    return [
        event(f"{prefix}{number}", f"{prefix} message {number}", timestamp=NOON + timedelta(minutes=number))
        for number in range(first, first + count)
    ]


def texts(recalled: Recalled) -> list[str]:
    return [each.record.text for each in recalled.memories]


async def exported(memory: Memory, user: str) -> list[MemoryRecord]:
    """Return every record of a user with its vector, in the order of arrival."""
    return [record async for page in memory.export(user=user) for record in page.records]
