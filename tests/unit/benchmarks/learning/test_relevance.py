"""What learning does to relevance, measured on conversations whose answers are known."""

from __future__ import annotations

from benchmarks.learning.bases import Full
from benchmarks.learning.relevance import WAYS, of_user, table
from benchmarks.learning.users import User
from tests.helpers.learning import conversation, people


def test_every_way_is_asked_and_what_helped_becomes_more_relevant_by_what_was_learned() -> None:
    here, elsewhere = conversation("Ann"), conversation("Bob")
    user = User(people("Ann"), Full)

    found = list(of_user(user, here, elsewhere, seed=0))

    assert {each.way for each in found} == set(WAYS)
    assert any(each.is_right.any() for each in found if each.way == WAYS[0])
    for each in found:
        if each.way == WAYS[0]:
            assert (each.learned[each.is_right] > each.without[each.is_right]).all()
        if each.way in WAYS[3:]:
            assert not each.is_right.any()
    assert table(found).row_count == len(WAYS)
