"""Looks for what was erased: in every byte of some files, and in everything that our segments hold packed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from memoryd.files import Missing
from memoryd.protocol.errors import Damaged
from memoryd.protocol.interfaces import Scan, Scanned, Trace
from memoryd.rvf import format as rvf
from memoryd.rvf.reader import Entry, next_magic
from memoryd.rvf.records import LOG, SEALED, UNREADABLE, decode_record, is_of, unpack_body
from memoryd.rvf.sealed import SealedPart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memoryd.files import File, FileSystem
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Vectors
    from memoryd.protocol.records import MemoryRecord

_RVF: Final = ".rvf"
_READ: Final = 4 << 20
_NEEDLES: Final = 64  # that every byte is compared with; the packed records are compared with all
_SHORTEST: Final = 16  # bytes of a text that says where it comes from


@dataclass(frozen=True, slots=True)
class _Wanted:
    ids: frozenset[RecordId]
    texts: frozenset[str]
    needles: tuple[bytes, ...]  # the longest texts, in part
    vectors: tuple[bytes, ...]  # as they stand in a row


def scan(
    files: FileSystem,
    root: Path,
    paths: Sequence[Path],
    ids: Sequence[RecordId],
    records: Sequence[MemoryRecord],
    vectors: Vectors,
) -> Scan:
    """Read these files and return what they still hold of `ids`, of `records` and of their `vectors`, float32 [n, dim].

    Every record, text and vector that stands in a segment is looked at; in every byte of every file the 64 longest texts of
    at least 16 bytes, and 64 vectors, are looked for. A file that is no `.rvf` and is gone is not named. Names are relative to `root`. Raises
    StorageFault.
    """
    longest = sorted({record.text.encode() for record in records}, key=len, reverse=True)[:_NEEDLES]
    wanted = _Wanted(
        frozenset([*ids, *(record.id for record in records)]),
        frozenset(record.text for record in records),
        tuple(text for text in longest if len(text) >= _SHORTEST),
        tuple(vector.tobytes() for vector in vectors[:_NEEDLES]),
    )
    scanned, traces = [], []
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            file = files.open(path, writable=False)
        except Missing:
            if path.suffix == _RVF:
                raise
            continue  # gone since it was listed, as the journals of SQLite go with every commit
        try:
            size, digest = file.size(), hashlib.sha256()
            traces += [Trace(name, at, what) for at, what in _raw(file, wanted, digest)]
            if path.suffix == _RVF and size:
                traces += [Trace(name, at, what) for at, what in _packed(file, path, wanted)]
        finally:
            file.close()
        scanned.append(Scanned(name, size, digest.hexdigest()))
    return Scan(scanned, traces)


def _raw(file: File, wanted: _Wanted, digest: hashlib._Hash) -> Iterator[tuple[int, str]]:
    """Yield where a text or a vector stands as it is."""
    overlap = max((len(each) for each in (*wanted.needles, *wanted.vectors)), default=1) - 1
    at, size, tail = 0, file.size(), b""
    while at < size:
        part = file.read(at, _READ)
        digest.update(part)
        data = tail + part
        for kind, needles in (("a text", wanted.needles), ("a vector", wanted.vectors)):
            found = (data.find(needle) for needle in needles)
            yield from ((at - len(tail) + place, f"{kind} that was erased") for place in found if place >= 0)
        tail = data[len(data) - overlap :] if overlap else b""
        at += len(part)


def _packed(file: File, path: Path, wanted: _Wanted) -> Iterator[tuple[int, str]]:
    """Yield the records and trajectories in our segments that hold something of it, also in those that count no more."""
    for entry in _segments(file):
        head = file.read(entry.offset + rvf.HEADER_SIZE, 64)
        try:
            if is_of(LOG, head):
                body = unpack_body(file.read(entry.offset + rvf.HEADER_SIZE, entry.length))
                records, runs = body.records, body.trajectories
            elif is_of(SEALED, head):
                part = SealedPart(path, file.map(), entry)
                records, runs = part.records(), part.changes().trajectories
            else:
                continue
        except (ValueError, Damaged):
            yield entry.offset, "a segment that cannot be read"
            continue
        yield from ((entry.offset, what) for what in (_told(record, wanted) for record in records) if what)
        yield from ((entry.offset, "a trajectory that says it") for run in runs if _says(run, wanted))


def _told(encoded: bytes, wanted: _Wanted) -> str:
    """Return whether an encoded record is one of them, or repeats one; nothing when it does not."""
    try:
        record = decode_record(encoded)
    except UNREADABLE:
        return "a record that cannot be decoded"
    if record.id in wanted.ids:
        return f"memory {record.id}"
    return f"memory {record.id} says the same" if record.text in wanted.texts or _says(encoded, wanted) else ""


def _says(encoded: bytes, wanted: _Wanted) -> bool:
    return any(needle in encoded for needle in wanted.needles)


def _segments(file: File) -> Iterator[Entry]:
    """Yield every private segment that stands in the file, listed or not."""
    at, size = 0, file.size()
    while at + rvf.HEADER_SIZE <= size:
        try:
            header = rvf.unpack_header(file.read(at, rvf.HEADER_SIZE))
        except ValueError:
            at = next_magic(file, at + 1)
            continue
        if header.type == rvf.PRIVATE:
            yield Entry(header.id, at, header.length, header.type)
        at += rvf.HEADER_SIZE + header.length
