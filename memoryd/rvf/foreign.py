"""Any `.rvf` store, ours or another program's, and branches of one: its rows, their ids and vectors, and its lineage.

What a store shows is what the reference runtime answers from: of each row the last version, without those that are
deleted; in a branch also the rows of its parent that are its members. A parent is where the branch says, and is what it
was when the branch was made: anything else is an error that names it.
"""

from __future__ import annotations

import posixpath
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from memoryd.files import Missing
from memoryd.protocol.errors import Damaged
from memoryd.rvf import format as rvf
from memoryd.rvf.cow import COW_MAP, FOLDED, MEMBERSHIP, fold_hash, unpack_cow_map, unpack_members
from memoryd.rvf.reader import Entry, damaged, find_state, last_of_each, mend_of, name_of, next_magic, read_segment
from memoryd.rvf.records import MAGIC, is_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import TypeVar

    from numpy.typing import NDArray

    from memoryd.files import File, FileSystem
    from memoryd.rvf.cow import Members, Origin
    from memoryd.rvf.format import Ids, Vectors
    from memoryd.rvf.reader import State

    T = TypeVar("T")

MAX_GENERATIONS: Final = 16  # of branches of branches; each holds a file open
_TORN_SEGMENTS: Final = 16  # that seem to hold a commit; each is read to learn that it does not


@dataclass(frozen=True, slots=True)
class _Held:
    """A file that rows stand in, open, and what it says of itself."""

    file: File
    path: Path
    state: State

    @property
    def id(self) -> bytes:
        """The identity; sixteen zeros when it has none, as the reference runtime has it."""
        identity = self.state.manifest.identity
        return bytes(16) if identity is None else identity.file_id


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows by ascending id, uint64 [n]: in which generation's file each stands, and where its numbers begin."""

    ids: Ids
    generations: NDArray[np.uint8]
    places: NDArray[np.int64]


class ForeignStore:
    """The rows that a file shows: checked when it is opened, their vectors read when asked for.

    Takes no lock and writes nothing; what is committed later is not seen. `ids` uint64 [n], ascending. `metric` is what
    the store's own answers go by. `parents` are the files it is a branch of, the nearest first.
    """

    def __init__(self, held: Sequence[_Held], rows: _Rows, opened: ExitStack) -> None:
        """Take what `open` found: the file and the files it is a branch of, the nearest first."""
        manifest = held[0].state.manifest
        self._held = held
        self._rows = rows
        self._opened = opened
        self.path = held[0].path
        self.ids = rows.ids
        self.dim = manifest.dim
        self.metric = manifest.metric_name
        self.parents = [parent.path for parent in held[1:]]

    @classmethod
    def open(cls, files: FileSystem, path: Path) -> Self:
        """Open the file at `path`, which is absolute and without `..`, with all that it is a branch of.

        Raises Missing when one of them is not there, Damaged when one is not what it should be, or another StorageFault.
        """
        with ExitStack() as opened:
            file = files.open(path, writable=False)
            opened.callback(file.close)
            held, rows = _read(files, _Held(file, path, committed(file, path)), (), opened)
            return cls(held, rows, opened.pop_all())

    def place(self, row: int) -> int | None:
        """Return where a row stands in `ids`, None when there is none."""
        at = int(np.searchsorted(self.ids, np.uint64(row)))
        return at if at < len(self.ids) and int(self.ids[at]) == row else None

    def file_id(self, row: int) -> str:
        """Return the identity of the file that holds the row, 32 hexadecimal digits; empty when it has none."""
        found = self._held[self._rows.generations[self._at(row)]].id
        return found.hex() if any(found) else ""

    def vector(self, row: int) -> Vectors:
        """Return the vector of a row as it stands in the file, float32 [dim]. Raises KeyError for an unknown row."""
        at = self._at(row)
        held, place = self._held[self._rows.generations[at]], int(self._rows.places[at])
        data = held.file.read(place, 4 * self.dim)
        if len(data) < 4 * self.dim:
            raise damaged(held.path, place, "vector cut short while the file was read")
        return np.frombuffer(data, "<f4")

    def close(self) -> None:
        """Close the file and its parents. Does nothing the second time."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _at(self, row: int) -> int:
        at = self.place(row)
        if at is None:
            raise KeyError(row)
        return at


def committed(file: File, path: Path) -> State:
    """Return the newest state of any file, also where user bytes hold what looks like a commit. Raises Damaged.

    memoryd writes no such bytes; of another program one cannot know. A manifest inside of a sound segment is part of its
    bytes. When the file ends in the midst of a segment that holds one, it may be that, or a commit behind a torn segment.
    """
    state = find_state(file, path)
    while (hull := _hull(file, path, state.segment.offset)) is not None:
        state = find_state(file, path, before=hull)
    return state


def is_memory(file: File, state: State) -> bool:
    """Whether memoryd wrote the file, so that its records can be read."""
    starts = (file.read(entry.offset + rvf.HEADER_SIZE, len(MAGIC)) for entry in state.of_type(rvf.PRIVATE))
    return any(map(is_ours, starts))


@contextmanager
def standing_alone(hint: str = "memoryd inspect shows what stands where; restore it from a copy") -> Iterator[None]:
    """Give Damaged a hint that is right for a file which is nobody's memory here, unless it has a better one."""
    try:
        yield
    except Damaged as error:
        raise Damaged(error.message, field=error.field, hint=mend_of(error, hint), **error.details) from error


def _read(files: FileSystem, held: _Held, heirs: Sequence[Path], opened: ExitStack) -> tuple[list[_Held], _Rows]:
    """Return the file and its parents, the nearest first, and what the file shows; `heirs` are branches of it."""
    own = _own(held)
    branch = _branch(held)
    if branch is None:
        return [held], own
    origin, members = branch
    parent = _parent(files, held, origin, heirs, opened)
    older, theirs = _read(files, parent, (*heirs, held.path), opened)
    is_shown = members.hold(theirs.ids)
    for hidden in (own.ids, held.state.manifest.deleted):
        is_shown &= ~np.isin(theirs.ids, hidden)
    ids = np.concatenate([own.ids, theirs.ids[is_shown]])
    order = np.argsort(ids)
    generations = np.concatenate([own.generations, theirs.generations[is_shown] + 1])
    places = np.concatenate([own.places, theirs.places[is_shown]])
    return [held, *older], _Rows(ids[order], generations[order], places[order])


def _own(held: _Held) -> _Rows:
    """Return the live rows that stand in the file itself, one segment at a time."""
    manifest = held.state.manifest
    width = rvf.row_dtype(manifest.dim).itemsize
    ids, places = [rvf.NO_ROWS], [np.empty(0, np.int64)]
    for entry in held.state.of_type(rvf.VEC):
        found, _ = _decoded(held, entry, lambda payload: rvf.unpack_vec(payload, manifest.dim))
        rows = entry.offset + rvf.HEADER_SIZE + rvf.VEC_HEAD_SIZE
        numbers = rows + width - 4 * manifest.dim  # behind the id
        ids.append(found.copy())
        places.append(numbers + width * np.arange(len(found)))
    newest, places_of = last_of_each(np.concatenate(ids), np.concatenate(places))
    if len(newest) != manifest.held:
        raise damaged(held.path, held.state.segment.offset, "manifest counts other rows than there are")
    alive = ~np.isin(newest, manifest.deleted)
    return _Rows(newest[alive], np.zeros(int(alive.sum()), np.uint8), places_of[alive])


def _branch(held: _Held) -> tuple[Origin, Members] | None:
    """Return which file it is a branch of and which rows of that it shows, None when it is no branch."""
    maps, members = held.state.of_type(COW_MAP), held.state.of_type(MEMBERSHIP)
    if not maps and not members:
        return None
    if not (maps and members):
        raise damaged(held.path, held.state.segment.offset, "a branch without its parent or its rows")
    # Each commit writes both anew, and lists the old ones too.
    return _decoded(held, maps[-1], unpack_cow_map), _decoded(held, members[-1], unpack_members)


def _decoded(held: _Held, entry: Entry, unpack: Callable[[bytes], T]) -> T:
    try:
        return unpack(read_segment(held.file, held.path, entry))
    except ValueError as error:
        raise damaged(held.path, entry.offset, error) from error


def _parent(files: FileSystem, held: _Held, origin: Origin, heirs: Sequence[Path], opened: ExitStack) -> _Held:
    """Open the parent. Raises Missing when it is not there, Damaged when it is not as it was."""
    path, branch = _path_of_parent(held, origin), name_of(held.path)
    if path in (held.path, *heirs):
        raise damaged(held.path, held.state.segment.offset, "a branch of itself")
    if len(heirs) + 1 == MAX_GENERATIONS:
        raise damaged(held.path, held.state.segment.offset, f"a branch over more than {MAX_GENERATIONS} generations")
    name = name_of(path)
    try:
        file = files.open(path, writable=False)
    except Missing as error:
        hint = f"put it back as {origin.path}, seen from the folder of {held.path.name}"
        raise Missing(f"{branch} is a branch of {name}, which is not there", hint=hint, path=name) from error
    opened.callback(file.close)
    parent = _Held(file, path, committed(file, path))
    size = file.size()
    told = ""
    if parent.id != origin.parent_id:
        told = f"{name} is another file than the one that {branch} is a branch of"
    elif fold_hash(file.read(max(0, size - FOLDED), FOLDED)) != origin.parent_hash:
        told = f"{name} has changed since {branch} was branched off"
    if told:
        hint = "bring it back from a copy as it was then, or make the branch anew"
        raise Damaged(told, hint=hint, path=name, offset=parent.state.end, what="not the parent")
    if parent.state.manifest.dim != held.state.manifest.dim:
        raise damaged(held.path, held.state.segment.offset, "a branch of another dimension than its parent")
    return parent


def _path_of_parent(held: _Held, origin: Origin) -> Path:
    """Return where the parent is: in the folder of the branch, below it, or below the folder above it.

    A path that leads anywhere else is refused: a file that comes from elsewhere has no say in what is opened here.
    """
    path = posixpath.normpath(origin.path)
    up, _, rest = path.partition("/")
    folder = held.path.parent
    if up == "..":
        folder, path = folder.parent, rest
    is_below = path not in ("", ".", "..") and not path.startswith(("/", "../"))
    if not is_below or not origin.path.isprintable():
        raise damaged(
            held.path,
            held.state.segment.offset,
            "the path of the parent leads out of the folders of the branch",
            hint="put both into one folder, and make the branch anew there",
        )
    return folder / path


def _hull(file: File, path: Path, at: int) -> int | None:
    """Return where the sound segment begins that contains the segment at `at`, None when that stands by itself.

    Segments follow one another; behind bytes that are none, the next magic is the next segment.
    """
    here, torn, size = 0, 0, file.size()
    while here < at:
        entry = _segment(file, here)
        if entry is not None and here + entry.size <= at:
            here += entry.size
            continue
        if entry is not None:
            if here + entry.size > size or torn == _TORN_SEGMENTS:
                hint = "open it with the program that wrote it, and have that compact it"
                raise damaged(path, here, "a commit inside of a segment that is cut short", hint)
            if _is_sound(file, path, entry):
                return here
            torn += 1
        here = next_magic(file, here + 1)
    return None


def _segment(file: File, at: int) -> Entry | None:
    try:
        header = rvf.unpack_header(file.read(at, rvf.HEADER_SIZE))
    except ValueError:
        return None
    return Entry(header.id, at, header.length, header.type)


def _is_sound(file: File, path: Path, entry: Entry) -> bool:
    try:
        read_segment(file, path, entry)
    except Damaged:
        return False
    return True
