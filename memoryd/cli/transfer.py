"""`export`, `import` and `reembed`: whole memories, out, in and to another model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from memoryd.cli.options import Target, configured, reaches_daemon

if TYPE_CHECKING:
    from memoryd.cli.connection import Connection
    from memoryd.config import Config
    from memoryd.protocol.errors import MemorydError
    from memoryd.protocol.messages import Status
    from memoryd.protocol.records import Draft, MemoryRecord

    Item = tuple[MemoryRecord, str] | Draft
    Numbered = tuple[int, Item | MemorydError]

EXIT_REJECTED: Final = 65  # EX_DATAERR of sysexits.h
BATCH_ITEMS: Final = 256
BATCH_BYTES: Final = 512 << 10  # half a frame: room for names and escapes
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
            with _output(file) as out:
                async for page in connection.memory.export(user=target.user):
                    for record in page.records:
                        out.write(to_line(record, page.model, page.model_sha256))
                    count += len(page.records)
            return count, connection.user

    count, user = run(work())
    click.echo(f"exported: {count:,} memories of {user}", err=True)


@click.command("import")
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option("--without-vectors", is_flag=True, help="Leave the vectors aside and embed the texts again.")
@reaches_daemon
def import_command(target: Target, file: str, without_vectors: bool) -> int:  # noqa: FBT001 - click
    """Read memories from JSON Lines, as `memoryd export` writes them.

    Use it to bring back or move a memory; what is there already counts as a duplicate. Lines with a `vector` are kept as
    they are, if this daemon's model made them; lines without one need only `text`, and are embedded. A bad line is told
    with its number and reason, and never stops the good ones; the exit code is then 65.

    \b
    Examples:
      memoryd import --user alice alice.jsonl
      memoryd import --without-vectors made-by-another-model.jsonl
    """
    from memoryd.cli.connection import connected, run
    from memoryd.cli.reading import reading

    async def work() -> int:
        async with connected(target) as connection:
            status = await connection.memory.status()
            importing = _Importing(connection, target.user)

            def parse(stream: BinaryIO) -> Iterator[Numbered]:
                return _items(stream, status, without_vectors=without_vectors)

            try:
                async with reading(file, parse) as source:
                    async for portion in source.portions(BATCH_ITEMS):
                        await importing.take(portion)
            finally:
                click.echo(f"imported for {connection.user}: {importing}")
            return EXIT_REJECTED if importing.rejected else 0

    return run(work())


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
    from memoryd.paths import default_data_dir

    data_dir = Path(config.server.data_dir) if config.server.data_dir else default_data_dir()
    for done in reembed.run(data_dir, config, user):
        click.echo(
            f"{done.user}: {done.records:,} records have new vectors" if done.records else f"{done.user}: nothing to do"
        )


@dataclass(slots=True)
class _Importing:
    """Sends items in batches of one sort, and counts what became of them."""

    connection: Connection
    user: str | None
    kept: int = 0
    duplicates: int = 0
    rejected: int = 0

    def __str__(self) -> str:
        return f"{self.kept:,} memories, {self.duplicates:,} duplicate, {self.rejected:,} rejected"

    async def take(self, portion: Sequence[Numbered]) -> None:
        from memoryd.cli.sending import send_or_halve
        from memoryd.protocol.errors import MemorydError

        good: list[tuple[int, Item]] = []
        for number, item in portion:
            if isinstance(item, MemorydError):
                self._reject(number, item)
            else:
                good.append((number, item))
        for batch in _batches(good):
            await send_or_halve(batch, self._send, self._reject)

    async def _send(self, batch: Sequence[tuple[int, Item]]) -> None:
        from memoryd.cli.sending import require_sendable
        from memoryd.protocol.messages import Import, Remember

        memory = self.connection.memory
        drafts = [item for _, item in batch if not isinstance(item, tuple)]
        records = [item for _, item in batch if isinstance(item, tuple)]
        if drafts:
            require_sendable("remember", Remember(drafts=tuple(drafts)))
            self.kept += len(await memory.remember_many(drafts, user=self.user))
            return
        sha256 = records[0][1]
        bare = [record for record, _ in records]
        require_sendable("import", Import(records=tuple(bare), model_sha256=sha256))
        reply = await memory.import_records(bare, model_sha256=sha256, user=self.user)
        self.duplicates += reply.duplicates
        self.kept += len(reply.records) - reply.duplicates

    def _reject(self, number: int, error: MemorydError) -> None:
        self.rejected += 1
        field = f" ({error.field})" if error.field else ""
        click.echo(f"line {number}: {error.message}{field}" + (f"; {error.hint}" if error.hint else ""), err=True)


def _items(stream: BinaryIO, status: Status, *, without_vectors: bool) -> Iterator[Numbered]:
    """Yield what each line became. Raises ModelMismatch: what one model made, none of its lines is good for another."""
    from memoryd.cli.exchange import from_line
    from memoryd.protocol.errors import MemorydError, ModelMismatch

    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            item = from_line(line, status.dim, without_vectors=without_vectors)
        except MemorydError as error:
            yield number, error
            continue
        if isinstance(item, tuple) and item[1] != status.model_sha256:
            raise ModelMismatch(
                f"the vector in line {number} was made by another model",
                field="model_sha256",
                hint="add --without-vectors: the texts are embedded again",
            )
        yield number, item


def _batches(items: Iterable[tuple[int, Item]]) -> Iterator[list[tuple[int, Item]]]:
    """Cut items into batches that fit a frame and are of one sort: texts, or records of one model."""
    batch: list[tuple[int, Item]] = []
    weight = 0
    for number, item in items:
        more = _weight(item)
        if batch and (weight + more > BATCH_BYTES or _sort(item) != _sort(batch[0][1])):
            yield batch
            batch, weight = [], 0
        batch.append((number, item))
        weight += more
    if batch:
        yield batch


def _sort(item: Item) -> str | None:
    return item[1] if isinstance(item, tuple) else None


def _weight(item: Item) -> int:
    record = item[0] if isinstance(item, tuple) else item
    embedding = len(item[0].embedding) if isinstance(item, tuple) else 0
    return 512 + embedding + 2 * len(record.text) + 2 * len(repr(record.metadata))


@contextmanager
def _output(file: str) -> Iterator[BinaryIO]:
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
