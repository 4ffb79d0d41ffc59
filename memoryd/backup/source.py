"""What a data directory holds that a backup takes, and how it is cut into pieces.

Of an `.rvf` file the segments that its newest manifest lists, and that manifest: those that were folded into others still
stand in the file, and do not come into the backup. Such a file only grows or is replaced by another, so a descriptor shows one
state, whatever its writer does. Every other file in a user's folder is taken as it is, such as the state of learning, which is replaced whole; but not locks, what is
unfinished or was set aside as damaged, and SQLite files, which are made from the `.rvf` again.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from zlib import crc32

from memoryd.backup.format import MAX_OBJECT, Omitted, is_folder, is_name
from memoryd.files import Missing
from memoryd.protocol.errors import StorageFault
from memoryd.rvf import format as rvf
from memoryd.rvf.reader import damaged, find_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memoryd.files import File, FileSystem
    from memoryd.rvf.reader import Entry, State

    Bytes = tuple[int, bytes]  # where they stand in the file, and they themselves

LEFT_OUT: Final = (".lock", ".tmp", ".damaged", ".sqlite", ".sqlite-wal", ".sqlite-shm")
_TURNS: Final = 10  # a folder whose names change each time it is looked at is given up
_RVF: Final = ".rvf"


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is open; `state` says what of an `.rvf` file is committed, and `size` how much of it is to be taken."""

    name: str
    path: Path
    file: File
    size: int
    state: State | None = None

    def pieces(self) -> Iterator[Bytes]:
        """Yield what a backup takes. Raises Damaged at the first segment whose hash fails, or another StorageFault."""
        if self.state is None:
            yield from cut(self.file, self.size)
            return
        for entry in _live(self.path, self.state):
            yield from _segment(self.file, self.path, entry)


def folders(files: FileSystem, root: Path) -> list[str]:
    """Return the names of all folders that are taken: of every user, and of the global store."""
    return [name for name in files.list(root) if is_folder(name) and files.is_folder(root / name)]


@contextmanager
def opened(files: FileSystem, root: Path, folder: str) -> Iterator[tuple[Sequence[Source], Sequence[Omitted]]]:
    """Open everything in one folder as it was at one moment, and say what cannot be used."""
    with ExitStack() as stack:
        try:
            found = _opened_together(files, root, folder, stack)
        except StorageFault as error:
            found = [], [fault_of(folder, error)]
        yield found


def cut(file: File, size: int, *, begin: int = 0, length: int = MAX_OBJECT) -> Iterator[Bytes]:
    """Yield `size` bytes of a file from `begin` on, `length` at a time. Raises StorageFault."""
    for offset in range(begin, begin + size, length):
        data = file.read(offset, min(length, begin + size - offset))
        if len(data) < min(length, begin + size - offset):
            raise StorageFault("the file was cut while it was read", offset=offset + len(data))
        yield offset, data


def fault_of(name: str, error: StorageFault) -> Omitted:
    """Return why a file is not in a snapshot."""
    return Omitted(
        _printable(name), int(error.details.get("offset") or 0), str(error.details.get("what") or error.message)
    )


def _opened_together(
    files: FileSystem, root: Path, folder: str, stack: ExitStack
) -> tuple[list[Source], list[Omitted]]:
    """Open files until none has come or gone meanwhile: what one of them names in another is there then, and as new."""
    for _ in range(_TURNS):
        names = [*_names(files, root, folder)]
        found = _open(files, root, names, stack)
        if found is not None and names == [*_names(files, root, folder)]:
            return _with_states(*found)
        stack.close()
    return [], [Omitted(folder, 0, "its names change all the time")]


def _open(
    files: FileSystem, root: Path, names: Sequence[str], stack: ExitStack
) -> tuple[list[Source], list[Omitted]] | None:
    """Open these files, and say which of them cannot be opened; None when one of them has just gone."""
    sources: list[Source] = []
    omitted: list[Omitted] = []
    for name in names:
        if not is_name(name):
            omitted.append(Omitted(_printable(name), 0, "a snapshot cannot name it"))
            continue
        try:
            file = files.open(root / name, writable=False)
        except Missing:
            return None
        except StorageFault as error:
            omitted.append(fault_of(name, error))
            continue
        stack.callback(file.close)
        sources.append(Source(name, root / name, file, file.size()))
    return sources, omitted


def _with_states(sources: Sequence[Source], omitted: list[Omitted]) -> tuple[list[Source], list[Omitted]]:
    """Find what is committed in every `.rvf` file, now that all are open."""
    found: list[Source] = []
    for source in sources:
        try:
            if source.name.endswith(_RVF):
                state = find_state(source.file, source.path)
                found.append(replace(source, state=state, size=state.end))
            else:
                found.append(source)
        except StorageFault as error:
            omitted.append(fault_of(source.name, error))
    return found, omitted


def _names(files: FileSystem, root: Path, folder: str) -> Iterator[str]:
    """Yield every file below a folder that is taken, by its name below `root`."""
    for name in files.list(root / folder):
        below = f"{folder}/{name}"
        if files.is_folder(root / below):
            yield from _names(files, root, below)
        elif not name.endswith(LEFT_OUT):
            yield below


def _live(path: Path, state: State) -> list[Entry]:
    """Return the segments of a state in the order of the file. Raises Damaged when one stands over another."""
    entries = sorted({*state.entries, state.segment}, key=lambda entry: entry.offset)
    end = 0
    for entry in entries:
        if entry.offset < end:
            raise damaged(path, entry.offset, "segments over each other")
        end = entry.offset + entry.size
    return entries


def _segment(file: File, path: Path, entry: Entry) -> Iterator[Bytes]:
    """Yield a segment in pieces. Raises Damaged unless its header agrees, and at the end unless its hash holds."""
    try:
        header = rvf.unpack_header(file.read(entry.offset, rvf.HEADER_SIZE))
    except ValueError as error:
        raise damaged(path, entry.offset, str(error)) from error
    if (header.type, header.length) != (entry.type, entry.length):
        raise damaged(path, entry.offset, "segment differs from its directory entry")
    crc, skipped = 0, rvf.HEADER_SIZE
    for offset, data in cut(file, entry.size, begin=entry.offset):
        crc, skipped = crc32(memoryview(data)[skipped:], crc), 0
        yield offset, data
    if rvf.hash_of_crc(crc) != header.hash:
        raise damaged(path, entry.offset, "content hash fails")


def _printable(name: str) -> str:
    """Return a name as it can be written, with question marks for what is not UTF-8."""
    return name.encode(errors="replace").decode()
