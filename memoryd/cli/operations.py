"""`status`, `tree`, `verify`, `metrics` and `trajectories`: what the daemon says of itself and of a memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from memoryd.cli.options import Target, ask, reaches_daemon

if TYPE_CHECKING:
    from memoryd.cli.connection import Connection
    from memoryd.protocol.messages import VerifyFinding

EXIT_DAMAGED = 74


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@reaches_daemon
def status_command(target: Target, as_json: bool) -> None:  # noqa: FBT001 - click
    """Show how the daemon is, on one screen.

    Use it when something seems slow or missing: how far it lags behind its events, what waits where, what was restarted or
    put aside, how much memory it takes. With --user it also shows that user's memory.

    \b
    Examples:
      memoryd status
      memoryd status --json | jq .lag_events
    """
    status = ask(target, lambda connection: connection.memory.status(user=target.user))
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(status).decode())
        return
    from memoryd.cli.output import console
    from memoryd.cli.screens import status_screen

    console().print(status_screen(status))


@click.command("tree")
@reaches_daemon
def tree_command(target: Target) -> None:
    """Show the supervision tree: every actor, its state, its mail and its restarts.

    Use it to see which part is busy or keeps failing. Users are shown while they are resident.

    \b
    Example:
      memoryd tree
    """
    from memoryd.cli.output import console
    from memoryd.cli.screens import supervision_tree

    console().print(supervision_tree(ask(target, lambda connection: connection.memory.tree()).actors))


@click.command("verify")
@click.option(
    "--repair", is_flag=True, help="Make anew what follows from records and vectors, where something is wrong."
)
@reaches_daemon
def verify_command(target: Target, repair: bool) -> int:  # noqa: FBT001 - click
    """Check every byte of a user's files.

    Use it after a crash of the machine, or when a disk is in doubt. It reads every hash, count, id and cursor, and whether
    records, vectors, columns, graph and branches agree; the exit code is 74 when something is wrong, and each finding says
    where and what to do. It changes nothing unless --repair is given: then columns, codes and the graph are made anew from
    records and vectors. What those say cannot be derived: a backup has it.

    \b
    Examples:
      memoryd verify --user alice
      memoryd verify --user alice --repair
    """

    async def findings(connection: Connection) -> tuple[list[VerifyFinding], list[VerifyFinding], str]:
        found = await connection.memory.verify(user=target.user)
        left = await connection.memory.verify(user=target.user, repair=True) if repair and found else found
        return found, left, connection.user

    found, left, user = ask(target, findings)
    if not found:
        click.echo(f"the memory of {user} is sound")
        return 0
    from memoryd.cli.output import console, table

    shown = table("file", ">byte", "what", "mend", title=f"{len(found)} findings in the memory of {user}")
    for column in shown.columns[2:]:
        column.no_wrap, column.overflow = False, "fold"  # a mend that is cut mends nothing
    for each in found:
        shown.add_row(each.file, f"{each.offset:,}", each.what, each.hint)
    console().print(shown)
    if repair:
        click.echo(
            "all of it is repaired" if not left else f"{len(left)} findings are left: restore the file from a backup"
        )
    return EXIT_DAMAGED if left else 0


@click.command("metrics")
@reaches_daemon
def metrics_command(target: Target) -> None:
    """Print the daemon's metrics in Prometheus' text format.

    Use it for a look without a scraper, or from a textfile collector; `observability.metrics_port` serves the same.

    \b
    Example:
      memoryd metrics | grep recall
    """
    click.echo(ask(target, lambda connection: connection.memory.metrics()), nl=False)


@click.command("trajectories")
@click.option("-n", "--limit", type=click.IntRange(1, 1024), default=20, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@reaches_daemon
def trajectories_command(target: Target, limit: int, as_json: bool) -> None:  # noqa: FBT001 - click
    """List runs from their question to their outcome, the newest first.

    Use it to see what the memory learns from: what was asked, how many memories were shown for it, how it went.

    \b
    Example:
      memoryd trajectories --user alice -n 10
    """
    found = ask(target, lambda connection: connection.memory.trajectories(user=target.user, limit=limit))
    if as_json:
        import msgspec

        for each in found:
            click.echo(msgspec.json.encode(each).decode())
        return
    from memoryd.cli.output import console, trajectories_table

    console().print(trajectories_table(found, datetime.now(UTC)) if found else "no run has begun yet")
