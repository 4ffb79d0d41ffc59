"""How relevant an answer is: within bounds, and no less for more of anything that speaks for it."""

from __future__ import annotations

import numpy as np
import pytest

from memoryd.relevance import BY_BOTH, BY_VECTORS, BY_WORDS, features, relevance

SCORES = np.array([0.7, 0.5, 0.5, -1.0], np.float32)
HALF = np.full(4, 0.5, np.float32)
NONE = np.zeros(4, np.float32)


@pytest.mark.parametrize("weights", [BY_BOTH, BY_WORDS, BY_VECTORS])
def test_relevance_is_a_chance_and_follows_the_score(weights: dict[str, float]) -> None:
    for shares, cosines, terms in ((NONE, NONE, 0), (2 * HALF, 2 * HALF, 64), (10 * HALF, -HALF, 64)):
        found = relevance(features(SCORES, shares, cosines, terms), weights)

        assert found.dtype == np.float32
        assert ((found >= 0) & (found <= 1)).all()
        assert found[0] > found[1] == found[2] > found[3]


@pytest.mark.parametrize("weights", [BY_BOTH, BY_WORDS])
def test_more_of_the_words_and_a_nearer_memory_make_no_answer_less_relevant(weights: dict[str, float]) -> None:
    steps = [np.full(4, step, np.float32) for step in np.linspace(0, 1, 21)]
    by_words = [float(relevance(features(SCORES, shares, HALF, 5), weights)[0]) for shares in steps]
    by_cosine = [float(relevance(features(SCORES, HALF, cosines, 5), weights)[0]) for cosines in steps]

    assert by_words == sorted(by_words)
    assert by_cosine == sorted(by_cosine)
    assert by_words[-1] > 2 * by_words[0]


def test_the_scale_of_the_scores_says_nothing() -> None:
    plain, doubled = (relevance(features(scores, HALF, HALF, 5), BY_BOTH) for scores in (SCORES, 2 * SCORES))

    np.testing.assert_allclose(plain, doubled, rtol=1e-5)


def test_evidence_is_added_to_the_odds() -> None:
    given = features(SCORES, HALF, HALF, 5)
    before = relevance(given, BY_BOTH)
    found = relevance(given, BY_BOTH, np.log(np.array([1, 3, 1 / 3, 1], np.float32)))

    np.testing.assert_allclose(found / (1 - found), before / (1 - before) * np.array([1, 3, 1 / 3, 1]), rtol=1e-4)


def test_no_answer_has_no_relevance() -> None:
    assert len(relevance(features(NONE[:0], NONE[:0], NONE[:0], 0), BY_BOTH)) == 0
