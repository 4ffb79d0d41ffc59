"""`serve`: the daemon, in the foreground."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from memoryd.cli.options import configured

if TYPE_CHECKING:
    from collections.abc import Callable

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
    from memoryd.app import serve
    from memoryd.cli.output import console
    from memoryd.cli.screens import banner_screen

    with asyncio.Runner(loop_factory=_loop_factory(config)) as runner:
        return runner.run(serve(config, lambda banner: console().print(banner_screen(banner))))


def _loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop]:
    if config.server.event_loop == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop
