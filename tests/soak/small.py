"""The daemon with pieces so small that it folds, links and compacts all the time: `python -m tests.soak.small serve`."""

from __future__ import annotations

from memoryd.actors import writer
from memoryd.cli import main
from memoryd.rvf import ledger, rewriting


def _shrink() -> None:
    """Let a few rows do what thousands do otherwise, and a moment be quiet; what is written is as good as ever."""
    ledger._FOLD_COMMITS = 4
    ledger._FOLD_ROWS = 16
    ledger._MERGES = ((64, 3),)
    ledger._LINKED_ROWS = 32
    ledger.SEALED_ROWS = rewriting.SEALED_ROWS = 8
    writer.QUIET_AFTER_S = 0.05
    writer.SMALLEST_WASTE = 20_000


if __name__ == "__main__":
    _shrink()
    main()
