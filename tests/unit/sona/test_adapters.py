"""Adapters, the loss that moves them, and what holds them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memoryd.sona.contrast import Task, slopes, task
from memoryd.sona.ewc import Consolidated, consolidated, strength
from memoryd.sona.fitting import BATCH, fitted, important, prepared
from memoryd.sona.lora import LARGEST, Adam, Adapter, Training
from memoryd.sona.profiles import profile
from tests.helpers.lessons import DIM, Held, intent, lesson
from tests.helpers.memories import units

BALANCED = profile("balanced")
NOTHING = np.empty(0, np.uint64)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def moved(adapter: Adapter, seed: int = 3) -> Adapter:
    """The adapter with numbers in both factors."""
    random = np.random.default_rng(seed)
    return Adapter(adapter.a, (0.1 * random.standard_normal(adapter.b.shape)).astype(np.float32))


def loss(adapter: Adapter, held: Held, *, behind: Adapter | None = None) -> float:
    """The contrastive loss without the decay, written down once more, plainly."""
    from memoryd.sona.contrast import LEARNED, TEMPERATURE

    lessons = some_lessons()
    given = task(lessons, held, held.sample(20, rng()))
    assert given is not None
    total = 0.0
    for place, question in enumerate(given.questions):
        first = question if behind is None else behind.bent(question)
        bent = adapter.bent(first).astype(np.float64)
        z = (given.base[place] + LEARNED * (given.vectors @ (bent - question))) / TEMPERATURE + given.weight[place]
        total -= np.log((given.credit[place] * np.exp(z)).sum() / np.exp(z).sum())
    return total / len(given.questions)


def some_lessons() -> list:
    asked = units(3, DIM, seed=5)
    return [lesson(n, intent(asked[n]), range(10 * n, 10 * n + 6), [10 * n + 4], harmed=[10 * n]) for n in range(3)]


def test_a_fresh_adapter_changes_nothing() -> None:
    asked = units(4, DIM, seed=2)

    assert np.allclose(Adapter.fresh(DIM, 2, rng()).bent(asked), asked, atol=1e-6)


@pytest.mark.parametrize("before", ["nothing", "another adapter"])
def test_the_gradients_are_those_of_the_loss(before: str) -> None:
    held = Held()
    adapter = moved(Adapter.fresh(DIM, 2, rng()))
    behind = moved(Adapter.fresh(DIM, 4, rng()), seed=4) if before != "nothing" else None
    given = task(some_lessons(), held, held.sample(20, rng()))
    assert given is not None
    of_a, of_b, _ = slopes(adapter, given if behind is None else given.behind(behind))
    of_b = of_b - 0.1 * adapter.b  # the decay

    for factor, slope in (("a", of_a), ("b", of_b)):
        for place in ((0, 0), (1, 1), (0, 1)):
            step = np.zeros_like(getattr(adapter, factor))
            step[place] = 2e-2
            ahead = loss(replace(adapter, **{factor: getattr(adapter, factor) + step}), held, behind=behind)
            back = loss(replace(adapter, **{factor: getattr(adapter, factor) - step}), held, behind=behind)
            assert slope[place] == pytest.approx((ahead - back) / 4e-2, rel=0.03, abs=1e-3)


def test_every_factor_receives_gradient_from_the_second_step_on() -> None:
    held = Held()
    given = task(some_lessons(), held, NOTHING)
    assert given is not None
    training = Training(Adapter.fresh(DIM, 2, rng()), 0.01)
    of_a, of_b, _ = slopes(training.adapter, given)
    assert not of_a.any()
    assert all(column.any() for column in of_b.T)  # of each rank its own

    training.step(of_a, of_b)
    of_a, of_b, _ = slopes(training.adapter, given)

    assert all(row.any() for row in of_a)
    assert not np.allclose(of_a[0], of_a[1])
    assert not np.allclose(of_b[:, 0], of_b[:, 1])


def test_a_gradient_of_another_shape_is_refused() -> None:
    training = Training(Adapter.fresh(DIM, 2, rng()), 0.01)

    with pytest.raises(ValueError, match="gradient"):
        training.step(np.zeros((2, DIM), np.float32), np.zeros((DIM, 3), np.float32))
    with pytest.raises(ValueError, match="gradient"):
        Adam(np.zeros(3, np.float32), 0.1).step(np.zeros(4, np.float32))


def batches(held: Held) -> list[Task]:
    return prepared(some_lessons(), held, BALANCED, rng())


def test_fitting_puts_what_helped_first() -> None:
    held = Held()
    adapter = fitted(batches(held), BALANCED, rng())

    assert loss(adapter, held) < loss(Adapter.fresh(DIM, 8, rng()), held) - 0.1
    assert adapter.rank == BALANCED.base_rank


def test_fitting_the_same_again_gives_the_same() -> None:
    first, second = (fitted(batches(Held()), BALANCED, rng()) for _ in range(2))

    assert np.array_equal(first.a, second.a)
    assert np.array_equal(first.b, second.b)


def test_there_is_nothing_to_fit_without_something_that_helped() -> None:
    held = Held()
    asked = intent(units(1, DIM, seed=5)[0])

    assert prepared([], held, BALANCED, rng()) == []
    assert prepared([lesson(1, asked, [1, 2, 3])], held, BALANCED, rng()) == []
    held.gone = {2}
    assert prepared([lesson(1, asked, [1, 2, 3], [2])], held, BALANCED, rng()) == []


def test_a_batch_has_the_memories_of_its_own_lessons_and_some_that_are_the_same_for_all() -> None:
    held, edge = Held(count=400), profile("edge")
    asked = units(BATCH + 2, DIM, seed=5)
    lessons = [lesson(n, intent(asked[n]), [n], [n]) for n in range(BATCH + 2)]

    first, second = prepared(lessons, held, edge, rng())

    assert len(first.lessons) == len(second.lessons) == BATCH // 2 + 1
    assert {each.id for each in (*first.lessons, *second.lessons)} == {each.id for each in lessons}
    named = [{int(key) for each in batch.lessons for key in each.keys} for batch in (first, second)]
    besides = set(first.columns.tolist()) & set(second.columns.tolist())
    assert len(besides) >= edge.negatives
    assert set(first.columns.tolist()) == named[0] | besides
    assert set(second.columns.tolist()) == named[1] | besides


def test_what_was_shown_in_vain_weighs_more_and_what_did_harm_most() -> None:
    held = Held()
    given = task([lesson(1, intent(held.all[0]), [1, 2, 3], [1], harmed=[3])], held, np.array([4], np.uint64))

    assert given is not None
    assert np.exp(given.weight[0]) == pytest.approx([1, 2, 4, 1])
    assert given.credit[0].tolist() == [1, 0, 0, 0]


def test_a_column_that_was_no_candidate_is_worth_as_much_as_the_last_one() -> None:
    held = Held()
    given = task([lesson(1, intent(held.all[0]), [1, 2], [1], besides=[7])], held, np.array([4, 7], np.uint64))

    assert given is not None
    assert given.base[0].tolist() == [1.0, 0.75, 0.5, 0.5]


def test_what_was_consolidated_pulls_back_to_where_it_stood() -> None:
    held = Held()
    adapter = fitted(batches(held), BALANCED, rng())
    kept = important(None, adapter, batches(held))

    of_a, of_b = kept.pull(moved(adapter), 0.5)
    stays_a, stays_b = kept.pull(adapter, 0.5)

    assert of_a.shape == adapter.a.shape
    assert np.vdot(of_b, moved(adapter).b - adapter.b) > 0
    assert not stays_a.any()
    assert not stays_b.any()
    assert kept.of_a.mean() == pytest.approx(1, abs=1e-3)
    assert kept.of_b.mean() == pytest.approx(1, abs=1e-3)


def test_consolidation_of_another_shape_is_refused() -> None:
    adapter = moved(Adapter.fresh(DIM, 2, rng()))
    kept = consolidated(None, adapter, [(adapter.a, adapter.b)])

    with pytest.raises(ValueError, match="shape"):
        kept.pull(Adapter.fresh(DIM, 4, rng()), 0.1)
    with pytest.raises(ValueError, match="another adapter"):
        consolidated(kept, adapter, [(adapter.b, adapter.a)])


def test_importance_is_carried_over_and_counted() -> None:
    adapter = moved(Adapter.fresh(DIM, 2, rng()))
    first = consolidated(None, adapter, [(adapter.a, adapter.b)])
    second = consolidated(first, adapter, [(np.ones_like(adapter.a), np.ones_like(adapter.b))])

    assert (first.tasks, second.tasks) == (1, 2)
    assert np.allclose(second.of_a, 0.9 * first.of_a + 0.1, atol=1e-6)
    assert isinstance(second, Consolidated)


@pytest.mark.parametrize(("ewc_lambda", "tasks", "expected"), [(2_000, 0, 3.0), (2_000, 10, 6.0), (2_500, 200, 15.0)])
def test_the_strength_grows_with_tasks_up_to_a_bound(ewc_lambda: float, tasks: int, expected: float) -> None:
    assert strength(ewc_lambda, tasks) == pytest.approx(expected)


def test_the_size_of_an_adapter_is_the_norm_of_its_product() -> None:
    adapter = moved(Adapter.fresh(DIM, 4, rng()))

    assert adapter.size == pytest.approx(float(np.linalg.norm(adapter.b @ adapter.a)), rel=1e-4)


def test_an_adapter_bends_no_further_than_its_bound() -> None:
    small = moved(Adapter.fresh(DIM, 2, rng()))
    far = replace(small, b=100 * small.b)

    assert small.bounded() is small
    assert far.size > LARGEST
    assert far.bounded().size == pytest.approx(LARGEST, rel=1e-4)
