"""`parked`: events that were put aside because they broke their reader."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from memoryd.cli.options import Target, reaches_daemon


@click.group("parked")
def parked_command() -> None:
    """See, retry or drop events that were put aside.

    An event that made its reader fail twice is put aside, so that the events behind it are not kept waiting. Its text stays
    in the log until it is retried with success, or dropped.

    \b
    Examples:
      memoryd parked list --user alice
      memoryd parked retry --all
      memoryd parked drop 4711
    """


@parked_command.command("list")
@reaches_daemon
def list_command(target: Target) -> None:
    """List what was put aside, with the reason.

    \b
    Example:
      memoryd parked list --user alice
    """
    from memoryd.cli.connection import connected, run
    from memoryd.cli.output import age, console, shorten, table

    async def work() -> None:
        async with connected(target) as connection:
            items = await connection.memory.parked(user=target.user)
        if not items:
            click.echo("nothing is put aside")
            return
        shown = table(">seq", "type", "error", ">age", "event id")
        for item in items:
            since = age(item.parked_at, datetime.now(UTC))
            shown.add_row(str(item.seq), item.type, shorten(item.error, 80), since, item.event_id)
        console().print(shown)

    run(work())


@parked_command.command("retry")
@click.argument("seqs", type=click.IntRange(min=1), nargs=-1, metavar="[SEQ]...")
@click.option("--all", "all_of_them", is_flag=True, help="Everything that is put aside for this user.")
@reaches_daemon
def retry_command(target: Target, seqs: tuple[int, ...], all_of_them: bool) -> None:  # noqa: FBT001 - click
    """Try events again, after the cause was mended.

    \b
    Example:
      memoryd parked retry 4711 4712
    """
    _unpark(target, seqs, all_of_them=all_of_them, drop=False)


@parked_command.command("drop")
@click.argument("seqs", type=click.IntRange(min=1), nargs=-1, metavar="[SEQ]...")
@click.option("--all", "all_of_them", is_flag=True, help="Everything that is put aside for this user.")
@reaches_daemon
def drop_command(target: Target, seqs: tuple[int, ...], all_of_them: bool) -> None:  # noqa: FBT001 - click
    """Drop events for good: they will never become memories.

    \b
    Example:
      memoryd parked drop 4711
    """
    _unpark(target, seqs, all_of_them=all_of_them, drop=True)


def _unpark(target: Target, seqs: tuple[int, ...], *, all_of_them: bool, drop: bool) -> None:
    if bool(seqs) == all_of_them:
        raise click.UsageError("name the numbers that `memoryd parked list` shows, or --all")
    from memoryd.cli.connection import connected, run

    async def work() -> int:
        async with connected(target) as connection:
            memory = connection.memory
            chosen = seqs or tuple(item.seq for item in await memory.parked(user=target.user))
            return await memory.unpark(chosen, drop=drop, user=target.user)

    count = run(work())
    click.echo(f"{'dropped' if drop else 'retried'}: {count:,} events")
