"""The machine that the figures are true for."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np

_PACKAGES: Final = ("memoryd", "onnxruntime", "faiss-cpu", "numpy", "uvloop")
_FSYNCS: Final = 100


def describe(folder: Path) -> dict[str, str]:
    """Return what the machine is; `folder` is where the data of the benchmarks lies."""
    fsync = fsync_ms(folder)
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "kernel": platform.release(),
        "file system": f"{file_system(folder)}, 4 KiB append and fsync {fsync[0]:.2f} ms (p99 {fsync[1]:.2f})",
        "idle before": f"{idle_share():.0%} of its processor time",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def file_system(folder: Path) -> str:
    """Return the type of the file system of `folder` (proc(5), mountinfo)."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def fsync_ms(folder: Path) -> tuple[float, float]:
    """Return median and p99 of appending 4 KiB and syncing, in milliseconds."""
    path = folder / "fsync-probe"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    return float(np.median(times)), float(np.percentile(times, 99))


def idle_share() -> float:
    """Return which share of the processors' time nobody wanted during one second (proc(5), stat)."""
    before = _times()
    time.sleep(1.0)
    passed = [after - then for after, then in zip(_times(), before, strict=True)]
    return (passed[3] + passed[4]) / max(1, sum(passed))


def _times() -> list[int]:
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    return [int(each) for each in first.split()[1:9]]


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
