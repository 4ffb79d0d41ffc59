"""Copies of an event log: one SQLite file each, which nobody else has open.

A copy is made while the memories go on, and goes back with memory files that were copied before it. So its readers begin
where they stood before the first of those files was copied: what is in a file already is known to it by its cursor.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from memoryd.protocol.errors import Damaged
from memoryd.protocol.ids import Seq
from memoryd.stores.schema import APPLICATION_ID, fault, open_writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from memoryd.protocol.ids import UserId


def settle(path: Path, cursors: Mapping[str, Seq]) -> Seq:
    """Make a copy whole in its one file, with readers that have come no further than `cursors`; return its last number.

    Raises Damaged or another StorageFault.
    """
    with _opened(path) as log:
        log.execute("PRAGMA journal_mode = DELETE")  # no log beside the file, as the original has
        with log:
            known = dict(log.execute("SELECT reader, seq FROM cursors").fetchall())
            for reader in known.keys() - cursors.keys():
                log.execute("DELETE FROM cursors WHERE reader = ?", (reader,))
            for reader, seq in cursors.items():
                if known.get(reader, seq) > seq:  # else not even the header of the file changes
                    log.execute("UPDATE cursors SET seq = ? WHERE reader = ?", (seq, reader))
        return _last_seq(log)


def keep_only(path: Path, user: UserId) -> None:
    """Remove the events of all others from a copy, and their bytes; numbers stay. Raises StorageFault."""
    with _opened(path) as log:
        with log:
            log.execute("DELETE FROM events WHERE user != ?", (user,))
            log.execute("DELETE FROM parked WHERE seq NOT IN (SELECT seq FROM events)")
        log.execute("VACUUM")


def begin_behind(path: Path, seq: Seq) -> None:
    """Make an empty log whose first event will have a number above `seq`. Raises StorageFault."""
    try:
        with closing(open_writer(path, None)) as log:
            log.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (seq,))
    except sqlite3.Error as error:
        raise fault(error) from error


def faults(path: Path) -> tuple[Seq, Sequence[str]]:
    """Return the last number in a copy, and what is wrong with it. Raises Damaged when it cannot be read at all."""
    with _opened(path) as log:
        (application,) = log.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise Damaged("the event log is another program's database")
        found = [text for (text,) in log.execute("PRAGMA integrity_check(100)").fetchall()]
        return _last_seq(log), [] if found == ["ok"] else found


def _last_seq(log: sqlite3.Connection) -> Seq:
    (seq,) = log.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return Seq(seq)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path)) as log:
            # Of what goes nothing may stay in pages that become free.
            log.execute("PRAGMA secure_delete = ON")
            yield log
    except sqlite3.Error as error:
        raise fault(error) from error
