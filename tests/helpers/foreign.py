"""Stores as other programs write them, with branches, and the answers their metric gives."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from memoryd.rvf import format as rvf
from memoryd.rvf.cow import COW_MAP, FOLDED, MEMBERSHIP, fold_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memoryd.rvf.foreign import ForeignStore
    from memoryd.rvf.format import Vectors

SMALLEST_NORMS = 1.19e-7  # below it the runtime calls a cosine 0

Segment = tuple[int, bytes]


def store_bytes(
    *segments: Segment, held: int, dim: int = 8, deleted: Iterable[int] = (), file_id: bytes = b"", metric: int = 2
) -> bytes:
    """Return a file of these segments, given as type and payload, and a manifest that lists them."""
    content, lines = b"", []
    for number, (kind, payload) in enumerate(segments, 1):
        lines.append((number, len(content), len(payload), kind))
        content += rvf.pack_segment(kind, number, payload)
    manifest = rvf.Manifest(
        epoch=1,
        dim=dim,
        held=held,
        directory=np.array(lines, rvf.ENTRY),
        deleted=np.array(sorted(deleted), np.uint64),
        identity=rvf.Identity(file_id) if file_id else None,
        metric=metric,
    )
    return content + rvf.pack_segment(rvf.MANIFEST, len(segments) + 1, rvf.pack_manifest(manifest))


def vec(ids: Sequence[int], vectors: Vectors) -> Segment:
    return rvf.VEC, rvf.pack_vec(np.array(ids, np.uint64), vectors)


def cow_map(parent: bytes, parent_id: bytes, path: str | bytes, **changed: int) -> Segment:
    """Return the map of a branch of a file with these bytes; `version`, `kind`, `place` and lengths may be changed."""
    name = path if isinstance(path, bytes) else path.encode()
    listed = struct.pack("<BI", 0, changed.get("clusters", 1)) + struct.pack("<BQ", changed.get("place", 1), 0)
    head = struct.pack(
        "<4sHBBII16s32sIBIII",
        b"MCVR",
        changed.get("version", 1),
        changed.get("kind", 0),
        0,
        4096,
        128,
        parent_id,
        fold_hash(parent[-FOLDED:]),
        32,
        0,
        0,
        changed.get("path_length", len(name)),
        changed.get("map_length", len(listed)),
    )
    return COW_MAP, head + name + listed


def members(ids: Iterable[int], **changed: int) -> Segment:
    """Return the list of the rows of the parent that a branch shows; numbers in its head may be changed."""
    shown = list(ids)
    bitmap = bytearray(-(-(max(shown, default=0) + 1) // 64) * 8)
    for row in shown:
        bitmap[row // 8] |= 1 << row % 8
    head = struct.pack(
        "<4sHBBQQQII32sQI12s",
        b"BMVR",
        changed.get("version", 1),
        changed.get("kind", 0),
        changed.get("mode", 0),
        changed.get("bound", max(shown, default=0) + 1),
        changed.get("count", len(shown)),
        changed.get("offset", 96),
        changed.get("size", len(bitmap)),
        0,
        fold_hash(bytes(bitmap)),
        0,
        0,
        bytes(12),
    )
    return MEMBERSHIP, head + bytes(bitmap)


def vectors_of(store: ForeignStore) -> Vectors:
    """Return the vectors of all rows, float32 [n, dim]."""
    return np.array([store.vector(row) for row in store.ids.tolist()], np.float32).reshape(len(store.ids), store.dim)


def answers(store: ForeignStore, query: Sequence[float], k: int) -> list[tuple[int, float]]:
    """Return the nearest rows with their distance by the store's own metric, as the reference runtime gives them."""
    rows, wanted = vectors_of(store).astype(np.float64), np.array(query, np.float32).astype(np.float64)
    products = rows @ wanted
    if store.metric == "l2":
        distances = ((rows - wanted) ** 2).sum(axis=1)
    elif store.metric == "inner product":
        distances = -products
    else:
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted)
        distances = np.where(norms < SMALLEST_NORMS, 1.0, 1.0 - products / np.maximum(norms, SMALLEST_NORMS))
    order = np.lexsort((store.ids, distances))[:k]
    return [(int(store.ids[at]), float(distances[at])) for at in order]
