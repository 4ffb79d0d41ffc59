from __future__ import annotations

import gc
import subprocess
import sys
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


def test_large_blocks_are_given_back_whatever_stays_between_them() -> None:
    program = """
import numpy as np
from pathlib import Path
from memoryd import garbage

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

garbage.return_large_blocks()
np.ones(4 << 20, np.uint8)
before = resident()
large, small = [], []
for _ in range(64):
    large.append(np.ones(1 << 20, np.uint8))
    small.append(np.ones(100 << 10, np.uint8))
del large
print(resident() - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert int(result.stdout) < 20 << 10
