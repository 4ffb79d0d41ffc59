"""Tell systemd that the daemon is ready, alive or stopping (sd_notify(3)). Does nothing outside systemd."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send one line such as `READY=1` to the service manager."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())


def watchdog_s() -> float | None:
    """Return half the watchdog's period in seconds, None when there is no watchdog for this process."""
    period = os.environ.get("WATCHDOG_USEC")
    owner = os.environ.get("WATCHDOG_PID")
    if not period or (owner and int(owner) != os.getpid()):
        return None
    return int(period) / 2e6
