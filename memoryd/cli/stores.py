"""What `import` makes of an `.rvf` file: the records of a memory, or the rows of another program with texts beside them.

A line of texts is `{"id": row, "text", "kind", "source", "session_id", "timestamp", "metadata", "quality_score"}`, of which
only the first two are required. The record of a row always gets the same id, so importing it again doubles nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import msgspec
import numpy as np

from memoryd.actors.trajectories import Trajectories
from memoryd.cli.reading import lines_in
from memoryd.cli.sending import OWN_FAULT
from memoryd.files import RealFiles
from memoryd.protocol import wire
from memoryd.protocol.errors import Damaged, InvalidMessage, ModelMismatch
from memoryd.protocol.events import JsonObject, Moment
from memoryd.protocol.ids import EventId, RecordId, derived_record_id
from memoryd.protocol.records import Draft, MemoryKind, MemoryRecord, MemorySource
from memoryd.rvf.foreign import ForeignStore, committed, is_memory, standing_alone
from memoryd.rvf.lineage import lineage_of
from memoryd.rvf.records import UNREADABLE, decode_record
from memoryd.rvf.snapshot import read_snapshot
from memoryd.sources.parsed import decoded, json_object

if TYPE_CHECKING:
    from memoryd.cli.importing import Numbered
    from memoryd.files import FileSystem
    from memoryd.protocol.messages import Status
    from memoryd.rvf.format import Vectors
    from memoryd.rvf.lineage import Lineage

_AT_ONCE: Final = 256  # sealed rows that are unpacked together
_NO_MOMENT: Final = datetime(1970, 1, 1, tzinfo=UTC)  # the row alone says which id its record has


class Records:
    """A memory of memoryd: its live records, with their vectors when the daemon's model made them."""

    noun: Final = "record"

    def __init__(self, path: Path, lineage: Lineage, *, without_vectors: bool) -> None:
        found = lineage.own
        self.file = str(path)
        self._contents = lineage.contents()
        self._model = found.history.model
        self._without_vectors = without_vectors
        self._said = ""
        self.total = len(self._contents.records) + sum(int(part.alive().sum()) for part in self._contents.sealed)
        # Another program wrote these; nobody knows what they mean.
        self.left_out = int(np.isin(found.held, found.recorded, invert=True).sum())

    def items(self, _: BinaryIO, status: Status) -> Iterator[Numbered]:
        """Yield a record with its vector, or a text to be embedded. Raises Damaged."""
        model = self._model
        agrees = (model.name, model.dim, model.sha256) == (status.model, status.dim, status.model_sha256)
        keeps = agrees and not self._without_vectors
        self._said = "the vectors were kept" if keeps else "the texts were embedded anew"
        if not agrees:
            self._said += f": the vectors are those of {model.name} ({model.dim} dimensions)"
        trajectories = Trajectories(self._contents.trajectories)
        with standing_alone():
            for number, (data, vector) in enumerate(self._rows(), 1):
                try:
                    record = trajectories.with_outcome(decode_record(data))
                    yield number, (_with_vector(record, vector), model.sha256) if keeps else _draft(record)
                except UNREADABLE:
                    yield number, Damaged("it cannot be decoded", hint="a newer memoryd may have written it")
                except OWN_FAULT as error:
                    yield number, error

    def told(self) -> str:
        return self._said

    def _rows(self) -> Iterator[tuple[bytes, Vectors]]:
        for part in self._contents.sealed:
            alive = np.flatnonzero(part.alive())
            for first in range(0, len(alive), _AT_ONCE):
                slots = alive[first : first + _AT_ONCE]
                yield from zip(part.records(slots), part.vectors(slots), strict=True)
        yield from zip(self._contents.records, self._contents.vectors, strict=True)


class Text(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a row says."""

    id: Annotated[int, msgspec.Meta(ge=0)]
    text: str
    kind: MemoryKind = MemoryKind.FINDING
    source: MemorySource = MemorySource.WORKER_RESULT
    session_id: str = ""
    timestamp: Moment | None = None
    metadata: JsonObject = {}
    quality_score: float | None = None


class Rows:
    """A store of another program, and a file with the texts of its rows."""

    noun: Final = "line"

    def __init__(self, store: ForeignStore, texts: str, *, same_model: bool) -> None:
        self.file = texts
        self.total = lines_in(texts)
        self._store = store
        self._same_model = same_model
        self._has_text = np.zeros(len(store.ids), bool)

    @property
    def left_out(self) -> int:
        """How many rows no line was about, so far."""
        return int((~self._has_text).sum())

    def items(self, stream: BinaryIO, status: Status) -> Iterator[Numbered]:
        """Yield what each line became: a record with its row's vector, or a text to be embedded.

        Raises ModelMismatch when the vectors cannot be those of the daemon's model, Damaged when the store is.
        """
        store = self._store
        if self._same_model and store.dim != status.dim:
            raise ModelMismatch(
                f"the vectors of {store.path.name} have {store.dim} dimensions, those of this daemon's model {status.dim}",
                field="--same-model",
                hint="leave --same-model out: the texts are embedded",
            )
        with standing_alone():
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    draft, row = self._draft(line)
                    if self._same_model:
                        yield number, (_record(draft, _unit(store.vector(row), row)), status.model_sha256)
                    else:
                        yield number, draft
                except OWN_FAULT as error:
                    yield number, error

    def told(self) -> str:
        store = self._store
        rows = f"{store.path.name} has {len(store.ids):,} rows of {store.dim} dimensions, {store.metric}"
        if store.parents:
            rows += ", with those of " + ", ".join(parent.name for parent in store.parents)
        if self._same_model:
            return rows + "; its vectors were taken, at unit length"
        return rows + "; its vectors were left aside, and the texts embedded"

    def _draft(self, line: bytes) -> tuple[Draft, int]:
        """Return the memory that a line makes of its row. Raises InvalidMessage or Unsupported."""
        text = wire.from_body(json_object(decoded(line), "line"), Text)
        at = self._store.place(text.id)
        if at is None:
            raise InvalidMessage(f"no row {text.id} in {self._store.path.name}", field="id", hint="see memoryd inspect")
        if self._has_text[at]:
            raise InvalidMessage(f"row {text.id} has a text already", field="id", hint="give one line for each row")
        file_id = self._store.file_id(text.id)
        came_from = {"rvf_file_id": file_id, "rvf_row": text.id} if file_id else {"rvf_row": text.id}
        draft = Draft(
            text=text.text,
            kind=text.kind,
            source=text.source,
            session_id=text.session_id,
            timestamp=text.timestamp,
            quality_score=text.quality_score,
            metadata={**text.metadata, **came_from},
            id=self._record_id(file_id, text.id),
        )
        self._has_text[at] = True
        return draft, text.id

    def _record_id(self, file_id: str, row: int) -> RecordId:
        """Return the id that the record of this row always gets; where the file has no identity, its vector stands in."""
        name = file_id or blake2b(self._store.vector(row).tobytes(), digest_size=16).hexdigest()
        return derived_record_id(_NO_MOMENT, EventId(f"rvf:{name}"), row)


@contextmanager
def opened(file: str, texts: str | None, *, same_model: bool, without_vectors: bool) -> Iterator[Records | Rows]:
    """Open a store to be read: without a lock, whoever writes to it.

    Raises InvalidMessage when the options are not those for such a store; Damaged, Missing or another StorageFault.
    """
    files = RealFiles()
    path = Path(file).parent.resolve() / Path(file).name  # a parent is looked for from its real folder
    with standing_alone():
        memory = _memory(path, files, without_vectors=without_vectors)
    if memory is not None:
        if texts is not None or same_model:
            raise InvalidMessage(
                f"{path.name} is a memory, which has its texts and knows its model",
                field="--same-model" if texts is None else "--texts",
                hint="leave --texts and --same-model out",
            )
        yield memory
        return
    if texts is None:
        raise InvalidMessage(
            f"{path.name} was written by another program: it has vectors, and no texts to remember",
            field="--texts",
            hint='add --texts FILE with a line {"id": ROW, "text": "..."} for each row',
        )
    if same_model and without_vectors:
        raise InvalidMessage(
            "its vectors are either taken or left aside", field="--same-model", hint="give one of both"
        )
    with standing_alone():
        store = ForeignStore.open(files, path)
    with store:
        yield Rows(store, texts, same_model=same_model)


def _memory(path: Path, files: FileSystem, *, without_vectors: bool) -> Records | None:
    """Return what a memory of memoryd holds, None for a store of another program. Raises Damaged."""
    with closing(files.open(path, writable=False)) as file:
        if not is_memory(file, committed(file, path)):
            return None
        return Records(path, lineage_of(files, path, read_snapshot(file, path)), without_vectors=without_vectors)


def _with_vector(record: MemoryRecord, vector: Vectors) -> MemoryRecord:
    return msgspec.structs.replace(record, embedding=vector.astype("<f4").tobytes())


def _draft(record: MemoryRecord) -> Draft:
    """Return a record without its vector. Raises InvalidMessage."""
    fields = {name: getattr(record, name) for name in Draft.__struct_fields__}
    return Draft(**fields)


def _record(draft: Draft, embedding: bytes) -> MemoryRecord:
    """Return a draft with its vector."""
    fields = {name: getattr(draft, name) for name in Draft.__struct_fields__}
    return MemoryRecord(**{**fields, "timestamp": draft.timestamp or datetime.now(UTC)}, embedding=embedding)


def _unit(vector: Vectors, row: int) -> bytes:
    """Return the direction of a vector, as it is sent. Raises InvalidMessage when it has none."""
    wide = vector.astype(np.float64)
    length = float(np.linalg.norm(wide))
    if not np.isfinite(length):
        what = "NaN or infinity in the vector"
    elif length == 0:
        what = "nothing but zeros in the vector"
    else:
        return (wide / length).astype("<f4").tobytes()
    raise InvalidMessage(
        f"{what} of row {row}", field="vector", hint="leave --same-model out: the text is embedded then"
    )
