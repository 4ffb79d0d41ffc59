"""A real daemon in a process of its own, over a data directory of the caller's."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 30.0


class DaemonProcess:
    """`memoryd serve` with the built-in defaults: no file and no variable of this machine has a say."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.data_dir = folder / "data"
        self.socket = folder / "memoryd.sock"
        self.log = folder / "log.jsonl"
        self._config = folder / "empty.toml"
        self._notified = folder / "notify.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find this daemon, without what the caller's shell says of another one."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMORYD_")}
        return {**kept, "MEMORYD_SOCKET": str(self.socket)}

    @property
    def command(self) -> list[str]:
        """The command line of this daemon."""
        flags = {"--config": self._config, "--data-dir": self.data_dir, "--socket": self.socket}
        return [sys.executable, "-m", "memoryd", "serve", *(str(part) for flag in flags.items() for part in flag)]

    def start(self) -> None:
        """Start it and wait until it says that it is ready. Raises RuntimeError when it does not come up."""
        self._config.touch()
        self._notified.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, self.log.open("ab") as log:
            channel.bind(str(self._notified))
            environment = {**self.environment, "NOTIFY_SOCKET": str(self._notified)}
            self._process = subprocess.Popen(self.command, env=environment, stdout=log, stderr=log)
            is_ready = _is_ready(channel, self._process)
        if not is_ready:
            self.stop()
            raise RuntimeError(f"the daemon did not start:\n{self.log.read_text(encoding='utf-8')}")

    def stop(self) -> int:
        """Ask it to drain and stop (SIGTERM); return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        try:
            return process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _is_ready(channel: socket.socket, process: subprocess.Popen[bytes]) -> bool:
    """Wait for the READY=1 that systemd would be sent; return whether it came before the process ended."""
    ended = os.pidfd_open(process.pid)
    waited_for: list[socket.socket | int] = [channel, ended]
    give_up = time.monotonic() + READY_WITHIN_S
    try:
        while (left := give_up - time.monotonic()) > 0:
            heard, _, _ = select.select(waited_for, [], [], left)
            if channel in heard and b"READY=1" in channel.recv(4096):
                return True
            if ended in heard:
                return False
    finally:
        os.close(ended)
    return False
