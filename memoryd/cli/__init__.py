"""The command line: one command, `memoryd`. Every engine is imported by the command that needs it, so help is quick."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final, NoReturn

import click

from memoryd.protocol.errors import MemorydError
from memoryd.version import VERSION

EXIT_USAGE: Final = 64
EXIT_INTERRUPTED: Final = 130

# Heading of the help page: command, and the module that has it.
_SECTIONS: Final = {
    "Run the daemon": {"serve": "serve", "status": "operations", "tree": "operations", "doctor": "doctor"},
    "Give it experience": {"publish": "publish", "ingest": "publish", "remember": "memories"},
    "Ask it": {"recall": "memories", "why": "why", "trajectories": "operations", "sona": "sona"},
    "Keep, move and remove": {
        "forget": "memories",
        "export": "transfer",
        "import": "transfer",
        "verify": "operations",
        "inspect": "inspect",
        "backup": "backup",
        "reembed": "transfer",
        "branch": "branch",
    },
    "Set up and look after": {"token": "settings", "config": "settings", "metrics": "operations", "parked": "parked"},
}
_MODULES: Final = {name: module for commands in _SECTIONS.values() for name, module in commands.items()}


class Commands(click.Group):
    """Loads a command when it is asked for, and turns every failure into one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"memoryd.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, names in _SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, command.get_short_help_str(90)) for name, command in commands if command is not None]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except MemorydError as error:
            complain(error)
            code = error.exit_code
        except click.Abort:
            code = EXIT_INTERRUPTED
        except click.ClickException as error:
            error.show()
            code = EXIT_USAGE
        sys.exit(code if isinstance(code, int) else 0)


def complain(error: MemorydError) -> None:
    """Say on stderr what went wrong, where in the input, and what to do."""
    click.echo(f"memoryd: {error.message}", err=True)
    if error.field:
        click.echo(f"  field: {error.field}", err=True)
    if error.hint:
        click.echo(f"  hint:  {error.hint}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, message="memoryd %(version)s")
def group() -> None:
    """Remember for systems of agents what was like this before, and whether it went well.

    A daemon keeps one memory for each user. Agents publish what they do as events; before they plan, they recall what
    resembles the task at hand, with its outcome.

    \b
    A first run, in two terminals:
      memoryd serve
      memoryd publish runs.jsonl
      memoryd recall "the login test fails after the session change"

    Every command says more with --help. A command finds the daemon by --socket, by MEMORYD_SOCKET, or at the usual
    place; it speaks for the user your credential grants, or for --user. Exit codes are those of sysexits.h: 64 wrong
    usage, 65 some input was rejected, 69 no daemon, 74 storage, 75 try again later, 77 not allowed, 78 configuration.

    \b
    Completion for your shell:
      eval "$(_MEMORYD_COMPLETE=bash_source memoryd)"
    """


def main() -> NoReturn:
    """Run the command line of this process."""
    group.main(prog_name="memoryd")
