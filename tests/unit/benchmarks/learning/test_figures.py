"""Means, their spread, and what is drawn and written of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.learning import figures as f
from benchmarks.learning import plots, tables
from benchmarks.learning.whole import PARTS, jobs

if TYPE_CHECKING:
    from pathlib import Path


def pair(what: str, user: str, seed: int, before: float, after: float, learner: str = f.OURS) -> f.Pair:
    return f.Pair(f.PLAIN, learner, what, user, seed, before, after, 10)


def test_a_summary_is_of_the_means_with_the_spread_of_seeds_and_the_worst_user() -> None:
    found = f.summary(
        [
            pair(f.STREAM, "a", 0, 0.4, 0.6),
            pair(f.STREAM, "a", 1, 0.4, 0.6),
            pair(f.STREAM, "b", 0, 0.6, 0.6),
            pair(f.STREAM, "b", 1, 0.6, 0.5),
        ]
    )

    assert (found.before, found.after) == pytest.approx((0.5, 0.575))
    assert found.change == pytest.approx(15)
    assert found.spread == pytest.approx(10 / 2**0.5)  # +20 and +10 %
    assert found.worst == pytest.approx(100 * (0.55 / 0.6 - 1))
    assert found.users == 2
    assert f.summary([pair(f.STREAM, "a", 0, 0.4, 0.6)]).spread is None


def test_tables_put_the_floor_beside_the_change_and_other_learners_behind_it() -> None:
    figures = f.Figures(
        pairs=[pair(f.STREAM, "a", 0, 0.4, 0.6), pair(f.STREAM, "a", 0, 0.4, 0.3, "other")],
        verdicts=[f.Verdict(f.PLAIN, f.AS_THEY_ARE, "accepted"), f.Verdict(f.PLAIN, f.EXCHANGED, "refused")],
        costs=[
            f.Cost("one", 10, 1.0, None, "ms"),
            f.Cost("two", 10, 2.0, 3.0, "ms"),
            f.Cost("one", 20, 4.0, 5.0, "ms"),
        ],
        histories=[f.History("h", f.PLAIN, f.OURS, "named", [0.5, 0.5], [0.75, 0.75])],
    )

    changes, guarded, histories, costs = tables.grids(figures, seeds=1)

    assert changes.rows == [[f.STREAM, "1", "0.400", "0.600", "+50.0", "+50.0", "+40", "", "-25.0"]]
    assert [row[1:4] for row in guarded.rows] == [["1", "0", "0"], ["0", "1", "0"]]
    assert histories.rows[0][2:] == ["0.500", "0.750", "+50.0", "+.250 (+.250 to +.250)"]
    assert [row[:2] for row in costs.rows] == [["one", "10"], ["one", "20"], ["two", "10"]]


def test_pictures_are_of_what_was_measured(tmp_path: Path) -> None:
    pairs = [
        f.Pair(base, f.OURS, what, "a", 0, 0.4, 0.5, 10)
        for base in (f.FULL, f.PLAIN)
        for what in (f.HELD_OUT, *map(f.AFTER.format, (10, 25)), f.FORGOTTEN.format(f.QUESTIONS, f.ALL_HELD))
    ]

    found = plots.draw(f.Figures(pairs), tmp_path / "new")

    assert [path.name for path in found] == ["learning-held-out.png", "learning-forgetting.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found)


def test_jobs_of_one_store_stand_together() -> None:
    found = jobs(PARTS, users=3, seeds=2)

    stores = [(job.which, job.base) for job in found]
    assert len(set(stores)) == sum(one != other for one, other in zip(stores, [None, *stores], strict=False))
    assert {job.which for job in found if job.part == "forgetting"} == {(0, 1)}
    assert {job.which for job in found if job.part == "scale"} == {(0, 1, 2)}
    assert len(found) == len(set(found)) == 2 * 2 * (5 * 3 + 1 + 1)
