"""The event log in one SQLite file.

One connection writes and one reads, each under its own lock, so reading goes on while a group of events is being
fsynced. Every call is safe from any thread, and blocks; call it from a pool.
"""
# ruff: noqa: S608  # the statements are put together from constants of this module; values are always bound

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final

import msgspec

from memoryd.protocol.errors import (
    CursorTooOld,
    Damaged,
    InvalidMessage,
    Locked,
    NotFound,
    ShuttingDown,
    StorageFault,
)
from memoryd.protocol.events import Event, JsonObject, Moment, StoredEvent
from memoryd.protocol.ids import EventId, Seq, UserId
from memoryd.protocol.interfaces import Appended, LogStatus, ParkedEvent
from memoryd.stores.copies import settle
from memoryd.stores.schema import ERASED, KEPT, TRUNCATED, fault, open_reader, open_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_KEEP: Final = f"INSERT INTO events (user, event_id, type, body, state, stored_at) VALUES (?, ?, ?, ?, {KEPT}, ?)"
_KNOWN: Final = "SELECT seq FROM events WHERE user = ? AND event_id = ?"
_READABLE: Final = f"state = {KEPT} AND seq NOT IN (SELECT seq FROM parked)"
_NEXT: Final = f"seq > ? AND {_READABLE} ORDER BY seq LIMIT ?"
_READ: Final = f"SELECT seq, user, event_id, type, body FROM events WHERE {_NEXT}"
_READ_USER: Final = f"SELECT seq, user, event_id, type, body FROM events WHERE user = ? AND {_NEXT}"
_FIRST: Final = f"SELECT coalesce(min(seq), 0) FROM events WHERE seq > ? AND {_READABLE}"
# As many spaces as there were bytes: a row of the same size is overwritten where it stands.
_OVERWRITE: Final = (
    f"UPDATE events SET state = {ERASED}, body = printf('%.*c', length(CAST(body AS BLOB)), ' ') WHERE state = {KEPT}"
)
_ROWS_HAVE_MOVED: Final = "UPDATE log SET has_moved_rows = 1"
_LAST: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"

# How many rows one transaction of `truncate` looks at: appends wait for it, some 25 ms.
_SLICE: Final = 2048

# How many pages one step of `copy` writes, some 5 ms, and how long others have their turn before the next.
_COPIED_PAGES: Final = 1024
_TURN_S: Final = 0.002

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Body(msgspec.Struct, frozen=True):
    """What an event says, apart from what it is found by."""

    timestamp: Moment
    actor: str
    session_id: str
    run_id: str
    payload: JsonObject


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Body).decode


class SqliteEventStore:
    """The durable, ordered log of events, as `EventStore` describes it.

    `clock` gives the present moment with its time zone. `max_bytes` bounds the file: beyond it `append` raises
    DiskFull. Raises ReadOnly, Damaged, Locked or another StorageFault when the file cannot be opened.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime], *, max_bytes: int | None = None) -> None:
        self._path = path
        self._clock = clock
        self._write_lock = Lock()
        self._read_lock = Lock()
        self._is_broken = False
        self._holds = 0
        try:
            self._writer = open_writer(path, max_bytes)
            self._reader = open_reader(path)
        except sqlite3.Error as error:
            raise fault(error) from error

    def append(self, events: Sequence[tuple[UserId, Event]]) -> Sequence[Appended]:
        """Append in one fsynced transaction, in order; an id that is known, or twice in `events`, keeps its number.

        Raises DiskFull, ReadOnly, Locked or another StorageFault, and InvalidMessage when a payload cannot be
        written as JSON; then nothing of the batch was kept.
        """
        rows = [_row(user, event) for user, event in events]
        now = _microseconds(self._clock())
        with self._writing() as writer:
            return [_append_row(writer, row, now) for row in rows]

    def read(self, after: Seq, limit: int, *, user: UserId | None = None) -> Sequence[StoredEvent]:
        """Return the next events in order, without parked and erased ones.

        Raises CursorTooOld, with the first number that can be read as `first`, when events after `after` were
        forgotten by age; for one user, only when some of them were that user's.
        """
        with self._reading() as reader:
            self._check_cursor(reader, after, user)
            if user is None:
                rows = reader.execute(_READ, (after, limit)).fetchall()
            else:
                rows = reader.execute(_READ_USER, (user, after, limit)).fetchall()
        return [_stored(row) for row in rows]

    def last_seq(self) -> Seq:
        """Return the highest number ever given, BEFORE_ALL in a new log."""
        with self._reading() as reader:
            return Seq(_number(reader, _LAST))

    def cursor(self, reader: str) -> Seq:
        with self._reading() as connection:
            return Seq(_number(connection, "SELECT coalesce(max(seq), 0) FROM cursors WHERE reader = ?", reader))

    def advance(self, reader: str, seq: Seq) -> None:
        with self._writing() as writer:
            writer.execute(
                "INSERT INTO cursors (reader, seq) VALUES (?, ?)"
                " ON CONFLICT (reader) DO UPDATE SET seq = max(seq, excluded.seq)",
                (reader, seq),
            )

    def truncate(self, older_than: datetime) -> int:
        """Forget the payloads of events that arrived before `older_than` and that every reader has passed.

        Age counts from arrival, since the sender's clock may be wrong, and a replay of last year's runs is new here.
        Numbers and ids stay, or a client that publishes again after an outage would double its events. Parked
        events stay whole. Without any cursor, and while the log is held, nothing is forgotten. Returns how many payloads
        were forgotten.
        """
        limit = _microseconds(older_than)
        total = 0
        while True:
            with self._writing() as writer:
                if self._holds:
                    return total
                forgotten, is_done = _truncate_slice(writer, limit)
            total += forgotten
            if is_done:
                return total

    def erase(self, user: UserId, events: Sequence[EventId] | None) -> int:
        """Overwrite what these events of the user say, or all of the user's events; numbers, ids and types stay.

        Afterwards neither the file nor its write-ahead log holds the bytes; what the file system keeps in blocks it
        has freed is beyond this. The first time after a truncation or an unparking the whole file is rewritten (see
        schema.py), which takes some 6 ms per MB and as much space again. Returns how many events were overwritten.
        Raises Locked when another program reads the log, or DiskFull: then the events are unreadable, and erasing
        again finishes the work.
        """
        condition = "user = ?" if events is None else "user = ? AND event_id = ?"
        rows: list[tuple[str, ...]] = [(user,)] if events is None else [(user, event) for event in events]
        with self._overwriting() as writer:
            writer.executemany(f"DELETE FROM parked WHERE seq IN (SELECT seq FROM events WHERE {condition})", rows)
            erased = writer.executemany(f"{_OVERWRITE} AND {condition}", rows).rowcount
        return max(0, erased)

    def park(self, seq: Seq, error: str) -> None:
        """Put an event aside; the second time its error is replaced.

        Raises NotFound for a number that was never given. An event that was forgotten meanwhile is left alone.
        """
        with self._writing() as writer:
            row = writer.execute("SELECT state FROM events WHERE seq = ?", (seq,)).fetchone()
            if row is None:
                raise NotFound("no such event", field="seq", seq=seq)
            if row[0] != KEPT:
                return
            writer.execute(
                "INSERT OR REPLACE INTO parked (seq, error, parked_at) VALUES (?, ?, ?)",
                (seq, error, _microseconds(self._clock())),
            )

    def parked(self) -> Sequence[ParkedEvent]:
        with self._reading() as reader:
            rows = reader.execute(
                "SELECT seq, user, event_id, type, error, parked_at FROM parked JOIN events USING (seq) ORDER BY seq"
            ).fetchall()
        return [
            ParkedEvent(Seq(seq), UserId(user), EventId(event), kind, error, _EPOCH + timedelta(microseconds=parked_at))
            for seq, user, event, kind, error, parked_at in rows
        ]

    def unpark(self, seqs: Sequence[Seq], *, drop: bool) -> Sequence[Seq]:
        """Publish parked events again under new numbers, or overwrite them as `erase` does; returns the new numbers.

        An event that is published again is known by its new number only. Raises NotFound when one of `seqs` is not
        parked; then nothing was done. Dropping raises Locked or DiskFull as `erase` does: then the events are
        unreadable but still parked, dropping them again finishes the work, and publishing leaves them alone.
        """
        if drop:
            self._drop(seqs)
            return []
        now = _microseconds(self._clock())
        with self._writing() as writer:
            return [_renumber(writer, seq, now) for seq in seqs if _parked_state(writer, seq) == KEPT]

    def status(self) -> LogStatus:
        """Return the figures of the log; counts the events one by one, some 60 ms per million."""
        with self._reading() as reader:
            truncated = _number(reader, "SELECT truncated FROM log")
            return LogStatus(
                first=Seq(_number(reader, _FIRST, truncated)),
                last=Seq(_number(reader, _LAST)),
                events=_number(reader, f"SELECT count(*) FROM events WHERE state = {KEPT}"),
                parked=_number(reader, "SELECT count(*) FROM parked"),
                file_bytes=self._file_bytes(),
                cursors=_cursors(reader),
            )

    def hold(self) -> Mapping[str, Seq]:
        """Forget nothing by age until `release`; return how far every reader has come."""
        with self._write_lock:
            self._holds += 1
        with self._reading() as reader:
            return _cursors(reader)

    def release(self) -> None:
        """Undo one `hold`."""
        with self._write_lock:
            self._holds -= 1

    def copy(self, path: Path, cursors: Mapping[str, Seq], goes_on: Callable[[], bool]) -> Seq:
        """Fill the empty file at `path` with a log of its own, and return the last number in it.

        It holds what this log holds when this returns; what is appended, erased or unparked meanwhile is in the copy too,
        and waits for one step of it at most. In the copy no reader has come further than `cursors` say. Raises Damaged,
        DiskFull or another StorageFault, and ShuttingDown when `goes_on` says no.
        """

        def let_others_write(_status: int, _remaining: int, _total: int) -> None:
            # A copy from the connection that writes is kept up to date; any other would have to begin anew.
            self._write_lock.release()
            try:
                time.sleep(_TURN_S)
                is_wanted = goes_on()
            finally:
                self._write_lock.acquire()
            if not is_wanted:
                raise ShuttingDown("the copy of the event log was given up", hint="try again")

        try:
            with closing(sqlite3.connect(path)) as target, self._write_lock:
                self._writer.backup(target, pages=_COPIED_PAGES, progress=let_others_write)
            return settle(path, cursors)
        except sqlite3.Error as error:
            raise fault(error) from error

    def close(self) -> None:
        """Close both connections; does nothing the second time."""
        with self._read_lock, self._write_lock:
            try:
                self._reader.close()
                self._writer.close()
            except sqlite3.Error as error:
                raise fault(error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            if self._is_broken:
                raise StorageFault("the event log was closed by a failed write", hint="open it anew")
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                    self._writer.execute("COMMIT")
                except BaseException:
                    # A full disk has already rolled it back.
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> StorageFault:
        translated = fault(error)
        # An fsync that failed has dropped the dirty pages: a second one would lie.
        self._is_broken = type(translated) in {StorageFault, Damaged}
        return translated

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock:
            try:
                # One transaction, so that all statements see the same moment.
                self._reader.execute("BEGIN")
                try:
                    yield self._reader
                finally:
                    self._reader.execute("COMMIT")
            except sqlite3.Error as error:
                raise fault(error) from error

    def _check_cursor(self, reader: sqlite3.Connection, after: Seq, user: UserId | None) -> None:
        truncated = _number(reader, "SELECT truncated FROM log")
        if after >= truncated:
            return
        # An idle user's cursor is old without anything having been lost.
        lost = "SELECT count(*) FROM (SELECT 1 FROM events WHERE user = ? AND seq > ? AND state = ? LIMIT 1)"
        if user is None or _number(reader, lost, user, after, TRUNCATED):
            hint = f"read after {truncated}"
            raise CursorTooOld("events after this cursor are forgotten", field="after", hint=hint, first=truncated + 1)

    def _drop(self, seqs: Sequence[Seq]) -> None:
        """Overwrite parked events, and take them out of the parking place once no file holds their bytes."""
        with self._overwriting() as writer:
            for seq in seqs:
                _parked_state(writer, seq)
                writer.execute(f"{_OVERWRITE} AND seq = ?", (seq,))
        with self._writing() as writer:
            writer.executemany("DELETE FROM parked WHERE seq = ?", [(seq,) for seq in seqs])

    @contextmanager
    def _overwriting(self) -> Iterator[sqlite3.Connection]:
        """Write, and then remove what is left of the overwritten bytes from the files."""
        # The own reader must be idle, or the log could not be emptied.
        with self._read_lock:
            with self._writing() as writer:
                yield writer
            self._remove_remnants()

    def _remove_remnants(self) -> None:
        with self._write_lock:
            try:
                if _number(self._writer, "SELECT has_moved_rows FROM log"):
                    self._writer.execute("VACUUM")
                    self._writer.execute("UPDATE log SET has_moved_rows = 0")
                (is_busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                raise self._failed(error) from error
        if is_busy:
            raise Locked("the event log is in use", hint="end the other program that reads it, then try again")

    def _file_bytes(self) -> int:
        files = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())


def _row(user: UserId, event: Event) -> tuple[str, ...]:
    body = _Body(event.timestamp, event.actor, event.session_id, event.run_id, event.payload)
    try:
        return user, event.id, event.type, _encode(body).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidMessage("payload cannot be written as JSON", field="payload", event_id=event.id) from error


def _append_row(writer: sqlite3.Connection, row: tuple[str, ...], now: int) -> Appended:
    user, event = row[:2]
    # Asked first, because INSERT OR IGNORE would use up a number for each duplicate.
    known = writer.execute(_KNOWN, (user, event)).fetchone()
    if known is not None:
        return Appended(EventId(event), Seq(known[0]), duplicate=True)
    return Appended(EventId(event), _insert(writer, row, now), duplicate=False)


def _insert(writer: sqlite3.Connection, row: tuple[str, ...], now: int) -> Seq:
    writer.execute(_KEEP, (*row, now))
    return Seq(_number(writer, "SELECT last_insert_rowid()"))


def _parked_state(writer: sqlite3.Connection, seq: Seq) -> int:
    """Return the state of a parked event; ERASED when dropping it did not come to its end. Raises NotFound."""
    row = writer.execute("SELECT state FROM parked JOIN events USING (seq) WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        raise NotFound("not a parked event", field="seqs", hint="memoryd parked list", seq=seq)
    return int(row[0])


def _renumber(writer: sqlite3.Connection, seq: Seq, now: int) -> Seq:
    writer.execute("DELETE FROM parked WHERE seq = ?", (seq,))
    row = writer.execute("SELECT user, event_id, type, body FROM events WHERE seq = ?", (seq,)).fetchone()
    writer.execute("DELETE FROM events WHERE seq = ?", (seq,))
    writer.execute(_ROWS_HAVE_MOVED)
    return _insert(writer, row, now)


def _truncate_slice(writer: sqlite3.Connection, limit: int) -> tuple[int, bool]:
    """Forget within the next slice of numbers; return how many, and whether the rest must stay."""
    truncated = _number(writer, "SELECT truncated FROM log")
    passed = _number(writer, "SELECT coalesce(min(seq), 0) FROM cursors")
    end = min(passed, truncated + _SLICE, _number(writer, _LAST))
    young = "SELECT coalesce(min(seq), 0) FROM events WHERE seq > ? AND seq <= ? AND stored_at >= ?"
    first_young = _number(writer, young, truncated, end, limit)
    if first_young:
        end = first_young - 1
    if end <= truncated:
        return 0, True
    slice_of = "seq > ? AND seq <= ?"
    writer.execute(f"UPDATE events SET body = '' WHERE {slice_of} AND state = {ERASED}", (truncated, end))
    forgotten = writer.execute(
        f"UPDATE events SET state = {TRUNCATED}, body = '' WHERE {slice_of} AND {_READABLE}", (truncated, end)
    ).rowcount
    writer.execute("UPDATE log SET truncated = ?", (end,))
    writer.execute(_ROWS_HAVE_MOVED)
    return forgotten, bool(first_young)


def _cursors(reader: sqlite3.Connection) -> Mapping[str, Seq]:
    return dict(reader.execute("SELECT reader, seq FROM cursors ORDER BY reader").fetchall())


def _number(connection: sqlite3.Connection, query: str, *parameters: object) -> int:
    (number,) = connection.execute(query, parameters).fetchone()
    return int(number)


def _stored(row: tuple[int, str, str, str, str]) -> StoredEvent:
    seq, user, event, kind, text = row
    try:
        body = _decode(text)
        return StoredEvent(
            seq=Seq(seq),
            user=UserId(user),
            id=EventId(event),
            type=kind,
            timestamp=body.timestamp,
            actor=body.actor,
            session_id=body.session_id,
            run_id=body.run_id,
            payload=body.payload,
        )
    except (msgspec.MsgspecError, InvalidMessage) as error:
        raise Damaged("an event in the log cannot be read", hint="park or erase the event", seq=seq) from error


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
