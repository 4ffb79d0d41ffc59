"""`token` and `config`: who may speak for whom, and what is set."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memoryd.cli.options import FILE, config_file

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command("token")
@click.option(
    "--user",
    "users",
    multiple=True,
    required=True,
    metavar="USER",
    help="A user it grants; `*` grants all. May be given again.",
)
@click.option("--out", type=FILE, metavar="PATH", help="Write the secret into this new file instead of printing it.")
def token_command(users: tuple[str, ...], out: Path | None) -> None:
    """Make a token, which lets another system user speak for some memories.

    Use it for an agent that does not run as you: whoever runs as the daemon's own user needs none. The secret is shown once
    and kept nowhere; the configuration only knows its SHA-256. The agent brings it in MEMORYD_TOKEN or --token-file.

    \b
    Examples:
      memoryd token --user alice
      memoryd token --user alice --user bob --out agent.token
    """
    import json

    from memoryd.protocol.ids import user_id
    from memoryd.relay.grants import token_sha256

    for user in users:
        if user != "*":
            user_id(user)
    secret = secrets.token_urlsafe(32)
    if out is None:
        click.echo(f"The token, shown this once:\n\n    {secret}\n")
    else:
        _write_private(out, secret)
        click.echo(f"The token is in {out}.\n")
    click.echo("Add to the daemon's configuration, and restart it:\n")
    click.echo(f'[[security.tokens]]\nsha256 = "{token_sha256(secret)}"\nusers = {json.dumps(users)}')


@click.command("config")
@click.option(
    "--config", "file", type=FILE, metavar="PATH", help="The TOML file to look at instead of the usual places."
)
def config_command(file: Path | None) -> None:
    """Print the effective configuration as TOML, with where each value comes from.

    Use it to see what the daemon would run with. A value comes from its default, from the file (--config, else
    $XDG_CONFIG_HOME/memoryd/config.toml, else /etc/memoryd/memoryd.toml), or from a variable such as
    MEMORYD_MEMORY_IDLE_AFTER_S, the last of them winning; `memoryd serve` puts its flags over all.

    \b
    Example:
      memoryd config --config memoryd.toml
    """
    for line in _toml(config_file(file)):
        click.echo(line)


def _toml(file: Path | None) -> Iterator[str]:
    import tomllib

    import msgspec

    from memoryd.config import load

    config = msgspec.to_builtins(load(file))
    written = tomllib.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    yield f"# file: {file or 'none'}"
    for section, values in config.items():
        yield f"\n[{section}]"
        for name, value in values.items():
            variable = f"MEMORYD_{section}_{name}".upper()
            origin = variable if variable in os.environ else "file" if name in written.get(section, {}) else "default"
            yield f"{name} = {_value(value)}  # {origin}"


def _value(value: object) -> str:
    """Return plain data as TOML, tables inline."""
    import json

    match value:
        case dict():
            return "{ " + ", ".join(f"{json.dumps(name)} = {_value(each)}" for name, each in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return json.dumps(value)


def _write_private(path: Path, secret: str) -> None:
    from memoryd.protocol.errors import StorageFault

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFault("the token file cannot be written", field="--out", hint=error.strerror) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
