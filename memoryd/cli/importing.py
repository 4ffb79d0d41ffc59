"""Memories on their way to the daemon: from what source they come, batches of one sort, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

import click

from memoryd.cli.connection import Connection, connected
from memoryd.cli.exchange import from_line
from memoryd.cli.output import console, progress, tell_rejected
from memoryd.cli.reading import STDIN, lines_in, reading
from memoryd.cli.sending import require_sendable, send_or_halve
from memoryd.protocol.errors import InvalidMessage, MemorydError, ModelMismatch
from memoryd.protocol.messages import Import, Remember
from memoryd.protocol.records import Draft, MemoryRecord
from memoryd.rvf.format import MAGIC

if TYPE_CHECKING:
    from rich.console import Console

    from memoryd.cli.options import Target
    from memoryd.protocol.messages import Status

# A record with its vector and the SHA-256 of the model that made it, or a text to be embedded.
Item = tuple[MemoryRecord, str] | Draft
Numbered = tuple[int, Item | MemorydError]

EXIT_REJECTED: Final = 65  # EX_DATAERR of sysexits.h
BATCH_ITEMS: Final = 256
BATCH_BYTES: Final = 512 << 10  # half a frame: room for names and escapes
_SUFFIX: Final = ".rvf"


class Source(Protocol):
    """Where memories come from: `file`, in which there are `total` of what `noun` calls them, None if nobody knows."""

    @property
    def file(self) -> str: ...

    @property
    def noun(self) -> str: ...

    @property
    def total(self) -> int | None: ...

    @property
    def left_out(self) -> int:
        """How many rows have no text, once all is read."""
        ...

    def items(self, stream: BinaryIO, status: Status) -> Iterator[Numbered]:
        """Yield what is in `stream`, which is `file`; called in a thread."""
        ...

    def told(self) -> str:
        """Return what else there is to say, once all is read."""
        ...


class Lines:
    """An export, or texts in the same shape."""

    noun: Final = "line"
    left_out: Final = 0

    def __init__(self, file: str, *, without_vectors: bool) -> None:
        self.file = file
        self.total = lines_in(file)
        self._without_vectors = without_vectors

    def items(self, stream: BinaryIO, status: Status) -> Iterator[Numbered]:
        """Yield what each line became.

        Raises ModelMismatch: what one model made, no line of it is good for another. Raises InvalidMessage for a store.
        """
        for number, line in enumerate(stream, 1):
            if number == 1 and line.startswith(MAGIC):
                raise InvalidMessage("an .rvf store cannot be read from a pipe", field="FILE", hint="give its path")
            if not line.strip():
                continue
            try:
                item = from_line(line, status.dim, without_vectors=self._without_vectors)
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

    def told(self) -> str:
        return ""


def is_store(file: str) -> bool:
    """Whether a file is an `.rvf` store: by its first bytes, or by its name where those are damaged."""
    path = Path(file)
    with suppress(OSError):
        if file != STDIN and path.is_file():
            with path.open("rb") as stream:
                return stream.read(len(MAGIC)) == MAGIC or path.suffix == _SUFFIX
    return False


async def bring_in(target: Target, source: Source) -> int:
    """Send what a source has, with a progress bar on a terminal; tell what became of it and return the exit code."""
    err = console(err=True)
    bar = progress(err)
    task = bar.add_task(f"{source.noun}s", total=source.total)
    async with connected(target) as connection:
        status = await connection.memory.status()
        importing = _Importing(connection, target.user, err, source.noun)

        def parse(stream: BinaryIO) -> Iterator[Numbered]:
            return source.items(stream, status)

        try:
            with bar:
                async with reading(source.file, parse) as read:
                    async for portion in read.portions(BATCH_ITEMS):
                        await importing.take(portion)
                        bar.update(task, completed=portion[-1][0])
        finally:
            click.echo(f"imported for {connection.user}: {importing}")
    if told := source.told():
        click.echo(told)
    if source.left_out:
        click.echo(f"left out, since they have no text: {source.left_out:,} rows")
    return EXIT_REJECTED if importing.rejected or source.left_out else 0


@dataclass(slots=True)
class _Importing:
    """Sends items in batches of one sort, and counts what became of them."""

    connection: Connection
    user: str | None
    err: Console
    noun: str
    kept: int = 0
    duplicates: int = 0
    rejected: int = 0

    def __str__(self) -> str:
        return f"{self.kept:,} memories, {self.duplicates:,} duplicate, {self.rejected:,} rejected"

    async def take(self, portion: Sequence[Numbered]) -> None:
        good: list[tuple[int, Item]] = []
        for number, item in portion:
            if isinstance(item, MemorydError):
                self._reject(number, item)
            else:
                good.append((number, item))
        for batch in _batches(good):
            await send_or_halve(batch, self._send, self._reject)

    async def _send(self, batch: Sequence[tuple[int, Item]]) -> None:
        memory = self.connection.memory
        drafts = [item for _, item in batch if not isinstance(item, tuple)]
        records = [item for _, item in batch if isinstance(item, tuple)]
        if drafts:
            require_sendable("remember", Remember(drafts=tuple(drafts)))
            reply = await memory.import_drafts(drafts, user=self.user)
        else:
            sha256 = records[0][1]
            bare = [record for record, _ in records]
            require_sendable("import", Import(records=tuple(bare), model_sha256=sha256))
            reply = await memory.import_records(bare, model_sha256=sha256, user=self.user)
        self.duplicates += reply.duplicates
        self.kept += len(reply.records) - reply.duplicates

    def _reject(self, number: int, error: MemorydError) -> None:
        self.rejected += 1
        tell_rejected(self.err, f"{self.noun} {number}", error)


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
