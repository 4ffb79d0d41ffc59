"""How a file grows when every record is a commit of its own: `python -m benchmarks.commits [--commits 1000000]`.

Folding and compaction come when the user's actor would begin them. The reference runtime needs 608 MB for 4,000 such commits.
"""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from memoryd.actors.writer import SMALLEST_WASTE
from memoryd.clock import SystemClock
from memoryd.files import RealFiles
from memoryd.protocol.ids import RecordId, UserId
from memoryd.protocol.interfaces import Batch, Entry, ModelInfo
from memoryd.protocol.records import MemoryKind, MemoryRecord, MemorySource
from memoryd.rvf.store import RvfMemoryStore
from memoryd.vectors.index import VectorIndex

DIM: Final = 384
_MOMENT: Final = datetime(2026, 1, 1, tzinfo=UTC)


@click.command(help=__doc__)
@click.option("--commits", type=int, default=20_000, show_default=True)
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="On which disk.")
def main(commits: int, folder: Path | None) -> None:
    """Commit one record after the other and print a table of sizes."""
    table = Table("commits", "file", "of it live", "most until then", "lines of the directory", "a commit, ms")
    with tempfile.TemporaryDirectory(prefix="memoryd-benchmark-", dir=folder) as home, Progress() as progress:
        model = ModelInfo("none", DIM, "0" * 64)
        file = RvfMemoryStore(Path(home), model, RealFiles(), SystemClock(), VectorIndex).open(UserId("user")).file
        bar = progress.add_task("commits", total=commits)
        most, began, shown = 0, time.perf_counter(), 0
        for number in range(1, commits + 1):
            status = file.commit(Batch(entries=[_entry(number)]))
            is_wasteful = status.dead_bytes > max(SMALLEST_WASTE, status.file_bytes - status.dead_bytes)
            rewriting = file.compaction() if is_wasteful else file.fold()
            if rewriting is not None:
                rewriting.prepare()
                status = file.finish(rewriting)
            most = max(most, status.file_bytes)
            if number == commits or number in {commits // 8, commits // 4, commits // 2}:
                took = (time.perf_counter() - began) * 1e3 / (number - shown)
                live = status.file_bytes - status.dead_bytes
                sizes = (f"{each / 1e6:,.1f} MB" for each in (status.file_bytes, live, most))
                table.add_row(f"{number:,}", *sizes, str(status.segments), f"{took:.2f}")
                began, shown = time.perf_counter(), number
            progress.advance(bar)
        file.close()
    Console().print(table)


def _entry(number: int) -> Entry:
    vector = np.random.default_rng(number).standard_normal(DIM).astype(np.float32)
    record = MemoryRecord(
        id=RecordId(f"{number:026d}"),
        text=f"a record of its own, number {number}",
        kind=MemoryKind.FINDING,
        source=MemorySource.WORKER_RESULT,
        timestamp=_MOMENT,
    )
    return Entry(record, vector / np.linalg.norm(vector))


if __name__ == "__main__":
    main()
