"""The composition root: configuration becomes engines, engines and actors become one running tree.

The only module that knows every part.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast
from zoneinfo import ZoneInfo

import faiss
import numpy.ma  # noqa: F401 - otherwise the first np.isin or np.unique waits for this import
import structlog
import ulid  # noqa: F401 - otherwise the first who makes an id waits for this import
import uvloop
from threadpoolctl import threadpool_limits

from memoryd import garbage, metrics
from memoryd import log as logging
from memoryd.actors.application import Application, Factories
from memoryd.actors.bus import EventBus
from memoryd.actors.embedder import EmbedderActor
from memoryd.actors.exits import Exit, Failed, reason
from memoryd.actors.knowledge import KnowledgeActor
from memoryd.actors.mailbox import Deadline
from memoryd.actors.memories import MemorySupervisor, Residency, Residents
from memoryd.actors.memory import MemoryAgent, MemoryLimits
from memoryd.actors.pools import Pools
from memoryd.actors.slot import Slot
from memoryd.actors.supervisor import Escalated
from memoryd.backup.creating import Backups
from memoryd.clock import SystemClock
from memoryd.config import Config
from memoryd.embedding.folder import resolve_model, stated_model
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.files import RealFiles
from memoryd.notify import notify
from memoryd.overview import Overview, Stalls
from memoryd.paths import default_data_dir, default_socket
from memoryd.protocol.errors import MemorydError
from memoryd.protocol.ids import UserId, user_id
from memoryd.protocol.interfaces import Contents, Embedder, Finding, ModelInfo
from memoryd.protocol.messages import Ask, Backup, Subscribe
from memoryd.relay.connection import Reception
from memoryd.relay.desk import Desk
from memoryd.relay.event_relay import EventRelay
from memoryd.relay.gateway import Address, Gateway
from memoryd.relay.grants import Grants, grant_of
from memoryd.relay.mapping import EventMapping, default_rules, rules_from_config
from memoryd.relay.memory_relay import MemoryEventRelay
from memoryd.rvf.store import RvfMemoryStore
from memoryd.sona.engine import NAME as LEARNING
from memoryd.sona.engine import Settings, SonaEngine
from memoryd.stores.datadir import EVENTS, GLOBAL, WORDS, DataDir
from memoryd.stores.events import SqliteEventStore
from memoryd.stores.globalfile import NAME as GLOBAL_NAME
from memoryd.stores.globalfile import GlobalFile
from memoryd.vectors.codes import Codebook
from memoryd.vectors.graph import link
from memoryd.vectors.index import VectorIndex
from memoryd.version import VERSION
from memoryd.words.checking import findings as check_words
from memoryd.words.hybrid import WordsIndex

if TYPE_CHECKING:
    from msgspec import Struct

    from memoryd.client import Memory
    from memoryd.transport import Transport

R = TypeVar("R")
S = TypeVar("S", bound="Struct")

log = structlog.get_logger("memoryd.app")

EXIT_GAVE_UP: Final = 70
DRAIN_WITHIN_S: Final = 20.0
SWITCH_INTERVAL_S: Final = 0.0001  # a fiftieth of Python's own
WATCH_EVERY_S: Final = 1.0
STUCK_AFTER_S: Final = 30.0  # a permanent actor with mail and no progress for so long stops the watchdog's ping
OPEN_FILES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Banner:
    """What the daemon says of itself when it is ready."""

    version: str
    model: str
    model_fault: str  # why there is none and how to mend that, empty if all is well
    data_dir: str
    socket: str
    users: int
    events: int
    ready_s: float


class Daemon:
    """One running tree over one data directory."""

    def __init__(self, config: Config, *, listen: bool, embedder: Embedder | None = None) -> None:
        """Open everything that can fail before an actor lives. Raises MemorydError with the mend."""
        self.began = time.monotonic()
        _raise_open_files()
        _compute_alone()
        self._config = config
        self._clock = SystemClock()
        self._files = RealFiles()
        root = Path(config.server.data_dir) if config.server.data_dir else default_data_dir()
        self.socket = self._socket(root)
        self._data = DataDir.take(root, self._files)
        try:
            threads = config.embedding.threads or len(os.sched_getaffinity(0))
            self._model, self._load_model = _model_of(config, embedder)
            self._codebook = Codebook.shipped(self._model.sha256)
            self._mapping = EventMapping({**default_rules(), **rules_from_config(config.mapping)})
            self._events = SqliteEventStore(root / EVENTS, self._clock.now)
        except BaseException:
            self._data.release()
            raise
        self._store = self._stored_below(root)
        self._files.make_folder(root / GLOBAL)
        self._global = GlobalFile(self._stored_below(root / GLOBAL), self._words_in(root / GLOBAL / GLOBAL_NAME))
        self._pools = Pools(embed_threads=threads, prepare=_compute_alone)
        self.stalls = Stalls()
        self._unmapped: Counter[str] = Counter()
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.residents = Residents(self._make_agent, self._park)
        self.application = Application(
            self._factories(listen),
            self._park,
            random.Random(os.getpid()),  # noqa: S311 - jitter
            self._root_ended,
        )
        self.overview = Overview(
            self.application,
            self.residents,
            self._store,
            self._model,
            self.stalls,
            root,
            self.socket if listen else None,
            is_learning=config.learning.enabled,
        )
        app = self.application
        self.desk = Desk(
            agent_of=self.residents.ref,
            event_relay=app.ref("event_relay"),
            memory_relay=app.ref("session/memory_relay"),
            bus=app.ref("bus"),
            knowledge=app.ref("knowledge"),
            store=self._store,
            check_words=self._check_words,
            backups=Backups(root, self._files, self._clock, self._events, VERSION, self._model),
            pools=self._pools,
            overview=self.overview,
        )

    async def start(self) -> None:
        """Bring the tree up. Raises what kept it down."""
        end = await self.application.root.start()
        if end is not None:
            await self.stop()
            raise _cause(end)
        self.stalls.start()

    async def stop(self) -> None:
        """Drain and stop, right to left; everything stored is safe whatever happens here."""
        notify("STOPPING=1")
        await self.application.root.stop(DRAIN_WITHIN_S)
        for slot in [*self.application.places, *(slot for _, slot in self.residents)]:
            slot.close()
        self.stalls.stop()
        await asyncio.to_thread(self._pools.close)
        self._events.close()
        self._data.release()

    async def ended(self) -> Exit:
        """Wait until the tree ends by itself."""
        return await asyncio.shield(self._ended)

    def grants(self) -> Grants:
        """Return who may speak for whom."""
        security = self._config.security
        default = user_id(security.default_user)
        return Grants(
            own_uid=os.getuid(),
            default=default,
            tokens={each.sha256: grant_of(each.users, default) for each in security.tokens},
            uids={each.uid: grant_of(each.users, default) for each in security.uids},
        )

    def banner(self) -> Banner:
        """Return what to say on start."""
        model = self._model
        return Banner(
            version=VERSION,
            model=f"{model.name} ({model.variant or 'custom'}, {model.dim} dimensions)",
            model_fault=str(self.overview.model_fault or ""),
            data_dir=str(self._data.root),
            socket=str(self.socket),
            users=sum(1 for _ in self._store.users()),
            events=int(self._events.last_seq()),
            ready_s=time.monotonic() - self.began,
        )

    def makes_progress(self) -> bool:
        """Whether no permanent actor is stuck with mail."""
        now = time.monotonic()
        return all(
            slot.mailbox.is_empty or now - slot.last_progress < STUCK_AFTER_S for slot in self.application.places
        )

    # --- parts ---

    def _factories(self, listen: bool) -> Factories:  # noqa: FBT001 - private
        config, app = self._config, self._application
        residency = Residency(config.memory.idle_after_s, config.memory.resident_bytes, config.memory.resident_users)
        rng = random.Random(os.getpid())  # noqa: S311 - jitter
        address = Address(self.socket, config.server.group_access)

        def gateway() -> Gateway:
            model, within_s = self._model.name, config.server.request_within_s
            return Gateway(address, Reception(self.desk, self.grants(), VERSION, model, within_s))

        return Factories(
            bus=lambda: EventBus(app().ref("session/memory_relay")),
            event_relay=lambda: EventRelay(
                self._events, app().ref("bus"), self._pools, self._clock, config.events.retain_s
            ),
            embedder=lambda: EmbedderActor(self._load_model, self._model, self._pools),
            knowledge=lambda: KnowledgeActor(self._global, self._pools),
            memories=lambda: MemorySupervisor(
                app().ref("session/memories"),
                self.residents,
                lambda: app().ref("session/memory_relay"),
                residency,
                rng,
            ),
            memory_relay=lambda: MemoryEventRelay(
                self._mapping, self.residents.ref, app().ref("event_relay"), self._unmapped
            ),
            gateway=gateway if listen else None,
        )

    def _application(self) -> Application:
        return self.application

    def _make_agent(self, user: UserId) -> MemoryAgent:
        app = self.application
        return MemoryAgent(
            user,
            self._store,
            self._words_in(self._data.root / user),
            self._learning_in(self._data.root / user),
            embedder=app.ref("embedder"),
            relay=app.ref("session/memory_relay"),
            event_relay=app.ref("event_relay"),
            knowledge=app.ref("knowledge"),
            nothing_is_published=lambda: self._global.is_empty,
            pools=self._pools,
            clock=self._clock,
            limits=MemoryLimits(self._config.memory.commit_after_s, self._config.memory.commit_records),
            zone=ZoneInfo(self._config.recall.timezone),
            model=self._model,
        )

    def _words_in(self, folder: Path) -> WordsIndex:
        return WordsIndex(folder / WORDS, self._files, self._store.decode)

    def _learning_in(self, folder: Path) -> SonaEngine:
        learning = self._config.learning
        settings = Settings(learning.profile, learning.enabled)
        return SonaEngine(folder / LEARNING, self._files, self._model, settings, self._clock)

    def _check_words(self, user: UserId) -> Sequence[Finding]:
        """Return what is wrong with the words index of a user whose files are sound; it is fine if there is none."""
        path = self._data.root / user / WORDS
        if not self._files.exists(path):
            return ()
        view = self._store.look(user, self._store.current(user)).index.view()
        return check_words(path, view, self._store.decode)

    def _stored_below(self, root: Path) -> RvfMemoryStore:
        return RvfMemoryStore(
            root,
            self._model,
            self._files,
            self._clock,
            self._index,
            self._codebook,
            link,
            history_s=self._config.memory.history_s if root == self._data.root else 0.0,
            beside=[self._data.root / name for name in ("events.sqlite", "events.sqlite-wal")],
        )

    def _index(self, contents: Contents) -> VectorIndex:
        return VectorIndex(contents, self._codebook, graph_above=self._config.memory.hnsw_above_rows)

    def _socket(self, root: Path) -> Path:
        if self._config.server.socket:
            return Path(self._config.server.socket)
        return default_socket(root if self._config.server.data_dir else None)

    def _park(self, path: str, message: object, error: BaseException) -> None:
        log.error("message_dropped", actor=path, message=type(message).__name__, error=type(error).__name__)
        metrics.PARKED.inc()

    def _root_ended(self, _slot: Slot, end: Exit) -> None:
        if not self._ended.done():
            self._ended.set_result(end)


class LocalTransport:
    """Requests to a tree in this process: the same desk, no socket."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._grant = daemon.grants().own

    async def request(self, user: str | None, message: Ask[R], within_s: float) -> R:
        reply = await self._daemon.desk.answer(self._grant.user(user), message, Deadline.after(within_s))
        return cast("R", reply)  # REPLIES pairs every message with its reply

    async def stream(self, user: str | None, message: Ask[object], item: type[S]) -> AsyncIterator[S]:
        desk, grant = self._daemon.desk, self._grant
        if isinstance(message, Backup):
            async with desk.backup(grant, message) as step:
                made = None
                while made is None:
                    progress = await step()
                    made = progress.made
                    yield cast("S", progress)
        elif isinstance(message, Subscribe):
            async for events in desk.subscribe(grant, grant.user(user) if user is not None else None, message):
                for event in events:
                    yield cast("S", event)

    async def close(self) -> None:
        await self._daemon.stop()


def open_memory(config: Config) -> Memory:
    """Return a memory that runs inside this process, with the same methods as a client's."""
    from memoryd.client import Memory

    async def start() -> Transport:
        daemon = Daemon(config, listen=False)
        await daemon.start()
        return LocalTransport(daemon)

    return Memory(start)


def run(config: Config, on_ready: Callable[[Banner], None] | None = None) -> int:
    """Serve on the configured event loop; return the exit code. Raises MemorydError when it cannot start."""
    # A thread that computes gives the interpreter back soon: the event loop waits for it.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    threadpool_limits(limits=1, user_api="blas")  # more threads spin for products as small as those of learning
    garbage.return_large_blocks()
    factory = uvloop.new_event_loop if config.server.event_loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(serve(config, on_ready))


async def serve(config: Config, on_ready: Callable[[Banner], None] | None = None) -> int:
    """Run the daemon until a signal or a failure ends it; return the exit code."""
    logging.configure(config.observability.log_format, config.observability.log_level)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    daemon = Daemon(config, listen=True)
    loop.add_signal_handler(signal.SIGUSR1, daemon.overview.log_tree)
    garbage.settle()
    await daemon.start()
    if config.observability.metrics_port:
        metrics.listen(config.observability.metrics_port)
    if on_ready is not None:
        await asyncio.to_thread(on_ready, daemon.banner())  # the socket is open already
    notify("READY=1")
    log.info("ready", version=VERSION, seconds=round(time.monotonic() - daemon.began, 3))
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(daemon))
        collecting = group.create_task(_collect())
        waiting = group.create_task(_first(stopped, daemon))
        end = await waiting
        watching.cancel()
        collecting.cancel()
    if end is not None:
        log.critical("gave_up", why=reason(end))
    await daemon.stop()
    log.info("stopped")
    return 0 if end is None else EXIT_GAVE_UP


async def _first(stopped: asyncio.Event, daemon: Daemon) -> Exit | None:
    """Wait for a signal (None) or for the end of the tree."""
    waits = {asyncio.ensure_future(stopped.wait()), asyncio.ensure_future(daemon.ended())}
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    result = done.pop().result()
    return None if isinstance(result, bool) else result


async def _collect() -> None:
    while True:
        await asyncio.sleep(garbage.COLLECT_EVERY_S)
        garbage.collect()


async def _watch(daemon: Daemon) -> None:
    """Tell the service manager that the tree is alive, as long as it is."""
    while True:
        await asyncio.sleep(WATCH_EVERY_S)
        daemon.overview.measure()
        if daemon.makes_progress():
            notify("WATCHDOG=1")


def _model_of(config: Config, embedder: Embedder | None) -> tuple[ModelInfo, Callable[[], Embedder]]:
    """Return which model there is to be, and how to load it.

    What states that may be there without the rest, and then memories are opened and asked by words. Without a manifest
    nothing but the loaded model states it. Raises ModelUnavailable.
    """
    if embedder is None:
        folder = resolve_model(config.embedding.model)
        stated = stated_model(folder)
        if stated is not None:
            return stated, partial(OnnxEmbedder.open, folder, threads=1)
        embedder = OnnxEmbedder.open(folder, threads=1)
    return embedder.model, lambda: embedder


def _cause(end: Exit) -> BaseException:
    if isinstance(end, Failed):
        cause = end.cause
        while isinstance(cause, Escalated) and cause.__cause__ is not None:
            cause = cause.__cause__
        return cause
    return MemorydError(f"the tree did not start: {reason(end)}")


def _compute_alone() -> None:
    """Have faiss use no other threads than the one that calls this, which OpenMP asks of each by itself.

    Parallelism comes from users: a second thread for a scan of 0.2 ms is woken, waited for, and takes the encoder's processor.
    """
    faiss.omp_set_num_threads(1)


def _raise_open_files() -> None:
    """Ask for as many open files as this process may have: every resident user holds some ten."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        # A hardened unit may forbid this call; then it has set the limit itself.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
