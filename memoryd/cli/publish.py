"""`publish` and `ingest`: what agents did, from files, pipes and the stores of other systems, onto the daemon's bus."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from memoryd.cli.options import FILE, Target, reaches_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Sequence
    from typing import Protocol

    from memoryd.cli.connection import Connection
    from memoryd.cli.sending import Tally
    from memoryd.protocol.errors import MemorydError
    from memoryd.protocol.events import Ack
    from memoryd.sources.parsed import Parsed

    class Rows(Protocol):
        """Reads a store from one row on."""

        def __call__(self, path: Path, *, after: int, limit: int) -> Sequence[Parsed]: ...


EXIT_REJECTED: Final = 65  # EX_DATAERR of sysexits.h
ROWS_AT_ONCE: Final = 1_000
LOOK_EVERY_S: Final = 1.0  # another program's SQLite file tells nobody that it has grown

_acknowledged = click.option(
    "--ack",
    type=click.Choice(["queued", "stored", "committed"]),
    default="stored",
    show_default=True,
    help="How far an event must have come to count as accepted.",
)


@click.command("publish")
@click.argument("file", default="-", metavar="[FILE|-]")
@_acknowledged
@reaches_daemon
def publish_command(target: Target, file: str, ack: Ack) -> int:
    """Publish events from JSON Lines, plain or gzip-compressed.

    Use it to feed a memory from a log, once or over and over: events that are already known count as duplicates and
    change nothing. Each line may be an event of memoryd's own shape, a row or bus message of ChoirOS, an event of
    Wintermute, or a whole run of mini-swe-agent or tau-bench. A bad line is told with its number and reason, and never
    stops the good ones; the exit code is then 65.

    `queued` is in the daemon's memory and lost by a crash, `stored` is safe in its log, `committed` is in the user's
    file and visible to the next recall.

    \b
    Examples:
      memoryd publish --user alice runs.jsonl.gz
      tail -F agent.log | memoryd publish --ack queued -
    """
    from memoryd.cli.connection import connected, run
    from memoryd.cli.reading import lines_in, reading
    from memoryd.cli.sending import LINES_AT_ONCE
    from memoryd.sources.lines import read_events

    async def work() -> int:
        async with connected(target) as connection, reading(file, read_events) as source:
            portions = source.portions(LINES_AT_ONCE)
            return await send(connection, target.user, ack, portions, noun="line", total=lines_in(file))

    return run(work())


@click.command("ingest")
@click.option("--choiros", type=FILE, metavar="PATH", help="The SQLite event store of ChoirOS.")
@click.option(
    "--wintermute", type=FILE, metavar="PATH", help="Wintermute's SQLite database, for its sub-session outcomes."
)
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="N", help="Begin after row N.")
@click.option("--follow", is_flag=True, help="Stay, and publish what is added.")
@_acknowledged
@reaches_daemon
def ingest_command(
    target: Target,
    choiros: Path | None,
    wintermute: Path | None,
    after: int,
    follow: bool,  # noqa: FBT001 - click
    ack: Ack,
) -> int:
    """Publish what ChoirOS or Wintermute has stored.

    Use it to give a memory the past of a system that runs already; nothing is changed there, and it may go on writing.
    Ingesting again doubles nothing. With --follow it stays and publishes what comes; the row it ended at is printed, for
    --after.

    \b
    Examples:
      memoryd ingest --choiros data/events.db --user alice
      memoryd ingest --wintermute wintermute.db --follow
    """
    from memoryd.cli.connection import connected, run
    from memoryd.sources import choiros as choiros_source
    from memoryd.sources import wintermute as wintermute_source

    match choiros, wintermute:
        case Path() as path, None:
            rows: Rows = choiros_source.events
        case None, Path() as path:
            rows = wintermute_source.events
        case _:
            raise click.UsageError("name one store: --choiros PATH or --wintermute PATH")

    async def work() -> int:
        async with connected(target) as connection:
            portions = _rows(rows, path, after, follow=follow)
            return await send(connection, target.user, ack, portions, noun="row")

    return run(work())


async def send(
    connection: Connection,
    user: str | None,
    ack: Ack,
    portions: AsyncIterable[Sequence[Parsed]],
    *,
    noun: str,
    total: int | None = None,
) -> int:
    """Send what comes, with a progress bar on a terminal; tell what became of it and return the exit code."""
    from memoryd.cli.output import console, progress, tell_rejected
    from memoryd.cli.sending import Sending

    err = console(err=True)
    bar = progress(err)
    task = bar.add_task(f"{noun}s", total=total)

    def rejected(position: int, error: MemorydError) -> None:
        tell_rejected(err, f"{noun} {position}", error)

    sending = Sending(connection, user, ack, rejected, lambda tally: bar.update(task, completed=tally.read))
    began = time.monotonic()

    def tell() -> None:
        whose = connection.user or "the user"
        console().print(_summary(sending.tally, noun, whose, ack, time.monotonic() - began), soft_wrap=True)

    try:
        with bar:
            await sending.send_all(portions)
    except BaseException:
        if sending.tally.read:  # how far it came, when it is cut short
            tell()
        raise
    tell()
    return EXIT_REJECTED if sending.tally.rejected else 0


def _summary(tally: Tally, noun: str, user: str, ack: Ack, seconds: float) -> str:
    events = tally.accepted + tally.duplicates
    return (
        f"{tally.read:,} {noun}s for {user}: {tally.accepted:,} events accepted ({ack}), "
        f"{tally.duplicates:,} duplicate, {tally.rejected:,} rejected; "
        f"{seconds:.1f} s, {events / max(seconds, 0.001):,.0f} events/s; last {noun} {tally.position}"
    )


async def _rows(rows: Rows, path: Path, after: int, *, follow: bool) -> AsyncIterator[Sequence[Parsed]]:
    while True:
        found = await asyncio.to_thread(rows, path, after=after, limit=ROWS_AT_ONCE)
        if found:
            after = found[-1].position
            yield found
        elif follow:
            await asyncio.sleep(LOOK_EVERY_S)
        else:
            return
