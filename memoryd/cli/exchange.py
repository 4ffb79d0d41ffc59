"""The lines of an export: one memory each, with its vector, bit for bit.

    {"id", "text", "kind", "source", "quality_score", "session_id", "timestamp", "metadata",
     "vector": [float, ...], "windows": base64, "signs": base64, "model", "model_sha256"}

A float is written in the fewest digits that still are the same float32. A line without `vector` is a text to be embedded.
`windows` is there for a long text: the vectors of its parts, see `windows.packed`; `signs` are those of the vectors of its word
pieces, see `maxsim.packed`.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
import numpy as np

from memoryd.maxsim import width
from memoryd.protocol import ids, wire
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.events import JsonObject, Moment
from memoryd.protocol.messages import Import
from memoryd.protocol.records import Draft, MemoryKind, MemoryRecord, MemorySource
from memoryd.sources.parsed import decoded, json_object

T = TypeVar("T")

UNIT_TOLERANCE: Final = 1e-3  # the daemon's own


class _Line(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    text: str
    kind: MemoryKind = MemoryKind.FINDING
    source: MemorySource = MemorySource.WORKER_RESULT
    id: str | None = None
    quality_score: float | None = None
    session_id: str = ""
    timestamp: Moment | None = None
    metadata: JsonObject = {}
    vector: list[float] | None = None
    windows: bytes = b""
    signs: bytes = b""
    model: str = ""
    model_sha256: str = ""


def to_line(record: MemoryRecord, model: str, model_sha256: str) -> bytes:
    """Return a memory as one line of an export, with its end."""
    line: dict[str, object] = {
        "id": record.id,
        "text": record.text,
        "kind": record.kind,
        "source": record.source,
        "quality_score": record.quality_score,
        "session_id": record.session_id,
        "timestamp": record.timestamp,
        "metadata": record.metadata,
        "vector": msgspec.Raw(_floats(record.embedding)),
        **({"windows": record.windows} if record.windows else {}),
        **({"signs": record.signs} if record.signs else {}),
        "model": model,
        "model_sha256": model_sha256,
    }
    return msgspec.json.encode(line) + b"\n"


def from_line(line: bytes, dim: int, *, without_vectors: bool = False) -> tuple[MemoryRecord, str] | Draft:
    """Return the record in a line and the hash of the model that made its vector, or the text that has none yet.

    Raises InvalidMessage or Unsupported naming the field.
    """
    body = json_object(decoded(line), "line")
    read = wire.from_body(body, _Line)
    if read.vector is None or without_vectors:
        return Draft(
            text=read.text,
            kind=read.kind,
            source=read.source,
            session_id=read.session_id,
            timestamp=read.timestamp,
            quality_score=read.quality_score,
            metadata=read.metadata,
            id=None if read.id is None else ids.record_id(read.id),
        )
    record = MemoryRecord(
        id=ids.record_id(_required(read.id, "id")),
        text=read.text,
        kind=read.kind,
        source=read.source,
        timestamp=_required(read.timestamp, "timestamp"),
        session_id=read.session_id,
        quality_score=read.quality_score,
        metadata=read.metadata,
        embedding=_embedding(read.vector, dim),
        windows=_whole(read.windows, dim, "windows", dim),
        signs=_whole(read.signs, width(dim), "signs", dim),
    )
    sha256 = _required(read.model_sha256 or None, "model_sha256")
    try:
        Import(records=(record,), model_sha256=sha256)
    except InvalidMessage as error:
        field = (error.field or "").removeprefix("records[0].")
        raise InvalidMessage(error.message, field=field or None, hint=error.hint, **error.details) from None
    return record, sha256


def _required(value: T | None, field: str) -> T:
    if value is None:
        raise InvalidMessage("missing, but there is a vector", field=field, hint="give it, or leave the vector out")
    return value


def _floats(embedding: bytes) -> bytes:
    """Return float32 little-endian as a JSON array that reads back to the same bytes."""
    vector = np.frombuffer(embedding, "<f4")
    texts = list(map(str, vector))
    if np.array(list(map(float, texts)), "<f4").tobytes() != embedding:
        # Read as a double and rounded again, a decimal next to the middle of two floats may become the other one.
        texts = list(map(repr, vector.tolist()))
    return f"[{','.join(texts)}]".encode()


def _whole(vectors: bytes, size: int, field: str, dim: int) -> bytes:
    if len(vectors) % size:
        raise InvalidMessage(
            "wrong dimension", field=field, hint=f"this daemon's model has {dim} dimensions", got=len(vectors)
        )
    return vectors


def _embedding(vector: list[float], dim: int) -> bytes:
    if len(vector) != dim:
        raise InvalidMessage(
            "wrong dimension", field="vector", hint=f"this daemon's model has {dim} dimensions", got=len(vector)
        )
    with np.errstate(over="ignore"):
        row = np.array(vector, "<f4")
    if not np.isfinite(row).all():
        raise InvalidMessage("NaN or infinity in a vector", field="vector", hint="export the memory again")
    if abs(float(np.linalg.norm(row.astype(np.float64))) - 1.0) > UNIT_TOLERANCE:
        raise InvalidMessage("vector is not of unit length", field="vector", hint="normalise it")
    return row.tobytes()
