"""Every request a client can make, each with its reply type in the class header.

A message that exists is valid: the checks live in `__post_init__`, so no handler repeats them. The user is not part of
a message: it comes from the grant of the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final, Generic, Literal, TypeVar, get_args

from msgspec import Struct

from memoryd.protocol import ids
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.events import Ack, Event, Moment, Receipt, checked_moment
from memoryd.protocol.ids import BranchName, RecordId, Seq, TrajectoryId
from memoryd.protocol.learning import Form
from memoryd.protocol.records import (
    ANY,
    Draft,
    MemoryFilter,
    MemoryKind,
    MemoryRecord,
    MemorySource,
    RetrievedMemory,
    TimeUse,
    Trajectory,
    checked_members,
    checked_metadata,
    checked_quality,
    checked_relevance,
    checked_text,
    checked_zone,
)

R_co = TypeVar("R_co", covariant=True)

Verdict = Literal["helps", "no sure difference", "harms"]  # on learning

MAX_QUERY_BYTES: Final = 16_384
MAX_TOP_K: Final = 100
MAX_BATCH: Final = 1_024
MAX_STEP_BYTES: Final = 16_384
REPORT: Final = "report"  # what a step did that says how the run ended
MAX_BATCH_BYTES: Final = 832 << 10  # of texts in one request: its answer repeats them and must fit a frame
REPLY_BYTES: Final = 768 << 10  # of texts in an answer that is cut to fit a frame
MAX_PROVEN: Final = 256  # memories and traces that a proof lists one by one
MAX_PATH: Final = 4_096
MAX_EVALUATED: Final = 2_000  # runs
MAX_LEARNING_BYTES: Final = 1 << 26  # of what was learned, in an import
MAX_SEQ: Final = (1 << 63) - 1  # what the log and the arrays count to


class Ask(Struct, Generic[R_co], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that is answered by an `R_co`."""


class Tell(Struct, frozen=True, kw_only=True):
    """A message that is not answered."""


class Done(Struct, frozen=True, kw_only=True):
    """The answer of a request that has nothing else to say."""


# --- events ---


class Publish(Ask["Published"], frozen=True, kw_only=True):
    """Append events to the log; `ack` says how far they must have come before the answer."""

    events: tuple[Event, ...]
    ack: Ack = "stored"

    def __post_init__(self) -> None:
        if not 1 <= len(self.events) <= MAX_BATCH:
            raise InvalidMessage("wrong number of events", field="events", hint=f"send 1 to {MAX_BATCH} at a time")


class Published(Struct, frozen=True, kw_only=True):
    receipts: tuple[Receipt, ...]


class Subscribe(Ask["Subscribed"], frozen=True, kw_only=True):
    """Send events as they come; `topic` is a type, a `prefix.*` or `*`. With `after`, what was missed comes first."""

    topic: str = "*"
    after: Seq | None = None

    def __post_init__(self) -> None:
        prefix = self.topic.removesuffix("*").removesuffix(".")
        if self.topic != "*" and (not prefix or "*" in prefix or self.topic.endswith("*") != self.topic.endswith(".*")):
            raise InvalidMessage("not a topic", field="topic", hint="use an event type, 'prefix.*' or '*'")
        if self.after is not None and not 0 <= self.after <= MAX_SEQ:
            raise InvalidMessage("no such cursor", field="after", hint="use 0 for everything that is kept")


class Subscribed(Struct, frozen=True, kw_only=True):
    """`after` is the cursor from which the stream begins."""

    after: Seq


# --- memories ---


class Remember(Ask["Remembered"], frozen=True, kw_only=True):
    """Keep these texts as memories: one durable batch."""

    drafts: tuple[Draft, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.drafts) <= MAX_BATCH:
            raise InvalidMessage("wrong number of memories", field="drafts", hint=f"send 1 to {MAX_BATCH} at a time")
        if sum(len(draft.text.encode()) for draft in self.drafts) > MAX_BATCH_BYTES:
            raise InvalidMessage(
                "too much text", field="drafts", hint=f"send at most {MAX_BATCH_BYTES} bytes at a time"
            )


class Import(Ask["Remembered"], frozen=True, kw_only=True):
    """Keep these records with the vectors they bring, made by the model `model_sha256`: nothing is embedded again."""

    records: tuple[MemoryRecord, ...]
    model_sha256: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.records) <= MAX_BATCH:
            raise InvalidMessage("wrong number of memories", field="records", hint=f"send 1 to {MAX_BATCH} at a time")
        for number, record in enumerate(self.records):
            place = f"records[{number}]"
            checked_text(record.text, f"{place}.text")
            checked_members((record.kind,), MemoryKind, f"{place}.kind")
            checked_members((record.source,), MemorySource, f"{place}.source")
            checked_quality(record.quality_score, f"{place}.quality_score")
            ids.record_id(record.id)
            ids.label(record.session_id, f"{place}.session_id")
            checked_moment(record.timestamp, f"{place}.timestamp")
            checked_metadata(record.metadata, f"{place}.metadata")


class Remembered(Struct, frozen=True, kw_only=True):
    """The memories as they were kept; `duplicates` counts those that were there before."""

    records: tuple[MemoryRecord, ...]
    duplicates: int = 0


class Recall(Ask["Recalled"], frozen=True, kw_only=True):
    """Find what resembles `query`.

    What it says about time counts from `now`, the daemon's clock if absent, in `timezone`, that of the configuration if absent;
    `time` says what becomes of it. Another `branch` than the one in use may answer, and the memory as it stood at the moment
    `as_of`. With `explain` the answer says how it came about. A `lexical` one asks for words alone: the query is not embedded.
    What is less relevant than `min_relevance`, from 0 to 1, does not answer; CONTEXT_RELEVANCE is one for what a model will
    read.
    """

    query: str
    top_k: int = 5
    filter: MemoryFilter = ANY
    now: Moment | None = None
    timezone: str | None = None
    time: TimeUse = "prefer"
    branch: BranchName | None = None
    as_of: Moment | None = None
    explain: bool = False
    lexical: bool = False
    min_relevance: float = 0.0

    def __post_init__(self) -> None:
        checked_text(self.query, "query", MAX_QUERY_BYTES)
        checked_relevance(self.min_relevance, "min_relevance")
        _check_time(self.now, self.timezone, self.time)
        checked_moment(self.as_of, "as_of")
        if self.branch is not None:
            ids.branch_name(self.branch)
        if not 1 <= self.top_k <= MAX_TOP_K:
            raise InvalidMessage("top_k out of range", field="top_k", hint=f"use 1 to {MAX_TOP_K}")


def _check_time(now: Moment | None, timezone: str | None, use: TimeUse) -> None:
    checked_moment(now, "now")
    checked_zone(timezone, "timezone")
    if use not in get_args(TimeUse):
        raise InvalidMessage("no such use of time", field="time", hint="use prefer, filter or ignore")


class SpokenTime(Struct, frozen=True, kw_only=True):
    """The time that a query speaks of, in the words `phrases`: from `since`, inclusive, up to `until`, exclusive.

    `anchor` is the memory whose moment stands for an event that they name, such as "before the release".
    """

    phrases: tuple[str, ...]
    use: TimeUse
    since: Moment | None = None
    until: Moment | None = None
    anchor: RecordId | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """How an answer came about.

    `terms` are the words that were looked up, with what each is worth by its rarity; `pruned` ones were too common. So many
    `candidates` were scored. `understood_ms` went by until the query was embedded and its words were looked up, which happens
    at the same time; `ranked_ms` until the candidates were scored. `time` is there if the query speaks of one that was used.
    """

    terms: dict[str, float]
    pruned: tuple[str, ...]
    candidates: int
    understood_ms: float
    ranked_ms: float
    time: SpokenTime | None = None


class Recalled(Struct, frozen=True, kw_only=True):
    """The memories that fit, best first.

    `tier` names how vectors were searched (`exact`, `mapped`, `codes`, `hnsw`), `lexical` when only words were. `partial`
    names what is missing: `vectors` when the query could not be embedded, in time or for want of a model, `words` when some
    memories are not in the words index yet, `global` when the global store could not be asked in time, `size` when the last
    memories did not fit the answer, `history` when something that was there at the moment `as_of` has been erased since.
    `best_relevance` is the largest there was, also when no memory was relevant enough; 0 when there was none.
    """

    memories: tuple[RetrievedMemory, ...]
    tier: str
    partial: tuple[str, ...] = ()
    best_relevance: float = 0.0
    elapsed_ms: float = 0.0
    plan: Plan | None = None


class Why(Ask["Explained"], frozen=True, kw_only=True):
    """Say where the memory `id` stands among those that `query` asks for, and why, whether it would be found or not.

    `now`, `timezone` and `time` are those of a Recall.
    """

    query: str
    id: RecordId
    filter: MemoryFilter = ANY
    now: Moment | None = None
    timezone: str | None = None
    time: TimeUse = "prefer"
    branch: BranchName | None = None
    as_of: Moment | None = None

    def __post_init__(self) -> None:
        checked_text(self.query, "query", MAX_QUERY_BYTES)
        _check_time(self.now, self.timezone, self.time)
        checked_moment(self.as_of, "as_of")
        ids.record_id(self.id)
        if self.branch is not None:
            ids.branch_name(self.branch)


class Explained(Struct, frozen=True, kw_only=True):
    """Where a memory stands: at this `place` among the `plan.candidates`, 1 being the best.

    When it does not `pass` the filter, it would not be there at all, and this is where it would stand otherwise.
    """

    memory: RetrievedMemory
    place: int
    passes: bool
    plan: Plan
    tier: str
    partial: tuple[str, ...] = ()


class Forget(Ask["Forgotten"], frozen=True, kw_only=True):
    """Forget by id, by session, what is older than `before`, or everything: exactly one of the four.

    It is hidden at once. With `now` the answer waits until the bytes are gone too, and brings the proof; with `everywhere`
    other branches forget it as well.
    """

    ids: tuple[RecordId, ...] = ()
    session_id: str | None = None
    before: Moment | None = None
    everything: bool = False
    now: bool = False
    everywhere: bool = False

    def __post_init__(self) -> None:
        checked_moment(self.before, "before")
        chosen = [bool(self.ids), self.session_id is not None, self.before is not None, self.everything]
        if sum(chosen) != 1:
            raise InvalidMessage(
                "nothing or too much to forget",
                field="ids",
                hint="give ids, session_id, before or everything: just one",
            )
        for each in self.ids:
            ids.record_id(each)


class ErasedRecord(Struct, frozen=True, kw_only=True):
    """One memory that is gone, by its id and the SHA-256, in hex, of its text and of its vector's bytes."""

    id: RecordId
    text_sha256: str
    vector_sha256: str


class ScannedFile(Struct, frozen=True, kw_only=True):
    """A file of the data directory that was looked through, its size, and its SHA-256 in hex as it was then."""

    file: str
    bytes: int
    sha256: str


class FoundTrace(Struct, frozen=True, kw_only=True):
    """Something that still stands at this place, and what it is."""

    file: str
    offset: int
    what: str


class ErasureProof(Struct, frozen=True, kw_only=True):
    """What was erased, when, which files were looked through for it afterwards, and what was found.

    At most the first MAX_PROVEN memories and traces are listed; `records_sha256` covers the ids, texts and vectors of all.
    """

    at: Moment
    records: tuple[ErasedRecord, ...]
    records_sha256: str
    files: tuple[ScannedFile, ...]
    traces: tuple[FoundTrace, ...]


class Forgotten(Struct, frozen=True, kw_only=True):
    """How many memories are gone, and how many events of the log lost their text with them.

    `kept_in` names where the text still is: `history` until the file is compacted, and branches that hold it.
    """

    records: int
    events: int
    kept_in: tuple[str, ...] = ()
    proof: ErasureProof | None = None


class Export(Ask["Exported"], frozen=True, kw_only=True):
    """Read memories with their vectors in the order of arrival, from row `after` on; of another branch, if one is named."""

    after: int = 0
    limit: int = 256
    branch: BranchName | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.after <= MAX_SEQ or not 1 <= self.limit <= MAX_BATCH:
            raise InvalidMessage(
                "page out of range", field="limit", hint=f"use after >= 0 and a limit of 1 to {MAX_BATCH}"
            )
        if self.branch is not None:
            ids.branch_name(self.branch)


class Exported(Struct, frozen=True, kw_only=True):
    records: tuple[MemoryRecord, ...]
    model: str
    model_sha256: str
    next: int | None


# --- branches ---


class CreateBranch(Ask["Done"], frozen=True, kw_only=True):
    """Begin a branch of what the branch `of` holds now; without one, of the branch in use."""

    name: BranchName
    of: BranchName | None = None

    def __post_init__(self) -> None:
        ids.branch_name(self.name)
        if self.of is not None:
            ids.branch_name(self.of)


class ListBranches(Ask["Branches"], frozen=True, kw_only=True):
    """Ask which branches the memory has."""


class BranchInfo(Struct, frozen=True, kw_only=True):
    """A branch: `records` are those that it holds, `own_records` those of them that stand in its own file.

    `parent` and `created` are None for the main line.
    """

    name: BranchName
    parent: BranchName | None
    created: Moment | None
    is_current: bool
    records: int
    own_records: int
    file_bytes: int


class Branches(Struct, frozen=True, kw_only=True):
    branches: tuple[BranchInfo, ...]


class SwitchBranch(Ask["Done"], frozen=True, kw_only=True):
    """Use the branch `name` from now on: what comes is added to it, and it answers."""

    name: BranchName

    def __post_init__(self) -> None:
        ids.branch_name(self.name)


class CompareBranches(Ask["Compared"], frozen=True, kw_only=True):
    """Ask which memories `name` holds and `other` does not, and the other way round; `other` is the one in use if absent."""

    name: BranchName
    other: BranchName | None = None
    limit: int = 20

    def __post_init__(self) -> None:
        ids.branch_name(self.name)
        if self.other is not None:
            ids.branch_name(self.other)
        if not 0 <= self.limit <= MAX_BATCH:
            raise InvalidMessage("limit out of range", field="limit", hint=f"use 0 to {MAX_BATCH}")


class Compared(Struct, frozen=True, kw_only=True):
    """How many memories only the branch holds, how many only the other one, and the newest of either."""

    name: BranchName
    other: BranchName
    only_here: int
    only_there: int
    here: tuple[MemoryRecord, ...]
    there: tuple[MemoryRecord, ...]


class MergeBranch(Ask["Merged"], frozen=True, kw_only=True):
    """Bring what happened on the branch `name`, since the two parted, to the branch in use."""

    name: BranchName

    def __post_init__(self) -> None:
        ids.branch_name(self.name)


class Merged(Struct, frozen=True, kw_only=True):
    """How many memories and trajectories came, and how many memories went."""

    added: int
    removed: int
    trajectories: int


class DropBranch(Ask["Done"], frozen=True, kw_only=True):
    """Remove a branch, and what only it holds."""

    name: BranchName

    def __post_init__(self) -> None:
        ids.branch_name(self.name)


# --- trajectories ---


class BeginTrajectory(Ask["TrajectoryBegun"], frozen=True, kw_only=True):
    """Open a trajectory for a question and the memories that were shown for it."""

    query: str
    shown: tuple[RecordId, ...] = ()

    def __post_init__(self) -> None:
        checked_text(self.query, "query", MAX_QUERY_BYTES)
        _check_count(self.shown, "shown")
        for each in self.shown:
            ids.record_id(each)


def _check_count(memories: tuple[RecordId, ...], field: str) -> None:
    if len(memories) > MAX_BATCH:
        raise InvalidMessage("too many memories", field=field, hint=f"name at most {MAX_BATCH}")


class TrajectoryBegun(Struct, frozen=True, kw_only=True):
    id: TrajectoryId


class AddStep(Ask["Done"], frozen=True, kw_only=True):
    """Add what was done to an open trajectory."""

    id: TrajectoryId
    action: str
    text: str = ""

    def __post_init__(self) -> None:
        checked_text(self.action, "action", MAX_STEP_BYTES)
        if self.text:
            checked_text(self.text, "text", MAX_STEP_BYTES)


class EndTrajectory(Ask["Trajectory"], frozen=True, kw_only=True):
    """Close a trajectory with its outcome; `helped` and `harmful` must be among the memories shown.

    A `report` says in words how it ended: it becomes the last step, REPORT.
    """

    id: TrajectoryId
    quality: float
    helped: tuple[RecordId, ...] = ()
    harmful: tuple[RecordId, ...] = ()
    report: str = ""

    def __post_init__(self) -> None:
        checked_quality(self.quality, "quality")
        _check_count(self.helped, "helped")
        _check_count(self.harmful, "harmful")
        if self.report:
            checked_text(self.report, "report", MAX_STEP_BYTES)


class ListTrajectories(Ask["Trajectories"], frozen=True, kw_only=True):
    """Read the newest trajectories, the last one first."""

    limit: int = 100

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_BATCH:
            raise InvalidMessage("limit out of range", field="limit", hint=f"use 1 to {MAX_BATCH}")


class Trajectories(Struct, frozen=True, kw_only=True):
    trajectories: tuple[Trajectory, ...]


# --- learning ---


class GetLearning(Ask["LearningStatus"], frozen=True, kw_only=True):
    """Ask what was learned from this user's runs."""


class SetLearning(Ask["LearningStatus"], frozen=True, kw_only=True):
    """Switch the user's learning on or off, or choose another profile; what is None stays as it is.

    Another profile keeps runs, as many as it has room for, and begins with new weights.
    """

    enabled: bool | None = None
    profile: str | None = None


class RollbackLearning(Ask["LearningStatus"], frozen=True, kw_only=True):
    """Go back to an earlier generation of weights."""

    generations: int = 1


class ExportLearning(Ask["LearningExported"], frozen=True, kw_only=True):
    """Read what was learned, page by page: all of it, the weights alone, or patterns in the JSON of the published engine.

    The first page begins an export; the others name its `sha256`.
    """

    form: Form = "state"
    after: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise InvalidMessage("no such form", field="form", hint="use " + ", ".join(get_args(Form)))
        if not 0 <= self.after <= MAX_SEQ:
            raise InvalidMessage("page out of range", field="after", hint="use 0, or the `next` of the page before")


class LearningExported(Struct, frozen=True, kw_only=True):
    """A page of a document of `size` bytes; `next` is where the following one begins, None at the end."""

    data: bytes
    size: int
    sha256: str
    next: int | None


class ImportLearning(Ask["LearningStatus"], frozen=True, kw_only=True):
    """Begin with what was exported: `data` is the part of it behind `after`, and with the part that reaches `size` it is used.

    With `replace` it is taken by who has learned something, too: it is in the place of that then.
    """

    data: bytes
    size: int
    after: int = 0
    replace: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_LEARNING_BYTES:
            raise InvalidMessage("size out of range", field="size", hint=f"1 to {MAX_LEARNING_BYTES} bytes")
        if not 0 <= self.after <= self.size or not self.data:
            raise InvalidMessage("no such part", field="after", hint="send the parts in order, none of them empty")


class LearningStatus(Struct, frozen=True, kw_only=True):
    """What was learned: `runs` of `seen` are held, of at most `room`; in `positive` of them something is known to have helped.

    Of `archived` others it is known what helped.
    `generation` is that of the weights in use, and so many `earlier` ones can be gone back to. The guard `accepted` so many fits, and
    `refused` so many. The next comes after `due_in` runs. `outcome` and `gain`, in nats, are those of the last one. `base` and `micro` say how far the adapters
    bend a question (Frobenius norm); `tasks` how often weights were consolidated.
    """

    enabled: bool
    profile: str
    runs: int
    seen: int
    room: int
    positive: int
    generation: int
    accepted: int
    refused: int
    earlier: int
    due_in: int
    outcome: str
    gain: float | None
    base: float
    micro: float
    tasks: int
    archived: int = 0


class EvaluateLearning(Ask["LearningEvaluated"], frozen=True, kw_only=True):
    """Ask whether learning helps this user, by their last `runs`: each is asked again with what those before it taught."""

    runs: int = 1_000

    def __post_init__(self) -> None:
        if not 1 <= self.runs <= MAX_EVALUATED:
            raise InvalidMessage("number of runs out of range", field="runs", hint=f"use 1 to {MAX_EVALUATED}")


class Interval(Struct, frozen=True, kw_only=True):
    """A mean, and where it lies with a chance of 95 %."""

    mean: float
    low: float
    high: float


class EvaluatedGeneration(Struct, frozen=True, kw_only=True):
    """So many `runs` asked again: nDCG@10 `without` learning, with what was `learned` before each, and the `change` between the two.

    What helped in the run is worth 1, what was harmful -1; the scale goes from 0, the worst order, to 1, the best. What was not
    shown was not judged, and is worth nothing.
    """

    runs: int
    without: Interval
    learned: Interval
    change: Interval


class LearningEvaluated(Struct, frozen=True, kw_only=True):
    """What came of going through `runs` again: in generations, one after the other in time, and as a `whole`.

    Only runs that name what helped or was harmful are asked again, and the first sixth of them is only learned from. The guard
    `accepted` so many fits on the way, and `refused` so many.
    """

    runs: int
    generations: tuple[EvaluatedGeneration, ...]
    whole: EvaluatedGeneration
    verdict: Verdict
    accepted: int
    refused: int


class ListPatterns(Ask["Patterns"], frozen=True, kw_only=True):
    """Ask what is asked again and again, the largest patterns first; with a `query` those that are nearest to it."""

    limit: int = 20
    query: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_BATCH:
            raise InvalidMessage("limit out of range", field="limit", hint=f"use 1 to {MAX_BATCH}")
        if self.query:
            checked_text(self.query, "query", MAX_QUERY_BYTES)


class MemoryValue(Struct, frozen=True, kw_only=True):
    """A memory that was shown to so many `runs` of a pattern, and its mean value there, from 1, it helped, to -1, it did harm."""

    id: RecordId
    runs: int
    value: float


class PatternInfo(Struct, frozen=True, kw_only=True):
    """`runs` that asked alike: an `example` of the questions, how well they went, what helped or did harm, and how near they are to the query asked with."""

    example: str
    runs: int
    quality: float
    values: tuple[MemoryValue, ...]
    last: Moment
    cosine: float | None = None


class Patterns(Struct, frozen=True, kw_only=True):
    patterns: tuple[PatternInfo, ...]


class ListLessons(Ask["Lessons"], frozen=True, kw_only=True):
    """Ask which runs learning knows or awaits, the newest first."""

    limit: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_BATCH:
            raise InvalidMessage("limit out of range", field="limit", hint=f"use 1 to {MAX_BATCH}")


class LessonInfo(Struct, frozen=True, kw_only=True):
    """A run: `when` it ended, or began if it goes on; how many memories were `shown`, `helped` or were `harmful`.

    It `is_learned` as it is judged now, or is awaited. What `is_coarse` says only how it ended.
    """

    id: TrajectoryId
    when: Moment
    query: str
    shown: int
    helped: int
    harmful: int
    quality: float | None
    is_learned: bool
    is_coarse: bool


class Lessons(Struct, frozen=True, kw_only=True):
    lessons: tuple[LessonInfo, ...]


# --- the global store ---


class PublishGlobal(Ask["Done"], frozen=True, kw_only=True):
    """Copy memories of this user into the global knowledge store."""

    ids: tuple[RecordId, ...]

    def __post_init__(self) -> None:
        _check_ids(self.ids)


class UnpublishGlobal(Ask["Done"], frozen=True, kw_only=True):
    """Take this user's memories out of the global knowledge store again."""

    ids: tuple[RecordId, ...]

    def __post_init__(self) -> None:
        _check_ids(self.ids)


def _check_ids(which: tuple[RecordId, ...]) -> None:
    if not 1 <= len(which) <= MAX_BATCH:
        raise InvalidMessage("wrong number of ids", field="ids", hint=f"send 1 to {MAX_BATCH} at a time")
    for each in which:
        ids.record_id(each)


# --- operations ---


class GetStatus(Ask["Status"], frozen=True, kw_only=True):
    """Ask how the daemon is, and with `of_user` also how the user's memory is."""

    of_user: bool = False


class MailboxStatus(Struct, frozen=True, kw_only=True):
    """One actor in the tree. `oldest_s` is the age of the oldest waiting message in seconds."""

    path: str
    phase: str
    depth: int
    depth_bytes: int
    oldest_s: float
    restarts: int
    children: int = 0
    last_error: str = ""


class UserStatus(Struct, frozen=True, kw_only=True):
    """The memory of one user, as far as it is open: the branch in use.

    The weights that were learned are of a `generation`, 0 being none of one's own; `last_fit` is what came of fitting them last, empty if they
    never were.
    """

    user: str
    branch: BranchName
    records: int
    trajectories: int
    applied_seq: Seq
    committed_seq: Seq
    file_bytes: int
    dead_bytes: int
    resident_bytes: int
    is_learning: bool
    generation: int
    last_fit: str


class Status(Struct, frozen=True, kw_only=True):
    """How the daemon is, on one screen.

    `lag_events` counts stored events that are not yet committed to their user's file. `model_fault` says why there is no
    embedding model and how to mend that, and is empty when there is one. Learning is on if it `is_learning`; of the resident users
    so many are `users_learning`, and the last fit of weights was accepted for `users_accepted`, and refused for `users_refused`.
    """

    version: str
    pid: int
    uptime_s: float
    data_dir: str
    socket: str
    model: str
    model_variant: str
    model_sha256: str
    dim: int
    users_known: int
    users_resident: int
    users_quarantined: int
    records_resident: int
    resident_bytes: int
    is_learning: bool
    users_learning: int
    users_accepted: int
    users_refused: int
    rss_bytes: int
    events_last_seq: Seq
    lag_events: int
    parked_events: int
    unmapped: dict[str, int]
    restarts: int
    embed_waiting: int
    loop_stall_p999_ms: float
    loop_stall_max_ms: float
    mailboxes: tuple[MailboxStatus, ...]
    user: UserStatus | None = None
    model_fault: str = ""


class GetTree(Ask["Tree"], frozen=True, kw_only=True):
    """Ask for the supervision tree, resident users included."""


class Tree(Struct, frozen=True, kw_only=True):
    actors: tuple[MailboxStatus, ...]


class GetMetrics(Ask["Metrics"], frozen=True, kw_only=True):
    """Ask for the metrics in Prometheus' text format."""


class Metrics(Struct, frozen=True, kw_only=True):
    text: str


class Verify(Ask["Verified"], frozen=True, kw_only=True):
    """Read every byte of the user's files and check it; with `repair`, first make anew what can be derived."""

    repair: bool = False


class VerifyFinding(Struct, frozen=True, kw_only=True):
    what: str
    offset: int
    hint: str
    file: str = ""


class Verified(Struct, frozen=True, kw_only=True):
    """What is wrong with the file; empty when all is well."""

    findings: tuple[VerifyFinding, ...]


class Backup(Ask["BackupProgress"], frozen=True, kw_only=True):
    """Add a snapshot of everything to the backup in `folder`, an absolute path on the daemon's machine.

    Answered by a stream, which ends behind the progress that says what was made.
    """

    folder: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.folder)
        if not path.is_absolute() or ".." in path.parts or not self.folder.isprintable() or len(self.folder) > MAX_PATH:
            raise InvalidMessage("not a usable folder", field="folder", hint="give an absolute path without '..'")


class OmittedFile(Struct, frozen=True, kw_only=True):
    """A file that could not be read, by its name below the data directory."""

    name: str
    offset: int
    what: str


class SnapshotMade(Struct, frozen=True, kw_only=True):
    """One more snapshot in a backup.

    `bytes` stand in its files, and the backup has grown by `bytes_written`, packed. With `omitted_files` it is partial;
    `omitted` names the first of them. `last_seq` is the last event in it, None when it has no event log.
    """

    snapshot: int
    users: int
    files: int
    bytes: int
    bytes_written: int
    last_seq: Seq | None
    omitted_files: int = 0
    omitted: tuple[OmittedFile, ...] = ()


class BackupProgress(Struct, frozen=True, kw_only=True):
    """How far a backup is; the last one says what was made."""

    users: int
    users_done: int
    bytes_read: int
    bytes_written: int
    made: SnapshotMade | None = None


class GetParked(Ask["Parked"], frozen=True, kw_only=True):
    """Ask which events of the user were put aside."""


class ParkedItem(Struct, frozen=True, kw_only=True):
    seq: Seq
    event_id: str
    type: str
    error: str
    parked_at: Moment


class Parked(Struct, frozen=True, kw_only=True):
    items: tuple[ParkedItem, ...]


class Unpark(Ask["Unparked"], frozen=True, kw_only=True):
    """Try parked events again, or drop them for good."""

    seqs: tuple[Seq, ...]
    drop: bool = False


class Unparked(Struct, frozen=True, kw_only=True):
    events: int


# The kinds of the wire protocol: the name a frame carries and the message it becomes.
REQUESTS: Final[Mapping[str, type[Ask[object]]]] = {
    "publish": Publish,
    "subscribe": Subscribe,
    "remember": Remember,
    "import": Import,
    "recall": Recall,
    "why": Why,
    "forget": Forget,
    "export": Export,
    "create_branch": CreateBranch,
    "list_branches": ListBranches,
    "switch_branch": SwitchBranch,
    "compare_branches": CompareBranches,
    "merge_branch": MergeBranch,
    "drop_branch": DropBranch,
    "begin_trajectory": BeginTrajectory,
    "add_step": AddStep,
    "end_trajectory": EndTrajectory,
    "list_trajectories": ListTrajectories,
    "learning": GetLearning,
    "set_learning": SetLearning,
    "rollback_learning": RollbackLearning,
    "evaluate_learning": EvaluateLearning,
    "export_learning": ExportLearning,
    "import_learning": ImportLearning,
    "list_patterns": ListPatterns,
    "list_lessons": ListLessons,
    "publish_global": PublishGlobal,
    "unpublish_global": UnpublishGlobal,
    "status": GetStatus,
    "tree": GetTree,
    "metrics": GetMetrics,
    "verify": Verify,
    "backup": Backup,
    "parked": GetParked,
    "unpark": Unpark,
}
REPLIES: Final[Mapping[type[Ask[object]], type[Struct]]] = {
    Publish: Published,
    Subscribe: Subscribed,
    Remember: Remembered,
    Import: Remembered,
    Recall: Recalled,
    Why: Explained,
    Forget: Forgotten,
    Export: Exported,
    CreateBranch: Done,
    ListBranches: Branches,
    SwitchBranch: Done,
    CompareBranches: Compared,
    MergeBranch: Merged,
    DropBranch: Done,
    BeginTrajectory: TrajectoryBegun,
    AddStep: Done,
    EndTrajectory: Trajectory,
    ListTrajectories: Trajectories,
    GetLearning: LearningStatus,
    SetLearning: LearningStatus,
    RollbackLearning: LearningStatus,
    EvaluateLearning: LearningEvaluated,
    ExportLearning: LearningExported,
    ImportLearning: LearningStatus,
    ListPatterns: Patterns,
    ListLessons: Lessons,
    PublishGlobal: Done,
    UnpublishGlobal: Done,
    GetStatus: Status,
    GetTree: Tree,
    GetMetrics: Metrics,
    Verify: Verified,
    Backup: BackupProgress,
    GetParked: Parked,
    Unpark: Unparked,
}
KIND_OF: Final[Mapping[type[Ask[object]], str]] = {message: kind for kind, message in REQUESTS.items()}
