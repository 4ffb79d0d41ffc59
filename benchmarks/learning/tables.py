"""What was measured as tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from benchmarks.grids import Grid
from benchmarks.judging import Interval, K
from benchmarks.learning import figures as f
from benchmarks.learning import scale

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_COSTS: Final = {  # floor and goal
    scale.STEP: (1.0, 0.3),
    scale.PER_RUN: (3.0, 1.0),
    scale.SEARCH: (0.3, 0.1),
    scale.TRANSFORM: (0.02, 0.01),
    scale.STATE.format("edge"): (5.0, 1.0),
    scale.STATE.format("balanced"): (50.0, 10.0),
}


def grids(figures: f.Figures, seeds: int) -> list[Grid]:
    """Return a table for each base, and those of the guard, of histories, and of what it takes."""
    found = [_changes(figures, base, seeds) for base in (f.FULL, f.PLAIN)]
    return [grid for grid in (*found, _guarded(figures), _histories(figures), _costs(figures)) if grid.rows]


def _changes(figures: f.Figures, base: str, seeds: int) -> Grid:
    pairs = [pair for pair in figures.pairs if pair.base == base]
    others = _distinct(pair.learner for pair in pairs if pair.learner != f.OURS)
    # As in the pairs of who has the most of them: small users have no runs for some.
    counts = Counter(pair.user for pair in pairs)
    names = _distinct(pair.what for pair in sorted(pairs, key=lambda pair: -counts[pair.user]))
    rows = [_row(name, [pair for pair in pairs if pair.what == name], base, others) for name in names]
    columns = ["", "users", "without", "with", "change, %", "worst user", "floor", "goal", *others]
    return Grid(f"{base}, nDCG@{K}, {seeds} seeds", columns, rows)


def _row(what: str, pairs: Sequence[f.Pair], base: str, others: Sequence[str]) -> list[str]:
    ours = f.summary([pair for pair in pairs if pair.learner == f.OURS])
    spread = "" if ours.spread is None else f" ± {ours.spread:.1f}"
    of_others = [[pair for pair in pairs if pair.learner == other] for other in others]
    return [
        what,
        str(ours.users),
        f"{ours.before:.3f}",
        f"{ours.after:.3f}",
        f"{ours.change:+.1f}{spread}",
        f"{ours.worst:+.1f}",
        *_bounds(what, base),
        *(_other(of_one) for of_one in of_others),
    ]


def _other(pairs: Sequence[f.Pair]) -> str:
    found = f.summary(pairs) if pairs else None
    return f"{found.change:+.1f}" if found and found.before > 0 else ""  # who gained nothing has nothing to keep


def _bounds(what: str, base: str) -> tuple[str, str]:
    bound = f.BOUNDS.get(what)
    if bound is None:
        return "", ""
    if base == f.PLAIN:
        return f"{bound.floor_plain:+g}", ""
    return f"{bound.floor_full:+g}", f"{bound.goal_full:+g}"


def _guarded(figures: f.Figures) -> Grid:
    rows = []
    for base in _distinct(verdict.base for verdict in figures.verdicts):
        for kind, bound in ((f.AS_THEY_ARE, ""), (f.EXCHANGED, "0")):
            said = [each.outcome for each in figures.verdicts if (each.base, each.kind) == (base, kind)]
            counts = [str(said.count(outcome)) for outcome in ("accepted", "refused", "too few")]
            rows.append([f"{base}, runs {kind}", *counts, bound])
    return Grid("the guard", ["", "accepted", "refused", "too few to judge", "floor and goal: accepted"], rows)


def _histories(figures: f.Figures) -> Grid:
    rows = []
    for each in figures.histories:
        without, after = (Interval.of(values).mean for values in (each.before, each.after))
        lead = Interval.of([late - early for early, late in zip(each.before, each.after, strict=True)])
        what = f"{each.name}, {each.base}, {each.told}"
        change = f"{100 * (after / without - 1):+.1f}" if without else ""
        rows.append([what, each.learner, f"{without:.3f}", f"{after:.3f}", change, lead.shown_as_difference()])
    columns = ["", "learner", "without", "with", "change, %", "difference, 95 %"]
    return Grid(
        f"histories of agents' runs, nDCG@{K} of memories of earlier runs of the same task or repository", columns, rows
    )


def _costs(figures: f.Figures) -> Grid:
    rows = []
    names = _distinct(cost.what for cost in figures.costs)
    for cost in sorted(figures.costs, key=lambda cost: names.index(cost.what)):
        floor, goal = _COSTS.get(cost.what, (None, None))
        rows.append(
            [
                cost.what,
                f"{cost.runs:,}",
                f"{cost.median:.3g} {cost.unit}",
                "" if cost.p95 is None else f"{cost.p95:.3g} {cost.unit}",
                "" if floor is None else f"{floor:g}",
                "" if goal is None else f"{goal:g}",
            ]
        )
    return Grid("what it takes", ["", "runs", "p50", "p95", "floor", "goal"], rows)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
