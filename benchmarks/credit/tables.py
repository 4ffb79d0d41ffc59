"""What was measured as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.grids import Grid
from benchmarks.judging import K
from benchmarks.learning import figures as f

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.credit.histories import Crediter


def of_users(pairs: Sequence[f.Pair], what: str, seeds: int) -> Grid:
    """Return a row for each rule and kind of later texts of what was asked, over all users, those of the first half, and of the second."""
    users = list(dict.fromkeys(pair.user for pair in pairs))
    half = len(users) // 2
    parts = [users[:half], users[half:]] if half else [users]
    rows = []
    for rule, kind in dict.fromkeys((pair.learner, pair.what) for pair in pairs):
        found = [pair for pair in pairs if (pair.learner, pair.what) == (rule, kind)]
        of_parts = [f.summary([pair for pair in found if pair.user in part]) for part in parts]
        whole = f.summary(found)
        rows.append(
            [rule, kind, _change(whole), *(f"{each.change:+.1f} %" for each in of_parts), f"{whole.worst:+.1f} %"]
        )
    title = (
        f"{what}: {len(users)} users, {seeds} seeds, nDCG@{K} against {f.summary(pairs).before:.3f} without learning"
    )
    halves = [f"first {half}", f"last {len(users) - half}"] if half else ["all"]
    return Grid(title, ["credit", "later texts", "all", *halves, "worst user"], rows)


def of_history(followers: Sequence[Crediter]) -> Grid:
    """Return a row for each rule of what came of one history."""
    rows = []
    for learner in dict.fromkeys(each.learner for each in followers):
        found = [each for each in followers if each.learner == learner]
        right = [share for each in found for share in each.right]
        first = [share for each in found for share in each.first]
        precision = [f"{np.mean(right):.2f}", f"{np.mean(first):.2f}"] if right else ["", ""]
        rows.append([learner, _change(f.summary([each.pair for each in found])), *precision, str(len(right))])
    of_one = followers[0].pair
    title = f"{of_one.user}: {of_one.questions} runs, nDCG@{K} against {of_one.before:.3f} without learning"
    return Grid(title, ["credit", "", "of it is right", "of the first five", "runs that tell"], rows)


def of_costs(took: Mapping[str, Sequence[float]]) -> Grid:
    """Return what a lesson takes, given seconds of a processor by what the runs are of."""
    rows = [
        [name, f"{1e3 * np.median(each):.1f} ms", f"{1e3 * np.quantile(each, 0.95):.1f} ms"]
        for name, each in took.items()
        if each
    ]
    return Grid("a lesson of a run, of a processor", ["", "p50", "p95"], rows)


def _change(found: f.Summary) -> str:
    spread = "" if found.spread is None else f" ± {found.spread:.1f}"
    return f"{found.change:+.1f} %{spread}"
