"""`inspect`: what stands in an `.rvf` file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from memoryd.rvf.inspect import Inspection


@click.command("inspect")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def inspect_command(path: Path, *, as_json: bool) -> None:
    """Show the segments, the manifest, the graph and the lineage of any .rvf file.

    Use it on a file of memoryd or of another program, whether a daemon has it open or not: nothing is changed. Texts of
    memories are not shown.

    \b
    Examples:
      memoryd inspect data/alice/memory.rvf
      memoryd inspect --json other.rvf | jq .segments
    """
    from memoryd.files import RealFiles
    from memoryd.rvf.inspect import inspect

    file = RealFiles().open(path.absolute(), writable=False)
    try:
        found = inspect(file, path.absolute())
    finally:
        file.close()
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found).decode())
        return
    from memoryd.cli.output import console

    for line in _about(found):
        console().print(line)
    console().print(_table(found))


def _about(found: Inspection) -> list[str]:
    """Return the lines above the table."""
    from memoryd.cli.output import size

    lines = [
        f"{found.file}: {size(found.bytes)}, epoch {found.epoch}",
        f"{found.vectors:,} vectors of {found.dimension} dimensions, {found.metric}; {found.deleted:,} deleted",
    ]
    if found.lineage is None:
        return [*lines, "no identity"]
    lines.append(f"file {found.lineage.file_id}")
    if found.lineage.depth:
        lines.append(f"derived from {found.lineage.parent_id}, generation {found.lineage.depth}")
    return lines


def _table(found: Inspection) -> Table:
    from rich.table import Table

    table = Table()
    for heading in ("offset", "bytes", "id"):
        table.add_column(heading, justify="right")
    for heading in ("segment", "state", "sound", "says"):
        table.add_column(heading)
    for each in found.segments:
        table.add_row(
            str(each.offset),
            f"{each.bytes:,}",
            "" if each.id is None else str(each.id),
            each.name,
            each.state,
            "✔" if each.is_sound else "✘",
            each.says,
            style=None if each.is_sound and each.state == "live" else "dim" if each.is_sound else "red",
        )
    return table
