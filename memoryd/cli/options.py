"""What most commands have in common: whose memory, which daemon, with which credential."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from memoryd.paths import default_config, default_data_dir, default_socket
from memoryd.protocol.errors import ConfigError

if TYPE_CHECKING:
    from memoryd.cli.connection import Connection
    from memoryd.config import Config

T = TypeVar("T")

FILE: Final = click.Path(path_type=Path, dir_okay=False)
FOLDER: Final = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Which daemon is meant, for which user, with which credential. None: what the machine's defaults say."""

    socket: Path | None
    token_file: Path | None
    user: str | None

    @property
    def token(self) -> str:
        """The credential: from the file, else from MEMORYD_TOKEN, else nothing. Raises ConfigError."""
        if self.token_file is None:
            return os.environ.get("MEMORYD_TOKEN", "")
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "cannot read the token file", field="--token-file", hint="one line with the token, readable by you"
            ) from error


def reaches_daemon(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add --user, --socket and --token-file to a command, which gets them as its Target."""

    @click.option("--user", "-u", metavar="USER", help="Whose memory; without it, the user your credential grants.")
    @click.option("--socket", type=FILE, metavar="PATH", help="The daemon's socket; MEMORYD_SOCKET does the same.")
    @click.option(
        "--token-file",
        type=FILE,
        metavar="PATH",
        help="A file with the token; MEMORYD_TOKEN may hold the token itself.",
    )
    @wraps(command)
    def with_target(user: str | None, socket: Path | None, token_file: Path | None, **kwargs: object) -> int | None:
        return command(Target(socket, token_file, user), **kwargs)

    return with_target


def ask(target: Target, question: Callable[[Connection], Awaitable[T]]) -> T:
    """Ask the daemon one thing."""
    from memoryd.cli.connection import connected, run

    async def work() -> T:
        async with connected(target) as connection:
            return await question(connection)

    return run(work())


def speaks_of_time(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add --time and --timezone to a command whose text may speak of a time."""
    use = click.option(
        "--time",
        type=click.Choice(["prefer", "filter", "ignore"]),
        default="prefer",
        show_default=True,
        help="When the text speaks of a time ('last week', 'in March'): what was then comes sooner, or nothing else answers.",
    )
    zone = click.option(
        "--timezone",
        metavar="ZONE",
        help="The time zone of such words, such as Europe/Berlin; the daemon's if not given.",
    )
    return use(zone(command))


def configured(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add --config, --data-dir and --socket to a command, which gets the effective configuration."""

    @click.option(
        "--config", type=FILE, metavar="PATH", help="The TOML file; see `memoryd config` for the usual places."
    )
    @click.option("--data-dir", type=FOLDER, metavar="PATH", help="Where the memories are kept.")
    @click.option("--socket", type=FILE, metavar="PATH", help="Where the daemon listens.")
    @wraps(command)
    def with_config(config: Path | None, data_dir: Path | None, socket: Path | None, **kwargs: object) -> int | None:
        from memoryd.config import load

        flags = {"server.data_dir": data_dir, "server.socket": socket}
        overrides = {key: str(path.absolute()) for key, path in flags.items() if path is not None}
        return command(load(config_file(config), overrides), **kwargs)

    return with_config


def config_file(given: Path | None) -> Path | None:
    """Return the file that was named, else the one of the service, the user or the machine, else None."""
    return given if given is not None else default_config()


def data_dir_of(config: Config) -> Path:
    """Return where the memories are: as configured, else at the usual place."""
    return Path(config.server.data_dir) if config.server.data_dir else default_data_dir()


def socket_of(config: Config) -> Path:
    """Return where a daemon with this configuration listens."""
    if config.server.socket:
        return Path(config.server.socket)
    return default_socket(data_dir_of(config) if config.server.data_dir else None)
