"""What stands in an `.rvf` file, ours or another program's: segments, manifest, graph, lineage. Writes nothing."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from memoryd.rvf import format as rvf
from memoryd.rvf.adjacency import unpack_adjacency
from memoryd.rvf.cow import COW_MAP, MEMBERSHIP, unpack_cow_map, unpack_members
from memoryd.rvf.foreign import committed, standing_alone
from memoryd.rvf.origin import unpack_origin
from memoryd.rvf.reader import next_magic
from memoryd.rvf.records import ORIGIN, SEALED, is_ours, unpack_body, unpack_head
from memoryd.rvf.sealed import read_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memoryd.files import File
    from memoryd.rvf.format import SegmentHeader
    from memoryd.rvf.reader import State

_NAMES: Final = {
    rvf.VEC: "VEC",
    rvf.INDEX: "INDEX",
    0x04: "JOURNAL",
    rvf.MANIFEST: "MANIFEST",
    0x07: "META",
    0x0A: "WITNESS",
    0x0E: "KERNEL",
    0x0F: "EBPF",
    COW_MAP: "COW_MAP",
    MEMBERSHIP: "MEMBERSHIP",
}


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment, or a stretch of bytes that is none (`name` is then "-").

    `state` is "live", "not listed" for what the newest manifest does not name, or "behind" for what follows it.
    """

    offset: int
    bytes: int
    name: str
    id: int | None
    state: str
    is_sound: bool
    says: str


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Which file this is and from which one it came."""

    file_id: str
    parent_id: str
    parent_hash: str
    depth: int


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file. `vectors` counts the rows held, deleted ones included."""

    file: str
    bytes: int
    epoch: int
    dimension: int
    metric: str
    vectors: int
    deleted: int
    lineage: Lineage | None
    segments: tuple[Segment, ...]


def inspect(file: File, path: Path) -> Inspection:
    """Describe a file. Raises Damaged when no manifest of it holds."""
    with standing_alone("it is no .rvf file, or its end is damaged: restore it from a copy"):
        state = committed(file, path)
    manifest = state.manifest
    identity = manifest.identity
    return Inspection(
        file=path.name,
        bytes=file.size(),
        epoch=manifest.epoch,
        dimension=manifest.dim,
        metric=manifest.metric_name,
        vectors=manifest.held,
        deleted=len(manifest.deleted),
        lineage=None
        if identity is None
        else Lineage(
            file_id=identity.file_id.hex(),
            parent_id=identity.parent_id.hex(),
            parent_hash=identity.parent_hash.hex(),
            depth=identity.depth,
        ),
        segments=tuple(_segments(file, state)),
    )


def _segments(file: File, state: State) -> Iterator[Segment]:
    """Walk from header to header; what is no segment is one stretch up to the next magic."""
    live = {entry.offset for entry in state.entries} | {state.segment.offset}
    at, size = 0, file.size()
    while at < size:
        where = "live" if at in live else "behind" if at >= state.end else "not listed"
        try:
            header = rvf.unpack_header(file.read(at, rvf.HEADER_SIZE))
            # What reaches beyond the end is not read: a file of such headers would be read once for each.
            is_whole = at + rvf.HEADER_SIZE + header.length <= size
            payload = file.read(at + rvf.HEADER_SIZE, header.length) if is_whole else b""
            is_sound, says = _look(header, payload)
            name, number = _NAMES.get(header.type, f"0x{header.type:02X}"), header.id
            whole = rvf.HEADER_SIZE + header.length
        except ValueError as error:
            name, number, whole = "-", None, next_magic(file, at + 1) - at
            is_sound, says = False, str(error)
        yield Segment(offset=at, bytes=whole, name=name, id=number, state=where, is_sound=is_sound, says=says)
        at += whole


def _look(header: SegmentHeader, payload: bytes) -> tuple[bool, str]:
    """Return whether the payload is the one that was written, and what it says. Raises ValueError when it is cut short."""
    if len(payload) < header.length:
        raise ValueError("segment cut short")
    # Sixteen zeros mean that the writer gave no hash.
    if header.hash not in (rvf.content_hash(payload), bytes(16)):
        return False, "content hash fails"
    try:
        return True, _SAYS.get(header.type, _nothing)(payload)
    except (ValueError, struct.error) as error:
        return True, f"cannot be read: {error}"


def _nothing(_: bytes) -> str:
    return ""


def _vectors(payload: bytes) -> str:
    dim, count = rvf.vec_head(payload)
    rvf.unpack_vec(payload, dim)  # refuses rows that are not there
    return f"{count:,} vectors of {dim} dimensions"


def _manifest(payload: bytes) -> str:
    manifest = rvf.unpack_manifest(payload)
    return f"epoch {manifest.epoch}, {manifest.held:,} vectors, {len(manifest.directory)} segments"


def _records(payload: bytes) -> str:
    if not is_ours(payload):
        return "of another program"
    codec, _, _ = unpack_head(payload)
    if codec == SEALED:
        head, _ = read_head(memoryview(payload))
        codes = f"codes of {head.codebook[:12]}" if head.codebook else "no codes"
        return f"{head.count:,} sealed rows, generation {head.generation}, {codes}"
    if codec == ORIGIN:
        ancestor = unpack_origin(payload).ancestors[-1]
        return f"branch of {ancestor.name}, which had {ancestor.rows:,} records of its own then"
    body = unpack_body(payload)
    return f"{len(body.records):,} records, generation {body.generation}, events up to {body.applied_seq}"


def _graph(payload: bytes) -> str:
    ids, graph = unpack_adjacency(payload)
    top = int(graph.layers.max(initial=0))
    return f"HNSW of {len(ids):,} rows, M {graph.m}, {top} layers, {len(graph.neighbours):,} links"


def _branch(payload: bytes) -> str:
    return f"branch of {unpack_cow_map(payload).path}"


def _members(payload: bytes) -> str:
    return f"{unpack_members(payload).count:,} rows of the parent"


_SAYS: Final[dict[int, Callable[[bytes], str]]] = {
    rvf.VEC: _vectors,
    rvf.MANIFEST: _manifest,
    rvf.PRIVATE: _records,
    rvf.INDEX: _graph,
    COW_MAP: _branch,
    MEMBERSHIP: _members,
}
