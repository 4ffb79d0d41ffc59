"""Tell systemd that the daemon is ready, alive or stopping (sd_notify(3)). Does nothing outside systemd."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send one line such as `READY=1` to the service manager, if it listens: the daemon does not depend on it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # Not blocking: a manager that has stopped reading must not hold up the event loop.
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())
