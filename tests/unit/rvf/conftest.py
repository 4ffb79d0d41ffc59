"""What the tests of the memory file share."""

from __future__ import annotations

import pytest

from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import ROOT


@pytest.fixture
def disk() -> FaultDisk:
    disk = FaultDisk()
    disk.put(ROOT)
    return disk
