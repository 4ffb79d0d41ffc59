"""A backup's folder, read: its snapshots, its packs, and every object in them. Takes no lock and writes nothing.

Packs and snapshots are only ever added, whole, so this may go on beside a backup that is being made.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from memoryd.backup import format as layout
from memoryd.files import Missing
from memoryd.protocol.errors import Damaged, NotFound, StorageFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from memoryd.backup.format import Piece, Snapshot, Stored
    from memoryd.files import File, FileSystem

_PACK: Final = ".pack"  # part of the file format
_SNAPSHOT: Final = ".snapshot"  # part of the file format
_OPEN_PACKS: Final = 64  # of a backup that was added to every day there are hundreds

UNFINISHED: Final = ".tmp"  # what the name of a file ends with before it is whole


def damaged(path: Path, offset: int, what: str) -> Damaged:
    """Return the error that says what is wrong at which byte of a backup."""
    name = "/".join(path.parts[-2:])
    return Damaged(
        f"{what} in {name} at byte {offset}",
        hint="see what else is wrong with memoryd backup verify; back up into a new folder",
        path=name,
        offset=offset,
        what=what,
    )


class Repository:
    """A backup's folder. Raises NotFound when `folder` is none, StorageFault when it cannot be read."""

    def __init__(self, folder: Path, files: FileSystem) -> None:
        self.folder = folder
        self._files = files
        self._objects: dict[bytes, tuple[int, Stored]] = {}
        self._packs: dict[int, File] = {}
        mark = folder / layout.MARK
        try:
            content = self._content(mark)
        except Missing as error:
            raise NotFound(
                "not a backup", field="folder", hint="name the folder that memoryd backup create was given"
            ) from error
        if content != layout.MARKED:
            raise damaged(mark, 0, "another format, or damage")

    def snapshots(self) -> list[int]:
        """Return the numbers of all snapshots, the oldest first."""
        return _numbers(self._files.list(self.folder / layout.SNAPSHOTS), _SNAPSHOT)

    def packs(self) -> list[int]:
        """Return the numbers of all packs, the oldest first."""
        return _numbers(self._files.list(self.folder / layout.PACKS), _PACK)

    def snapshot_path(self, number: int) -> Path:
        return self.folder / layout.SNAPSHOTS / f"{number:06d}{_SNAPSHOT}"

    def pack_path(self, number: int) -> Path:
        return self.folder / layout.PACKS / f"{number:06d}{_PACK}"

    def choose(self, number: int | None) -> int:
        """Return the number of a snapshot that is there, of the newest for None. Raises NotFound."""
        known = self.snapshots()
        if not known:
            raise NotFound("no snapshot in this backup", field="folder", hint="memoryd backup create makes one")
        if number is None:
            return known[-1]
        if number not in known:
            raise NotFound(
                "no such snapshot", field="snapshot", hint="there are " + ", ".join(str(each) for each in known[-20:])
            )
        return number

    def load(self, number: int) -> Snapshot:
        """Return what a snapshot says. Raises Damaged."""
        path = self.snapshot_path(number)
        try:
            return layout.unpack_snapshot(self._content(path))
        except ValueError as error:
            raise damaged(path, 0, str(error)) from error

    def index_of(self, number: int) -> Sequence[Stored]:
        """Return what stands in a pack. Raises Damaged."""
        path = self.pack_path(number)
        file = self._pack(number)
        size = file.size()
        head = file.read(0, layout.PACK_HEAD.size)
        footer = file.read(max(0, size - layout.FOOTER.size), layout.FOOTER.size)
        if len(head) < layout.PACK_HEAD.size or len(footer) < layout.FOOTER.size:
            raise damaged(path, 0, "pack cut short")
        if layout.PACK_HEAD.unpack(head) != (layout.PACK_MAGIC, layout.VERSION):
            raise damaged(path, 0, "no pack, or of an unknown version")
        begin, digest, magic = layout.FOOTER.unpack(footer)
        end = size - layout.FOOTER.size
        if magic != layout.PACK_MAGIC or not layout.PACK_HEAD.size <= begin <= end:
            raise damaged(path, end, "pack without an end")
        try:
            return layout.unpack_index(file.read(begin, end - begin), digest, begin)
        except ValueError as error:
            raise damaged(path, begin, str(error)) from error

    def load_index(self, numbers: Iterable[int] | None = None) -> None:
        """Know the objects of some packs from now on, or of all. Raises Damaged."""
        for number in self.packs() if numbers is None else numbers:
            for each in self.index_of(number):
                self._objects.setdefault(each.digest, (number, each))

    @property
    def objects(self) -> Mapping[bytes, tuple[int, Stored]]:
        """Every object that is known, and in which pack it stands where."""
        return self._objects

    def read(self, digest: bytes) -> bytes:
        """Return an object. Raises Damaged when it is not there, or not what it was."""
        if digest not in self._objects:
            raise damaged(self.folder / layout.PACKS, 0, f"object {digest.hex()[:12]} is missing")
        number, stored = self._objects[digest]
        packed = self._pack(number).read(stored.offset, stored.packed)
        try:
            return layout.unpack_object(packed, stored)
        except ValueError as error:
            raise damaged(self.pack_path(number), stored.offset, str(error)) from error

    def write(self, pieces: Sequence[Piece], size: int, path: Path) -> Iterator[int]:
        """Make the file at `path` of these pieces, synced; yield the bytes of each. Raises Damaged or another StorageFault."""
        file = self._files.create(path)
        try:
            end = 0
            for piece in pieces:
                data = self.read(piece.digest)
                if len(data) != piece.length:
                    raise damaged(path, piece.offset, "object of another length than the snapshot says")
                if piece.offset > end:
                    file.truncate(piece.offset)
                file.append(data)
                end = piece.offset + piece.length
                yield piece.length
            if size > end:
                file.truncate(size)
            file.sync()
        finally:
            file.close()

    def close(self) -> None:
        """Give the open packs back."""
        while self._packs:
            _, file = self._packs.popitem()
            with suppress(StorageFault):
                file.close()

    def _pack(self, number: int) -> File:
        if number not in self._packs:
            if len(self._packs) >= _OPEN_PACKS:
                self._packs.pop(next(iter(self._packs))).close()
            self._packs[number] = self._files.open(self.pack_path(number), writable=False)
        return self._packs[number]

    def _content(self, path: Path) -> bytes:
        file = self._files.open(path, writable=False)
        try:
            return file.read(0, file.size())
        finally:
            file.close()


def _numbers(names: Sequence[str], suffix: str) -> list[int]:
    stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit() and f"{int(stem):06d}" == stem)
