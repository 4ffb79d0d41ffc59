"""What codes find is scored again until it is enough: on vectors with neighbours and without, whatever a filter leaves."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd.vectors.blocks import Blocks
from memoryd.vectors.codes import Codebook, Codes
from memoryd.vectors.exact import nearest_alive
from memoryd.vectors.scoring import _is_enough, nearest_by_codes
from tests.helpers.memories import clustered, units

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Vectors
    from memoryd.vectors.exact import Mask

DIM = 96
ROWS = 9_600
K = 10


@cache
def codebook() -> Codebook:
    return Codebook.train(clustered(ROWS, DIM, each=100))


@cache
def rows(kind: str) -> Vectors:
    return clustered(ROWS, DIM, each=100) if kind == "clustered" else units(ROWS, DIM, seed=5)


@cache
def codes(kind: str) -> Codes:
    return Codes.over(codebook(), Blocks(rows(kind)), ROWS)


def queries(kind: str) -> Vectors:
    asked = rows(kind)[:ROWS:240] + np.float32(0.5) * units(40, DIM, seed=6)
    found: Vectors = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    return found


def topic(query: Vectors, kind: str, share: float, *, is_near: bool) -> Mask:
    """Return so many of the rows: those nearest to the query, or those furthest from it."""
    ranked = np.argsort(rows(kind) @ query)
    passes = np.zeros(ROWS, bool)
    passes[ranked[-int(share * ROWS) :] if is_near else ranked[: int(share * ROWS)]] = True
    return passes


@pytest.mark.parametrize("kind", ["clustered", "uniform"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("is_near", [True, False])
def test_what_is_found_are_the_best_of_what_passes_also_where_only_the_furthest_do(
    kind: str, share: float, *, is_near: bool
) -> None:
    vectors = Blocks(rows(kind))
    hits = []
    for query in queries(kind):
        passes = topic(query, kind, share, is_near=is_near)
        found = nearest_by_codes(codes(kind), query, vectors, passes, K)
        if found is None:  # then every row that passes is looked at
            assert kind == "uniform" or not is_near
            hits.append(K)
            continue
        assert passes[found[1]].all()
        scores, best = nearest_alive(query, vectors, 0, passes, K)
        known = dict(zip(best.tolist(), scores.tolist(), strict=True))
        hits.append(
            sum(known.get(row) == score for score, row in zip(found[0].tolist(), found[1].tolist(), strict=True))
        )
    assert np.mean(hits) / K >= 0.98


def test_of_equal_rows_the_earliest_are_found_or_none() -> None:
    repeated = np.repeat(rows("clustered")[:24], 400, axis=0)[np.random.default_rng(6).permutation(ROWS)]
    equal = Codes.over(codebook(), Blocks(repeated), ROWS)
    everything = np.ones(ROWS, bool)

    for query in repeated[:20]:
        found = nearest_by_codes(equal, query, Blocks(repeated), everything, K)
        best = nearest_alive(query, Blocks(repeated), 0, everything, K)
        assert found is None or found[1].tolist() == best[1].tolist()


ROUGH = np.linspace(1.0, 0.0, 400, dtype=np.float32)


def test_exact_codes_are_enough_at_once() -> None:
    assert _is_enough(ROUGH[:100], ROUGH, K)


def test_answers_from_the_second_half_are_not_enough() -> None:
    scores = ROUGH[:100].copy()
    scores[60] = 1.0

    assert not _is_enough(scores, ROUGH, K)


def test_an_answer_with_the_code_of_the_last_is_not_enough() -> None:
    rough = np.repeat(np.float32([1.0, 0.0]), 200)

    assert not _is_enough(rough[:100], rough, K)


def test_the_more_codes_are_off_the_more_is_looked_at() -> None:
    rough = np.linspace(1.0, 0.9, 400, dtype=np.float32)
    off = np.linspace(1.0, -1.0, 100, dtype=np.float32)  # no error on the whole, and the best stay the best

    assert _is_enough(rough[:100] + np.float32(0.001) * off, rough, K)
    assert not _is_enough(rough[:100] + np.float32(0.1) * off, rough, K)
