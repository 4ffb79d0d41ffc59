"""The event log's tables and its connections to SQLite.

    events   one row per event, never removed: the row of a forgotten event keeps its number and its id
    parked   which events were put aside, and why
    cursors  how far each reader has come
    log      one row: up to which number events were forgotten by age, and whether rows have moved

An erased row is overwritten in place, with as many bytes. For secure_delete is not enough: whenever a row shrinks or
goes, SQLite may move its neighbours to another page and leave a copy of them in the space that becomes free there
(`rebuildPage` in its btree.c), which nothing finds when the neighbour is erased in its turn. So what moves rows,
truncation and unparking, leaves a mark, and the first erasing after it rewrites the file.
Knows nothing of events; `events.py` does.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING, Final

from memoryd.protocol.errors import Damaged, DiskFull, Locked, ReadOnly, StorageFault

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID: Final = 0x6D656D6C  # "meml"; part of the file format
FORMAT: Final = 1  # part of the file format

# Values of events.state; part of the file format. 0 and 1 would take no byte, and the row change its size.
KEPT: Final = 2
TRUNCATED: Final = 3
ERASED: Final = 4

# Longer than any commit here takes; only another program holds a lock for so long.
_BUSY_TIMEOUT_S: Final = 5.0

_TABLES: Final = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL,
    event_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,  -- microseconds since 1970, the daemon's clock
    type TEXT NOT NULL,
    body TEXT NOT NULL           -- JSON of all the rest; spaces once erased, empty once truncated
) STRICT;
CREATE UNIQUE INDEX events_by_id ON events (user, event_id);
CREATE INDEX events_by_user ON events (user, seq, state);
CREATE TABLE parked (seq INTEGER PRIMARY KEY, error TEXT NOT NULL, parked_at INTEGER NOT NULL) STRICT;
CREATE TABLE cursors (reader TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE log (truncated INTEGER NOT NULL, has_moved_rows INTEGER NOT NULL) STRICT;
INSERT INTO log (truncated, has_moved_rows) VALUES (0, 0);
"""

_FAULTS: Final[dict[int, tuple[type[StorageFault], str, str]]] = {
    sqlite3.SQLITE_FULL: (DiskFull, "no space left for the event log", "free some space; reading goes on"),
    sqlite3.SQLITE_READONLY: (ReadOnly, "the event log cannot be written", "check owner, mode and mount of its folder"),
    sqlite3.SQLITE_CANTOPEN: (ReadOnly, "the event log cannot be opened", "check owner, mode and mount of its folder"),
    sqlite3.SQLITE_PERM: (ReadOnly, "the event log may not be opened", "check owner, mode and mount of its folder"),
    sqlite3.SQLITE_CORRUPT: (Damaged, "the event log is damaged", "stop the daemon and put a copy in its place"),
    sqlite3.SQLITE_NOTADB: (Damaged, "the event log is not a database", "stop the daemon and put a copy in its place"),
    sqlite3.SQLITE_BUSY: (Locked, "the event log is in use", "end the other program that has it open"),
    sqlite3.SQLITE_LOCKED: (Locked, "the event log is in use", "end the other program that has it open"),
}
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def fault(error: sqlite3.Error) -> StorageFault:
    """Return the error of ours that stands for an error of SQLite."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return StorageFault("the event log is closed", hint="open it anew")
    # The low byte is the primary code; the rest tells, say, a failed fsync from a failed write.
    kind, message, hint = _FAULTS.get(code & 0xFF, (StorageFault, "the event log failed", None))
    return kind(message, hint=hint, sqlite=error.sqlite_errorname)


def os_fault(error: OSError) -> StorageFault:
    """Return the error of ours that stands for an error of the system."""
    number = error.errno or 0
    if number in _NO_SPACE:
        return DiskFull("no space left for the event log", hint="free some space")
    if number in _NO_RIGHT:
        return ReadOnly("the event log cannot be written", hint="check owner, mode and mount of its folder")
    return StorageFault("the event log failed", errno=number)


def open_writer(path: Path, max_bytes: int | None) -> sqlite3.Connection:
    """Open the log for writing, making it first when it is absent. Raises sqlite3.Error or a StorageFault."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # SQLite gives the -wal and -shm files the mode of this one.
            path.touch(mode=0o600)
    except OSError as error:
        raise os_fault(error) from error
    connection = _connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # Pages that become free are zeroed.
        connection.execute("PRAGMA secure_delete = ON")
        _create_or_check(connection)
        if max_bytes is not None:
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_size)}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a second connection that cannot write. Raises sqlite3.Error."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # Calls come from the threads of a pool, one at a time under a lock: the check would refuse them.
    return sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _create_or_check(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables == 0:
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    elif application != APPLICATION_ID:
        raise Damaged("the event log is another program's database", hint="name another data directory")
    elif version != FORMAT:
        raise StorageFault("the event log has an unknown format", hint="use the memoryd that wrote it", format=version)
    connection.execute("COMMIT")
