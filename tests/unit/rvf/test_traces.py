"""The files that a proof of erasure reads, while others come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memoryd.files import RealFiles
from memoryd.rvf.traces import scan

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_that_went_after_it_was_listed_is_passed_over(tmp_path: Path) -> None:
    there, gone = tmp_path / "words.sqlite", tmp_path / "words.sqlite-journal"
    there.write_bytes(b"pages")

    found = scan(RealFiles(), tmp_path, [gone, there], [], [], np.empty((0, 0), np.float32))

    assert [(one.file, one.bytes) for one in found.files] == [("words.sqlite", 5)]
    assert found.traces == []
