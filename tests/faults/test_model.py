"""The short form of `python -m tests.faults.model`."""

from __future__ import annotations

import pytest

from tests.faults.model import Memory, profile

TestMemory = pytest.mark.timeout(900)(Memory.TestCase)  # to find the shortest list that fails takes its time
TestMemory.settings = profile(150)
