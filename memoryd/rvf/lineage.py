"""A branch together with its ancestors: what it sees of each, now or at an earlier moment.

A branch holds its own rows only. Of an ancestor it sees the rows that stood there when it began, but for those it has deleted
itself; what the ancestor deletes later stays in its file as long as a branch sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from memoryd.protocol.interfaces import Contents
from memoryd.rvf.format import NO_ROWS
from memoryd.rvf.places import branch_of, branch_path
from memoryd.rvf.reader import damaged
from memoryd.rvf.sight import END_OF_TIME, Sight, dead_by
from memoryd.rvf.snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from memoryd.files import FileSystem
    from memoryd.protocol.records import Trajectory
    from memoryd.rvf.format import Ids
    from memoryd.rvf.history import History
    from memoryd.rvf.origin import Ancestor, Origin
    from memoryd.rvf.sealed import SealedPart
    from memoryd.rvf.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Lineage:
    """A file as it was read, and before it its parent; None for the main line."""

    own: Snapshot
    parent: Lineage | None

    @property
    def origin(self) -> Origin | None:
        return self.own.history.origin

    def chain(self) -> Iterator[tuple[Ancestor, Snapshot]]:
        """Yield the ancestors, the oldest first, with what is in their files."""
        found: list[Snapshot] = []
        above = self.parent
        while above is not None:
            found.append(above.own)
            above = above.parent
        if self.origin is not None:
            yield from zip(self.origin.ancestors, reversed(found), strict=True)

    def inherited(self, moment_us: int = END_OF_TIME) -> Iterator[tuple[Snapshot, Sight]]:
        """Yield the ancestors, the oldest first, with what was seen of each at a moment since the branch began."""
        removed = self.removed(moment_us)
        until = None if moment_us == END_OF_TIME else moment_us
        for ancestor, snapshot in self.chain():
            yield snapshot, Sight(np.concatenate([ancestor.hidden_rows, removed]), ancestor.below, until)

    def removed(self, moment_us: int = END_OF_TIME) -> Ids:
        """Return the rows of ancestors that the branch had deleted by a moment, uint64 [n]."""
        return _removed(self.own.history, moment_us)

    def seen(self) -> list[tuple[Snapshot, Sight]]:
        """Return the ancestors and the branch itself, with what is alive of each."""
        return [*self.inherited(), (self.own, self.own.sight)]

    def contents(self, moment_us: int | None = None) -> Contents:
        """Return everything that is alive, or was so at an earlier moment."""
        if moment_us is None:
            return self.own.contents() if self.parent is None else _joined(self.seen(), self.own)
        if self.parent is not None and self.origin is not None and moment_us < self.origin.created_us:
            return self.parent.contents(moment_us)
        seen = [*self.inherited(moment_us), (self.own, self.own.sight_at(moment_us))]
        return replace(_joined(seen, self.own), trajectories=_told_by(self.own.history, moment_us))

    def has_lost(self, moment_us: int) -> bool:
        """Whether something that was alive at a moment has been erased from the file since."""
        if self.parent is not None and self.origin is not None and moment_us < self.origin.created_us:
            return self.parent.has_lost(moment_us)
        erased, first_row = np.setdiff1d(self.removed(), self.removed(moment_us)), 0
        for ancestor, snapshot in self.chain():
            held = np.concatenate([snapshot.rows, *(part.rows[: part.count] for part in snapshot.parts)])
            erased = np.setdiff1d(erased, held[(held >= first_row) & (held < ancestor.below)])
            first_row = ancestor.below
        return self.own.history.erased_us > moment_us or len(erased) > 0


def pins_of(history: History, moment_us: int) -> Iterator[tuple[str, Sight]]:
    """Yield the ancestors of a branch, by name, and what it has seen of each since a moment."""
    removed = _removed(history, moment_us)
    for ancestor in history.origin.ancestors if history.origin else ():
        yield ancestor.name, Sight(np.concatenate([ancestor.hidden_rows, removed]), ancestor.below)


def read_lineage(files: FileSystem, path: Path, known: Sequence[SealedPart] = ()) -> Lineage:
    """Read a branch and its ancestors; `known` are parts of the branch's own file. Raises Damaged, or Missing."""
    file = files.open(path, writable=False)
    try:
        own = read_snapshot(file, path, known)
    finally:
        file.close()
    return lineage_of(files, path, own)


def lineage_of(files: FileSystem, path: Path, own: Snapshot) -> Lineage:
    """Return a branch that was read, with its ancestors. Raises Damaged, or Missing."""
    origin = own.history.origin
    if origin is None:
        return Lineage(own, None)
    folder, _ = branch_of(path)
    parent: Lineage | None = None
    for ancestor in origin.ancestors:
        place = branch_path(folder, ancestor.name)
        file = files.open(place, writable=False)
        try:
            snapshot = read_snapshot(file, place)
        finally:
            file.close()
        identity = snapshot.state.manifest.identity
        if identity is None or identity.file_id != ancestor.file_id or snapshot.history.next_row < ancestor.below:
            raise damaged(
                path, own.state.segment.offset, f"another file, or an old one, is in the place of {ancestor.name}"
            )
        parent = Lineage(snapshot, parent)
    return Lineage(own, parent)


def _removed(history: History, moment_us: int) -> Ids:
    if history.origin is None:
        return NO_ROWS
    below = [row for row in history.deleted if row < history.origin.first_row]
    return dead_by(np.array(below, np.uint64), history.deleted, moment_us)


def _told_by(history: History, moment_us: int) -> list[Trajectory]:
    """Return what was told of trajectories by a moment; of one that changed since, what it was before is not known."""
    return [one for one in history.trajectories.values() if history.told_us[one.id] <= moment_us]


def _joined(seen: Iterable[tuple[Snapshot, Sight]], own: Snapshot) -> Contents:
    """Return what is seen of several files, one behind the other."""
    found = [snapshot.contents(sight) for snapshot, sight in seen]
    return Contents(
        [part for one in found for part in one.sealed],
        found[0].vectors if len(found) == 1 else np.concatenate([one.vectors for one in found]),
        [record for one in found for record in one.records],
        list(own.history.trajectories.values()),
        own.history.applied_seq,
    )
