"""Kills a real daemon with SIGKILL at random moments and checks that it keeps every promise.

    python -m tests.soak.crash --kills 1000 --seed 7 --report crash.json

What holds from the first moment of the next start: everything acknowledged as `committed`, remembered or ended is there,
nothing forgotten comes back, nothing is there twice, and nothing that was never sent. What holds once it has caught up:
everything acknowledged as `stored` is there too. Half of the lives have pieces so small that files are folded, linked and
compacted all the time. Plan and load depend on the seed alone; when exactly the
signal arrives depends on the machine, so a failure is repeated by running the same seed some times.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import statistics
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.daemon import Daemon, NotReady
from benchmarks.figures import ticks
from memoryd.protocol.errors import MemorydError
from tests.soak import check
from tests.soak.clients import Client, Journal, together
from tests.soak.ledger import Fate, Ledger
from tests.soak.plan import Mode, Plan, plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from memoryd import Memory

GENERATION: Final = 25  # kills after which new users take the place of the old ones, so that files stay small
VERIFY_EVERY: Final = 20
LOOK_EVERY: Final = 4  # at the event loop, just before the kill
USERS: Final = 4
TASKS: Final = 2
BEARABLE: Final = 20  # broken promises after which going on tells nothing new


@dataclass(slots=True)
class Tally:
    """What is reported in the end."""

    seed: int
    asked_kills: int
    kills: Counter[str] = field(default_factory=Counter)
    ready_s: list[float] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    broken: list[str] = field(default_factory=list)
    checked_records: int = 0
    verified_files: int = 0
    loop_looks: float = 0.0  # how often the lateness of the event loop was measured under load
    loop_late: float = 0.0  # and how often it was above 10 ms
    seconds: float = 0.0


class Crash:
    """One run: a data directory, its ledgers, and the plan."""

    def __init__(self, home: Path, seed: int, kills: int) -> None:
        self.tally = Tally(seed, kills)
        self._home = home
        self._seed = seed
        self._kills = kills
        self._ledgers: dict[str, Ledger] = {}

    async def run(self, progress: Progress | None = None) -> Tally:
        """Do it all; stops early when too much is broken."""
        task = progress.add_task("kills", total=self._kills) if progress else None
        began = time.monotonic()
        for number in range(self._kills):
            planned = plan(self._seed, number)
            try:
                await self._life(planned)
            except NotReady as error:
                self._break(planned, f"did not start again: {error}")
                break
            for what in self.tally.journal.broken:
                self._break(planned, what)
            self.tally.journal.broken.clear()
            if progress and task is not None:
                progress.update(task, advance=1, description=f"kills, {len(self.tally.broken)} broken")
            if len(self.tally.broken) >= BEARABLE:
                break
        else:
            await self._last_look()
        self.tally.seconds = round(time.monotonic() - began, 1)
        return self.tally

    # --- one life and its end ---

    async def _life(self, planned: Plan) -> None:
        daemon = Daemon(self._home, planned.settings, module=planned.module)
        if planned.mode is Mode.STARTING:
            usual = statistics.median(self.tally.ready_s) if self.tally.ready_s else 0.5
            daemon.spawn()
            await asyncio.sleep(planned.delay_s * usual)
            self._kill(daemon, planned)
            return
        self.tally.ready_s.append(await asyncio.to_thread(daemon.start))
        if planned.mode is Mode.CATCHING_UP:
            await asyncio.sleep(planned.delay_s)
            self._kill(daemon, planned)
            return
        async with AsyncExitStack() as stack:
            users = self._users(planned.number)
            connections = [await stack.enter_async_context(daemon.client()) for _ in users]
            await self._check(connections[0], planned)
            await self._load(daemon, planned, dict(zip(users, connections, strict=True)))

    async def _load(self, daemon: Daemon, planned: Plan, users: dict[str, Memory]) -> None:
        life = f"{self._seed}.{planned.number}"
        clients = [
            Client(
                memory, self._ledgers[user], life, f"{user}-{task}", planned.rng(f"{user}-{task}"), self.tally.journal
            )
            for user, memory in users.items()
            for task in range(TASKS if user[-1] != "f" else 1)
        ]
        *steady, fleeting = clients
        async with asyncio.TaskGroup() as group:
            group.create_task(together(steady, fleeting))
            await asyncio.sleep(planned.load_s)
            match planned.mode:
                case Mode.STOPPING:
                    daemon.signal(signal.SIGTERM)
                case Mode.FORGET:
                    for client in steady:
                        group.create_task(client.forget_now())
                case _:
                    pass
            await asyncio.sleep(planned.delay_s)
            if planned.number % LOOK_EVERY == 0 and planned.mode is Mode.LOAD:
                looks, late = ticks(await next(iter(users.values())).metrics())
                self.tally.loop_looks += looks
                self.tally.loop_late += late
            self._kill(daemon, planned)

    def _kill(self, daemon: Daemon, planned: Plan) -> None:
        died_by_itself = not daemon.is_running and planned.mode is not Mode.STOPPING
        code = daemon.kill()
        self.tally.kills[planned.mode.value] += 1
        if died_by_itself or code not in {-signal.SIGKILL, 0}:
            self._break(planned, f"the daemon ended by itself with {code}: {daemon.last_log()}")

    # --- looking ---

    def _users(self, number: int) -> list[str]:
        """Return the users of kill `number`; the last one forgets everything from time to time."""
        generation = number // GENERATION
        names = [f"g{generation}-{each}" for each in [*range(USERS), "f"]]
        for name in names:
            self._ledgers.setdefault(name, Ledger(name))
        return names

    async def _check(self, memory: Memory, planned: Plan) -> None:
        """Look at every user of whom something was asked since the last look."""
        dirty = [ledger for ledger in self._ledgers.values() if ledger.is_dirty]
        for ledger in dirty:
            await self._collect(planned, check.at_once(memory, ledger))
        for ledger in dirty:
            await self._collect(planned, check.caught_up(memory, ledger, f"{self._seed}.{planned.number}-mark"))
            self.tally.checked_records += len(ledger.of(Fate.KEPT))
        if planned.number % VERIFY_EVERY == 0:
            await self._verify(memory, planned, self._users(planned.number))

    async def _verify(self, memory: Memory, planned: Plan, users: list[str]) -> None:
        for user in users:
            await self._collect(planned, check.sound(memory, self._ledgers[user]))
            self.tally.verified_files += 1

    async def _last_look(self) -> None:
        """Start once more, look at all users there ever were, and stop in order."""
        planned = plan(self._seed, self._kills)
        daemon = Daemon(self._home)
        self.tally.ready_s.append(await asyncio.to_thread(daemon.start))
        async with daemon.client() as memory:
            for ledger in self._ledgers.values():
                ledger.is_dirty = True
            await self._check(memory, planned)
            await self._verify(memory, planned, list(self._ledgers))
            status = await memory.status()
            if status.restarts or status.users_quarantined or status.parked_events:
                self._break(planned, f"restarts {status.restarts}, in quarantine {status.users_quarantined}")
        if code := await asyncio.to_thread(daemon.stop):
            self._break(planned, f"stopping in order ended with {code}")

    async def _collect(self, planned: Plan, findings: AsyncIterator[str]) -> None:
        try:
            async for what in findings:
                self._break(planned, what)
        except MemorydError as error:
            self._break(planned, f"checking failed: {type(error).__name__}: {error}")

    def _break(self, planned: Plan, what: str) -> None:
        self.tally.broken.append(f"seed {self._seed}, kill {planned.number} ({planned.mode.value}): {what}")


@click.command()
@click.option("--kills", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write what happened as JSON.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where the data is; kept afterwards.")
def main(kills: int, seed: int, report: Path | None, folder: Path | None) -> None:
    """Kill a daemon many times; the exit code is 1 when it broke a promise."""
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    home = Path(tempfile.mkdtemp(prefix="memoryd-crash-", dir=folder))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        tally = asyncio.run(Crash(home, seed, kills).run(progress))
    if report is not None:
        report.write_bytes(msgspec.json.format(msgspec.json.encode(tally)))
    console.print(summary(tally))
    for what in tally.broken:
        console.print(what, style="red", markup=False)
    if tally.broken:
        console.print(f"the data is left in {home}")
        raise SystemExit(1)
    if folder is None:
        shutil.rmtree(home)


def summary(tally: Tally) -> str:
    """Return the run in a few lines."""
    kills = ", ".join(f"{count} {mode}" for mode, count in tally.kills.most_common())
    done = ", ".join(f"{count:,} {what}" for what, count in sorted(tally.journal.done.items()))
    refused = ", ".join(f"{count} {what}" for what, count in tally.journal.refused.most_common()) or "nothing"
    starts = sorted(tally.ready_s)
    return (
        f"{tally.kills.total()} of {tally.asked_kills} kills with seed {tally.seed} in {tally.seconds:.0f} s: {kills}\n"
        f"acknowledged: {done}\nrefused: {refused}\n"
        f"{len(starts)} starts, median {statistics.median(starts):.2f} s, slowest {starts[-1]:.2f} s; "
        f"{tally.checked_records:,} records checked, {tally.verified_files} files verified\n"
        f"event loop late by more than 10 ms: {tally.loop_late:.0f} of {tally.loop_looks:.0f} looks\n"
        f"broken promises: {len(tally.broken)}"
    )


if __name__ == "__main__":
    main()
