"""What A loses and what B gains is reckoned from the right answers."""

from __future__ import annotations

import pytest

from benchmarks.learning import figures as f
from benchmarks.learning.forgetting import forgetting
from tests.helpers.learning import Oracle, people, trial


@pytest.mark.parametrize(("most", "is_lost"), [(None, False), (4, True)])
def test_who_holds_only_the_last_runs_forgets_a_and_gains_all_of_b(most: int | None, is_lost: bool) -> None:  # noqa: FBT001
    given = trial(people("Bea", "Cid"), lambda user: Oracle(user, most))

    forgetting(given)

    pairs = {pair.what: pair for pair in given.figures.pairs}
    in_words = pairs[f.FORGOTTEN.format(f.PARAPHRASES, f.ALL_HELD)]
    assert in_words.before == 1
    assert (in_words.after < 1) == is_lost
    never_fed = pairs[f.FORGOTTEN.format(f.QUESTIONS, f.ALL_HELD)]
    assert never_fed.before == never_fed.after < 1
    gain = pairs[f.KEPT.format(f.ALL_HELD)]
    assert gain.before == gain.after > 0
    assert len(pairs) == 3  # what an oracle holds is its own affair
