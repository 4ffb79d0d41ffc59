"""`export`, `import` and `reembed`: whole memories, out, in and to another model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from memoryd.cli.options import Target, configured, data_dir_of, reaches_daemon

if TYPE_CHECKING:
    from memoryd.config import Config

STDOUT: Final = "-"


@click.command("export")
@click.argument("file", default=STDOUT, metavar="[FILE|-]")
@reaches_daemon
def export_command(target: Target, file: str) -> None:
    """Write a memory as JSON Lines, with its vectors.

    Use it for a copy to keep, to move to another machine, or to read what is remembered with other tools. `memoryd import`
    brings it back bit for bit, without embedding anything again. A file is complete or not there at all, and for your
    eyes only.

    \b
    Examples:
      memoryd export --user alice alice.jsonl
      memoryd export | jq -r .text
    """
    from memoryd.cli.connection import connected, run
    from memoryd.cli.exchange import to_line

    async def work() -> tuple[int, str]:
        count = 0
        async with connected(target) as connection:
            with output_file(file) as out:
                async for page in connection.memory.export(user=target.user):
                    for record in page.records:
                        out.write(to_line(record, page.model, page.model_sha256))
                    count += len(page.records)
            return count, connection.user

    count, user = run(work())
    click.echo(f"exported: {count:,} memories of {user}", err=True)


@click.command("import")
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option(
    "--texts", metavar="FILE|-", help='What the rows of another program\'s .rvf store say: lines {"id": ROW, "text"}.'
)
@click.option("--same-model", is_flag=True, help="Take the vectors of that store: this daemon's model made them.")
@click.option("--without-vectors", is_flag=True, help="Leave the vectors aside and embed the texts again.")
@reaches_daemon
def import_command(
    target: Target,
    file: str,
    texts: str | None,
    same_model: bool,  # noqa: FBT001 - click
    without_vectors: bool,  # noqa: FBT001 - click
) -> int:
    """Read memories from JSON Lines, as `memoryd export` writes them, or from an .rvf file.

    Use it to bring back or move a memory, or to bring in the store of another program; what is there already counts as a
    duplicate. Vectors are kept as they are, if this daemon's model made them; texts without one are embedded. A bad line
    is told with its number and reason, and never stops the good ones; the exit code is then 65.

    An .rvf file is read beside whoever writes to it. One of memoryd has its texts. One of another program has only rows
    with numbers, so --texts says what they mean; these texts are embedded, unless --same-model says that this daemon's
    model made the vectors. A branch is read with the file it was branched from.

    \b
    Examples:
      memoryd import --user alice alice.jsonl
      memoryd import --without-vectors made-by-another-model.jsonl
      memoryd import --user alice backup/alice/memory.rvf
      memoryd import notes.rvf --texts notes.jsonl
    """
    from memoryd.cli.connection import run
    from memoryd.cli.importing import Lines, bring_in, is_store

    if is_store(file):
        from memoryd.cli.stores import opened

        with opened(file, texts, same_model=same_model, without_vectors=without_vectors) as store:
            return run(bring_in(target, store))
    if texts is not None or same_model:
        raise click.UsageError("--texts and --same-model are for an .rvf file")
    return run(bring_in(target, Lines(file, without_vectors=without_vectors)))


@click.command("reembed")
@click.option("--user", metavar="USER", help="Only this user; all users, if not given.")
@configured
def reembed_command(config: Config, user: str | None) -> None:
    """Make all vectors anew with the configured model.

    Use it after changing the model: a memory that was written with another one does not open. It works on the files and
    needs the daemon to be stopped; each user's file is replaced when its successor is complete.

    \b
    Examples:
      memoryd reembed
      memoryd reembed --user alice --data-dir /var/lib/memoryd
    """
    from memoryd import reembed

    for done in reembed.run(data_dir_of(config), config, user):
        click.echo(
            f"{done.user}: {done.records:,} records have new vectors" if done.records else f"{done.user}: nothing to do"
        )


@contextmanager
def output_file(file: str) -> Iterator[BinaryIO]:
    """Open stdout, or a file that appears under its name only when it is complete."""
    if file == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Not open(): the mode must be right from the first moment.
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(descriptor)
        unfinished.replace(path)
    except OSError as error:
        from memoryd.protocol.errors import StorageFault

        raise StorageFault("the file cannot be written", field="FILE", hint=error.strerror) from error
    finally:
        unfinished.unlink(missing_ok=True)
