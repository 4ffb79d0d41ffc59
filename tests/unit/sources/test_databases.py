"""Following the databases of ChoirOS and Wintermute while they write."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.errors import Damaged, InvalidMessage, MemorydError, NotFound
from memoryd.relay.mapping import EventMapping, default_rules
from memoryd.sources import choiros, wintermute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHOIROS = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT UNIQUE NOT NULL,
    timestamp TEXT NOT NULL DEFAULT (datetime('now')), event_type TEXT NOT NULL, payload TEXT NOT NULL,
    actor_id TEXT NOT NULL, user_id TEXT NOT NULL DEFAULT 'system'
)
"""
WINTERMUTE = """
CREATE TABLE sub_session_outcomes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL, workflow_id TEXT, timestamp REAL NOT NULL,
    objective TEXT NOT NULL, system_prompt_mode TEXT NOT NULL, tools_available TEXT, tools_used TEXT,
    tool_call_count INTEGER, duration_seconds REAL, timeout_value INTEGER, {verdict} TEXT, status TEXT NOT NULL,
    result_length INTEGER, nesting_depth INTEGER, continuation_count INTEGER, backend_used TEXT,
    objective_embedding BLOB
)
"""
TEN_S = 1_773_223_200.0
TEN = datetime(2026, 3, 11, 10, tzinfo=UTC)


class ChoirOS:
    """Writes its store in WAL mode, as ChoirOS does, and never closes it between two readings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute(CHOIROS)

    def migrate(self) -> None:
        self.connection.execute("ALTER TABLE events ADD COLUMN session_id TEXT")
        self.connection.execute("ALTER TABLE events ADD COLUMN thread_id TEXT")

    def write(
        self, event_id: str, payload: str | bytes = '{"text":"hi"}', moment: str = "2026-03-11T10:00:00Z"
    ) -> None:
        self.connection.execute(
            "INSERT INTO events (event_id, timestamp, event_type, payload, actor_id) VALUES (?, ?, ?, ?, ?)",
            (event_id, moment, "interaction.user_msg", payload, "chat"),
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChoirOS]:
    store = ChoirOS(tmp_path / "events #1.db")
    yield store
    store.connection.close()


@pytest.fixture
def outcomes(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "conversation.db", isolation_level=None)
    connection.execute(WINTERMUTE.format(verdict="convergence_verdict"))
    yield connection
    connection.close()


def finish(connection: sqlite3.Connection, session: str, **columns: object) -> None:
    row: dict[str, object] = {
        "session_id": session,
        "timestamp": TEN_S,
        "objective": "find the bug",
        "system_prompt_mode": "full",
        "duration_seconds": 60.0,
        "status": "completed",
        **columns,
    }
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    statement = f"INSERT INTO sub_session_outcomes ({names}) VALUES ({marks})"  # noqa: S608  # our own names
    connection.execute(statement, list(row.values()))


def test_the_rows_of_choiros_become_events(store: ChoirOS) -> None:
    store.write("01A")

    (parsed,) = choiros.events(store.path)

    (event,) = parsed.events
    assert (parsed.position, event.id, event.type, event.actor) == (1, "01A", "interaction.user_msg", "chat")
    assert (event.timestamp, event.payload) == (TEN, {"text": "hi"})


def test_following_a_store_shows_every_row_once_while_it_is_being_written(store: ChoirOS) -> None:
    seen: list[str] = []
    after = 0
    for n in range(10):
        store.write(f"a{n}")
        store.write(f"b{n}")
        while batch := choiros.events(store.path, after=after, limit=3):
            seen += [event.id for parsed in batch for event in parsed.events]
            after = batch[-1].position

    assert seen == [f"{name}{n}" for n in range(10) for name in "ab"]


def test_an_open_transaction_of_choiros_neither_blocks_nor_shows(store: ChoirOS) -> None:
    store.write("01A")
    store.connection.execute("BEGIN IMMEDIATE")
    store.write("01B")

    assert [parsed.position for parsed in choiros.events(store.path)] == [1]


def test_a_store_with_sessions_fills_in_the_session(store: ChoirOS) -> None:
    store.migrate()
    store.write("01A")
    store.connection.execute("UPDATE events SET session_id = 's1', thread_id = 't1'")

    assert choiros.events(store.path)[0].events[0].session_id == "s1"


@pytest.mark.parametrize(
    "moment", ["2026-03-11 10:00:00", "2026-03-11T10:00:00.000000000+00:00", "2026-03-11T12:00:00+02:00"]
)
def test_every_way_in_which_choiros_writes_a_moment_is_read(store: ChoirOS, moment: str) -> None:
    store.write("01A", moment=moment)

    assert choiros.events(store.path)[0].events[0].timestamp == TEN


def test_a_bad_row_is_reported_in_its_place(store: ChoirOS) -> None:
    store.write("01A", payload="not json")
    store.write("01B", payload=b"\xff\xfe")
    store.write("01C", payload="[]")
    store.write("01D", moment="yesterday")
    store.write("01 E")
    store.write("01F")

    parsed = choiros.events(store.path)

    assert [isinstance(one.error, MemorydError) for one in parsed] == [True] * 5 + [False]
    assert [one.position for one in parsed] == [1, 2, 3, 4, 5, 6]


def test_reading_changes_no_byte_of_the_store(store: ChoirOS) -> None:
    store.write("01A")
    wal = store.path.with_name(f"{store.path.name}-wal")
    before = store.path.read_bytes(), wal.read_bytes()

    choiros.events(store.path)

    assert (store.path.read_bytes(), wal.read_bytes()) == before


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        choiros.events(tmp_path / "no.db")

    assert list(tmp_path.iterdir()) == []


def test_another_database_is_refused(tmp_path: Path, outcomes: sqlite3.Connection) -> None:
    finish(outcomes, "s")

    with pytest.raises(InvalidMessage, match="no such table"):
        choiros.events(tmp_path / "conversation.db")


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"something else entirely" * 100)

    with pytest.raises(Damaged):
        wintermute.events(tmp_path / "x.db")


def test_an_outcome_of_wintermute_becomes_a_start_and_an_end(tmp_path: Path, outcomes: sqlite3.Connection) -> None:
    finish(
        outcomes,
        "sub1",
        workflow_id="w1",
        tools_available='["search","shell"]',
        tools_used="not json",
        tool_call_count=3,
        convergence_verdict="pass",
    )

    (parsed,) = wintermute.events(tmp_path / "conversation.db")
    started, ended = parsed.events

    assert (parsed.position, started.type, ended.type) == (1, "sub_session.started", "sub_session.completed")
    assert (ended.timestamp - started.timestamp).total_seconds() == 60
    assert ended.timestamp == TEN
    assert {event.run_id for event in parsed.events} == {"sub1"}
    assert started.payload == {
        "session_id": "sub1",
        "objective": "find the bug",
        "workflow_id": "w1",
        "tools_available": ["search", "shell"],
    }
    assert ended.payload["tools_used"] == "not json"
    assert ended.payload["convergence_verdict"] == "pass"


@pytest.mark.parametrize(
    ("status", "verdict", "kind", "quality"),
    [
        ("completed", "pass", "sub_session.completed", 1.0),
        ("completed", "skipped", "sub_session.completed", 0.8),
        ("completed", None, "sub_session.completed", 0.8),
        ("completed", "fail", "sub_session.completed", 0.4),
        ("timeout", None, "sub_session.failed", 0.2),
        ("failed", "fail", "sub_session.failed", 0.0),
    ],
)
@pytest.mark.parametrize("column", ["convergence_verdict", "turing_verdict"])
def test_an_outcome_is_graded_by_status_and_verdict(
    tmp_path: Path, column: str, status: str, verdict: str | None, kind: str, quality: float
) -> None:
    connection = sqlite3.connect(tmp_path / "conversation.db", isolation_level=None)
    connection.execute(WINTERMUTE.format(verdict=column))
    finish(connection, "sub1", status=status, **{column: verdict})
    connection.close()

    ended = wintermute.events(tmp_path / "conversation.db")[0].events[1]
    mapped = EventMapping(default_rules()).apply(ended)

    assert ended.type == kind
    assert mapped is not None
    assert mapped.run is not None
    assert (mapped.run.run_id, mapped.run.phase, mapped.run.quality) == ("sub1", "end", quality)


def test_the_table_of_outcomes_can_be_followed(tmp_path: Path, outcomes: sqlite3.Connection) -> None:
    path = tmp_path / "conversation.db"
    finish(outcomes, "sub1")
    first = wintermute.events(path)
    finish(outcomes, "sub2")

    second = wintermute.events(path, after=first[-1].position)

    assert [event.run_id for parsed in second for event in parsed.events] == ["sub2", "sub2"]
    assert wintermute.events(path)[0] == first[0]


def test_a_bad_outcome_is_reported_in_its_place(tmp_path: Path, outcomes: sqlite3.Connection) -> None:
    finish(outcomes, "sub1", status="exploded")
    finish(outcomes, "", status="failed")
    finish(outcomes, "sub3", duration_seconds=1e300)

    parsed = wintermute.events(tmp_path / "conversation.db")

    assert [one.error.field if one.error else None for one in parsed] == ["status", "session_id", None]
    assert [event.id.partition(":")[0] for event in parsed[2].events] == ["wintermute", "wintermute"]
