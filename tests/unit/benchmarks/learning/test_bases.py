"""The plain score is the one of its definition."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from benchmarks.learning.bases import BY_WORDS, SCALE, Bm25, Plain
from benchmarks.learning.users import User
from tests.helpers.learning import NOON, people


def test_bm25_is_that_of_its_definition() -> None:
    index = Bm25()
    index.add(["The red, red fox", "a red dog barks", "cats sleep"])
    usual = (3 + 3 + 2) / 3

    found = index.scores("Red fox?")

    red, fox = log(1 + (3 - 2 + 0.5) / (2 + 0.5)), log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    length = 1.2 * (1 - 0.75 + 0.75 * 3 / usual)
    first = red * 2 * 2.2 / (2 + length) + fox * 2.2 / (1 + length)
    assert found.tolist() == pytest.approx([first, red * 2.2 / (1 + length), 0])


def test_what_comes_later_counts_for_the_rarity_of_all() -> None:
    index, whole = Bm25(), Bm25()
    index.add(["red fox"])
    index.add(["blue fox", "grey cat"])
    whole.add(["red fox", "blue fox", "grey cat"])

    assert len(index) == 3
    assert index.scores("grey fox").tolist() == whole.scores("grey fox").tolist()
    assert Bm25().scores("grey fox").shape == (0,)


def test_answers_come_in_the_order_of_cosine_and_words() -> None:
    given = people("Bea")
    store = given.store
    text = "Who saw my kayak with the plumber?"
    words, meaning = Plain(store).about(text, NOON)
    index = Bm25()
    index.add(store.texts)
    ids = [hit.record for hit in words.rank(meaning, k=40).hits]
    plain = np.array(
        [store.encoder.meaning(each).vector @ meaning.vector for each in store.texts]
    ) + BY_WORDS * index.scores(text)

    hits = words.rank(meaning, k=5).hits

    assert len(ids) == 40
    assert [hit.score for hit in hits] == pytest.approx(SCALE * np.sort(plain)[::-1][:5], abs=1e-5)
    shown, keys, base = words.candidates_for(meaning, User(given, Plain).unlearned(text))
    assert len(keys) == len(base) == 40
    assert base[: len(shown)].tolist() == pytest.approx(SCALE * np.sort(plain)[::-1][:10], abs=1e-5)
