"""What a writer knows of its file: where the next segment goes, and what the next manifest will say.

Makes bytes and touches no disk. A ledger that has given out bytes which were not written is worthless; its file is
then closed and read again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.ids import BEFORE_ALL, Seq, TrajectoryId
from memoryd.rvf import format as rvf
from memoryd.rvf.records import Body, checksum, pack_body

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.rvf.format import Identity, Vectors
    from memoryd.rvf.snapshot import Snapshot

# A segment is begun anew behind this much, far below what readers accept (section 9 of the format advises 64 MiB).
_MAX_VEC_BYTES: Final = 64 << 20
_MAX_RECORD_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Addition:
    """What is to be written: rows, and what becomes of trajectories, which are dropped before others are added.

    `ids` ascend, and `records` and `vectors`, float32 [n, dim], belong to them one by one.
    """

    ids: Sequence[int]
    records: Sequence[bytes]
    vectors: Vectors
    trajectories: Mapping[TrajectoryId, bytes]
    dropped: Sequence[TrajectoryId] = ()


@dataclass(slots=True)
class Ledger:
    """The state of a file between two commits.

    `held` counts the rows with a vector and `recorded` those with a record, deleted ones included; `record_bytes` and
    `trajectory_bytes` are what their texts took before compression. `deleted` are the held rows that are no longer
    alive. `next_row` is never given back, so that no id comes to mean another row.
    """

    model: ModelInfo
    identity: Identity
    generation: int = 1
    epoch: int = 0
    size: int = 0
    next_segment: int = 1
    next_row: int = 0
    applied_seq: Seq = BEFORE_ALL
    private_segments: int = 0
    checksum: int = 0
    held: int = 0
    recorded: int = 0
    record_bytes: int = 0
    trajectory_bytes: int = 0
    trajectory_sizes: dict[TrajectoryId, int] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    directory: list[tuple[int, int, int, int]] = field(default_factory=list)
    manifest_size: int = 0

    @classmethod
    def of(cls, snapshot: Snapshot, identity: Identity) -> Ledger:
        """Return the ledger of a file as it was read. `identity` serves when the file names none of its own."""
        state, history = snapshot.state, snapshot.history
        manifest = state.manifest
        # An id that holds no vector may not be listed: the reference runtime would count it as one row less.
        deleted = np.intersect1d(snapshot.held, manifest.deleted)
        highest = max((int(ids.max()) for ids in (snapshot.held, manifest.deleted) if len(ids)), default=-1)
        return cls(
            model=history.model,
            identity=manifest.identity or identity,
            generation=history.generation,
            epoch=manifest.epoch,
            size=state.end,
            next_segment=max(entry.id for entry in (*state.entries, state.segment)) + 1,
            next_row=max(history.next_row, highest + 1),
            applied_seq=history.applied_seq,
            private_segments=history.segments,
            checksum=history.checksum,
            held=manifest.held,
            recorded=len(history.rows),
            record_bytes=sum(map(len, history.records)),
            trajectory_bytes=history.trajectory_bytes,
            trajectory_sizes=history.trajectory_sizes,
            deleted=set(deleted.tolist()),
            # Old manifests, journals and graphs of other programs stay behind.
            directory=[
                (entry.id, entry.offset, entry.length, entry.type)
                for entry in state.entries
                if entry.type in (rvf.VEC, rvf.PRIVATE)
            ],
            manifest_size=state.segment.size,
        )

    def successor(self, model: ModelInfo) -> Ledger:
        """Return the ledger of the file that will take the place of this one: same identity, next generation."""
        return Ledger(
            model=model,
            identity=self.identity,
            generation=self.generation + 1,
            epoch=self.epoch,
            next_row=self.next_row,
            applied_seq=self.applied_seq,
        )

    def segments(self, addition: Addition) -> Iterator[bytes]:
        """Yield the segments that hold all this, and enter them."""
        max_rows = _MAX_VEC_BYTES // rvf.row_dtype(self.model.dim).itemsize
        trajectories = list(addition.trajectories.values())
        cuts = zip_longest(
            _cuts(addition.records, max_rows), _cuts(trajectories, len(trajectories)), fillvalue=slice(0)
        )
        dropped = list(addition.dropped)
        for of_rows, of_trajectories in cuts:
            ids = list(addition.ids[of_rows])
            if ids:
                vectors = addition.vectors[of_rows]
                yield self._enter(rvf.VEC, rvf.pack_vec(np.array(ids, np.uint64), vectors))
            body = Body(
                generation=self.generation,
                number=self.private_segments,
                previous=self.checksum,
                model=self.model,
                applied_seq=self.applied_seq,
                next_row=self.next_row,
                rows=ids,
                records=list(addition.records[of_rows]),
                dropped=dropped,
                trajectories=trajectories[of_trajectories],
            )
            payload = pack_body(body)
            yield self._enter(rvf.PRIVATE, payload)
            self.private_segments += 1
            self.checksum = checksum(payload)
            dropped = []
        self._count(addition)

    def manifest(self) -> bytes:
        """Return the manifest that commits everything entered so far, and go on to the next epoch."""
        self.epoch += 1
        manifest = rvf.Manifest(
            epoch=self.epoch,
            dim=self.model.dim,
            held=self.held,
            directory=np.array(self.directory, rvf.ENTRY),
            deleted=np.array(sorted(self.deleted), np.uint64),
            identity=self.identity,
        )
        segment = rvf.pack_segment(rvf.MANIFEST, self.next_segment, rvf.pack_manifest(manifest))
        self.next_segment += 1
        self.size += len(segment)
        self.manifest_size = len(segment)
        return segment

    def image(self, addition: Addition) -> Iterator[bytes]:
        """Yield a whole file: the segments that hold all this, and the manifest."""
        yield from self.segments(addition)
        yield self.manifest()

    def dead_bytes(self, live: int) -> int:
        """Return how many bytes the newest state does not need when `live` rows are alive.

        Old manifests and foreign segments count in full; rows by the mean size of a row, and what private segments
        hold by its size before compression.
        """
        sizes = {rvf.VEC: 0, rvf.PRIVATE: 0}
        for _, _, length, kind in self.directory:
            sizes[kind] += rvf.HEADER_SIZE + length
        texts = _share(self.record_bytes, live, self.recorded) + sum(self.trajectory_sizes.values())
        needed = _share(sizes[rvf.VEC], live, self.held)
        needed += _share(sizes[rvf.PRIVATE], texts, self.record_bytes + self.trajectory_bytes)
        return max(0, self.size - self.manifest_size - needed)

    def _count(self, addition: Addition) -> None:
        sizes = {trajectory: len(encoded) for trajectory, encoded in addition.trajectories.items()}
        self.held += len(addition.ids)
        self.recorded += len(addition.ids)
        self.record_bytes += sum(map(len, addition.records))
        self.trajectory_bytes += sum(sizes.values())
        for dropped in addition.dropped:
            self.trajectory_sizes.pop(dropped, None)
        self.trajectory_sizes.update(sizes)

    def _enter(self, kind: int, payload: bytes) -> bytes:
        segment = rvf.pack_segment(kind, self.next_segment, payload)
        self.directory.append((self.next_segment, self.size, len(payload), kind))
        self.next_segment += 1
        self.size += len(segment)
        return segment


def _cuts(items: Sequence[bytes], most: int) -> Iterator[slice]:
    """Yield slices that cover `items`, each with at most `most` of them and not too many bytes; at least one slice."""
    start = size = 0
    for at, item in enumerate(items):
        if at > start and (size + len(item) > _MAX_RECORD_BYTES or at - start >= most):
            yield slice(start, at)
            start, size = at, 0
        size += len(item)
    yield slice(start, len(items))


def _share(size: int, part: int, whole: int) -> int:
    return size * part // whole if whole else size
