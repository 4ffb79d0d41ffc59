"""The seams: what the actors need from the engines, and nothing more.

Everything here is synchronous and may be slow; the actors call it from a pool, never from the event loop, unless a
docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memoryd.protocol.ids import BEFORE_ALL, MAIN, BranchName, EventId, RecordId, Seq, TrajectoryId, UserId
from memoryd.protocol.records import RetrievedMemory, without_vectors

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from memoryd.protocol.events import Event, StoredEvent
    from memoryd.protocol.internal import QueryGlobal
    from memoryd.protocol.keys import Keys
    from memoryd.protocol.learning import Intent, Learned, Memories
    from memoryd.protocol.messages import BackupProgress
    from memoryd.protocol.records import Explanation, MemoryFilter, MemoryRecord, Trajectory

    Vectors = NDArray[np.float32]  # [n, dim], rows of unit length
    Counts = NDArray[np.int32]  # [n]
    Numbers = NDArray[np.int64]  # [n]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which encoder made a vector. Two stores agree only if `name`, `dim` and `sha256` do."""

    name: str
    dim: int
    sha256: str
    max_tokens: int = 0
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of some texts and how much of each text they cover.

    `vectors` float32 [n, dim], rows of unit length; `tokens` int32 [n], the pieces of the whole text;
    `embedded_tokens` int32 [n], the pieces the vector has seen; `windows` [n], the vectors of the parts that a long text
    was embedded in, see `windows.packed`, empty where there was one; `signs` [n], those of the vectors of the single pieces,
    see `maxsim.packed`, empty when the encoder does not tell them.
    """

    vectors: Vectors
    tokens: Counts
    embedded_tokens: Counts
    windows: Sequence[bytes]
    signs: Sequence[bytes]

    def meaning(self, row: int) -> Meaning:
        """Return what questions are answered by."""
        return Meaning(self.vectors[row], self.signs[row])


class Meaning(NamedTuple):
    """What the encoder makes of a question: its vector, float32 [dim], unit length, and signs as in `Embeddings`."""

    vector: Vectors
    signs: bytes = b""


class Embedder(Protocol):
    """Turns texts into vectors. The vector of a text never depends on what else is in the call."""

    @property
    def model(self) -> ModelInfo: ...

    @property
    def batch_size(self) -> int:
        """How many texts one run of the model should take."""
        ...

    def embed(self, texts: Sequence[str], running: Callable[[], None] | None = None) -> Embeddings:
        """Embed `texts`; safe to call from several threads at once.

        Calls `running`, at most once, when what is left hardly needs the interpreter: others may use it from then on.
        """
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, its vector, float32 [dim], unit length, and when it was added, in microseconds since 1970.

    `record.embedding` is empty.
    """

    record: MemoryRecord
    vector: Vectors
    added_us: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit adds: all of it becomes durable together, or none.

    `applied_seq` is the last event of the user that is contained in this batch or an earlier one. What is deleted and what is
    told of trajectories happens at `moment_us`, in microseconds since 1970.
    First goes what `deleted` and `dropped` name of earlier batches; then come `entries` and `trajectories`, each in the
    place of an earlier one of the same id. So who wants something gone that this very batch would add leaves it out.
    """

    entries: Sequence[Entry] = ()
    deleted: Sequence[RecordId] = ()
    trajectories: Sequence[Trajectory] = ()
    dropped: Sequence[TrajectoryId] = ()
    applied_seq: Seq = BEFORE_ALL
    moment_us: int = 0


class SealedRows(Protocol):
    """Rows that stand in a file for good, mapped and not loaded; in order of arrival.

    There are `slots` of them, a multiple of 32, so that the codes of several can stand one behind the other; those that
    were deleted, and the last ones that only fill up, are not `alive`. What is read is checked before it is returned,
    once; every member but the first four may raise Damaged.
    """

    slots: int
    count: int
    """How many of the slots, the first ones, do not only fill up."""
    dim: int
    codebook: str
    """The SHA-256 of the codebook that the codes belong to; empty when there are none."""

    def alive(self) -> NDArray[np.bool_]:
        """Return a copy, bool [slots], of what the file says."""
        ...

    @property
    def rows(self) -> NDArray[np.uint64]:
        """The numbers by which the graph of the file names its rows, uint64 [slots], ascending up to `count`."""
        ...

    @property
    def kinds(self) -> Sequence[str]:
        """What the numbers in `kind` mean; `sources` and `sessions` alike."""
        ...

    @property
    def sources(self) -> Sequence[str]: ...

    @property
    def sessions(self) -> Sequence[str]: ...

    @property
    def kind(self) -> NDArray[np.uint8]: ...

    @property
    def source(self) -> NDArray[np.uint8]: ...

    @property
    def session(self) -> NDArray[np.uint32]: ...

    @property
    def time_us(self) -> NDArray[np.int64]:
        """Microseconds since 1970, UTC."""
        ...

    @property
    def keys(self) -> Keys:
        """The ids of the records as numbers, uint64 [slots, 2], the higher half first."""
        ...

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The codes of all slots as they are searched, uint8 [slots * dim / 6]; empty when there are none."""
        ...

    def find(self, wanted: Keys) -> NDArray[np.int64]:
        """Return the slots, ascending, of those records with these ids that stand here, dead ones too."""
        ...

    def ids(self, slots: NDArray[np.int64] | None = None) -> Sequence[RecordId]:
        """Return the ids of the records in these slots, or in all."""
        ...

    def records(self, slots: NDArray[np.int64] | None = None) -> Sequence[bytes]:
        """Return the encoded records in these slots, or in all, dead ones too; quickest when they ascend."""
        ...

    def vectors(self, slots: NDArray[np.int64] | slice) -> Vectors:
        """Return a copy of these rows, which ascend, float32 [m, dim]; rows that only fill up are zero."""
        ...

    @property
    def matrix(self) -> Vectors | None:
        """The first `count` rows where they stand, float32 [count, width]: each vector in the first `dim` columns.

        What stands behind it means nothing, and is finite; None when it is not, and until everything is checked.
        """
        ...

    def check(self) -> None:
        """Read and check everything."""
        ...


class Encoder(Protocol):
    """Makes the codes that are kept beside sealed rows."""

    @property
    def sha256(self) -> str: ...

    def encode(self, vectors: Vectors) -> bytes:
        """Return the codes of float32 [n, dim] as they are searched, n a multiple of 32."""
        ...


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything a file holds, as found by opening it: rows that are sealed, and behind them those that are not.

    `vectors` float32 [n, dim] and `records` (encoded, see `decode_record` of the file) belong together row by row, in
    the order of arrival, deleted ones left out. `graph` reads the graph that the file holds now and the numbers of its
    rows, uint64 [n] ascending; None when it holds none that can be read (slow, for a pool).
    """

    sealed: Sequence[SealedRows]
    vectors: Vectors
    records: Sequence[bytes]
    trajectories: Sequence[Trajectory]
    applied_seq: Seq
    graph: Callable[[], tuple[NDArray[np.uint64], Adjacency] | None] = lambda: None


@dataclass(frozen=True, slots=True)
class FileStatus:
    """Figures of a memory file, safe to keep and to print.

    Of the rows that are `deleted`, a compaction would erase `erasable`; the others are kept for looking back.
    """

    records: int
    deleted: int
    erasable: int
    file_bytes: int
    dead_bytes: int
    segments: int
    commits: int
    applied_seq: Seq
    torn_bytes_cut: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that verification found wrong, and in which of the user's files.

    What `may_pass` looks the same while somebody writes, and is wrong only if it stays.
    """

    what: str
    offset: int
    hint: str
    file: str = ""
    may_pass: bool = False


@dataclass(frozen=True, slots=True)
class Scanned:
    """A file that was looked through, as it was then: its size and its SHA-256 in hex."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Trace:
    """Something of what was erased that still stands in a file."""

    file: str
    offset: int
    what: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a search for erased memories has looked through, and what it has found."""

    files: Sequence[Scanned]
    traces: Sequence[Trace]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is to be erased from a branch."""

    records: Sequence[RecordId]
    trajectories: Sequence[TrajectoryId]


class Rewriting(Protocol):
    """Rows on their way to another place of their file, or into a new one, while commits go on.

    `prepare` takes long and may run beside commits; `MemoryFile.finish` is quick. Raises StorageFault.
    """

    @property
    def is_prepared(self) -> bool:
        """Whether there is something to finish that was not given up."""
        ...

    def prepare(self) -> bool:
        """Return whether there is something to finish."""
        ...

    def stop(self) -> None:
        """Have `prepare` return soon, if it would take more than a few seconds; safe to call from anywhere."""
        ...

    def abandon(self) -> None:
        """Give up what was prepared. Does nothing when it is finished."""
        ...


class MemoryFile(Protocol):
    """The durable half of one user's memory: one `.rvf` file with one writer."""

    def load(self) -> Contents:
        """Return everything that is committed and alive."""
        ...

    def commit(self, batch: Batch) -> FileStatus:
        """Make `batch` durable: append, fsync, manifest, fsync.

        Raises StorageFault; afterwards this writer is closed for good and must be opened anew.
        """
        ...

    def fold(self, *, is_quiet: bool = False) -> Rewriting | None:
        """Return how the small pieces that have gathered become one, None when there are not enough of them; quick.

        When it is quiet fewer are enough.
        """
        ...

    def compaction(self, *, erases: bool = False) -> Rewriting | None:
        """Return how the live rows come into a new file in the place of this one, None when there is none; quick.

        Who `erases` keeps nothing of what was deleted for looking back.
        """
        ...

    def linking(self) -> Rewriting | None:
        """Return how the sealed rows get their graph, None when they have one or are too few; quick."""
        ...

    def awaits(self, rewriting: Rewriting) -> bool:
        """Whether this may be finished: nothing else was begun since; quick."""
        ...

    def finish(self, rewriting: Rewriting) -> FileStatus:
        """Put what was prepared in its place, with what was committed meanwhile. No commit may be under way.

        Raises ValueError, and does nothing, when it is not prepared or not awaited.

        Raises StorageFault; afterwards this writer is closed for good and must be opened anew.
        """
        ...

    def compact(self, *, erases: bool = False) -> FileStatus:
        """Do all of a compaction at once. Raises StorageFault; afterwards this writer is closed for good."""
        ...

    def status(self) -> FileStatus: ...

    def close(self) -> None:
        """Release the file and its lock, and leave nothing of a user who never committed.

        Does nothing the second time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that answers: its record, still encoded, and how well it fits.

    Found by vectors alone, `score` is the cosine to the query; found by words too, it is at most 1. `sona_score`, by which
    hits are ordered, is that with what was learned. `relevance` is the chance that it is right; `folded` are the ids of those behind
    it that say the same.
    """

    record: bytes
    score: float
    sona_score: float
    cosine: float = 0.0
    relevance: float = 0.0
    folded: tuple[RecordId, ...] = ()
    explanation: Explanation | None = None

    def retrieved(self, record: MemoryRecord) -> RetrievedMemory:
        """Return it for who asked; `record` is what was decoded."""
        return RetrievedMemory(
            record=without_vectors(record),
            score=self.score,
            sona_score=self.sona_score,
            cosine=self.cosine,
            relevance=self.relevance,
            folded=self.folded,
            explanation=self.explanation,
        )


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows first, and which path found them: `exact`, `mapped` (codes in the file), `codes` or `hnsw`.

    They were chosen among so many `candidates`, which are counted where words were looked for too.
    """

    hits: Sequence[Hit]
    path: str
    candidates: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one record stands among the candidates of a query, 1 being the best; and whether it passes the filter."""

    hit: Hit
    place: int
    candidates: int
    passes: bool
    path: str


@dataclass(frozen=True, slots=True)
class Nearest:
    """The rows with the largest cosines, best first: float32 [m] and int64 [m]; `path` as in `Hits`."""

    scores: Vectors
    rows: Numbers
    path: str


class IndexView(Protocol):
    """What the index held at one moment; never changes, so a thread may search it while others write.

    Rows are numbered from 0 in the order of arrival, hidden ones too. Deleted rows disappear from every view at once.
    """

    @property
    def rows(self) -> int: ...

    @property
    def numbering(self) -> object:
        """The same for two views in which each row that both have has one number."""
        ...

    def passing(self, where: MemoryFilter) -> NDArray[np.bool_]:
        """Return which rows are alive and pass `where`, bool [rows]; the caller's own."""
        ...

    def nearest(self, vector: Vectors, mask: NDArray[np.bool_], *, k: int, is_filtered: bool) -> Nearest:
        """Return the `k` nearest of the rows that `mask` marks, bool [rows]; `is_filtered` if some that live are left out.

        `vector` is float32 [dim], unit length. Raises Damaged.
        """
        ...

    def cosines(self, vector: Vectors, rows: Numbers) -> Vectors:
        """Return the cosine of each of these rows, int64 [m] ascending, with `vector`, float32 [dim]. Raises Damaged."""
        ...

    def keys(self, first: int, behind: int) -> NDArray[np.uint64]:
        """Return the ids of the records in the rows from `first` up to `behind` as numbers, uint64 [n], see `keys.folded`."""
        ...

    def sessions(self, rows: Numbers) -> Numbers:
        """Return a number for the session of each of these rows, int64 [m] ascending: 0 where there is none."""
        ...

    def keys_at(self, rows: Numbers) -> NDArray[np.uint64]:
        """Return the ids of the records in these rows, int64 [m] ascending, as numbers, see `keys.folded`."""
        ...

    def find(self, records: Sequence[RecordId]) -> Numbers:
        """Return the rows of those of these records that live, int64 [m] ascending."""
        ...

    def memories(self) -> Memories:
        """Return the vectors of the rows that live, for learning."""
        ...

    def records(self, rows: Numbers) -> Sequence[bytes]:
        """Return the encoded records in these rows, int64 [m] ascending, empty ones for hidden rows. Raises Damaged."""
        ...

    def search(self, vector: Vectors, *, k: int, where: MemoryFilter) -> Hits:
        """Return the `k` nearest rows that pass `where`. `vector` is float32 [dim], unit length."""
        ...


@dataclass(frozen=True, slots=True)
class Matched:
    """A term of a query: the rows that hold it, int64 [n], and what each of them gets for it (its rarity)."""

    term: str
    rows: Numbers
    idf: float


class Words(Protocol):
    """A query whose words were looked up in a memory; what is near to its vector is added to make an answer.

    `pruned` terms were too common to be looked at; `lacking` rows stand in no words index yet.
    """

    @property
    def matched(self) -> Sequence[Matched]: ...

    @property
    def pruned(self) -> Sequence[str]: ...

    @property
    def lacking(self) -> int: ...

    def intent(self, vector: Vectors) -> Intent:
        """Return the query, whose vector is float32 [dim], as learning knows questions."""
        ...

    def rank(self, meaning: Meaning | None, *, k: int, explain: bool = False, learned: Learned | None = None) -> Hits:
        """Return the `k` best by words and by `meaning`; by words alone without one.

        What was `learned` about the query is added, and changes the order. Raises Damaged.
        """
        ...

    def place(self, meaning: Meaning | None, record: RecordId, learned: Learned | None = None) -> Placed | None:
        """Return where a record stands, whether it would have been found or not; None when it is not there.

        Raises Damaged.
        """
        ...

    def candidates_for(
        self, meaning: Meaning, shown: Sequence[RecordId]
    ) -> tuple[Sequence[RecordId], NDArray[np.uint64], Vectors]:
        """Return those of the memories `shown` that live, the keys of them and of the next candidates, and their scores.

        Nothing learned is in the scores, float32 [m]. Raises Damaged.
        """
        ...

    def credit(
        self, meaning: Meaning, shown: Sequence[RecordId], run: Trajectory, said: Sequence[Matched]
    ) -> NDArray[np.float32]:
        """Return the credit, float32 [n], of those of the memories `shown` that live, for a run that went well and names none of them.

        `said` is what it said later. It is UNTOLD, up to 1 for what the run goes back to, and 0 for its own memories and for what
        says no more than its question. Raises Damaged.
        """
        ...


class WordsIndex(Protocol):
    """Which rows of one user's memory hold a word: derived from it, and made anew when it is absent or damaged.

    Safe to call from any thread, and opened when it is first needed. Every member may raise StorageFault.
    """

    def cover(self, view: IndexView, most: int) -> int:
        """Take in at most `most` rows that it does not hold, the earliest first; return how many are left."""
        ...

    def merge(self) -> bool:
        """Do some of what makes looking words up quicker, and return whether there is more."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it knows who speaks. Safe to ask from the event loop, as `addressed` is."""
        ...

    def addressed(self, query: str) -> str:
        """Return a query as it would be put to the speaker whom it names; as it is while the index is not open."""
        ...

    def match(
        self,
        view: IndexView,
        query: str,
        where: MemoryFilter,
        most: int,
        preferred: MemoryFilter | None = None,
        without: Numbers | None = None,
    ) -> Words:
        """Look the words of `query` up, for an answer from what passes `where`; what passes `preferred`, a time, comes sooner.

        The rows `without`, int64 [m], are no answers. What the index lacks of this memory is taken in first if it is no more than `most` rows.
        """
        ...

    def event(self, view: IndexView, query: str, name: str, most: int) -> tuple[RecordId, datetime] | None:
        """Return the memory that tells of the event `name`, a part of the query, and its moment; None if none does.

        What the index lacks of this memory is taken in first if it is no more than `most` rows.
        """
        ...

    def said(self, view: IndexView, run: Trajectory) -> Sequence[Matched]:
        """Look up what a run said later: the terms of its steps, and of the memories that its events became."""
        ...

    def others(self, views: Sequence[IndexView]) -> NDArray[np.uint64]:
        """Return the ids of the records that it holds and none of these do, as numbers, see `keys.folded`."""
        ...

    def discard(self) -> None:
        """Remove everything it holds; it is made anew by covering."""
        ...

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        ...

    @property
    def resident_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Adjacency:
    """A graph over rows `0..n-1` in layers (HNSW); which rows these are, who has it knows.

    `layers` int64 [n]: in how many layers each row stands, at least one, the ground. `counts` int64 [sum(layers)]: the
    neighbours of each row in each of its layers, row by row, the ground first. `neighbours` int64 [sum(counts)]: their
    rows, list by list, ascending within a list. A list is at most `m0` long on the ground and `m` above it.
    `ef_construction` is how many candidates a row chose its neighbours from. A search begins at `entry`, a row of the top
    layer; None when there is no row.
    """

    layers: Numbers
    counts: Numbers
    neighbours: Numbers
    m: int
    m0: int
    ef_construction: int
    entry: int | None


class Swap(Protocol):
    """Puts rows in the place of those before, at once for everybody who looks from then on."""

    def __call__(
        self, deleted: Sequence[RecordId] = (), records: Sequence[bytes] = (), vectors: Vectors | None = None
    ) -> None:
        """First hide `deleted`, then append encoded `records` with their `vectors`, float32 [n, dim]."""
        ...


class MemoryIndex(Protocol):
    """The searchable half of one user's memory. Written by one task; `add`, `discard` and `view` are quick."""

    def add(self, records: Sequence[bytes], vectors: Vectors) -> None:
        """Append encoded records with their vectors, float32 [n, dim]."""
        ...

    def discard(self, ids: Sequence[RecordId]) -> None:
        """Hide these records from every view; unknown ids do nothing."""
        ...

    def __len__(self) -> int:
        """Return the number of records that are alive."""
        ...

    def known(self, ids: Sequence[RecordId]) -> set[RecordId]:
        """Return those of these records that are alive."""
        ...

    def records(self, ids: Sequence[RecordId]) -> Sequence[bytes]:
        """Return those of these records that are alive, encoded, in order of arrival."""
        ...

    def vectors(self, ids: Sequence[RecordId]) -> Vectors:
        """Return the vectors of what `records` returns, float32 [n, dim]."""
        ...

    def select(self, where: MemoryFilter, before: datetime | None = None) -> Sequence[RecordId]:
        """Return the ids that pass `where` and are older than `before`, in order of arrival."""
        ...

    def page(self, after: int, limit: int) -> tuple[Sequence[bytes], Vectors, int | None]:
        """Return live rows, at most `limit`, and the number to go on with, None at the end; 0 begins.

        Rows that stay are given once, however the index is rebased in between; after many rebases some are given again.
        """
        ...

    def view(self) -> IndexView: ...

    @property
    def resident_bytes(self) -> int: ...

    def check(self) -> Callable[[], None]:
        """Read and check everything that stands in the file (slow, for a pool).

        The returned call raises Damaged if what is wrong is still in use then.
        """
        ...

    def rebased(self, contents: Contents) -> Swap:
        """Make the rows stand on what the file holds now (slow, for a pool); the returned call puts that to use.

        What is not in `contents` is gone then, but for what the caller gives that call.
        """
        ...

    def wants_sealing(self) -> bool:
        """Whether `seal` has something to do: many rows are searched without the help of codes or a graph."""
        ...

    def seal(self) -> Callable[[], None]:
        """Make codes or a graph of what is there now (slow, for a pool); the returned call puts it to use."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A user's memory, opened for writing: the file of a branch and the index over what the branch holds."""

    file: MemoryFile
    index: MemoryIndex
    trajectories: Sequence[Trajectory]
    applied_seq: Seq
    branch: BranchName = MAIN


@dataclass(frozen=True, slots=True)
class Looked:
    """A memory that is only looked at. `has_lost` says that something it held then has been erased since."""

    index: MemoryIndex
    trajectories: Sequence[Trajectory]
    has_lost: bool


@dataclass(frozen=True, slots=True)
class BranchStatus:
    """A branch: `records` are those that it holds, `own_records` those of them that stand in its own file.

    `parent` and `created_us`, in microseconds since 1970, are None for the main line.
    """

    name: BranchName
    parent: BranchName | None
    created_us: int | None
    is_current: bool
    records: int
    own_records: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How a branch differs from another: `lacking` are records that only the branch holds.

    Since they parted, the branch has `added` records that the other does not hold, and `removed` some that it does.
    """

    lacking: Sequence[RecordId]
    added: Sequence[RecordId]
    removed: Sequence[RecordId]


class MemoryStore(Protocol):
    """All users' memories on disk."""

    def users(self) -> Iterator[UserId]:
        """Every user that has a file."""
        ...

    def exists(self, user: UserId) -> bool: ...

    def open(self, user: UserId) -> Opened:
        """Take the user's writer lock and open the file, which is made by its first commit.

        Raises Locked, Damaged, ModelMismatch, ReadOnly or another StorageFault.
        """
        ...

    def erase(self, user: UserId) -> None:
        """Remove everything of a user whose file is closed."""
        ...

    def verify(self, user: UserId) -> Sequence[Finding]:
        """Read every byte of the user's files and return what is wrong with them; takes no lock, writes nothing."""
        ...

    def repair(self, user: UserId) -> Sequence[str]:
        """Make anew what follows from records and vectors, in those files of a closed user in which something is wrong.

        Return the files. What cannot be read stays as it is. Raises Locked or another StorageFault.
        """
        ...

    def has_branches(self, user: UserId) -> bool:
        """Whether there is more than the main line; quick."""
        ...

    def branches(self, user: UserId) -> Sequence[BranchStatus]:
        """Return the branches of a user, the main line first. Raises Damaged or another StorageFault."""
        ...

    def branch(self, user: UserId, name: BranchName, of: BranchName) -> None:
        """Begin a branch of what is committed to `of`, whose file is not rewritten meanwhile.

        Raises InvalidMessage, NotFound or StorageFault.
        """
        ...

    def switch(self, user: UserId, name: BranchName, applied_seq: Seq) -> None:
        """Write to the branch `name` from the next opening on; it has applied the events up to `applied_seq` then.

        Raises NotFound, Locked while the user is open, or another StorageFault.
        """
        ...

    def drop(self, user: UserId, name: BranchName) -> None:
        """Remove a branch and what only it holds. Raises InvalidMessage, NotFound or StorageFault."""
        ...

    def look(self, user: UserId, name: BranchName, moment_us: int | None = None) -> Looked:
        """Read what a branch holds, or held at an earlier moment. Raises NotFound or StorageFault."""
        ...

    def compare(self, user: UserId, name: BranchName, other: BranchName) -> Difference:
        """Return how the branch `name` differs from `other`. Raises NotFound or StorageFault."""
        ...

    def erase_from(self, user: UserId, branches: Mapping[BranchName, Erasure], moment_us: int) -> None:
        """Delete from these branches, and rewrite their files without it. Raises Locked or another StorageFault."""
        ...

    def scan(self, user: UserId, ids: Sequence[RecordId], records: Sequence[MemoryRecord], vectors: Vectors) -> Scan:
        """Look through all files that may hold something of these ids and records, and of their vectors, float32 [n, dim].

        Raises StorageFault.
        """
        ...

    def encode(self, record: MemoryRecord) -> bytes: ...

    def decode(self, record: bytes) -> MemoryRecord:
        """Return what was encoded. Raises Damaged."""
        ...


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an event stands in the log, and whether it stood there before."""

    event_id: EventId
    seq: Seq
    duplicate: bool


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that was put aside because it broke its reader."""

    seq: Seq
    user: UserId
    event_id: EventId
    type: str
    error: str
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class LogStatus:
    """Figures of the event log."""

    first: Seq
    last: Seq
    events: int
    parked: int
    file_bytes: int
    cursors: Mapping[str, Seq] = field(default_factory=dict)


class EventStore(Protocol):
    """The durable, ordered log of events: unique by user and event id, numbered upwards without reuse."""

    def append(self, events: Sequence[tuple[UserId, Event]]) -> Sequence[Appended]:
        """Append in one fsynced transaction, in order. Known ids keep their first number.

        Raises DiskFull, ReadOnly or another StorageFault; then nothing of the batch was kept.
        """
        ...

    def read(self, after: Seq, limit: int, *, user: UserId | None = None) -> Sequence[StoredEvent]:
        """Return the next events in order; parked and erased ones are left out. Raises CursorTooOld."""
        ...

    def last_seq(self) -> Seq: ...

    def cursor(self, reader: str) -> Seq:
        """Return how far `reader` has come; BEFORE_ALL when it is new."""
        ...

    def advance(self, reader: str, seq: Seq) -> None:
        """Remember how far `reader` has come; never backwards."""
        ...

    def truncate(self, older_than: datetime) -> int:
        """Forget payloads that are older and that every reader has passed; ids stay known. Returns the number."""
        ...

    def erase(self, user: UserId, events: Sequence[EventId] | None) -> int:
        """Overwrite the payloads of these events, or of all events of the user; ids stay known."""
        ...

    def park(self, seq: Seq, error: str) -> None: ...

    def parked(self) -> Sequence[ParkedEvent]: ...

    def unpark(self, seqs: Sequence[Seq], *, drop: bool) -> Sequence[Seq]:
        """Take events out of the parking place: to be published again under new numbers, or dropped for good.

        What dropped events said is overwritten as by `erase`. Returns the new numbers (empty when dropped).
        """
        ...

    def status(self) -> LogStatus: ...

    def close(self) -> None: ...


class RunningBackup(Protocol):
    """A snapshot on its way into a backup."""

    def step(self) -> BackupProgress:
        """Do some more, for some 100 ms; return how far it is.

        Raises InvalidMessage when the folder holds something else, Locked while another backup runs, or another
        StorageFault; then nothing was made.
        """
        ...

    def stop(self) -> None:
        """Have `step` return soon; quick, and safe to call while it runs."""
        ...

    def abandon(self) -> None:
        """Make nothing, unless it is made already. Does nothing the second time."""
        ...


class Backups(Protocol):
    """Makes snapshots of the whole data directory while it is written to."""

    def begin(self, folder: Path) -> RunningBackup:
        """Return a snapshot to be made in the backup at `folder`, an absolute path; quick: nothing is touched yet.

        Raises InvalidMessage for a folder that can be none.
        """
        ...


class GlobalStore(Protocol):
    """What users published for everybody: copies, which say who published them."""

    def open(self) -> None: ...

    @property
    def is_empty(self) -> bool:
        """Whether it is open and holds nothing; quick, and safe to ask from anywhere."""
        ...

    def publish(self, user: UserId, records: Sequence[MemoryRecord], vectors: Vectors) -> None:
        """Keep copies durably; vectors float32 [n, dim]. Raises StorageFault."""
        ...

    def unpublish(self, user: UserId, ids: Sequence[RecordId] | None) -> None:
        """Remove these copies, or all of the user, and their bytes. Raises StorageFault."""
        ...

    def query(self, asked: QueryGlobal) -> Sequence[RetrievedMemory]:
        """Return the best copies that others published; see `WordsIndex`. `record.metadata["published_by"]` names who.

        Raises StorageFault.
        """
        ...

    def close(self) -> None: ...
