"""What was measured as pictures, for the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.learning import figures as f
from benchmarks.learning.protocols import AMOUNTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

_SIZE: Final = (9.0, 3.6)  # inches
_DOTS: Final = 90  # per inch
_OCCURRENCES: Final = (1, 2, 3, 4)
_FLOOR: Final = -3  # percent, of what is forgotten
_WITHOUT: Final = "without learning"


def draw(figures: f.Figures, folder: Path) -> list[Path]:
    """Write the pictures of what was measured, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {pair.what for pair in figures.pairs}
    found = []
    if f.HELD_OUT in known:
        # Only amounts that all users have, so that each point is of the same ones.
        amounts = [
            amount for amount in AMOUNTS if _users(figures, f.AFTER.format(amount)) == _users(figures, f.HELD_OUT)
        ]
        names = {**{str(amount): f.AFTER.format(amount) for amount in amounts}, "half of all": f.HELD_OUT}
        found.append(_lines(figures, names, folder / "learning-held-out.png", "questions fed", "unseen questions"))
    if f.STREAM in known:
        names = {str(time): f.OCCURRENCE.format(time) for time in _OCCURRENCES}
        found.append(_lines(figures, names, folder / "learning-stream.png", "time that a question comes", "stream"))
    if any(what.startswith("A's") for what in known):
        found.append(_forgetting(figures, folder / "learning-forgetting.png"))
    return found


def _lines(figures: f.Figures, names: Mapping[str, str], path: Path, across: str, title: str) -> Path:
    figure, panels = _panels()
    for base, panel in panels:
        pairs = [pair for pair in figures.pairs if pair.base == base]
        for learner in dict.fromkeys(pair.learner for pair in pairs):
            own = [pair for pair in pairs if pair.learner == learner]
            points = [f.summary([pair for pair in own if pair.what == what]) for what in names.values()]
            if learner == f.OURS:
                panel.plot(list(names), [each.before for each in points], "--", color="0", zorder=3, label=_WITHOUT)
            panel.plot(list(names), [each.after for each in points], "o-", ms=4, label=learner)
        panel.set_title(f"{title}, {base}", fontsize=10)
        panel.set_xlabel(across)
        panel.set_ylabel("nDCG@10")
    return _written(figure, panels, path)


def _users(figures: f.Figures, what: str) -> set[str]:
    return {pair.user for pair in figures.pairs if pair.what == what}


def _forgetting(figures: f.Figures, path: Path) -> Path:
    figure, panels = _panels(is_shared=True)
    pairs = [pair for pair in figures.pairs if pair.what.startswith("A's")]
    bars = list(dict.fromkeys((pair.what, pair.learner) for pair in pairs))
    for base, panel in panels:
        of_each = [[pair for pair in pairs if (pair.base, pair.what, pair.learner) == (base, *bar)] for bar in bars]
        changes = [f.summary(some).change for some in of_each]
        panel.barh(range(len(bars)), changes, color=["C0" if learner == f.OURS else "C1" for _, learner in bars])
        panel.set_yticks(range(len(bars)), [f"{what}: {learner}" for what, learner in bars], fontsize=7)
        panel.axvline(_FLOOR, color="0.5", ls="--", lw=1)
        panel.set_title(f"A asked again after B, {base}", fontsize=10)
        panel.set_xlabel("change of nDCG@10, %")
    panels[0][1].invert_yaxis()
    return _written(figure, [], path)


def _panels(*, is_shared: bool = False) -> tuple[Figure, list[tuple[str, Axes]]]:
    figure = Figure(_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(zip((f.FULL, f.PLAIN), figure.subplots(1, 2, sharey=is_shared).tolist(), strict=True))


def _written(figure: Figure, panels: Sequence[tuple[str, Axes]], path: Path) -> Path:
    for _, panel in panels:
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=_DOTS)
    return path
