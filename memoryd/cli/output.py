"""What people see: consoles, tables, and short forms of texts, ages, sizes and outcomes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from memoryd.protocol.records import RetrievedMemory, Trajectory

if TYPE_CHECKING:
    from rich.progress import Progress

    from memoryd.protocol.errors import MemorydError

PIPE_WIDTH: Final = 160  # where no terminal says how wide it is
TEXT_WIDTH: Final = 300
LONG_NAME: Final = 16
GOOD: Final = 0.5  # an outcome of at least this went well
OPEN: Final = "– open"  # noqa: RUF001 - a dash, beside a tick and a cross

_AGES: Final = ((604_800, "w"), (86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_PHASES: Final = {
    "running": "green",
    "cold": "dim",
    "starting": "cyan",
    "draining": "yellow",
    "stopped": "dim",
    "quarantined": "bold red",
}


def console(*, err: bool = False) -> Console:
    """Return a console for stdout or stderr: in colour on a terminal, plain and wide in a pipe."""
    file = sys.stderr if err else sys.stdout
    width = None if file.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, emoji=False, markup=False)


def progress(on: Console) -> Progress:
    """Return a bar that counts what is done, on a terminal; it shows nothing anywhere else."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=on,
        transient=True,
        disable=not on.is_terminal,
    )


def tell_rejected(on: Console, what: str, error: MemorydError) -> None:
    """Say why one part of the input, such as `line 3`, was not taken."""
    field = f" ({error.field})" if error.field else ""
    on.print(f"{what}: {error.message}{field}" + (f"; {error.hint}" if error.hint else ""), soft_wrap=True)


def shorten(text: str, width: int) -> str:
    """Return `text` on one line of at most `width` characters, cut at a word, without control characters."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    if len(line) <= width:
        return line
    cut = line[: width - 1]
    head, space, _ = cut.rpartition(" ")
    return (head if space and len(head) > width // 2 else cut).rstrip(" ,;:.") + "…"


def duration(seconds: float) -> str:
    """Return a time span in its largest unit: `3 s`, `5 min`, `2 h`, `3 d`, `5 w`."""
    whole = max(0, int(seconds))
    for length, unit in _AGES:
        if whole >= length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def age(when: datetime, now: datetime) -> str:
    """Return how long ago `when` was."""
    return duration((now - when).total_seconds())


def size(count: int) -> str:
    """Return a number of bytes in a unit that people read."""
    for length, unit in _SIZES:
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def outcome(quality: float | None) -> Text:
    """Return how the run went that a memory belongs to."""
    if quality is None:
        return Text(OPEN, style="dim")
    return Text(f"✔ {quality:.2f}", style="green") if quality >= GOOD else Text(f"✘ {quality:.2f}", style="red")


def phase(name: str) -> Text:
    """Return the state of an actor in its colour."""
    return Text(name, style=_PHASES.get(name, ""))


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table in the house's look; a column that begins with `>` is flush right."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return made


def memories_table(memories: Iterable[RetrievedMemory], now: datetime, title: str | None = None) -> Table:
    """Return recalled memories, best first."""
    made = table("text", "kind", "source", ">score", ">relevance", ">age", "session", "outcome", title=title)
    made.columns[0].no_wrap, made.columns[0].ratio, made.columns[0].overflow = False, 1, "fold"
    for memory in memories:
        record = memory.record
        made.add_row(
            Text(shorten(record.text, TEXT_WIDTH) + (f" (+{len(memory.folded)} the same)" if memory.folded else "")),
            record.kind,
            record.source,
            f"{memory.sona_score:.3f}",
            f"{memory.relevance:.2f}",
            age(record.timestamp, now),
            _session(record.session_id),
            outcome(record.quality_score),
        )
    return made


def _session(name: str) -> Text:
    """Return a session's name; the end of a long one, since ULIDs of one hour begin alike."""
    return (
        Text(shorten(name, LONG_NAME) if len(name) <= LONG_NAME else "…" + shorten(name[-8:], 8)) if name else Text("-")
    )


def trajectories_table(trajectories: Sequence[Trajectory], now: datetime) -> Table:
    """Return trajectories, the newest first."""
    made = table("query", ">shown", ">steps", ">age", "outcome", "id")
    made.columns[0].no_wrap, made.columns[0].ratio = False, 1
    for each in trajectories:
        made.add_row(
            Text(shorten(each.query, TEXT_WIDTH)),
            str(len(each.shown)),
            str(len(each.steps)),
            age(each.started, now),
            outcome(each.quality) if each.ended else Text("running", style="cyan"),
            each.id,
        )
    return made


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Return names and values, one pair a line."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value if isinstance(value, Text) else Text(value))
    return made
