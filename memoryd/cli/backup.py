"""`backup`: snapshots of everything, in a folder of their own."""

from __future__ import annotations

from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from memoryd.cli.options import FILE, Target, configured, data_dir_of, socket_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from rich.progress import Progress

    from memoryd.backup.format import Omitted
    from memoryd.backup.verifying import Verified
    from memoryd.config import Config
    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.protocol.messages import BackupProgress, OmittedFile, SnapshotMade

EXIT_FINDINGS: Final = 1
# Links are followed here: the stores open none.
FOLDER: Final = click.Path(path_type=Path, file_okay=False, resolve_path=True)

_snapshot = click.option("--snapshot", type=click.IntRange(min=1), metavar="N", help="The number of a snapshot.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")


@click.group("backup")
def backup_command() -> None:
    """Make, check and put back snapshots of everything.

    Use it every night, and before an upgrade. A backup is a folder: each snapshot in it is whole, and adds only what the
    earlier ones lack. It is for your eyes only, like the data directory itself.

    \b
    Examples:
      memoryd backup create /mnt/backup/memoryd
      memoryd backup verify /mnt/backup/memoryd
      memoryd backup restore /mnt/backup/memoryd --to /var/lib/restored
    """


@backup_command.command("create")
@click.argument("folder", type=FOLDER, metavar="FOLDER")
@_json
@click.option(
    "--token-file", type=FILE, metavar="PATH", help="A file with the token; MEMORYD_TOKEN may hold the token itself."
)
@configured
def create_command(config: Config, folder: Path, as_json: bool, token_file: Path | None) -> int:  # noqa: FBT001 - click
    """Add a snapshot of everything to the backup in FOLDER.

    Use it whether a daemon runs or not: a running one makes the snapshot itself while it goes on answering, and its account
    writes the folder, which is made if need be; the credential must grant all users. Without a daemon the data directory
    is read directly. What cannot be read is told and left out, the rest is kept; the exit code is then 1.

    \b
    Examples:
      memoryd backup create /mnt/backup/memoryd
      memoryd backup create --data-dir /var/lib/memoryd /mnt/backup/memoryd
    """
    from memoryd.cli.connection import run

    made = run(_by_daemon(config, folder, token_file)) or _directly(config, folder)
    _tell_omitted(made.omitted, made.omitted_files)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(made).decode())
    else:
        from memoryd.cli.output import size

        events = "no event log" if made.last_seq is None else f"events up to {made.last_seq:,}"
        click.echo(
            f"snapshot {made.snapshot}: {made.users:,} users, {made.files:,} files, {size(made.bytes)}, {events}; "
            f"{size(made.bytes_written)} new"
        )
    return EXIT_FINDINGS if made.omitted_files else 0


@backup_command.command("verify")
@click.argument("folder", type=FOLDER, metavar="FOLDER")
@_snapshot
@_json
def verify_command(folder: Path, snapshot: int | None, as_json: bool) -> int:  # noqa: FBT001 - click
    """Check every byte of a backup, or of one snapshot.

    Use it after copying a backup, and from time to time: it reads everything, puts every memory back into a temporary
    folder ($TMPDIR) and checks it as `memoryd verify` does. It needs no daemon and changes nothing; the exit code is 1
    when something is wrong.

    \b
    Examples:
      memoryd backup verify /mnt/backup/memoryd
      memoryd backup verify /mnt/backup/memoryd --snapshot 3 --json
    """
    from tempfile import TemporaryDirectory

    from memoryd.backup.repository import Repository
    from memoryd.backup.verifying import verify_backup
    from memoryd.files import RealFiles

    files, bar = RealFiles(), _bytes_bar()
    with closing(Repository(folder, files)) as repository, TemporaryDirectory(prefix="memoryd-") as scratch, bar:
        task = bar.add_task("checked", total=None)
        found = verify_backup(
            repository,
            snapshot,
            Path(scratch).resolve(),
            files,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found).decode())
    else:
        _show(found)
    return EXIT_FINDINGS if found.findings else 0


@backup_command.command("restore")
@click.argument("folder", type=FOLDER, metavar="FOLDER")
@click.option("--to", "target", type=FOLDER, required=True, metavar="DIR", help="A folder that is new or empty.")
@_snapshot
@click.option("--user", "-u", metavar="USER", help="Only this user's memory and events.")
@_json
def restore_command(folder: Path, target: Path, snapshot: int | None, user: str | None, as_json: bool) -> int:  # noqa: FBT001 - click
    """Put a snapshot back into a new or empty folder.

    Use it to go on after a loss, on this machine or another: `memoryd serve --data-dir DIR` serves what was restored. The
    newest snapshot is taken if none is named, and every byte is checked on the way. A file that the snapshot lacks is told;
    the exit code is then 1.

    \b
    Examples:
      memoryd backup restore /mnt/backup/memoryd --to /var/lib/restored
      memoryd backup restore /mnt/backup/memoryd --to alice --snapshot 3 --user alice
    """
    from memoryd.backup.repository import Repository
    from memoryd.backup.restoring import restore
    from memoryd.files import RealFiles
    from memoryd.protocol.ids import user_id

    files, bar = RealFiles(), _bytes_bar()
    with closing(Repository(folder, files)) as repository, bar:
        number = repository.choose(snapshot)
        chosen = repository.load(number)
        repository.load_index()
        task = bar.add_task("restored", total=None if user else chosen.live_bytes)
        restored = restore(
            repository,
            chosen,
            target,
            files,
            None if user is None else user_id(user),
            lambda count: bar.advance(task, count),
        )
    _tell_omitted(restored.omitted, len(restored.omitted))
    if as_json:
        import msgspec

        click.echo(
            msgspec.json.encode({"snapshot": number, "to": str(target), **msgspec.to_builtins(restored)}).decode()
        )
    else:
        from memoryd.cli.output import size

        click.echo(
            f"restored snapshot {number} of {_moment(chosen.created_at)} into {target}: {restored.users:,} users, "
            f"{restored.files:,} files, {size(restored.bytes)}"
        )
    return EXIT_FINDINGS if restored.omitted else 0


async def _by_daemon(config: Config, folder: Path, token_file: Path | None) -> SnapshotMade | None:
    """Have a running daemon do it; None when there is none."""
    from memoryd.cli.connection import connected
    from memoryd.protocol.errors import Unreachable

    async with AsyncExitStack() as stack:
        try:
            target = Target(socket_of(config), token_file, None)
            connection = await stack.enter_async_context(connected(target))
        except Unreachable:
            return None
        _require_meant((await connection.memory.status()).data_dir, config)
        made = None
        with _users_bar() as bar:
            async for progress in connection.memory.backup(folder):
                _advance(bar, progress)
                made = progress.made
        return made


def _require_meant(served: str, config: Config) -> None:
    """Raise ConfigError when the daemon that answers serves another data directory than the one that is named."""
    from memoryd.protocol.errors import ConfigError

    if config.server.data_dir and data_dir_of(config).resolve() != Path(served).resolve():
        raise ConfigError(
            f"the daemon at {socket_of(config)} serves {served}",
            field="--data-dir",
            hint="leave --data-dir out, or name the socket of the other daemon",
        )


def _directly(config: Config, folder: Path) -> SnapshotMade:
    """Do it here, on a data directory that no daemon serves."""
    from memoryd.backup.direct import back_up

    with _users_bar() as bar:
        return back_up(data_dir_of(config), folder, _model(config), lambda progress: _advance(bar, progress))


def _model(config: Config) -> ModelInfo | None:
    """Return the configured model; None when it is not there, which is no reason to lack a backup."""
    from memoryd.embedding.folder import read_folder, resolve_model
    from memoryd.protocol.errors import ModelUnavailable
    from memoryd.protocol.interfaces import ModelInfo

    try:
        folder = read_folder(resolve_model(config.embedding.model))
    except ModelUnavailable:
        return None
    return ModelInfo(folder.name, folder.dim, folder.sha256, folder.max_tokens, folder.variant)


def _users_bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from memoryd.cli.output import console

    err = console(err=True)
    bar = Progress(
        TextColumn("users"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    bar.add_task("", total=None)
    return bar


def _advance(bar: Progress, progress: BackupProgress) -> None:
    from memoryd.cli.output import size

    said = f"{size(progress.bytes_read)} read, {size(progress.bytes_written)} new"
    bar.update(bar.task_ids[0], completed=progress.users_done, total=progress.users, description=said)


def _bytes_bar() -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    from memoryd.cli.output import console

    err = console(err=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def _tell_omitted(omitted: Iterable[OmittedFile | Omitted], count: int) -> None:
    """Say on stderr what a snapshot lacks."""
    for each in omitted:
        click.echo(f"left out: {each.name}: {each.what} at byte {each.offset}", err=True)
    if count:
        click.echo(f"the snapshot is partial: {count:,} files are not in it", err=True)


def _show(found: Verified) -> None:
    from memoryd.cli.output import console, size, table

    shown = table(">snapshot", "made", "by", ">users", ">files", ">left out", ">size", ">new", ">last event")
    for each in found.snapshots:
        shown.add_row(
            str(each.snapshot),
            _moment(each.created_at),
            f"memoryd {each.version}",
            f"{each.users:,}",
            f"{each.files:,}",
            f"{each.omitted:,}",
            size(each.bytes),
            size(each.new_bytes),
            "-" if each.last_seq is None else f"{each.last_seq:,}",
        )
    console().print(shown)
    if not found.findings:
        click.echo("the backup is sound")
        return
    wrong = table("file", "snapshots", ">byte", "what", "mend", title=f"{len(found.findings)} findings")
    for column in wrong.columns[3:]:
        column.no_wrap, column.overflow = False, "fold"
    for finding in found.findings:
        wrong.add_row(finding.name, _span(finding.snapshots), str(finding.offset), finding.what, finding.hint)
    console().print(wrong)


def _span(numbers: Sequence[int]) -> str:
    """Return some snapshots in short: `3`, or `1 to 9 (7)` with how many there are."""
    if len(numbers) < 2:  # noqa: PLR2004 - one, or none
        return "".join(map(str, numbers))
    return f"{numbers[0]} to {numbers[-1]} ({len(numbers)})"


def _moment(when: datetime) -> str:
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"
