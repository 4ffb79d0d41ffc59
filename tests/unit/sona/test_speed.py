"""How quick a learner is: that what is said was measured, and on work that is really done. Never how long it took."""

from __future__ import annotations

import numpy as np
import pytest

from memoryd.sona import speed
from memoryd.sona.learner import Cycle, Learner
from memoryd.sona.profiles import profile
from tests.helpers.lessons import DIM


def test_every_part_is_timed_as_often_as_it_is_said_and_fits_are_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ENTRIES", 80)
    monkeypatch.setattr(speed, "CYCLES", 2)
    cycles: list[Cycle] = []
    refit = Learner.refit

    def noted(learner: Learner, memories: speed.MadeUp) -> Cycle:
        cycles.append(refit(learner, memories))
        return cycles[-1]

    monkeypatch.setattr(Learner, "refit", noted)
    advanced: list[None] = []

    found = speed.measure(DIM, profile("edge"), 12, lambda: advanced.append(None))

    assert len(advanced) == speed.steps(12) == 2 + 3 * 12
    assert [each.outcome for each in cycles] == ["accepted", "accepted"]
    assert [(each.floor_s, each.goal_s) for each in found] == [(2e-5, 1e-5), (1e-3, 3e-4), (3e-4, 1e-4), (3e-3, 1e-3)]
    assert all(0 < each.p50_s <= each.p95_s for each in found)


def test_made_up_memories_are_unit_vectors() -> None:
    rng = np.random.default_rng(1)
    memories = speed.MadeUp(DIM, rng)
    keys, vectors = memories.vectors(memories.sample(20, rng))

    assert len(set(keys.tolist())) == 20
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(20))
