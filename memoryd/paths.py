"""Where things are when nobody says: the same answer for the daemon and its clients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_MARK: Final = Path("config", "memoryd.toml")


def default_data_dir() -> Path:
    """Return systemd's state directory, a checkout's own `data`, or the user's data folder, in this order."""
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.partition(":")[0])
    checkout = Path.cwd()
    if (checkout / _MARK).is_file() and (checkout / "memoryd" / "__init__.py").is_file():
        return checkout / "data"
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "memoryd"


def default_socket(data_dir: Path | None = None) -> Path:
    """Return the socket named by MEMORYD_SOCKET, in the runtime directory, or else beside the data."""
    if named := os.environ.get("MEMORYD_SOCKET"):
        return Path(named)
    if data_dir is None:
        for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
            if folder := os.environ.get(variable):
                return Path(folder.partition(":")[0]) / "memoryd.sock"
    return (data_dir or default_data_dir()) / "memoryd.sock"


def default_config() -> Path | None:
    """Return the first configuration file that exists: of the service, of the user, of the machine."""
    service = os.environ.get("CONFIGURATION_DIRECTORY")
    user = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    candidates = [
        *([Path(service.partition(":")[0]) / "memoryd.toml"] if service else []),
        Path(user) / "memoryd" / "config.toml",
        Path("/etc/memoryd/memoryd.toml"),
    ]
    return next((path for path in candidates if path.is_file()), None)
