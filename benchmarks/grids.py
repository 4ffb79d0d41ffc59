"""Tables of figures: for the terminal, and in Markdown for the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Grid:
    """A title, the names of the columns, and rows whose first cell is their name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def shown(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join([f"{self.title}:", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def show(grids: Sequence[Grid], notes: Sequence[str], console: Console, markdown: Path | None) -> None:
    """Print the tables with what is to be said beside them, and write the same as Markdown if a file is named."""
    for grid in grids:
        console.print(grid.shown())
    for note in notes:
        console.print(note)
    if markdown is not None:
        markdown.write_text("\n".join([*(grid.markdown() for grid in grids), *notes, ""]), encoding="utf-8")
