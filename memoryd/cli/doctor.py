"""`doctor`: everything the daemon needs from this machine, checked one by one, with the mend for what is missing."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from memoryd.cli.options import Target, configured, data_dir_of, socket_of
from memoryd.protocol.errors import MemorydError, Unreachable

if TYPE_CHECKING:
    from memoryd.config import Config
    from memoryd.protocol.messages import Status

NATIVE: Final = {
    "faiss-cpu": "faiss",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "tokenizers": "tokenizers",
    "uvloop": "uvloop",
}
OPEN_FILES: Final = 16_384  # each resident user holds two
LEAST_SQLITE: Final = (3, 37, 0)  # STRICT tables
LITTLE_SPACE: Final = 1 << 30
NO_SPACE: Final = 100 << 20
NOT_PRIVATE: Final = frozenset({"README.md", ".gitignore"})  # a checkout has them in its data folder

Verdict = Literal["ok", "note", "wrong"]
_MARKS: Final = {"ok": ("✔", "green"), "note": ("!", "yellow"), "wrong": ("✘", "bold red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw; `mend` says what to do about it."""

    verdict: Verdict
    what: str
    mend: str = ""


@click.command("doctor")
@configured
def doctor_command(config: Config) -> int:
    """Check everything the daemon needs from this machine.

    Use it after installing, after an upgrade, and first of all when something does not work. It changes nothing, and runs
    with or without a daemon. The exit code is 1 when something is wrong, and each such line says how to mend it.

    \b
    Examples:
      memoryd doctor
      memoryd doctor --config /etc/memoryd/memoryd.toml
    """
    from rich.text import Text

    from memoryd.cli.output import console, table

    found = [(name, finding) for name, check in _CHECKS.items() for finding in check(config)]
    shown = table("", "check", "seen", "mend")
    for column in shown.columns[2:]:
        column.no_wrap, column.overflow = False, "fold"
    for name, finding in found:
        shown.add_row(Text(*_MARKS[finding.verdict]), name, finding.what, finding.mend)
    console().print(shown)
    return 1 if any(finding.verdict == "wrong" for _, finding in found) else 0


def _python(_: Config) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    is_new_enough = sys.version_info >= (3, 11)
    yield Finding("ok" if is_new_enough else "wrong", version, "" if is_new_enough else "use Python 3.11 or newer")


def _libraries(_: Config) -> Iterator[Finding]:
    for distribution, module in NATIVE.items():
        try:
            import_module(module)
        except ImportError as error:
            yield Finding("wrong", f"{distribution}: {error}", "install memoryd again in a fresh environment")
        else:
            yield Finding("ok", f"{distribution} {metadata.version(distribution)}")


def _sqlite(_: Config) -> Iterator[Finding]:
    if sqlite3.sqlite_version_info >= LEAST_SQLITE:
        yield Finding("ok", sqlite3.sqlite_version)
    else:
        yield Finding("wrong", sqlite3.sqlite_version, "use a Python that is built with SQLite 3.37 or newer")
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
        except sqlite3.OperationalError as error:
            mend = "use a Python whose SQLite is built with FTS5; until then vectors alone answer"
            yield Finding("wrong", f"no search for words: {error}", mend)
        else:
            yield Finding("ok", "searches for words (FTS5)")


def _model(config: Config) -> Iterator[Finding]:
    from memoryd.embedding.folder import read_folder, resolve_model

    try:
        folder = read_folder(resolve_model(config.embedding.model))
    except MemorydError as error:
        yield Finding("wrong", error.message, error.hint or "")
    else:
        yield Finding("ok", f"{folder.name} ({folder.variant}), SHA-256 {folder.sha256[:12]}")


def _data(config: Config) -> Iterator[Finding]:
    root = data_dir_of(config)
    # What does not exist yet will be made in the nearest folder that does.
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding(
            "wrong", f"{place} is not writable", "chown or chmod it for this user, or choose another --data-dir"
        )
        return
    yield Finding("ok", f"{root}" + ("" if root.exists() else " will be made on the first start"))
    free = shutil.disk_usage(place).free
    verdict: Verdict = "ok" if free >= LITTLE_SPACE else "note" if free >= NO_SPACE else "wrong"
    yield Finding(
        verdict, f"{free / (1 << 30):.1f} GiB free", "" if verdict == "ok" else "make room on this file system"
    )


def _rights(config: Config) -> Iterator[Finding]:
    root = data_dir_of(config)
    if not root.exists():
        return
    kept = [Path(folder) / name for folder, folders, files in os.walk(root) for name in (*folders, *files)]
    exposed = [path for path in kept if path.name not in NOT_PRIVATE and _others_may(path, config)]
    if exposed:
        more = f" and {len(exposed) - 1} more" if len(exposed) > 1 else ""
        yield Finding("wrong", f"others may reach {exposed[0]}{more}", f"chmod -R go-rwx {root}")
    else:
        yield Finding("ok", "folders and files are for their owner only")


def _socket(config: Config) -> Iterator[Finding]:
    from memoryd.cli.connection import connected, run
    from memoryd.version import VERSION

    path = socket_of(config)

    async def ask() -> Status:
        async with connected(Target(path, None, None)) as connection:
            return await connection.memory.status()

    try:
        status = run(ask())
    except Unreachable as error:
        yield Finding("note", error.message, error.hint or "")
    except MemorydError as error:
        yield Finding("wrong", error.message, error.hint or "")
    else:
        is_same = status.version == VERSION
        yield Finding(
            "ok" if is_same else "wrong", f"memoryd {status.version} answers at {path}", "" if is_same else "restart it"
        )
        if status.model_fault:
            yield Finding("wrong", "it has no model, and words alone answer", status.model_fault)


def _limits(_: Config) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        most = "any number" if hard == resource.RLIM_INFINITY else f"{hard:,}"
        yield Finding("ok", f"{soft:,} open files, {most} if need be")
    else:
        yield Finding(
            "note", f"{hard:,} open files at most", f"raise it: LimitNOFILE={OPEN_FILES} in the unit, or ulimit -n"
        )


def _systemd(_: Config) -> Iterator[Finding]:
    if os.environ.get("NOTIFY_SOCKET"):
        watchdog = "with a watchdog" if os.environ.get("WATCHDOG_USEC") else "without a watchdog"
        yield Finding("ok", f"a service manager is told when it is ready, {watchdog}")
    elif os.environ.get("INVOCATION_ID") and os.environ.get("WATCHDOG_USEC"):
        yield Finding("wrong", "a watchdog that nothing can feed", "set Type=notify in the unit")
    else:
        yield Finding("ok", "not started by systemd, which is fine")


_CHECKS: Final[dict[str, Callable[[Config], Iterator[Finding]]]] = {
    "Python": _python,
    "libraries": _libraries,
    "SQLite": _sqlite,
    "model": _model,
    "data directory": _data,
    "rights": _rights,
    "daemon": _socket,
    "limits": _limits,
    "systemd": _systemd,
}


def _others_may(path: Path, config: Config) -> bool:
    """Whether others have a right to it that nobody gave them: the socket may be open to its group."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    shared = stat.S_IRWXG if config.server.group_access and stat.S_ISSOCK(mode) else 0
    return not stat.S_ISLNK(mode) and bool(mode & (stat.S_IRWXG | stat.S_IRWXO) & ~shared)
