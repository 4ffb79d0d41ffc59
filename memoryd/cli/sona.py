"""`sona`: what recall learned from runs, and going back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from memoryd.cli.options import FILE, Target, ask, reaches_daemon

if TYPE_CHECKING:
    from memoryd.cli.connection import Connection
    from memoryd.protocol.learning import Form
    from memoryd.protocol.messages import LearningEvaluated, LearningStatus, PatternInfo

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")


@click.group("sona")
def sona_command() -> None:
    """See what recall learned from finished runs, and switch it off, on or back.

    Use it to see whether and from what recall learns: when a run ends and says which memories helped, they come first when such a question
    comes again. `recall --explain` shows what that adds to each score.

    \b
    Examples:
      memoryd sona stats --user alice
      memoryd sona evaluate --user alice
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
    from memoryd.protocol.records import checked_text

    checked_text(query, "QUERY")  # none means all of them to the daemon
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


@sona_command.command("benchmark")
@click.option(
    "--iterations",
    type=click.IntRange(10, 10_000),
    default=1_000,
    show_default=True,
    help="How often each part is done.",
)
@_JSON
@reaches_daemon
def benchmark_command(target: Target, iterations: int, as_json: bool) -> None:  # noqa: FBT001 - click
    """Measure how quick learning is on this machine.

    It runs in this process, with the user's profile and the daemon's dimensions, on 1,000 made-up runs over 1,000 made-up memories: speed
    only, nothing of what the user has, and nothing of how good learning is; that is what `memoryd sona evaluate` says. What is done in
    the background is told in time of a processor, the guard included, for each of the runs after which it is done.

    \b
    Example:
      memoryd sona benchmark --iterations 1000
    """
    from memoryd.cli.output import console, progress
    from memoryd.sona.profiles import profile
    from memoryd.sona.speed import measure, steps

    async def known(connection: Connection) -> tuple[int, str]:
        status = await connection.memory.status()
        return status.dim, (await connection.memory.learning(user=target.user)).profile

    dim, name = ask(target, known)
    with progress(console(err=True)) as bar:
        task = bar.add_task("learning", total=steps(iterations))
        found = measure(dim, profile(name), iterations, lambda: bar.advance(task))
    if as_json:
        import msgspec

        click.echo(
            msgspec.json.encode({"profile": name, "dim": dim, "iterations": iterations, "speeds": found}).decode()
        )
        return
    from memoryd.cli.screens import speeds_screen

    console().print(speeds_screen(found, f"profile {name}, {dim} dimensions, {iterations:,} times"))


@sona_command.command("evaluate")
@click.option("--runs", type=click.IntRange(1, 2_000), default=1_000, show_default=True, help="The last so many.")
@click.option(
    "--plot", "picture", type=FILE, metavar="FILE", help="Where the PNG goes; sona-USER.png here, if not given."
)
@_JSON
@reaches_daemon
def evaluate_command(target: Target, runs: int, picture: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click
    """Show whether learning helps this user, by their own history.

    Their finished runs are gone through again in the order in which they ended. Each that names what helped or was harmful is asked as it
    was then, without learning and with what a new learner was taught by the runs before it; the daemon does that beside its work, and
    nothing that was learned changes.

    \b
    Examples:
      memoryd sona evaluate --user alice
      memoryd sona evaluate --user alice --plot alice.png --json
    """
    from memoryd.cli.output import console
    from memoryd.cli.transfer import output_file

    async def evaluated(connection: Connection) -> tuple[LearningEvaluated, str]:
        return await connection.memory.evaluate_learning(runs=runs, user=target.user), connection.user

    with console(err=True).status("going through the runs again"):
        found, user = ask(target, evaluated)
    path = picture or Path(f"sona-{user}.png")
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({**msgspec.structs.asdict(found), "plot": str(path)}).decode())
    else:
        from memoryd.cli.screens import evaluation_screen

        console().print(evaluation_screen(found))
    from memoryd.cli.plotting import plot

    with output_file(
        str(path.absolute())
    ) as out:  # the last thing: a folder that cannot be written costs the picture only
        plot(found, user, out)
    if not as_json:
        click.echo(f"drawn: {path}")


@sona_command.command("export")
@click.argument("file", metavar="FILE|-")
@click.option(
    "--format",
    "form",
    type=click.Choice(["memoryd", "ruvector"]),
    default="memoryd",
    show_default=True,
    help="ruvector: patterns, as the published engine reads them.",
)
@click.option(
    "--weights", is_flag=True, help="Weights and profile alone: no question, no id. A start value for others."
)
@_JSON
@reaches_daemon
def export_command(target: Target, file: str, form: str, weights: bool, as_json: bool) -> None:  # noqa: FBT001 - click
    """Write what was learned, for the same user elsewhere or later.

    It holds questions as vectors and hashed words, and ids of memories, so it is for that user's eyes only. With --weights it is for
    others: nothing but the two adapters, what EWC holds and the name of the profile. Weights are fitted to a user's memories all the same.

    \b
    Examples:
      memoryd sona export --user alice alice-sona.json
      memoryd sona export --user alice --weights start.json
    """
    if weights and form == "ruvector":
        raise click.UsageError("the published engine keeps no weights: leave --weights or --format ruvector out")
    from memoryd.cli.transfer import STDOUT, output_file

    chosen: Form = "ruvector" if form == "ruvector" else "weights" if weights else "state"
    data = ask(target, lambda connection: connection.memory.export_learning(chosen, user=target.user))
    with output_file(file) as out:
        out.write(data)
    if as_json:
        import msgspec

        said = msgspec.json.encode({"file": file, "form": chosen, "bytes": len(data)}).decode()
    else:
        said = f"exported: {chosen} of what was learned, {len(data):,} bytes"
    click.echo(said, err=file == STDOUT)


@sona_command.command("import")
@click.argument("file", type=click.File("rb"), metavar="FILE|-")
@click.option("--replace", is_flag=True, help="Also where something was learned: this takes its place.")
@_JSON
@reaches_daemon
def import_command(target: Target, file: BinaryIO, replace: bool, as_json: bool) -> None:  # noqa: FBT001 - click
    """Begin with what `memoryd sona export` wrote.

    What it says of memories and runs that are not in this user's memory is left out; then weights, which cannot forget, begin anew.

    \b
    Examples:
      memoryd sona import --user alice alice-sona.json
      memoryd sona import --user bob start.json
    """
    data = file.read()
    _show(
        ask(target, lambda connection: connection.memory.import_learning(data, replace=replace, user=target.user)),
        as_json=as_json,
    )


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
