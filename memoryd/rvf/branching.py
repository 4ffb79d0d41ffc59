"""How a branch begins, and how two of them differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from memoryd.protocol.errors import StorageFault
from memoryd.protocol.interfaces import Difference
from memoryd.rvf.format import Identity
from memoryd.rvf.ledger import Addition, Ledger, Told
from memoryd.rvf.origin import Ancestor, Origin
from memoryd.rvf.records import encode_trajectory
from memoryd.rvf.sealed import Rows
from memoryd.rvf.sight import Sight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memoryd.protocol.ids import RecordId
    from memoryd.rvf.lineage import Lineage
    from memoryd.rvf.sight import Mask
    from memoryd.rvf.snapshot import Snapshot


def begun(lineage: Lineage, name: str, identity: Identity, now_us: int) -> Ledger:
    """Return the ledger of a branch of what `lineage`, the branch `name`, holds now. Raises StorageFault."""
    parent = Ledger.of(lineage.own, identity)
    if lineage.own.state.manifest.identity is None:
        raise StorageFault(f"the file of {name} has no identity", hint="the next commit gives it one")
    removed = lineage.removed()
    inherited = [
        msgspec.structs.replace(
            one,
            hidden=np.union1d(one.hidden_rows, removed[removed < one.below]).tobytes(),
            rows=snapshot.count(sight),
        )
        for (one, _), (snapshot, sight) in zip(lineage.chain(), lineage.inherited(), strict=True)
    ]
    own = lineage.own
    direct = Ancestor(name, parent.identity.file_id, parent.next_row, parent.dead().tobytes(), own.count(own.sight))
    origin = Origin(now_us, [*inherited, direct])
    return Ledger(
        model=parent.model,
        identity=Identity(identity.file_id, parent.identity.file_id, depth=len(origin.ancestors)),
        next_row=parent.next_row,
        applied_seq=parent.applied_seq,
        origin=origin,
    )


def first_commit(ledger: Ledger, lineage: Lineage) -> Iterator[bytes]:
    """Yield the file of a branch that begins: the trajectories there are, and no row."""
    history = lineage.own.history
    told = {one.id: Told(encode_trajectory(one), history.told_us[one.id]) for one in history.trajectories.values()}
    yield from ledger.commit(Addition(Rows.none(ledger.model.dim), told))
    yield ledger.manifest()


@dataclass(frozen=True, slots=True)
class _Share:
    """What a branch sees of one file now; and if it is not its own, when the line left this file, and what it saw then."""

    snapshot: Snapshot
    now: Sight
    begun: Sight | None = None
    begun_us: int = 0


def difference(mine: Lineage, name: str, theirs: Lineage, other: str) -> Difference:
    """Return how the branch `name` differs from `other`, row by row."""
    shares, others = _shares(mine, name), _shares(theirs, other)
    lacking: list[RecordId] = []
    added: list[RecordId] = []
    removed: list[RecordId] = []
    for file in {**others, **shares}:
        share, against = shares.get(file), others.get(file)
        snapshot = (share or others[file]).snapshot
        here = _seen(snapshot, share.now if share else None)
        there = _seen(snapshot, against.now if against else None)
        base = _seen(snapshot, _when_parted(share, against))
        lacking += _ids(snapshot, here & ~there)
        added += _ids(snapshot, here & ~base & ~there)
        removed += _ids(snapshot, base & ~here & there)
    return Difference(lacking, added, removed)


def _shares(lineage: Lineage, name: str) -> dict[str, _Share]:
    shares = {name: _Share(lineage.own, lineage.own.sight)}
    seen = {ancestor.name: now for (ancestor, _), (_, now) in zip(lineage.chain(), lineage.inherited(), strict=True)}
    below = lineage
    while below.parent is not None and below.origin is not None:
        left = below.origin.ancestors[-1]
        begun = Sight(left.hidden_rows, left.below)
        shares[left.name] = _Share(below.parent.own, seen[left.name], begun, below.origin.created_us)
        below = below.parent
    return shares


def _when_parted(share: _Share | None, other: _Share | None) -> Sight | None:
    """Return what both saw of a file when the first of their lines left it; None when only one of them knows it."""
    if share is None or other is None:
        return None
    left = [(one.begun, one.begun_us) for one in (share, other) if one.begun is not None]
    if not left:
        return share.now
    # At the same moment of a coarse clock, fewer rows were deleted for the first.
    return min(left, key=lambda each: (each[0].below or 0, each[1], len(each[0].dead)))[0]


def _seen(snapshot: Snapshot, sight: Sight | None) -> Mask:
    """Return which rows of a file are seen, those of its parts first."""
    rows = [part.rows[: part.count] for part in snapshot.parts]
    added_us = [part.added_us[: part.count] for part in snapshot.parts]
    every = np.concatenate([*rows, snapshot.rows])
    if sight is None:
        return np.zeros(len(every), bool)
    return sight.sees(every, lambda: np.concatenate([*added_us, snapshot.added_us]))


def _ids(snapshot: Snapshot, chosen: Mask) -> list[RecordId]:
    """Return the ids of the records in the chosen rows."""
    found: list[RecordId] = []
    start = 0
    for part in snapshot.parts:
        found += part.ids(np.flatnonzero(chosen[start : start + part.count]))
        start += part.count
    return found + [snapshot.ids[place] for place in np.flatnonzero(chosen[start:])]
