"""Reads figures out of what a daemon says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memoryd import Status


def counter(text: str, name: str) -> float:
    """Return the value of a metric, summed over its labels; `text` is in Prometheus' format."""
    total = 0.0
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name:
            total += float(value)
    return total


def ticks(text: str) -> tuple[float, float]:
    """Return how often the lateness of the event loop was measured, and how often it was above 10 ms."""
    name = "memoryd_loop_stall_seconds"
    within = next(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f'{name}_bucket{{le="0.01"}}')
    )
    everything = counter(text, f"{name}_count")
    return everything, everything - within


def loop(status: Status) -> float:
    """Return by how many milliseconds the event loop was late at p99.9 since the daemon started."""
    return status.loop_stall_p999_ms
