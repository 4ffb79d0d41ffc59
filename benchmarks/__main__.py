"""`python -m benchmarks [LOGS]`: everything, against its bounds, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import fanin, index, memory, recall, replay, sizes, startup
from benchmarks.command import Settings, command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.results import Result


def _index(settings: Settings) -> Iterable[Result]:
    """Print the table of the index, which has no bound of its own."""
    sizes = ["1000", "10000"] if settings.quick else ["1000", "10000", "100000"]
    index.main([argument for size in sizes for argument in ("--rows", size)], standalone_mode=False)
    return ()


main = command(
    [
        ("startup", startup.measure),
        ("recall", recall.measure),
        ("sizes", sizes.measure),
        ("memory", memory.measure),
        ("fanin", fanin.measure),
        ("replay", replay.measure),
        ("index", _index),
    ],
    "Measure everything that the documents quote. LOGS are files or folders of agent runs.",
)

if __name__ == "__main__":
    main()
