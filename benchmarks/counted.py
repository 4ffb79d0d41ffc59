"""The daemon with a count of its fsyncs: `python -m benchmarks.counted serve ...`, the count in $BENCHMARK_FSYNCS."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

from memoryd.cli import main


def _count() -> None:
    calls = [0]
    fsync = os.fsync

    def counting(descriptor: int) -> None:
        calls[0] += 1
        fsync(descriptor)

    os.fsync = counting  # type: ignore[assignment]  # a function in the place of a built-in one
    path = Path(os.environ["BENCHMARK_FSYNCS"])
    atexit.register(lambda: path.write_text(str(calls[0]), encoding="ascii"))


if __name__ == "__main__":
    _count()
    main()
