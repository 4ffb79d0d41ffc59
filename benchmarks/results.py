"""What was measured, against what it must be: as a table and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_VERDICTS: Final = {True: "[green]met[/]", False: "[red]not met[/]", None: "[dim]no bound[/]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure. `is_met` is None where nothing is promised; `values` holds the numbers behind `measured`."""

    what: str
    bound: str
    measured: str
    is_met: bool | None = None
    values: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, median and most of some repetitions."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), float(np.median(values)), max(values))

    def text(self, form: str = ".2f") -> str:
        """Return `median (least to most)`."""
        return f"{self.median:{form}} ({self.least:{form}} to {self.most:{form}})"


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99 and the largest."""
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).round(3).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": round(max(values), 3)}


def table(results: Iterable[Result], title: str) -> Table:
    """Return the table: what, bound, measured, met or not."""
    shown = Table(title=title, title_justify="left", show_lines=True)
    for column in ("what", "bound", "measured", ""):
        shown.add_column(column, overflow="fold")
    for result in results:
        shown.add_row(result.what, result.bound, result.measured, _VERDICTS[result.is_met])
    return shown
