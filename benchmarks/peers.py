"""Our store beside four others, in one run and on the same vectors.

    python -m benchmarks.peers [--rows 10000 --rows 100000] [--only NAME] [--quick] [--json FILE] [LOGS]

Every system keeps vectors and texts on disk, as durably as it can, and runs in processes of its own: one to load, one to
be asked, one for every opening, one to append. The others are installed when they are first needed, outside of this
environment; one that cannot be is named in the table. Without LOGS the real texts are those of the sample.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import given
from benchmarks.command import FILE
from benchmarks.machine import describe
from benchmarks.results import Result, table
from benchmarks.systems import installed
from benchmarks.systems.installed import NotMeasured
from benchmarks.systems.measured import Figures, measure

if TYPE_CHECKING:
    from benchmarks.given import Given
    from benchmarks.systems.installed import Runner, Say

OURS: Final = "ours"
APPENDS: Final = 20
OPENINGS: Final = 5
OPEN_TIMES: Final = 50.0
_WIDTH: Final = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A system, and how many times as quick at a query and as small on disk as it we must be."""

    shown: str
    runner: Callable[[Say], Runner]
    query_times: float
    disk_times: float | None = 2.0
    note: str = ""


def _in_python(name: str, *packages: str) -> Callable[[Say], Runner]:
    return lambda say: installed.python_peer(name, packages, say)


PEERS: Final[Mapping[str, Peer]] = {
    "chroma": Peer(shown="Chroma 1.5.9", runner=_in_python("chroma", "chromadb"), query_times=4),
    "lance": Peer(
        shown="LanceDB 0.40.0",
        runner=_in_python("lance", "lancedb", "pyarrow"),
        query_times=20,
        note="no index but the scan, its default; it never calls fsync",
    ),
    "sqlite_vec": Peer(
        shown="sqlite-vec 0.1.9",
        runner=_in_python("sqlite_vec", "sqlite-vec", "pysqlite3-binary"),
        query_times=300,
        note="write-ahead log, synchronous = FULL",
    ),
    "rvf_node": Peer(
        shown="rvf-node 0.2.3",
        runner=lambda say: installed.node_peer("rvf_node", say),
        query_times=2,
        disk_times=None,
        note="keeps no texts; the load includes the first search, which builds the graph",
    ),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of the table: how it is read, and how it is written."""

    name: str
    read: Callable[[Figures], float | None]
    form: str


COLUMNS: Final = (
    Column("load\ns", lambda figures: figures.load_s, ".2f"),
    Column("query\np50 ms", lambda figures: figures.query_p50_ms, ".3f"),
    Column("query\np95 ms", lambda figures: figures.query_p95_ms, ".3f"),
    Column("open\nms", lambda figures: figures.open_ms, ".1f"),
    Column("open, cold\ncache ms", lambda figures: figures.open_cold_ms, ".1f"),
    Column("open after\nappends ms", lambda figures: figures.open_appended_ms, ".1f"),
    Column(f"append\n{given.APPEND_ROWS}, ms", lambda figures: figures.append_ms, ".2f"),
    Column("append\n1, ms", lambda figures: figures.append_one_ms, ".2f"),
    Column("disk\nMB", lambda figures: figures.disk_bytes / 1e6, ".1f"),
    Column("private\nMB", lambda figures: figures.private_bytes / 1e6, ".1f"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All systems on the same vectors; the reason in the place of the figures of one that was not measured."""

    what: str
    rows: int
    systems: dict[str, Figures | str] = field(default_factory=dict)

    def shown(self) -> Table:
        """Return the table: ours first, and below each figure of the others how many times ours it is."""
        about = f"recall@{given.K}; open: in a new process, imports apart, to the first answer"
        shown = Table(title=f"{self.what}; {about}", title_justify="left", show_lines=True)
        shown.add_column("", min_width=20)
        for name in ("recall", *(column.name for column in COLUMNS)):
            shown.add_column(name, justify="right")
        ours = self.systems[OURS]
        for name, figures in self.systems.items():
            peer = PEERS.get(name)
            title = "memoryd" if peer is None else f"{peer.shown}\n[dim]{peer.note}[/]".rstrip()
            if isinstance(figures, str):
                shown.add_row(f"{title}\nnot measured: {figures}")
                continue
            compared = ours if isinstance(ours, Figures) and peer is not None else None
            found = "" if figures.is_found_at_once else "\nappended row not found"
            cells = [_cell(column, figures, compared) for column in COLUMNS]
            shown.add_row(title, f"{figures.recall:.3f}{found}", *cells)
        return shown

    def verdicts(self) -> Iterator[Result]:
        """Yield our bounds beside every peer, or why they could not be held against it."""
        ours = self.systems[OURS]
        for name, figures in self.systems.items():
            peer = PEERS.get(name)
            if peer is None:
                continue
            if isinstance(ours, Figures) and isinstance(figures, Figures):
                yield from self._against(peer, ours, figures)
            else:
                why = ours if isinstance(ours, str) else figures
                yield Result(what=self._beside("all", peer), bound="", measured=f"not measured: {why}")

    def _against(self, peer: Peer, ours: Figures, other: Figures) -> Iterator[Result]:
        quicker = other.query_p50_ms / ours.query_p50_ms
        yield Result(
            what=self._beside("query at p50", peer),
            bound=f"{peer.query_times:g} times as quick, recall no lower",
            measured=f"{quicker:.1f} times; recall {ours.recall:.3f} and {other.recall:.3f}",
            is_met=quicker >= peer.query_times and round(ours.recall, 3) >= round(other.recall, 3),
            values={"times": quicker, "recall": ours.recall, "recall_of_peer": other.recall},
        )
        sooner = other.open_ms / ours.open_ms
        yield Result(
            what=self._beside("open to first answer", peer),
            bound=f"{OPEN_TIMES:g} times as quick",
            measured=f"{sooner:.1f} times",
            is_met=sooner >= OPEN_TIMES,
            values={"times": sooner},
        )
        smaller = other.disk_bytes / ours.disk_bytes
        yield Result(
            what=self._beside("disk", peer),
            bound="none: it keeps no texts" if peer.disk_times is None else f"{peer.disk_times:g} times as small",
            measured=f"{smaller:.1f} times",
            is_met=None if peer.disk_times is None else smaller >= peer.disk_times,
            values={"times": smaller},
        )

    def _beside(self, what: str, peer: Peer) -> str:
        return f"{what} beside {peer.shown}, {self.rows:,} rows"


def _cell(column: Column, figures: Figures, ours: Figures | None) -> str:
    value = column.read(figures)
    if value is None:
        return "not possible here"
    text = f"{value:,{column.form}}"
    base = column.read(ours) if ours is not None else None
    if not base:
        return text
    times = value / base
    return f"{text}\n[dim]{times:,.{0 if times >= 10 else 2}f} x[/]"


@click.command(help="Measure our store beside four others. LOGS are files of agent runs.")
@click.argument("logs", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rows", "sizes", multiple=True, type=int, default=(10_000, 100_000), help="Sizes to measure.")
@click.option("--only", multiple=True, type=click.Choice([OURS, *PEERS]), help="Only these beside ours.")
@click.option("--peers-on-random", is_flag=True, help="Measure the others on random vectors too.")
@click.option("--quick", is_flag=True, help="2,000 rows and fewer repetitions: a smoke run, not for quoting.")
@click.option("--json", "as_json", type=FILE, metavar="FILE", help="Also write everything as JSON.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="On which disk.")
def main(
    logs: Sequence[Path],
    sizes: Sequence[int],
    only: Sequence[str],
    *,
    peers_on_random: bool,
    quick: bool,
    as_json: Path | None,
    folder: Path | None,
) -> None:
    console = Console(width=_WIDTH)
    appends, openings = (3, 2) if quick else (APPENDS, OPENINGS)
    names = [name for name in PEERS if name in (only or PEERS)]
    with tempfile.TemporaryDirectory(prefix="memoryd-benchmark-", dir=folder) as home:
        machine = describe(Path(home))
        machine_line = "; ".join(f"{key} {value}" for key, value in machine.items())
        runners = _runners(names, lambda what: console.print(f"[dim]{what}[/]"))
        comparisons = []
        for size in (2_000,) if quick else sorted(set(sizes)):
            for kind in ("real", "clustered", "uniform"):
                made = given.real(logs, size, appends) if kind == "real" else given.random(kind, size, appends)
                systems = runners if kind == "real" or peers_on_random else {OURS: runners[OURS]}
                console.rule(f"{size:,} rows, {kind}")
                place = Path(home) / f"{kind}-{size}"
                comparisons.append(_compare(made, systems, place, appends, openings, console))
                console.print(comparisons[-1].shown())
    verdicts = [result for comparison in comparisons for result in comparison.verdicts()]
    console.print(table(verdicts, machine_line))
    if quick:
        console.print("a quick run: sizes and repetitions are too small to quote")
    if as_json is not None:
        names_of_logs = [path.name for path in logs]
        report = {
            "machine": machine,
            "quick": quick,
            "logs": names_of_logs,
            "comparisons": comparisons,
            "results": verdicts,
        }
        as_json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))


def _runners(names: Sequence[str], say: Say) -> dict[str, Runner | str]:
    """Return how to run ours and these peers, or why that is not possible."""
    runners: dict[str, Runner | str] = {OURS: installed.ours()}
    for name in names:
        try:
            runners[name] = PEERS[name].runner(say)
        except NotMeasured as why:
            runners[name] = str(why)
    return runners


def _compare(
    made: Given, systems: Mapping[str, Runner | str], place: Path, appends: int, openings: int, console: Console
) -> Comparison:
    """Measure the systems one after the other on the same files."""
    place.mkdir()
    made.write(place / "given", appends)
    comparison = Comparison(made.what, len(made.rows))
    for name, runner in systems.items():
        console.print(f"[dim]{name}[/]")
        if isinstance(runner, str):
            comparison.systems[name] = runner
            continue
        try:
            comparison.systems[name] = measure(runner, made, place / "given", place / name, openings)
        except NotMeasured as why:
            comparison.systems[name] = str(why)
    return comparison


if __name__ == "__main__":
    main()
