"""`serve`: the daemon, in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memoryd.cli.options import configured

if TYPE_CHECKING:
    from memoryd.config import Config


@click.command("serve")
@configured
def serve_command(config: Config) -> int:
    """Run the daemon in the foreground.

    Use it in a terminal to try memoryd, and in a service to keep it: under systemd it tells when it is ready (Type=notify)
    and feeds the watchdog. SIGTERM or Ctrl-C drains and stops it; SIGUSR1 writes the supervision tree into the log. One
    daemon owns a data directory; a second one on the same exits at once with 75.

    \b
    Examples:
      memoryd serve
      memoryd serve --config /etc/memoryd/memoryd.toml --data-dir /var/lib/memoryd
    """
    from memoryd.app import run
    from memoryd.cli.output import console
    from memoryd.cli.screens import banner_screen

    return run(config, lambda banner: console().print(banner_screen(banner)))
