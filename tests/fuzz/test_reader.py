from __future__ import annotations

import numpy as np
import pytest

from tests.fuzz.reader import changed, changed_pair, our_file, our_files, use, use_branches
from tests.helpers.interop import golden_folder


@pytest.mark.parametrize("tenth", range(10))
def test_a_changed_file_is_read_or_refused_with_an_error_of_ours(tenth: int) -> None:
    """The same as a moment of `python -m tests.fuzz.reader`; a finding is repeated by its seed."""
    files = sorted(golden_folder().glob("*.rvf"))
    given = [our_file(), *(path.read_bytes() for path in files)]
    opened = 0
    for seed in range(40 * tenth, 40 * (tenth + 1)):
        source = np.random.default_rng(seed)
        opened += use(changed(given[int(source.integers(2)) * int(source.integers(len(given)))], source), files)
    assert use(our_file())
    assert 0 < opened < 40


def test_a_changed_branch_is_read_or_refused_with_an_error_of_ours() -> None:
    used = [use_branches(*changed_pair(np.random.default_rng(seed))) for seed in range(100)]

    assert use_branches(*our_files())
    assert 0 < sum(used) < 100


@pytest.mark.parametrize("seed", [5146477, 5348609])
def test_a_file_that_once_held_up_the_reader_for_minutes_is_read_at_once(seed: int) -> None:
    given = [our_file(), *(path.read_bytes() for path in sorted(golden_folder().glob("*.rvf")))]
    source = np.random.default_rng(seed)

    assert use(changed(given[int(source.integers(len(given)))], source)) in (True, False)
