"""What the actors of one daemon say to each other; none of it crosses the socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from memoryd.protocol.events import Event, StoredEvent
from memoryd.protocol.ids import EventId, RecordId, Seq, UserId
from memoryd.protocol.interfaces import Appended, Embeddings, LogStatus, ParkedEvent
from memoryd.protocol.messages import Ask, Done, Tell, UserStatus
from memoryd.protocol.records import Draft, MemoryFilter, MemoryRecord, RetrievedMemory

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Meaning, Vectors

# --- to the EventRelay ---


class Append(Ask[tuple[Appended, ...]], frozen=True, kw_only=True):
    """Store these events of one user; answered when they are fsynced."""

    user: UserId
    events: tuple[Event, ...]
    weight: int


class Enqueue(Tell, frozen=True, kw_only=True):
    """Store these events of one user soon; nobody waits."""

    user: UserId
    events: tuple[Event, ...]
    weight: int


class ReadEvents(Ask[tuple[StoredEvent, ...]], frozen=True, kw_only=True):
    """Read the log forward from `after`, of one user or of all."""

    after: Seq
    limit: int
    user: UserId | None = None


class EraseEvents(Ask[int], frozen=True, kw_only=True):
    """Overwrite the payloads of these events, or of all events of the user; answers how many."""

    user: UserId
    events: tuple[EventId, ...] | None


class Rewind(Ask[Seq], frozen=True, kw_only=True):
    """Carry again everything behind the memories' cursor; answers the cursor."""


class AdvanceCursor(Tell, frozen=True, kw_only=True):
    """Every event up to `seq` is committed by its user."""

    seq: Seq


class ParkEvent(Ask[Done], frozen=True, kw_only=True):
    """Put an event aside."""

    seq: Seq
    error: str


class ReadParked(Ask[tuple[ParkedEvent, ...]], frozen=True, kw_only=True):
    """List what was put aside."""


class UnparkEvents(Ask[int], frozen=True, kw_only=True):
    """Publish parked events again, or drop them; answers how many."""

    seqs: tuple[Seq, ...]
    drop: bool


class ReadLogStatus(Ask[LogStatus], frozen=True, kw_only=True):
    """Ask for the figures of the log."""


# --- on the EventBus ---


class Deliver(Tell, frozen=True, kw_only=True):
    """Events in the order of the log. `after` is where the stream stood before: a reader that missed that drops them."""

    after: Seq
    events: tuple[StoredEvent, ...]
    weight: int


# --- between the MemoryEventRelay and a MemoryAgent ---


class MappedEvent(Tell, frozen=True, kw_only=True):
    """What one event becomes for its user's memory."""

    seq: Seq
    drafts: tuple[Draft, ...]
    run: RunSignal | None = None
    feedback: Feedback | None = None


class RunSignal(Tell, frozen=True, kw_only=True):
    """What an event says about the run it belongs to. `quality` in [0, 1] comes with the end.

    `query` comes with the beginning. `signal` tells whether the step, or the whole, went well; None when nothing says.
    """

    phase: Literal["begin", "step", "end"]
    run_id: str
    query: str = ""
    quality: float | None = None
    signal: Literal["positive", "negative"] | None = None


class Feedback(Tell, frozen=True, kw_only=True):
    """A judgement on something that was cited: `cited` is what it names, `run_id` the run that cited it."""

    signal: Literal["positive", "negative"]
    run_id: str
    cited: str
    citation: str


class Ingest(Tell, frozen=True, kw_only=True):
    """The next events of a user. `after` is the last one sent before; the agent drops the batch if it missed that."""

    after: Seq
    items: tuple[MappedEvent, ...]
    weight: int


class CommitUpTo(Tell, frozen=True, kw_only=True):
    """Somebody waits until the event `seq` is committed: do not wait for company."""

    seq: Seq


class Applied(Tell, frozen=True, kw_only=True):
    """The user's events up to `seq` can be recalled; there is room for more."""

    user: UserId
    seq: Seq


class Committed(Tell, frozen=True, kw_only=True):
    """The user's events up to `seq` are in the user's file."""

    user: UserId
    seq: Seq


class Resume(Tell, frozen=True, kw_only=True):
    """A new incarnation of the user's agent has everything up to `seq`; send what follows."""

    user: UserId
    seq: Seq


class Crashed(Tell, frozen=True, kw_only=True):
    """The user's agent failed while it applied these events."""

    user: UserId
    seqs: tuple[Seq, ...]
    error: str


class AwaitCommitted(Ask[Done], frozen=True, kw_only=True):
    """Answer when every event of the user up to `seq` is committed."""

    user: UserId
    seq: Seq


class Fetch(Ask["Fetched"], frozen=True, kw_only=True):
    """Ask an agent for some records with their vectors. Raises NotFound for an unknown id."""

    ids: tuple[RecordId, ...]


class Fetched(Tell, frozen=True, kw_only=True):
    """Records and their vectors, float32 [n, dim]."""

    records: tuple[MemoryRecord, ...]
    vectors: Vectors


class Repair(Ask["Done"], frozen=True, kw_only=True):
    """Make anew what follows from records and vectors in the files of the user."""


class ObserveUser(Ask[UserStatus], frozen=True, kw_only=True):
    """Ask for the figures of one user's memory."""


# --- to the KnowledgeActor ---


class QueryGlobal(Ask[tuple[RetrievedMemory, ...]], frozen=True, kw_only=True):
    """Find published memories, see `GlobalStore`; those of `asked_by` are left out, since its own file has them."""

    query: str
    meaning: Meaning | None
    top_k: int
    filter: MemoryFilter
    preferred: MemoryFilter | None
    explain: bool
    asked_by: UserId


class AddGlobal(Ask[Done], frozen=True, kw_only=True):
    """Publish copies of these records, with their vectors, float32 [n, dim]."""

    user: UserId
    records: tuple[MemoryRecord, ...]
    vectors: Vectors


class RemoveGlobal(Ask[Done], frozen=True, kw_only=True):
    """Take back what the user published; None takes back everything."""

    user: UserId
    ids: tuple[RecordId, ...] | None


# --- to the EmbedderActor ---


class Embed(Ask[Embeddings], frozen=True, kw_only=True):
    """Embed these texts; a recall overtakes ingestion."""

    texts: tuple[str, ...]
    urgent: bool
    weight: int


class ForgetTexts(Tell, frozen=True):
    """Let go of the vectors of all texts that were embedded lately: one of them is to leave no trace."""
