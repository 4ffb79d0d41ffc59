"""A real daemon in a process of its own, and the real command line against it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.daemon import DaemonProcess

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """A daemon that runs for one module, over an empty data directory."""
    # Not below pytest's own folder: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="memoryd-") as folder:
        process = DaemonProcess(Path(folder))
        process.start()
        yield process
        process.stop()


@pytest.fixture(scope="module")
def call(daemon: DaemonProcess) -> Call:
    """Run `memoryd` with some arguments, and perhaps with an input, against that daemon."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "memoryd", *arguments],
            input=stdin,
            env=daemon.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    return run
