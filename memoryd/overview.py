"""What the daemon says of itself: status, tree and the lateness of its event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from memoryd import metrics
from memoryd.actors.embedder import EmbedderActor
from memoryd.actors.memories import quarantined
from memoryd.protocol import messages as m
from memoryd.protocol.internal import ReadLogStatus
from memoryd.relay.memory_relay import RelayStatus
from memoryd.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.actors.application import Application
    from memoryd.actors.mailbox import Deadline
    from memoryd.actors.memories import Residents
    from memoryd.actors.slot import Slot
    from memoryd.protocol.errors import ModelUnavailable
    from memoryd.protocol.interfaces import MemoryStore, ModelInfo

log = structlog.get_logger("memoryd.app")

TICK_S: Final = 0.02
TICKS_KEPT: Final = 50_000  # about a quarter of an hour


class Stalls:
    """Measures how late the event loop runs what is due, in seconds."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=TICKS_KEPT)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due = time.perf_counter() + TICK_S
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def quantile_ms(self, share: float) -> float:
        """Return the lateness that `share` of the ticks stayed under, in milliseconds."""
        if not self._late:
            return 0.0
        ranked = sorted(self._late)
        return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))] * 1e3, 3)

    def _tick(self) -> None:
        now = time.perf_counter()
        late = max(0.0, now - self._due)
        self._late.append(late)
        metrics.STALLS.observe(late)
        self._due = now + TICK_S
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)


class Overview:
    """Gathers the figures of the whole tree."""

    def __init__(
        self,
        application: Application,
        residents: Residents,
        store: MemoryStore,
        model: ModelInfo,
        stalls: Stalls,
        data_dir: Path,
        socket: Path | None,
        *,
        is_learning: bool,
    ) -> None:
        self._application = application
        self._residents = residents
        self._store = store
        self._model = model
        self._stalls = stalls
        self._data_dir = data_dir
        self._socket = socket
        self._is_learning = is_learning
        self._began = time.monotonic()

    async def status(self, deadline: Deadline) -> m.Status:
        """Return how the daemon is."""
        events = await self._application.ref("event_relay").ask(ReadLogStatus(), deadline=deadline)
        progress = await self._application.ref("session/memory_relay").ask(RelayStatus(), deadline=deadline)
        states = self._residents.states()
        known = await asyncio.to_thread(self._count_users)
        embedder = self._embedder
        slots = [self._application.root, *self._application.places]
        return m.Status(
            version=VERSION,
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self._began, 3),
            data_dir=str(self._data_dir),
            socket=str(self._socket or ""),
            model=self._model.name,
            model_variant=self._model.variant,
            model_sha256=self._model.sha256,
            dim=self._model.dim,
            model_fault=str(self.model_fault or ""),
            users_known=known,
            users_resident=len(states),
            users_quarantined=quarantined(self._residents),
            records_resident=sum(state.records for state in states.values()),
            resident_bytes=sum(state.resident_bytes for state in states.values()),
            is_learning=self._is_learning,
            users_learning=sum(state.is_learning for state in states.values()),
            users_accepted=sum(state.last_fit == "accepted" for state in states.values()),
            users_refused=sum(state.last_fit == "refused" for state in states.values()),
            rss_bytes=_rss_bytes(),
            events_last_seq=events.last,
            lag_events=max(0, events.last - progress.low_water),
            parked_events=events.parked,
            unmapped=progress.unmapped,
            restarts=sum(slot.restarts for slot in slots) + sum(slot.restarts for _, slot in self._residents),
            embed_waiting=embedder.waiting if embedder else 0,
            loop_stall_p999_ms=self._stalls.quantile_ms(0.999),
            loop_stall_max_ms=self._stalls.quantile_ms(1.0),
            mailboxes=tuple(_mailbox(slot, 0) for slot in slots),
        )

    def tree(self) -> m.Tree:
        """Return every actor that has a place, parents before children."""
        slots = [self._application.root, *self._application.places]
        users = [slot for _, slot in self._residents]
        return m.Tree(actors=tuple(_mailbox(slot, 0) for slot in slots) + tuple(_mailbox(slot, 0) for slot in users))

    def measure(self) -> None:
        """Refresh the gauges that nobody sets in passing."""
        for slot in self._application.places:
            metrics.MAILBOX_DEPTH.labels(slot.path).set(slot.mailbox.depth)
            metrics.MAILBOX_AGE.labels(slot.path).set(slot.mailbox.oldest_age())

    def log_tree(self) -> None:
        """Write the tree into the log; called on SIGUSR1."""
        for each in self.tree().actors:
            log.info(
                "actor",
                path=each.path,
                phase=each.phase,
                depth=each.depth,
                oldest_s=each.oldest_s,
                restarts=each.restarts,
            )

    def _count_users(self) -> int:
        return sum(1 for _ in self._store.users())

    @property
    def model_fault(self) -> ModelUnavailable | None:
        """Why texts cannot be embedded, None if they can."""
        return self._embedder.fault if self._embedder else None

    @property
    def _embedder(self) -> EmbedderActor | None:
        return next((slot.actor for slot in self._application.places if isinstance(slot.actor, EmbedderActor)), None)


def _mailbox(slot: Slot, children: int) -> m.MailboxStatus:
    fault = slot.actor.fault if isinstance(slot.actor, EmbedderActor) else None
    return m.MailboxStatus(
        path=slot.path,
        phase=slot.phase,
        depth=slot.mailbox.depth,
        depth_bytes=slot.mailbox.depth_bytes,
        oldest_s=round(slot.mailbox.oldest_age(), 3),
        restarts=slot.restarts,
        children=children,
        last_error=fault.message if fault else slot.last_error,
    )


def _rss_bytes() -> int:
    """Return the resident memory of this process (proc(5): the second field of statm, in pages)."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - not a file of the store
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
