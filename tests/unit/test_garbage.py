from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from memoryd import garbage


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class _Cycle:
    alive = 0

    def __init__(self) -> None:
        self.me = self
        _Cycle.alive += 1

    def __del__(self) -> None:
        _Cycle.alive -= 1


def test_what_is_there_is_left_alone_and_old_garbage_goes_when_it_is_asked_for() -> None:
    garbage.settle()
    frozen = gc.get_freeze_count()
    for _ in range(10):
        _Cycle()
    gc.collect(1)  # young garbage goes by itself
    assert _Cycle.alive == 0

    kept = [_Cycle() for _ in range(10)]
    gc.collect(1)
    kept.clear()
    gc.collect(1)
    assert _Cycle.alive == 10  # it has grown old

    garbage.collect()

    assert _Cycle.alive == 0
    assert gc.get_freeze_count() == frozen > 0


def test_nothing_collects_everything_by_itself() -> None:
    garbage.settle()

    assert gc.get_threshold()[2] > 1_000_000
