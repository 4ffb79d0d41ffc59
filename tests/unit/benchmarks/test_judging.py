"""What the metrics say of rankings that can be judged by hand."""

from __future__ import annotations

from math import log2

import pytest

from benchmarks.judging import Interval, of_ranked, of_sessions


def test_the_metrics_of_a_ranking_are_those_of_their_definitions() -> None:
    found = of_ranked(["a", "x", "b", *"yyyyy", "c"], {"a", "b", "c", "never"})

    assert found["recall@5"] == 2 / 4
    assert found["recall@10"] == 3 / 4
    assert found["MRR"] == 1
    best = 1 + 1 / log2(3) + 1 / log2(4) + 1 / log2(5)
    assert found["nDCG@10"] == pytest.approx((1 + 1 / log2(4) + 1 / log2(10)) / best)


def test_what_comes_late_counts_for_the_reciprocal_rank_alone() -> None:
    found = of_ranked([*"xxxxxxxxxxx", "a"], {"a"})

    assert found == {"recall@5": 0, "recall@10": 0, "nDCG@10": 0, "MRR": 1 / 12}


def test_of_sessions_one_or_all_must_be_among_the_first_five() -> None:
    assert of_sessions(["1", "2", "3", "4", "5", "6"], {"5", "6"}) == {"session any@5": 1, "session all@5": 0}
    assert of_sessions(["6", "5"], {"5", "6"}) == {"session any@5": 1, "session all@5": 1}


def test_an_interval_is_the_same_every_time_and_narrower_of_more_values() -> None:
    few, many = [0.0, 1.0] * 20, [0.0, 1.0] * 500

    assert Interval.of(few) == Interval.of(few)
    assert Interval.of(many).mean == 0.5
    assert 0.4 < Interval.of(many).low < 0.5 < Interval.of(many).high < 0.6
    assert Interval.of(few).high - Interval.of(few).low > 0.2
    assert Interval.of([1.0] * 9).shown() == "1.000 ± .000"
    assert Interval(-0.25, -0.5, 0.125).shown_as_difference() == "-.250 (-.500 to +.125)"
