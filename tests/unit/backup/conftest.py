"""A disk with a data directory on it, in which one user has a memory."""

from __future__ import annotations

import pytest

from memoryd.protocol.ids import Seq
from memoryd.protocol.interfaces import Batch
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import ROOT, USER, entries, store


@pytest.fixture
def disk() -> FaultDisk:
    disk = FaultDisk()
    disk.put(ROOT)
    memory = store(disk).open(USER).file
    memory.commit(Batch(entries=entries(range(1, 6)), applied_seq=Seq(5)))
    memory.close()
    return disk
