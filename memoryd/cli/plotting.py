"""The picture of `memoryd sona evaluate`. Imports matplotlib, which no other command needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from typing import BinaryIO

    from memoryd.protocol.messages import Interval, LearningEvaluated

_SIZE: Final = (7.0, 4.2)  # inches
_DOTS: Final = 120  # an inch
_APART: Final = 0.06  # of the two lines, so that their intervals do not hide each other


def plot(found: LearningEvaluated, user: str, out: BinaryIO) -> None:
    """Draw quality without and with learning by generation, with intervals of 95 %, as a PNG."""
    figure = Figure(figsize=_SIZE, dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, colour, shift, values in (
        ("without learning", "tab:grey", -_APART, [each.without for each in found.generations]),
        ("with what was learned before", "tab:blue", _APART, [each.learned for each in found.generations]),
    ):
        places = [number + shift for number in range(1, len(values) + 1)]
        axes.errorbar(
            places,
            [each.mean for each in values],
            yerr=_errors(values),
            label=name,
            color=colour,
            marker="o",
            capsize=4,
        )
    axes.set_xlabel("generation: later runs to the right")
    axes.set_ylabel("nDCG@10 of what helped, 95 % intervals")
    axes.set_title(
        f"{user}: learning {found.verdict}" if found.verdict != "no sure difference" else f"{user}: {found.verdict}"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(out, format="png")


def _errors(values: list[Interval]) -> list[list[float]]:
    return [[each.mean - each.low for each in values], [each.high - each.mean for each in values]]
