"""Memories: what is kept, how it is filtered, what comes back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

import msgspec
from msgspec import Struct

from memoryd.protocol import ids
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.events import JsonObject, Moment, checked_json, checked_moment
from memoryd.protocol.ids import RecordId, TrajectoryId

MAX_TEXT_BYTES = 65_536
MAX_METADATA_BYTES = 16_384

# What a recall does with the time that its query speaks of: such memories come sooner, no others answer, or nothing.
TimeUse = Literal["prefer", "filter", "ignore"]

# What is put before a model should be at least as relevant: of the questions with an answer, 95 % keep one. `python -m
# benchmarks.relevance` prints it.
CONTEXT_RELEVANCE = 0.10

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def checked_text(text: str, field: str, limit: int = MAX_TEXT_BYTES) -> str:
    """Return `text` when it says something and fits. Raises InvalidMessage."""
    if not text.strip():
        raise InvalidMessage("empty text", field=field, hint="give at least one character that is not a space")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidMessage(
            "text is not valid Unicode", field=field, hint="remove lone surrogates", position=error.start
        ) from None
    if size > limit:
        raise InvalidMessage(
            "text too long", field=field, hint=f"send at most {limit} bytes, or cut it into parts", size=size
        )
    return text


def checked_metadata(metadata: JsonObject, field: str) -> JsonObject:
    """Return `metadata` when it is small, plain JSON. Raises InvalidMessage."""
    checked_json(metadata, field)
    size = len(msgspec.json.encode(metadata)) if metadata else 0
    if size > MAX_METADATA_BYTES:
        raise InvalidMessage(
            "metadata too large", field=field, hint=f"keep it under {MAX_METADATA_BYTES} bytes of JSON", size=size
        )
    return metadata


def checked_quality(quality: float | None, field: str) -> float | None:
    """Return `quality` when it is None or within [0, 1]. Raises InvalidMessage."""
    if quality is not None and not 0.0 <= quality <= 1.0:
        raise InvalidMessage("quality out of range", field=field, hint="use a number from 0.0 to 1.0")
    return quality


def checked_zone(name: str | None, field: str) -> str | None:
    """Return `name` when it is None or a time zone that this machine knows. Raises InvalidMessage."""
    if name is None:
        return None
    from zoneinfo import ZoneInfo  # most clients name no zone

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a folder of zones, such as Europe
        raise InvalidMessage(
            "no such time zone", field=field, hint="use a name of the IANA database, such as Europe/Berlin or UTC"
        ) from None
    return name


def checked_relevance(relevance: float, field: str) -> float:
    """Return `relevance` when it is within [0, 1]. Raises InvalidMessage."""
    if not 0.0 <= relevance <= 1.0:
        raise InvalidMessage("relevance out of range", field=field, hint="use a number from 0.0 to 1.0")
    return relevance


class MemorySource(StrEnum):
    """Who said it."""

    USER_INPUT = "user_input"
    CONDUCTOR_PLAN = "conductor_plan"
    WORKER_RESULT = "worker_result"
    WRITER_REVISION = "writer_revision"
    TRAJECTORY_OUTCOME = "trajectory_outcome"


class MemoryKind(StrEnum):
    """What sort of knowledge it is."""

    EPISODE = "episode"
    STRATEGY = "strategy"
    FINDING = "finding"
    PATTERN = "pattern"


def checked_members(values: Iterable[str], members: type[StrEnum], field: str) -> None:
    """Refuse a value that is none of `members`: nothing decodes what a program makes in its own process. Raises InvalidMessage."""
    if not frozenset(members).issuperset(values):
        raise InvalidMessage(f"unknown {field}", field=field, hint="one of " + ", ".join(members))


class MemoryRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One memory.

    `id` is a ULID. `quality_score` in [0, 1] says how the run it belongs to went; None while that is not known.
    `embedding` is float32 little-endian, unit length, `4 * dim` bytes; it is empty unless it was asked for.
    When not all of a long text was embedded, `metadata` carries `tokens` and `tokens_embedded`. `windows` are the parts in
    which a long text was embedded, int8 [n, dim], see `windows.packed`; empty like `embedding`, and for a text of one part.
    `signs` are those of the vectors of its word pieces, see `maxsim.packed`; empty like `embedding`.
    """

    id: RecordId
    text: str
    kind: MemoryKind
    source: MemorySource
    timestamp: Moment
    session_id: str = ""
    quality_score: float | None = None
    metadata: JsonObject = {}
    embedding: bytes = b""
    windows: bytes = b""
    signs: bytes = b""


def without_vectors(record: MemoryRecord) -> MemoryRecord:
    """Return a record as it is shown to who did not ask for its vectors."""
    if record.embedding or record.windows or record.signs:
        return msgspec.structs.replace(record, embedding=b"", windows=b"", signs=b"")
    return record


def speaker_of(metadata: JsonObject) -> str:
    """Return who said a memory, by its metadata; empty when nobody is named."""
    speaker = metadata.get("speaker")
    return speaker if isinstance(speaker, str) else ""


def as_embedded(text: str, metadata: JsonObject) -> str:
    """Return a text as its vector means it: a short text is told from others by who says it."""
    speaker = speaker_of(metadata)
    return f"{speaker}: {text}" if speaker else text


class Attributes(Struct, frozen=True):
    """The fields of a record that are filtered by, and its id; decodes from a whole record."""

    id: RecordId
    kind: MemoryKind
    source: MemorySource
    timestamp: Moment
    session_id: str = ""


def microseconds(moment: datetime) -> int:
    """Return a moment as columns keep it: microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(us: int) -> datetime:
    """Return the moment that columns keep as so many microseconds since 1970."""
    return _EPOCH + us * _MICROSECOND


class Draft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory before it has its embedding.

    `id` and `timestamp` are given by the daemon when absent. Raises InvalidMessage when a field breaks its rule.
    """

    text: str
    kind: MemoryKind = MemoryKind.FINDING
    source: MemorySource = MemorySource.WORKER_RESULT
    session_id: str = ""
    timestamp: Moment | None = None
    quality_score: float | None = None
    metadata: JsonObject = {}
    id: RecordId | None = None

    def __post_init__(self) -> None:
        checked_text(self.text, "text")
        checked_members((self.kind,), MemoryKind, "kind")
        checked_members((self.source,), MemorySource, "source")
        ids.label(self.session_id, "session_id")
        checked_quality(self.quality_score, "quality_score")
        checked_moment(self.timestamp, "timestamp")
        checked_metadata(self.metadata, "metadata")
        if self.id is not None:
            ids.record_id(self.id)


class MemoryFilter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which memories may answer; an empty field lets every memory through. `since` is inclusive, `until` is not."""

    kinds: frozenset[MemoryKind] = frozenset()
    sources: frozenset[MemorySource] = frozenset()
    since: Moment | None = None
    until: Moment | None = None
    session_id: str | None = None

    def __post_init__(self) -> None:
        checked_members(self.kinds, MemoryKind, "kinds")
        checked_members(self.sources, MemorySource, "sources")
        checked_moment(self.since, "since")
        checked_moment(self.until, "until")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise InvalidMessage("since is not before until", field="since", hint="use a since that is before until")


ANY = MemoryFilter()


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a memory has its score.

    `parts` are its summands by name, see docs/retrieval.md; `words` are the terms of the query that it holds. `by_words` and
    `by_vector` are its places among all memories by either alone, 1 being the best; None when it is not in that list.
    """

    parts: dict[str, float]
    words: tuple[str, ...] = ()
    by_words: int | None = None
    by_vector: int | None = None


class RetrievedMemory(Struct, frozen=True, kw_only=True):
    """A memory and how well it fits.

    `score`, at most 1, is made of words, vectors and what stands around the memory; where words could not be looked up, it is
    the cosine. `sona_score` is what the answer is ordered by: equal to `score` until learning has something to
    add. `cosine` is that of the two texts as they were embedded, 0 where the query was not embedded. `relevance`, from 0 to 1, is
    the chance that it is right, and means the same for every query, see docs/retrieval.md. `folded` are the ids of memories
    in the same session that say the same and would have stood among the answers. `explanation` is there if it was asked for.
    """

    record: MemoryRecord
    score: float
    sona_score: float
    cosine: float = 0.0
    relevance: float = 0.0
    folded: tuple[RecordId, ...] = ()
    explanation: Explanation | None = None


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that was done on the way."""

    action: str
    text: str = ""
    timestamp: Moment


class Trajectory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run from its question to its outcome, kept for learning.

    `shown` are the memories that were recalled for it; `helped` and `harmful` are parts of `shown`. `quality` in [0, 1]
    is None while the run goes on. `run_id` is set when events, not calls, opened it.
    """

    id: TrajectoryId
    query: str
    started: Moment
    shown: tuple[RecordId, ...] = ()
    steps: tuple[Step, ...] = ()
    ended: Moment | None = None
    quality: float | None = None
    helped: tuple[RecordId, ...] = ()
    harmful: tuple[RecordId, ...] = ()
    run_id: str = ""
