"""The strict reader: finds the state of any `.rvf` file and its rows (docs/rvf-format.md, section 6).

The state is the newest manifest whose own content hash holds. What follows it is torn or another program's. A manifest
that holds is believed: when it is of a version unknown here, or a segment it lists is not there or fails its hash, the
file is `Damaged`, and no older manifest takes its place, since that would quietly undo commits. Nothing is allocated from
a number that was not checked against the size of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.errors import Damaged
from memoryd.rvf import format as rvf
from memoryd.rvf.places import branch_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import TypeVar

    from numpy.typing import NDArray

    from memoryd.files import File
    from memoryd.protocol.errors import StorageFault
    from memoryd.rvf.format import Ids, Manifest, SegmentHeader, Vectors

    V = TypeVar("V", bound=np.generic)

# How far from the end a manifest is looked for, before the whole file is; the reference runtime has the same steps.
_WINDOWS: Final = (1 << 16, 1 << 20, 1 << 24)
_SEARCHED: Final = 1 << 16  # bytes looked at in one go for the next segment behind bytes that are none

_VERIFY: Final = "memoryd verify --user"
_OTHER_VERSION: Final = "another version wrote it: use the memoryd that did, or a newer one"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a manifest's directory."""

    id: int
    offset: int
    length: int
    type: int

    @property
    def size(self) -> int:
        """Bytes of the whole segment."""
        return rvf.HEADER_SIZE + self.length


@dataclass(frozen=True, slots=True)
class State:
    """The newest manifest, its segment and its directory; nothing behind `end` is committed."""

    manifest: Manifest
    segment: Entry
    entries: tuple[Entry, ...]

    @property
    def end(self) -> int:
        return self.segment.offset + self.segment.size

    def of_type(self, kind: int) -> list[Entry]:
        return [entry for entry in self.entries if entry.type == kind]


def name_of(path: Path) -> str:
    """Return what errors call a file: the rest of the path is the operator's own."""
    folder, _ = branch_of(path)
    return path.relative_to(folder.parent).as_posix()


def damaged(path: Path, offset: int, what: str | ValueError, hint: str | None = None) -> Damaged:
    """Return the error that says what is wrong at which byte, and the mend; without one, how to learn more."""
    name = name_of(path)
    if isinstance(what, rvf.UnknownVersion):
        hint = _OTHER_VERSION
    return Damaged(
        f"{what} in {name} at byte {offset}",
        hint=hint or f"{_VERIFY} {branch_of(path)[0].name}",
        path=name,
        offset=offset,
        what=str(what),
    )


def mend_of(error: StorageFault, otherwise: str) -> str:
    """Return what mends a fault, where it is known; `otherwise` where verifying would only say the same again."""
    return error.hint if error.hint and not error.hint.startswith(_VERIFY) else otherwise


def find_state(file: File, path: Path, before: int | None = None) -> State:
    """Return the newest committed state, of the bytes `before` a place if one is given.

    Raises Damaged when no manifest holds, or the newest one cannot be understood.
    """
    size = file.size() if before is None else before
    searched_from = size
    for window in (*_WINDOWS, size):
        start = max(0, size - window)
        data = file.read(start, size - start)
        for at in _backwards(data, searched_from - start):
            header = _sound_manifest(data, at)
            if header is None:
                continue
            if data[at + len(rvf.MAGIC)] != rvf.VERSION:
                what = rvf.UnknownVersion(f"a commit of the unknown version {data[at + len(rvf.MAGIC)]}")
                raise damaged(path, start + at, what)
            return _state(file, path, Entry(header.id, start + at, header.length, header.type))
        searched_from = start
    raise damaged(path, 0, "no valid manifest")


def read_segment(file: File, path: Path, entry: Entry) -> bytes:
    """Return the payload that `entry` lists. Raises Damaged unless header and content hash agree with it."""
    try:
        header = rvf.unpack_header(file.read(entry.offset, rvf.HEADER_SIZE))
    except ValueError as error:
        raise damaged(path, entry.offset, error) from error
    if (header.type, header.length) != (entry.type, entry.length):
        raise damaged(path, entry.offset, "segment differs from its directory entry")
    payload = file.read(entry.offset + rvf.HEADER_SIZE, entry.length)
    if rvf.content_hash(payload) != header.hash:
        raise damaged(path, entry.offset, "content hash fails")
    return payload


def read_rows(file: File, path: Path, state: State, segments: Sequence[Entry]) -> tuple[Ids, Vectors]:
    """Return every row that these VEC segments hold, deleted ones included, an overwritten one once.

    Row ids uint64 [n], ascending, and their vectors float32 [n, dim]. Raises Damaged when a segment does not hold, or a
    vector is not finite.
    """
    dim = state.manifest.dim
    row_size = rvf.row_dtype(dim).itemsize
    room = sum(entry.length // row_size for entry in segments)
    ids, vectors = np.empty(room, np.uint64), np.empty((room, dim), np.float32)
    n = 0
    for entry in segments:
        payload = read_segment(file, path, entry)
        try:
            found, rows = rvf.unpack_vec(payload, dim)
        except ValueError as error:
            raise damaged(path, entry.offset, error) from error
        ids[n : n + len(found)], vectors[n : n + len(found)] = found, rows
        # A NaN would rank before every true answer.
        if not np.isfinite(vectors[n : n + len(found)]).all():
            raise damaged(path, entry.offset, "vector that is not finite")
        n += len(found)
    return last_of_each(ids[:n], vectors[:n])


def next_magic(file: File, at: int) -> int:
    """Return where, from `at` on, the next segment may begin, the end of the file when nowhere."""
    size = file.size()
    while at < size:
        found = file.read(at, _SEARCHED).find(rvf.MAGIC)
        if found >= 0:
            return at + found
        at += _SEARCHED - len(rvf.MAGIC) + 1
    return size


def _backwards(data: bytes, limit: int) -> Iterator[int]:
    """Yield where a magic begins before `limit`, the last one first."""
    overlap = len(rvf.MAGIC) - 1
    at = data.rfind(rvf.MAGIC, 0, limit + overlap)
    while at >= 0:
        yield at
        at = data.rfind(rvf.MAGIC, 0, at + overlap)


def _sound_manifest(data: bytes, at: int) -> SegmentHeader | None:
    """Return the header of the manifest that begins at `at`, of whatever version; None unless its hash holds."""
    rest = data[at + len(rvf.MAGIC) + 1 : at + rvf.HEADER_SIZE]
    try:
        header = rvf.unpack_header(rvf.MAGIC + bytes([rvf.VERSION]) + rest)
    except ValueError:
        return None
    if header.type != rvf.MANIFEST:
        return None
    payload = data[at + rvf.HEADER_SIZE : at + rvf.HEADER_SIZE + header.length]
    return header if len(payload) == header.length and rvf.content_hash(payload) == header.hash else None


def _state(file: File, path: Path, segment: Entry) -> State:
    """Return the state that a sound manifest describes. Raises Damaged when it makes no sense for this file."""
    try:
        manifest = rvf.unpack_manifest(read_segment(file, path, segment))
    except ValueError as error:
        raise damaged(path, segment.offset, error) from error
    entries = tuple(Entry(*fields) for fields in manifest.directory.tolist())
    if any(entry.offset + entry.size > segment.offset for entry in entries):
        raise damaged(path, segment.offset, "directory entry outside the file")
    in_order = sorted(entries, key=lambda entry: entry.offset)
    # What is listed twice would be read twice, and so cost more than the file is large.
    if any(one.offset + one.size > other.offset for one, other in pairwise(in_order)):
        raise damaged(path, segment.offset, "directory entries overlap")
    return State(manifest, segment, entries)


def last_of_each(ids: Ids, values: NDArray[V]) -> tuple[Ids, NDArray[V]]:
    """Return ids, uint64 [n], in ascending order with their `values`, [n, ...]; of one that occurs twice the last counts."""
    order = np.argsort(ids, kind="stable")
    ascending = ids[order]
    last = np.ones(len(ids), bool)
    last[:-1] = ascending[1:] != ascending[:-1]
    chosen = order[last]
    if np.array_equal(chosen, np.arange(len(ids))):
        return ids, values
    return ids[chosen], values[chosen]
