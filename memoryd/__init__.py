"""Episodic memory for systems of agents: publish events, recall what was like this before.

    async with memoryd.connect() as memory:
        await memory.publish(events, user="u1")
        recalled = await memory.recall("how did we fix the auth bug?", user="u1")

Importing this package is cheap: a name is loaded when it is first used, and no engine is loaded before `open` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.client import Memory
    from memoryd.protocol.errors import MemorydError
    from memoryd.protocol.events import Event, Receipt, StoredEvent
    from memoryd.protocol.messages import Recalled, Status
    from memoryd.protocol.records import (
        CONTEXT_RELEVANCE,
        Draft,
        MemoryFilter,
        MemoryKind,
        MemoryRecord,
        MemorySource,
        RetrievedMemory,
        Trajectory,
    )
    from memoryd.version import VERSION as __version__

__all__ = [
    "CONTEXT_RELEVANCE",
    "Draft",
    "Event",
    "Memory",
    "MemoryFilter",
    "MemoryKind",
    "MemoryRecord",
    "MemorySource",
    "MemorydError",
    "Recalled",
    "Receipt",
    "RetrievedMemory",
    "Status",
    "StoredEvent",
    "Trajectory",
    "__version__",
    "connect",
    "open",
]

_HOMES = {
    "CONTEXT_RELEVANCE": "memoryd.protocol.records",
    "Draft": "memoryd.protocol.records",
    "Event": "memoryd.protocol.events",
    "Memory": "memoryd.client",
    "MemoryFilter": "memoryd.protocol.records",
    "MemoryKind": "memoryd.protocol.records",
    "MemoryRecord": "memoryd.protocol.records",
    "MemorySource": "memoryd.protocol.records",
    "MemorydError": "memoryd.protocol.errors",
    "Recalled": "memoryd.protocol.messages",
    "Receipt": "memoryd.protocol.events",
    "RetrievedMemory": "memoryd.protocol.records",
    "Status": "memoryd.protocol.messages",
    "StoredEvent": "memoryd.protocol.events",
    "Trajectory": "memoryd.protocol.records",
}


def connect(socket: str | Path | None = None, *, token: str | None = None) -> Memory:
    """Return a client of the daemon at `socket`; without one, the default of this machine and user.

    `token` is taken from MEMORYD_TOKEN when it is not given. Use it with `async with`, which raises Unreachable when no
    daemon listens.
    """
    from memoryd import client

    return client.connect(socket, token=token)


def open(data_dir: str | Path | None = None) -> Memory:  # noqa: A001 - the name says what it does
    """Return a memory that runs in this process: the same tree and methods as the daemon's, without a socket."""
    from memoryd.app import open_memory
    from memoryd.config import load

    return open_memory(load(overrides={"server.data_dir": str(data_dir) if data_dir is not None else None}))


def __getattr__(name: str) -> object:
    if name == "__version__":
        from memoryd.version import VERSION

        return VERSION
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'memoryd' has no attribute {name!r}")
