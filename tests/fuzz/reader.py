"""Changed files for the reader: `python -m tests.fuzz.reader --minutes 60 [FILE.rvf ...]`.

Each is one of ours or one of FILES with some bytes changed, cut, repeated or replaced by extreme numbers, and then mostly
signed again, so that it is the reader that has to refuse it and not a hash. It is read by itself, beside FILES, of which
it may be a branch, and as the parent of one; and so are a memory of ours and a branch of it. Whatever the reader says, it says it with an error of ours; memory is
bounded; what it returns can be used. A finding is printed with its seed, and the command fails.
"""

from __future__ import annotations

import resource
import struct
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec
import numpy as np
import pytest
import xxhash
from rich.progress import Progress

from memoryd.protocol.errors import MemorydError
from memoryd.protocol.ids import MAIN, BranchName, Seq
from memoryd.protocol.interfaces import Batch
from memoryd.protocol.records import ANY, MemoryFilter
from memoryd.rvf import format as rvf
from memoryd.rvf import history, ledger, rewriting
from memoryd.rvf.adjacency import unpack_adjacency
from memoryd.rvf.foreign import ForeignStore, committed
from memoryd.rvf.inspect import inspect
from memoryd.rvf.reader import find_state, read_rows, read_segment
from memoryd.rvf.sealed import Head
from memoryd.vectors.graph import link
from tests.helpers.faultfs import FaultDisk
from tests.helpers.foreign import cow_map, members, store_bytes, vectors_of
from tests.helpers.memories import CODED, FILE, ROOT, USER, codebook, entries, record_id, store, trajectory, units

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BRANCH: Final = FILE.with_name("a branch of it.rvf")
OTHER: Final = BranchName("other")
OTHER_FILE: Final = FILE.parent / "branches" / "other.rvf"
BRANCHES: Final = 0.25  # the share of turns in which a branch of ours is read
MEMORY: Final = 3 << 30  # bytes of address space; an allocation from a forged number would be more
_HASH_AT: Final = 0x28
_EXTREMES: Final = (
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 33,
    1 << 53,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


@cache
def our_file() -> bytes:
    """Return a file with sealed rows, a graph, commits behind them, trajectories and deleted rows."""
    disk = FaultDisk()
    disk.put(ROOT)
    with pytest.MonkeyPatch.context() as patch:
        for module in (ledger, rewriting):
            patch.setattr(module, "SEALED_ROWS", 8)
        patch.setattr(ledger, "_LINKED_ROWS", 8)
        memory = store(disk, model=CODED, book=codebook(), link=link).open(USER).file
        memory.commit(Batch(entries=entries(range(40), CODED.dim), trajectories=[trajectory(1), trajectory(2)]))
        memory.compact()
        linking = memory.linking()
        assert linking is not None
        assert linking.prepare()
        memory.finish(linking)
        memory.commit(Batch(entries=entries(range(40, 45), CODED.dim), deleted=[record_id(3), record_id(41)]))
        memory.close()
    return disk.content(FILE)


@cache
def our_files() -> tuple[bytes, bytes]:
    """Return a memory with deleted rows and a branch of it, which has rows of its own and has deleted some of either."""
    disk = FaultDisk()
    disk.put(ROOT)
    disk.put(FILE, our_file())
    memories = store(disk, model=CODED, book=codebook())
    memories.branch(USER, OTHER, MAIN)
    memories.switch(USER, OTHER, Seq(0))
    file = memories.open(USER).file
    numbers = range(60, 75)
    file.commit(Batch(entries=entries(numbers, CODED.dim), deleted=[record_id(1), record_id(44)], moment_us=9))
    file.commit(Batch(deleted=[record_id(61)], moment_us=10))
    file.close()
    return disk.content(FILE), disk.content(OTHER_FILE)


def changed(data: bytes, seed: np.random.Generator) -> bytes:
    """Return `data` with one to four changes, mostly signed again."""
    content = bytearray(data)
    for _ in range(int(seed.integers(1, 4))):
        at = int(seed.integers(len(content)))
        match int(seed.choice(5, p=(0.4, 0.2, 0.3, 0.05, 0.05))):  # most keep every segment where it is
            case 0:
                content[at] ^= 1 << int(seed.integers(8))
            case 1:
                content[at : at + int(seed.integers(1, 9))] = seed.bytes(int(seed.integers(1, 9)))
            case 2:
                number = _EXTREMES[int(seed.integers(len(_EXTREMES)))]
                width = int(seed.choice([1, 2, 4, 8]))
                content[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
            case 3:
                length = int(seed.integers(1, 400))
                to = int(seed.integers(len(content)))
                content[to:to] = content[at : at + length]
            case _:
                del content[at : at + int(seed.integers(1, 400))]
        if not content:
            return b""
    return bytes(signed(content) if seed.random() < 0.8 else content)


def signed(content: bytearray) -> bytearray:
    """Make every hash in a file right again, as far as its segments can still be found."""
    at = 0
    while (at := content.find(rvf.MAGIC, at)) >= 0:
        try:
            header = rvf.unpack_header(bytes(content[at : at + rvf.HEADER_SIZE]))
        except ValueError:
            at += 1
            continue
        start, end = at + rvf.HEADER_SIZE, at + rvf.HEADER_SIZE + header.length
        if header.type == rvf.PRIVATE:
            _sign_head(content, start, end)
        content[at + _HASH_AT : at + _HASH_AT + 16] = rvf.content_hash(bytes(content[start:end]))
        at += rvf.HEADER_SIZE
    return content


def _sign_head(content: bytearray, start: int, end: int) -> None:
    """Make the sums of sealed rows right, if that is what stands here and its head can be read."""
    if len(content) < start + 20 or content[start + 6] != 3:
        return
    (length,) = struct.unpack_from("<I", content, start + 8)
    if length > end - start:
        return
    head = bytes(content[start + 20 : start + 20 + length])
    try:
        found = msgspec.msgpack.decode(head, type=Head)
        for section in found.sections[:-1]:
            part = bytes(content[start + section.offset : start + section.offset + section.length])
            section_sum = xxhash.xxh3_64_intdigest(part)
            old, new = msgspec.msgpack.encode(section.sum), msgspec.msgpack.encode(section_sum)
            if len(old) == len(new):
                head = head.replace(old, new)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
        pass
    content[start + 20 : start + 20 + length] = head
    struct.pack_into("<Q", content, start + 12, xxhash.xxh3_64_intdigest(head))


def use(data: bytes, beside: Sequence[Path] = ()) -> bool:
    """Do with a file what can be done with one; return whether it was opened. Raises nothing but what is a finding.

    Files that lie `beside` it may be its parents. The sum over the hashes of all private segments is not looked at: it
    would refuse nearly everything.
    """
    disk = FaultDisk()
    for path in beside:
        disk.put(FILE.parent / path.name, path.read_bytes())
    disk.put(FILE, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "_count", lambda *_: None)
        _read_as_a_store(disk, data)
        return _use(disk)


def use_branches(main: bytes, other: bytes) -> bool:
    """Do with a memory and a branch of it what can be done with them; return whether the branch was written to."""
    disk = FaultDisk()
    disk.put(FILE, main)
    disk.put(OTHER_FILE, other)
    disk.put(FILE.with_name("HEAD"), OTHER.encode())
    memories = store(disk, model=CODED, book=codebook())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "_count", lambda *_: None)
        list(memories.verify(USER))
        asked: tuple[Callable[[], object], ...] = (
            lambda: memories.branches(USER),
            lambda: memories.compare(USER, OTHER, MAIN),
            lambda: memories.look(USER, OTHER, 9).index.page(0, 100),
            lambda: memories.look(USER, MAIN, 3).index.page(0, 100),
            lambda: memories.branch(USER, BranchName("third"), OTHER),
        )
        for ask in asked:
            with suppress(MemorydError):
                ask()
        try:
            opened = memories.open(USER)
            opened.index.page(0, 100)
            opened.file.commit(Batch(entries=entries([90], CODED.dim), deleted=[record_id(5), record_id(62)]))
            opened.file.compact(erases=True)
            opened.file.close()
        except MemorydError:
            return False
    return True


def _read_as_a_store(disk: FaultDisk, data: bytes) -> None:
    """Read every row that the file shows, and that a branch of it does."""
    file = disk.open(FILE, writable=False)
    try:
        manifest = committed(file, FILE).manifest
    except MemorydError:
        return
    identity = manifest.identity or rvf.Identity(bytes(16))
    shown = members(range(0, 2_000, 3))
    disk.put(BRANCH, store_bytes(cow_map(data, identity.file_id, FILE.name), shown, held=0, dim=manifest.dim))
    for path in (FILE, BRANCH):
        try:
            with ForeignStore.open(disk, path) as store:
                assert (np.diff(store.ids) > 0).all()
                assert vectors_of(store).shape == (len(store.ids), manifest.dim)
        except MemorydError:
            pass


def _use(disk: FaultDisk) -> bool:
    file = disk.open(FILE, writable=False)
    try:
        inspect(file, FILE)
        state = find_state(file, FILE)
        for entry in state.of_type(rvf.INDEX):
            unpack_adjacency(read_segment(file, FILE, entry))
        read_rows(file, FILE, state, state.of_type(rvf.VEC))
    except (MemorydError, ValueError):
        pass
    memories = store(disk, model=CODED, book=codebook(), link=link)
    list(memories.verify(USER))
    try:
        opened = memories.open(USER)
        index = opened.index
        for where in (ANY, MemoryFilter(session_id="session 1")):
            for hit in index.view().search(units(1, CODED.dim, seed=1)[0], k=5, where=where).hits:
                memories.decode(hit.record)
        index.page(0, 100)
        index.check()()
        opened.file.commit(Batch(entries=entries([50], CODED.dim), deleted=[record_id(5)]))
        opened.file.compact()
    except MemorydError:
        return False
    return True


def changed_pair(source: np.random.Generator) -> tuple[bytes, bytes]:
    """Return a memory and a branch of it, one of which was changed."""
    main, other = our_files()
    return (changed(main, source), other) if source.random() < 0.3 else (main, changed(other, source))


def starts(files: Sequence[Path]) -> list[bytes]:
    return [our_file(), *(path.read_bytes() for path in files)]


@click.command(help=__doc__)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--minutes", type=float, default=60.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="The first one; each file has its own.")
def main(files: Sequence[Path], minutes: float, seed: int) -> None:
    """Change files until the time is over."""
    np.seterr(divide="raise", over="raise", invalid="raise")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    given, until, opened, done = starts(files), time.monotonic() + minutes * 60, 0, 0
    began = time.monotonic()
    with Progress() as progress:
        bar = progress.add_task("files", total=minutes * 60)
        while time.monotonic() < until:
            source = np.random.default_rng(seed + done)
            try:
                if source.random() < BRANCHES:
                    opened += use_branches(*changed_pair(source))
                else:
                    opened += use(changed(given[int(source.integers(len(given)))], source), files)
            except BaseException:
                progress.console.print(f"finding: seed {seed + done}")
                raise
            done += 1
            progress.update(bar, completed=time.monotonic() - began, description=f"{done:,} files, {opened:,} opened")
    click.echo(f"{done:,} changed files from seed {seed}, of which {opened:,} could be used: no finding")


if __name__ == "__main__":
    main()
