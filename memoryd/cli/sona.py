"""`sona`: what recall learned from runs, and going back."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from memoryd.cli.options import Target, ask, reaches_daemon

if TYPE_CHECKING:
    from memoryd.protocol.messages import LearningStatus, PatternInfo

T = TypeVar("T")

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")


@click.group("sona")
def sona_command() -> None:
    """See what recall learned from finished runs, and switch it off, on or back.

    Use it to see whether and from what recall learns: when a run ends and says which memories helped, they come first when such a question
    comes again. `recall --explain` shows what that adds to each score.

    \b
    Examples:
      memoryd sona stats --user alice
      memoryd sona find "why is the build red"
      memoryd sona rollback
    """


@sona_command.command("stats")
@_JSON
@reaches_daemon
def stats_command(target: Target, as_json: bool) -> None:  # noqa: FBT001 - click
    """Show how much was learned, from which runs, and what the guard said last."""
    _show(ask(target, lambda connection: connection.memory.learning(user=target.user)), as_json=as_json)


@sona_command.command("enable")
@_JSON
@reaches_daemon
def enable_command(target: Target, as_json: bool) -> None:  # noqa: FBT001 - click
    """Use what was learned, and go on learning; runs that ended meanwhile are learned from."""
    _show(
        ask(target, lambda connection: connection.memory.set_learning(enabled=True, user=target.user)), as_json=as_json
    )


@sona_command.command("disable")
@_JSON
@reaches_daemon
def disable_command(target: Target, as_json: bool) -> None:  # noqa: FBT001 - click
    """Answer exactly as if nothing had been learned. Nothing is lost."""
    _show(
        ask(target, lambda connection: connection.memory.set_learning(enabled=False, user=target.user)),
        as_json=as_json,
    )


@sona_command.command("profile")
@click.argument("name")
@_JSON
@reaches_daemon
def profile_command(target: Target, name: str, as_json: bool) -> None:  # noqa: FBT001 - click
    """Choose how much is held and done: realtime, batch, research, edge or balanced. Runs stay, weights begin anew."""
    _show(
        ask(target, lambda connection: connection.memory.set_learning(profile=name, user=target.user)), as_json=as_json
    )


@sona_command.command("rollback")
@click.argument("generations", type=int, default=1)
@_JSON
@reaches_daemon
def rollback_command(target: Target, generations: int, as_json: bool) -> None:  # noqa: FBT001 - click
    """Go back to the weights of so many generations before. Runs and what helped in them stay."""
    _show(
        ask(target, lambda connection: connection.memory.rollback_learning(generations, user=target.user)),
        as_json=as_json,
    )


@sona_command.command("patterns")
@click.option("-n", "--limit", type=click.IntRange(1, 1024), default=20, show_default=True, help="At most so many.")
@_JSON
@reaches_daemon
def patterns_command(target: Target, limit: int, as_json: bool) -> None:  # noqa: FBT001 - click
    """List what is asked again and again, how well it went, and what helped."""
    _list(ask(target, lambda connection: connection.memory.patterns(limit=limit, user=target.user)), as_json=as_json)


@sona_command.command("find")
@click.argument("query")
@click.option("-k", type=click.IntRange(1, 1024), default=3, show_default=True, help="At most so many.")
@_JSON
@reaches_daemon
def find_command(target: Target, query: str, k: int, as_json: bool) -> None:  # noqa: FBT001 - click
    """Find the patterns that are nearest to a question."""
    _list(ask(target, lambda connection: connection.memory.patterns(query, limit=k, user=target.user)), as_json=as_json)


@sona_command.command("trajectories")
@click.option("-n", "--limit", type=click.IntRange(1, 1024), default=20, show_default=True, help="At most so many.")
@_JSON
@reaches_daemon
def trajectories_command(target: Target, limit: int, as_json: bool) -> None:  # noqa: FBT001 - click
    """List the runs that were learned from, or will be, the newest first.

    A run whose credit is coarse says only how it ended, and teaches little. `memoryd trajectories` lists all runs.
    """
    found = ask(target, lambda connection: connection.memory.lessons(limit=limit, user=target.user))
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"trajectories": found}).decode())
        return
    from memoryd.cli.output import console
    from memoryd.cli.screens import lessons_screen

    console().print(lessons_screen(found) if found else "no run that showed memories has begun yet")


def _show(found: LearningStatus, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found).decode())
        return
    from memoryd.cli.output import console
    from memoryd.cli.screens import learning_screen

    console().print(learning_screen(found))


def _list(found: list[PatternInfo], *, as_json: bool) -> None:
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"patterns": found}).decode())
        return
    from memoryd.cli.output import console
    from memoryd.cli.screens import patterns_screen

    console().print(patterns_screen(found) if found else "no run that showed memories has ended yet")
