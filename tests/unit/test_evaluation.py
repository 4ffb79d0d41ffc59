"""How good an order is, and how sure a difference."""

from __future__ import annotations

import numpy as np
import pytest

from memoryd.evaluation import DEPTH, interval, ndcg, verdict
from memoryd.protocol.ids import RecordId
from memoryd.protocol.messages import Interval

A, B, C, D = (RecordId(each) for each in "ABCD")


def order(*answers: RecordId) -> list[tuple[RecordId, ...]]:
    return [(each,) for each in answers]


@pytest.mark.parametrize(
    ("answers", "helped", "harmful", "expected"),
    [
        (order(A, B), [A], [], 1.0),
        (order(B, A), [A], [], 1 / np.log2(3)),
        (order(B, C), [A], [], 0.0),
        ([], [A], [], 0.0),
        (order(A, B, C), [A, C], [], (1 + 1 / 2) / (1 + 1 / np.log2(3))),
        (order(A, B), [], [A], 0.0),
        (order(B, A), [], [A], 1 - 1 / np.log2(3)),
        (order(B, C), [], [A], 1.0),
        (order(A, B), [A], [B], (1 - 1 / np.log2(3) + 1) / 2),
        (order(A, C), [A], [B], 1.0),
        (order(B, C), [A], [B], 0.0),
    ],
)
def test_it_goes_from_the_worst_order_to_the_best(
    answers: list[tuple[RecordId, ...]], helped: list[RecordId], harmful: list[RecordId], expected: float
) -> None:
    assert ndcg(answers, helped, harmful) == pytest.approx(expected)


def test_one_of_several_that_say_the_same_counts_where_they_stand() -> None:
    assert ndcg([(B,), (C, A)], [A], []) == ndcg(order(B, A), [A], [])


def test_what_stands_behind_the_tenth_place_counts_nothing() -> None:
    others = [RecordId(str(number)) for number in range(DEPTH)]

    assert ndcg(order(*others[:-1], A), [A], []) > 0
    assert ndcg(order(*others, A), [A], []) == 0
    assert ndcg(order(*others, A), [], [A]) == 1


def test_no_order_is_better_than_all_that_helped_however_many_they_are() -> None:
    many = [RecordId(str(number)) for number in range(3 * DEPTH)]

    assert ndcg(order(*many), many, []) == pytest.approx(1)


def test_an_interval_holds_the_mean_and_becomes_narrower_with_more_values() -> None:
    rng = np.random.default_rng(1)
    few, many = interval(rng.normal(0.3, 0.1, 20).tolist()), interval(rng.normal(0.3, 0.1, 2_000).tolist())

    for each in (few, many):
        assert each.low < each.mean < each.high
    assert many.high - many.low < (few.high - few.low) / 5
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.1 / 2_000**0.5, rel=0.15)
    assert interval([0.5] * 9) == Interval(mean=0.5, low=0.5, high=0.5)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.2, "helps"), (-0.1, 0.2, "no sure difference"), (-0.2, -0.01, "harms"), (0.0, 0.0, "no sure difference")],
)
def test_only_what_is_sure_is_said(low: float, high: float, expected: str) -> None:
    assert verdict(Interval(mean=(low + high) / 2, low=low, high=high)) == expected
