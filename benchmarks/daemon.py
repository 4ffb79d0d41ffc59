"""A daemon in a process of its own, over a directory of its own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import memoryd

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 60.0


def compiled_environment() -> dict[str, str]:
    """Return the environment for a Python that keeps its bytecode, as that of every installed package is kept."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "memoryd-bytecode")}


class NotReady(Exception):
    """The daemon ended, or took too long, before it said that it is ready."""


class Daemon:
    """Starts, stops and kills one daemon; `settings` are those of the configuration, such as `memory.idle_after_s`.

    With `counts_fsyncs` the process counts its own calls of fsync, see `fsyncs`. `module` is run in its place if it is given.
    """

    def __init__(
        self,
        home: Path,
        settings: Mapping[str, object] | None = None,
        *,
        counts_fsyncs: bool = False,
        module: str = "memoryd",
    ) -> None:
        self.data_dir = home / "data"
        self.socket = home / "socket"
        self.log = home / "daemon.log"
        self.settings = dict(settings or {})
        self._counts = home / "fsyncs" if counts_fsyncs else None
        self._module = "benchmarks.counted" if counts_fsyncs else module
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned = 0.0
        home.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_running:
            self.stop()

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def client(self) -> memoryd.Memory:
        """Return a client of this daemon."""
        return memoryd.connect(self.socket)

    def spawn(self) -> None:
        """Start the process; it is not ready yet."""
        arguments = ["serve", "--data-dir", str(self.data_dir), "--socket", str(self.socket)]
        variables = {f"MEMORYD_{key.replace('.', '_').upper()}": str(value) for key, value in self.settings.items()}
        if self._counts is not None:
            variables["BENCHMARK_FSYNCS"] = str(self._counts)
        self._spawned = time.perf_counter()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**compiled_environment(), **variables},
            )

    def wait_ready(self) -> float:
        """Wait for the banner; return the seconds since the process was started. Raises NotReady."""
        output = self._running.stdout
        if output is None:
            raise RuntimeError("started without a pipe")
        seen = b""
        while True:
            left = self._spawned + READY_WITHIN_S - time.perf_counter()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                self.kill()
                raise NotReady(f"not ready within {READY_WITHIN_S:g} s")
            piece = os.read(output.fileno(), 4096)
            seen += piece
            if b" ready " in seen:
                return time.perf_counter() - self._spawned
            if not piece:
                raise NotReady(f"ended with {self._reap()}: {self.last_log()}")

    def start(self) -> float:
        """Start the process and return the seconds until it was ready. Raises NotReady."""
        self.spawn()
        return self.wait_ready()

    def stop(self) -> int:
        """End it in order and return its exit code."""
        self.signal(signal.SIGTERM)
        return self._reap()

    def kill(self) -> int:
        """End it at once, with SIGKILL."""
        self.signal(signal.SIGKILL)
        return self._reap()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended already gets none."""
        self._running.send_signal(number)

    def rss_bytes(self) -> int:
        """Return the resident memory as the kernel counts it (proc(5), the second field of statm)."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """Return the processor time it has taken (proc(5), stat, fields 14 and 15): what a busy machine cannot blur."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def loop_s(self) -> tuple[float, float]:
        """Return how long the event loop's thread ran, and how long it was ready and had to wait for a processor.

        The second tells how much of a lateness is the machine's (sched-stats of the kernel, /proc/pid/schedstat).
        """
        ran, waited, _ = Path(f"/proc/{self.pid}/schedstat").read_text(encoding="ascii").split()
        return int(ran) / 1e9, int(waited) / 1e9

    def fsyncs(self) -> int:
        """Return how often the process that ended last called fsync from Python, SQLite's own calls not among them."""
        if self._counts is None:
            raise RuntimeError("this daemon does not count")
        return int(self._counts.read_text(encoding="ascii"))

    def last_log(self) -> str:
        """Return the end of the log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-3:])

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    def _reap(self) -> int:
        process = self._running
        code = process.wait(STOP_WITHIN_S)
        if process.stdout is not None:
            process.stdout.close()
        return code
