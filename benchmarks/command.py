"""The command line that all benchmarks share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
from rich.console import Console

from benchmarks.machine import describe
from benchmarks.results import Result, table

FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """`logs` are the files of agent runs, `folder` is on the disk to be measured, `quick` takes fewer repetitions.

    `sizes` are the numbers of rows to measure, where a command has a choice.
    """

    logs: tuple[Path, ...]
    folder: Path
    quick: bool
    console: Console
    sizes: tuple[int, ...] = ()

    def home(self, name: str) -> Path:
        """Return a new folder for one daemon."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def say(self, what: str) -> None:
        """Tell what goes on."""
        self.console.print(f"[dim]{what}[/]")


Measure = Callable[[Settings], Iterable[Result]]


def command(measures: Sequence[tuple[str, Measure]], about: str, sizes: Sequence[int] = ()) -> click.Command:
    """Return a command that takes these measures in order and prints one table; `sizes` are those it measures by itself."""

    @click.command(help=about)
    @click.option("--rows", multiple=True, type=int, default=sizes, hidden=not sizes, help="Sizes to measure.")
    @click.argument("logs", nargs=-1, type=click.Path(exists=True, path_type=Path))
    @click.option("--quick", is_flag=True, help="Fewer repetitions and smaller sizes: a smoke run, not for quoting.")
    @click.option("--json", "as_json", type=FILE, metavar="FILE", help="Also write everything as JSON.")
    @click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="On which disk.")
    def run(
        rows: Sequence[int],
        logs: Sequence[Path],
        quick: bool,  # noqa: FBT001 - click
        as_json: Path | None,
        folder: Path | None,
    ) -> None:
        console = Console(width=None)
        with tempfile.TemporaryDirectory(prefix="memoryd-benchmark-", dir=folder) as home:
            settings = Settings(tuple(_files(logs)), Path(home), quick, console, tuple(sorted(set(rows))))
            machine = describe(settings.folder)
            results: list[Result] = []
            for name, measure in measures:
                console.rule(name)
                results += measure(settings)
        console.print(table(results, "; ".join(f"{key} {value}" for key, value in machine.items())))
        if not settings.logs:
            console.print("without agent runs: give their files as arguments to measure with them too")
        if quick:
            console.print("a quick run: sizes and repetitions are too small to quote")
        if as_json is not None:
            report = {
                "machine": machine,
                "quick": quick,
                "logs": [path.name for path in settings.logs],
                "results": results,
            }
            as_json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))

    return run


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files; of a folder, all it holds."""
    for path in paths:
        yield from sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
