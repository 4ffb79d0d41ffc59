"""`branch`: other lines of the same memory, made in milliseconds, that go on by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from memoryd.cli.options import FILE, Target, reaches_daemon

if TYPE_CHECKING:
    from memoryd.protocol.messages import Branches, Compared


@click.group("branch")
def branch_command() -> None:
    """Try something without touching the memory, and keep it or drop it.

    Use it before a risky plan, or to keep two lines of work apart. A branch begins with everything its parent holds at that moment, and copies none of it. From then on both go on by
    themselves: what is remembered or forgotten on one changes nothing on the other. Whatever comes is added to the branch in
    use, which `switch` chooses, and that one answers unless a recall names another.

    \b
    Examples:
      memoryd branch create trial && memoryd branch switch trial
      memoryd branch diff trial main
      memoryd branch switch main && memoryd branch merge trial && memoryd branch drop trial
    """


@branch_command.command("create")
@click.argument("name")
@click.option("--of", metavar="BRANCH", help="The parent; without it, the branch in use.")
@reaches_daemon
def create_command(target: Target, name: str, of: str | None) -> None:
    """Begin a branch."""
    from memoryd.cli.connection import connected, run

    async def work() -> None:
        async with connected(target) as connection:
            await connection.memory.create_branch(name, of=of, user=target.user)

    run(work())
    click.echo(f"branch {name} is there; memoryd branch switch {name} uses it")


@branch_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@reaches_daemon
def list_command(target: Target, as_json: bool) -> None:  # noqa: FBT001 - click
    """Show the branches, what they hold and where they came from."""
    from memoryd.cli.connection import connected, run

    async def work() -> Branches:
        from memoryd.protocol.messages import Branches

        async with connected(target) as connection:
            return Branches(branches=tuple(await connection.memory.branches(user=target.user)))

    found = run(work())
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found).decode())
        return
    from memoryd.cli.output import console
    from memoryd.cli.screens import branches_screen

    console().print(branches_screen(found))


@branch_command.command("switch")
@click.argument("name")
@reaches_daemon
def switch_command(target: Target, name: str) -> None:
    """Use another branch from now on."""
    from memoryd.cli.connection import connected, run

    async def work() -> None:
        async with connected(target) as connection:
            await connection.memory.switch_branch(name, user=target.user)

    run(work())
    click.echo(f"branch {name} is in use")


@branch_command.command("diff")
@click.argument("name")
@click.argument("other", required=False)
@click.option(
    "-n", "--limit", type=click.IntRange(0, 1_024), default=20, show_default=True, help="Show so many of each."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@reaches_daemon
def diff_command(target: Target, name: str, other: str | None, limit: int, as_json: bool) -> None:  # noqa: FBT001 - click
    """Show what one branch holds and another, or the one in use, does not, and the other way round."""
    from memoryd.cli.connection import connected, run

    async def work() -> Compared:
        async with connected(target) as connection:
            return await connection.memory.compare_branches(name, other, limit=limit, user=target.user)

    found = run(work())
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found).decode())
        return
    from memoryd.cli.output import console
    from memoryd.cli.screens import compared_screen

    console().print(compared_screen(found))


@branch_command.command("merge")
@click.argument("name")
@reaches_daemon
def merge_command(target: Target, name: str) -> None:
    """Bring what was remembered and forgotten on a branch to the one in use."""
    from memoryd.cli.connection import connected, run

    async def work() -> str:
        async with connected(target) as connection:
            merged = await connection.memory.merge_branch(name, user=target.user)
            return f"{merged.added:,} memories and {merged.trajectories:,} trajectories came, {merged.removed:,} went"

    click.echo(f"merged {name}: {run(work())}")


@branch_command.command("drop")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reaches_daemon
def drop_command(target: Target, name: str, yes: bool) -> int:  # noqa: FBT001 - click
    """Remove a branch, and what only it holds."""
    from memoryd.cli.connection import connected, run

    if not yes and not click.confirm(f"Remove branch {name} and what only it holds?"):
        click.echo("nothing removed")
        return 1

    async def work() -> None:
        async with connected(target) as connection:
            await connection.memory.drop_branch(name, user=target.user)

    run(work())
    click.echo(f"branch {name} is gone")
    return 0


@branch_command.command("export")
@click.argument("name")
@click.argument("file", type=FILE)
@reaches_daemon
def export_command(target: Target, name: str, file: Path) -> None:
    """Write everything a branch holds into one .rvf file, which RuVector's runtime opens too.

    The file stands by itself: it needs neither the branch nor its parents. It is complete or not there at all, and for your
    eyes only.
    """
    from memoryd.cli.connection import connected, run
    from memoryd.standalone import standalone

    async def work() -> int:
        async with connected(target) as connection:
            with standalone(file) as out:
                async for page in connection.memory.export(branch=name, user=target.user):
                    out.add(page)
            return out.records

    click.echo(f"exported: {run(work()):,} memories of branch {name}")
