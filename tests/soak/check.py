"""Holds a living daemon against the ledgers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tests.soak.clients import sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from memoryd import Memory, MemoryRecord
    from tests.soak.ledger import Ledger


async def at_once(memory: Memory, ledger: Ledger) -> AsyncIterator[str]:
    """Yield what is broken of the promises that hold from the first moment."""
    for what in ledger.check(await _records(memory, ledger.user), caught_up=False):
        yield f"{ledger.user}, at once: {what}"


async def caught_up(memory: Memory, ledger: Ledger, mark: str) -> AsyncIterator[str]:
    """Let the memory catch up with its events, and yield every broken promise; from here on the ledger knows all."""
    # Events of one user are applied in order: when this one is committed, so are all before it.
    event = msgspec.structs.replace(sample()[0], id=f"{mark}-{ledger.user}", session_id=mark, run_id=mark)
    ledger.send_events([event])
    await memory.publish([event], user=ledger.user, ack="committed")
    ledger.acknowledge_events([event], "committed")
    for what in ledger.check(await _records(memory, ledger.user), caught_up=True):
        yield f"{ledger.user}: {what}"
    for what in ledger.check_trajectories(await memory.trajectories(user=ledger.user, limit=1024)):
        yield f"{ledger.user}: {what}"


async def sound(memory: Memory, ledger: Ledger) -> AsyncIterator[str]:
    """Yield what the daemon itself finds wrong with the user's file, and the events it put aside."""
    if ledger.records:
        for finding in await memory.verify(user=ledger.user):
            yield f"{ledger.user}: verify: {finding.what} at byte {finding.offset}"
    for item in await memory.parked(user=ledger.user):
        yield f"{ledger.user}: event {item.event_id} was put aside: {item.error}"


async def _records(memory: Memory, user: str) -> list[MemoryRecord]:
    return [record async for page in memory.export(user=user) for record in page.records]
