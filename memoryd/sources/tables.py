"""Reading another program's SQLite table while that program may be writing it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from memoryd.protocol.errors import Damaged, InvalidMessage, Locked, NotFound, StorageFault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_BUSY_TIMEOUT_S: Final = 5.0
_FAULTS: Final[dict[int, tuple[type[StorageFault], str]]] = {
    sqlite3.SQLITE_CORRUPT: (Damaged, "the database is damaged"),
    sqlite3.SQLITE_NOTADB: (Damaged, "the file is not a database"),
    sqlite3.SQLITE_BUSY: (Locked, "the database is in use"),
    sqlite3.SQLITE_LOCKED: (Locked, "the database is in use"),
}


def rows_after(
    path: Path, table: str, key: str, columns: tuple[Sequence[str], Sequence[str]], after: int, limit: int
) -> list[tuple[int, dict[str, object]]]:
    """Return the rows of `table` whose integer `key` is above `after`, at most `limit`, with the columns there are.

    `columns` are those that must be there and those that may. Opened read-only for this call alone.
    Raises NotFound, InvalidMessage when the table is another one, Damaged, Locked or another StorageFault.
    """
    if not path.is_file():
        raise NotFound("no such file", field="path")
    needed, optional = columns
    try:
        with closing(_connect(path)) as connection:
            found = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
            if not found.issuperset(needed):
                raise InvalidMessage("the database has no such table", field=table, hint="name the right database")
            names = [*needed, *(name for name in optional if name in found)]
            # Table and columns are constants of the caller, found in the schema as they are.
            query = f"SELECT {key}, {', '.join(names)} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?"  # noqa: S608
            rows = connection.execute(query, (after, limit)).fetchall()
    except sqlite3.Error as error:
        raise _fault(error) from error
    return [(row[0], dict(zip(names, row[1:], strict=True))) for row in rows]


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
    )
    # A text that is not UTF-8 spoils its own row, not the whole reading.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def _fault(error: sqlite3.Error) -> StorageFault:
    code: int = getattr(error, "sqlite_errorcode", 0)
    kind, message = _FAULTS.get(code & 0xFF, (StorageFault, "the database cannot be read"))
    return kind(message, hint="check the file and the rights on its folder")
