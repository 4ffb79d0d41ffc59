"""The words index of one user in an SQLite file (FTS5): which documents hold a term.

It is derived from the memory file and holds no text, only terms by which documents are found, and the keys of the records
they stand for. Documents are added and never removed one by one: who looks passes over those whose record is gone, and
when something is to be erased the file is made anew.
"""

from __future__ import annotations

import errno
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.errors import Damaged, DiskFull, ReadOnly, StorageFault
from memoryd.words.terms import SPEAKER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from memoryd.words.terms import Document

    Keys = NDArray[np.uint64]  # [n]
    Numbers = NDArray[np.int64]  # [n]

_APPLICATION: Final = 0x6D656D77  # "memw"
_VERSION: Final = 2

# Neither positions nor frequencies: on short texts a ranking by which terms occur is as good, and a third of the size.
_SCHEMA: Final = """
    CREATE TABLE speakers (term TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE batches (first INTEGER PRIMARY KEY, keys BLOB NOT NULL, lengths BLOB NOT NULL);
    CREATE VIRTUAL TABLE words USING fts5(
        terms, content='', columnsize=0, detail=none, tokenize="porter unicode61 tokenchars '@'"
    );
"""
_HINTS: Final = {
    DiskFull: "free some space; words are taken in when there is some",
    ReadOnly: "check owner, mode and mount of its folder",
    Damaged: "it is made anew from the memory file",
}

# As one text: to make an object of each row would take five times as long.
_FIND: Final = "SELECT group_concat(rowid) FROM (SELECT rowid FROM words WHERE words MATCH ? LIMIT ?)"

_MERGED_PAGES: Final = 64  # in one go: recalls wait for it, some 3 ms
_FREED_PAGES: Final = 512  # the same, of SQLite's own

_LONGEST: Final = (1 << 15) - 1
_QUESTION: Final = 1 << 15  # the highest bit of what is kept as the length of a document

_SETTINGS: Final = (
    "PRAGMA page_size=512",  # a few hundred short memories would fill less than half of pages of 4 KiB
    "PRAGMA auto_vacuum=INCREMENTAL",  # half of the pages are free after merging
    "PRAGMA journal_mode=WAL",  # readers of other processes go on while something is added
    "PRAGMA synchronous=NORMAL",  # after a loss of power the last documents may be absent, and are added again
    "PRAGMA wal_autocheckpoint=2048",  # pages: 1 MiB beside the file at most, two fsyncs each time
    "PRAGMA cache_size=-128",  # KiB: the pages are in the page cache of the system already
    "PRAGMA mmap_size=1073741824",
)


@dataclass(frozen=True, slots=True)
class Posting:
    """A term and the documents that hold it, int64 [n] ascending."""

    term: str
    documents: Numbers


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of documents: the key of each, uint64 [n], its length in words, uint16 [n], and whether it asks something."""

    keys: NDArray[np.uint64]
    lengths: NDArray[np.uint16]
    are_questions: NDArray[np.bool_]


class Lexicon:
    """Documents numbered from 0 in the order they came, and the terms they hold. One call at a time, from any thread."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, which is made if it is absent; without a path everything stays in memory.

        Raises Damaged when it is no words index of this version, or another StorageFault.
        """
        self._name = "words" if path is None else path.name
        if path is not None:
            _make(path)
        try:
            # Calls come from the threads of a pool: the check would refuse them.
            self._connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _fault(error, self._name) from error
        try:
            with self._safely():
                self._prepare()
                self._speakers = {term for (term,) in self._connection.execute("SELECT term FROM speakers")}
            self._count = len(self.known().keys)
        except BaseException:
            self._connection.close()
            raise

    def __len__(self) -> int:
        return self._count

    def known(self) -> Known:
        """Read what is kept of all documents. Raises Damaged when some are absent, or another StorageFault."""
        with self._safely():
            batches = self._connection.execute("SELECT first, keys, lengths FROM batches ORDER BY first").fetchall()
        keys = np.frombuffer(b"".join(each for _, each, _ in batches), "<u8").astype(np.uint64)
        packed = np.frombuffer(b"".join(each for _, _, each in batches), "<u2").astype(np.uint16)
        firsts = np.cumsum([0, *(len(each) // 8 for _, each, _ in batches)])[:-1]
        if len(keys) != len(packed) or [first for first, _, _ in batches] != firsts.tolist():
            raise Damaged(f"{self._name} lacks documents", hint=_HINTS[Damaged])
        return Known(keys, packed & np.uint16(_LONGEST), packed > _LONGEST)

    def add(self, keys: Keys, documents: Sequence[Document]) -> int:
        """Add documents in one transaction; return the number of the first.

        Raises DiskFull or another StorageFault; then nothing was added.
        """
        packed = [min(each.length, _LONGEST) | _QUESTION * each.is_question for each in documents]
        speakers = {term for each in documents for term in each.terms if term.startswith(SPEAKER)} - self._speakers
        first = self._count
        with self._safely(), _transaction(self._connection) as connection:
            connection.executemany(
                "INSERT INTO words (rowid, terms) VALUES (?, ?)",
                [(number, " ".join(each.terms)) for number, each in enumerate(documents, first + 1)],
            )
            connection.execute(
                "INSERT INTO batches VALUES (?, ?, ?)",
                (first, keys.astype("<u8").tobytes(), np.array(packed, "<u2").tobytes()),
            )
            connection.executemany("INSERT INTO speakers VALUES (?)", [(term,) for term in speakers])
        self._speakers |= speakers
        self._count += len(documents)
        return first

    def has_spoken(self, term: str) -> bool:
        """Whether a speaker is known by this term, which begins with SPEAKER."""
        return term in self._speakers

    def postings(self, terms: Sequence[str], most: int) -> list[Posting]:
        """Return where each of these terms stands; at most `most` + 1 documents of each, so that more can be told.

        Raises Damaged or another StorageFault.
        """
        if not terms:
            return []
        # One transaction for all: to lock the file for each of them would take longer than to look.
        with self._safely(), _transaction(self._connection, "BEGIN"):
            return [Posting(term, self._documents(term, most + 1)) for term in terms]

    def instances(self) -> Iterator[tuple[str, int]]:
        """Yield each term, stemmed, with each document that holds it, in order. Raises Damaged or another StorageFault."""
        with self._safely():
            self._connection.execute(
                "CREATE VIRTUAL TABLE IF NOT EXISTS temp.held USING fts5vocab(main, words, instance)"
            )
            for term, row in self._connection.execute("SELECT term, doc FROM temp.held"):
                yield term, row - 1

    def check(self) -> None:
        """Read every page. Raises Damaged when one does not fit the others, or another StorageFault."""
        with self._safely():
            (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise Damaged(f"{self._name} is damaged: {verdict}", hint=_HINTS[Damaged])

    def merge(self) -> bool:
        """Do some of what makes looking up quicker: lists of one term that came at different times become one.

        Then the file is cut by what has become free. Return whether there is more to do. Raises DiskFull or another
        StorageFault.
        """
        before = self._connection.total_changes
        with self._safely():
            self._connection.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (-_MERGED_PAGES,))
            if self._connection.total_changes - before > 1:  # as FTS5 says that it has done something
                return True
            (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
            self._connection.executescript(f"PRAGMA incremental_vacuum({_FREED_PAGES})")  # `execute` would free one
        return bool(free > _FREED_PAGES)

    def close(self) -> None:
        """Close the file. Does nothing the second time."""
        self._connection.close()

    def _documents(self, term: str, most: int) -> Numbers:
        try:
            (found,) = self._connection.execute(_FIND, (f'"{term}"', most)).fetchone()
        except sqlite3.OperationalError:
            # FTS5 takes letters that are younger than its table of them for spaces, and this for several terms.
            if term.isascii():
                raise
            return np.empty(0, np.int64)
        return np.fromstring(found or "", np.int64, sep=",") - 1

    def _prepare(self) -> None:
        for setting in _SETTINGS:
            self._connection.execute(setting)
        # Looked at and made in one transaction: who verifies it may open it at the same moment.
        with _transaction(self._connection) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not tables:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={_VERSION}")
                connection.execute(f"PRAGMA application_id={_APPLICATION}")
            elif (version, application) != (_VERSION, _APPLICATION):
                raise Damaged(f"{self._name} is no words index of this version", hint=_HINTS[Damaged])

    @contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _fault(error, self._name) from error


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
    connection.execute(begin)
    try:
        yield connection
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _make(path: Path) -> None:
    """Make an empty file that only its owner may read; SQLite gives the files beside it the mode of this one."""
    try:
        path.touch(mode=0o600)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for {path.name}", hint=_HINTS[DiskFull]) from error
        raise ReadOnly(f"{path.name} cannot be made", hint=_HINTS[ReadOnly]) from error


def _fault(error: sqlite3.Error, name: str) -> StorageFault:
    code: int = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest tells, say, a failed fsync from a failed write
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"no space left for {name}", hint=_HINTS[DiskFull])
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return ReadOnly(f"{name} cannot be written", hint=_HINTS[ReadOnly])
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(f"{name} is damaged", hint=_HINTS[Damaged])
    return StorageFault(f"{name} failed: {error}", hint="see the disk and the log of the system")
