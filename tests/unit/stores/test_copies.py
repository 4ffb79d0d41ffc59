"""Copies of the event log: whole while it is written to, and fit to go back with memory files that are older."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.errors import Damaged, DiskFull, ShuttingDown
from memoryd.protocol.events import Event
from memoryd.protocol.ids import BEFORE_ALL, EventId, Seq, UserId
from memoryd.stores import copies, events
from memoryd.stores.events import SqliteEventStore

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2026, 3, 11, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=1)
ANNA = UserId("anna")
BEN = UserId("ben")
SECRET = "the launch code is tangerine"  # noqa: S105 - that is the point


def opened(path: Path) -> SqliteEventStore:
    return SqliteEventStore(path, lambda: NOON)


def event(name: str, text: str = "hello") -> Event:
    return Event(id=EventId(name), type="chat.user_msg", timestamp=NOON, payload={"text": text})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteEventStore]:
    store = opened(tmp_path / "log.db")
    yield store
    store.close()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "copy" / "log.db"
    path.parent.mkdir()
    path.touch()
    return path


def fill(log: SqliteEventStore, count: int, prefix: str = "e", user: UserId = ANNA, size: int = 5) -> None:
    log.append([(user, event(f"{prefix}{number}", f"{prefix}{number} " * size)) for number in range(count)])


def ids(path: Path) -> list[str]:
    store = opened(path)
    try:
        return [each.id for each in store.read(BEFORE_ALL, 1_000_000)]
    finally:
        store.close()


def always() -> bool:
    return True


def test_a_copy_holds_everything_in_one_file_and_is_a_log(log: SqliteEventStore, copy: Path) -> None:
    fill(log, 100)
    log.advance("memory", Seq(40))
    log.park(Seq(50), "broken")

    last = log.copy(copy, {"memory": Seq(40)}, always)

    assert last == 100
    assert [each.name for each in copy.parent.iterdir()] == ["log.db"]
    assert copies.faults(copy) == (100, [])
    assert ids(copy) == [f"e{number}" for number in range(100) if number != 49]
    other = opened(copy)
    assert other.status().parked == 1
    assert other.cursor("memory") == 40
    assert other.append([(BEN, event("new"))])[0].seq == 101
    other.close()


def test_in_a_copy_no_reader_has_come_further_than_it_had_when_the_files_were_read(
    log: SqliteEventStore, copy: Path
) -> None:
    fill(log, 30)
    log.advance("memory", Seq(10))
    cursors = log.hold()
    log.advance("memory", Seq(30))
    log.advance("newcomer", Seq(30))

    log.copy(copy, cursors, always)

    other = opened(copy)
    assert (other.cursor("memory"), other.cursor("newcomer")) == (10, BEFORE_ALL)
    assert log.cursor("memory") == 30
    other.close()


def test_nothing_is_forgotten_by_age_while_the_log_is_held(log: SqliteEventStore) -> None:
    fill(log, 10)
    log.advance("memory", Seq(10))
    log.hold()
    log.hold()

    assert log.truncate(LATER) == 0
    log.release()
    assert log.truncate(LATER) == 0
    log.release()

    assert log.truncate(LATER) == 10


def test_writing_goes_on_while_a_copy_is_made_and_what_is_written_is_in_it(
    log: SqliteEventStore, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_COPIED_PAGES", 1)
    fill(log, 2_000)
    steps = 0

    def write_in_between() -> bool:
        nonlocal steps
        steps += 1
        if steps % 10 == 1:
            other = threading.Thread(target=fill, args=(log, 20, f"step{steps}-"))
            other.start()
            other.join()
        return True

    last = log.copy(copy, {}, write_in_between)

    assert steps > 50
    assert last == log.last_seq()
    assert ids(copy) == [each.id for each in log.read(BEFORE_ALL, 1_000_000)]
    assert copies.faults(copy)[1] == []


@pytest.mark.parametrize("has_moved_rows", [False, True])
def test_what_is_erased_while_a_copy_is_made_is_not_in_it(
    log: SqliteEventStore, copy: Path, monkeypatch: pytest.MonkeyPatch, *, has_moved_rows: bool
) -> None:
    monkeypatch.setattr(events, "_COPIED_PAGES", 1)
    log.append([(ANNA, event("secret", SECRET))])
    fill(log, 1_000, user=BEN)
    if has_moved_rows:  # then erasing rewrites the whole file, also while it is copied
        log.park(Seq(500), "broken")
        log.unpark([Seq(500)], drop=False)
    steps = 0

    def erase_in_between() -> bool:
        nonlocal steps
        steps += 1
        if steps == 10:
            assert log.erase(ANNA, None) == 1
        return True

    log.copy(copy, {}, erase_in_between)

    assert steps > 20
    assert SECRET.encode() not in copy.read_bytes()
    assert copies.faults(copy)[1] == []
    assert ids(copy) == [each.id for each in log.read(BEFORE_ALL, 1_000_000)]
    assert len(ids(copy)) == 1_000


def test_an_unparked_event_is_in_the_copy_under_its_new_number(
    log: SqliteEventStore, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_COPIED_PAGES", 1)
    fill(log, 500)
    log.park(Seq(3), "broken")

    def unpark_in_between() -> bool:
        if log.parked():
            log.unpark([Seq(3)], drop=False)
        return True

    last = log.copy(copy, {}, unpark_in_between)

    assert last == 501
    other = opened(copy)
    assert [each.id for each in other.read(Seq(500), 10)] == ["e2"]
    other.close()


def test_a_copy_that_nobody_wants_any_more_ends_soon(log: SqliteEventStore, copy: Path) -> None:
    fill(log, 2_000)
    steps = iter([True, False])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "_COPIED_PAGES", 1)
        with pytest.raises(ShuttingDown):
            log.copy(copy, {}, lambda: next(steps))

    assert next(steps, None) is None
    assert log.append([(BEN, event("after"))])[0].seq == 2_001


def test_no_room_for_a_copy_is_a_full_disk_and_harms_the_log_in_no_way(
    log: SqliteEventStore, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 2_000)
    connect = sqlite3.connect

    def small(path: Path, *args: object, **kwargs: object) -> sqlite3.Connection:
        connection = connect(path, *args, **kwargs)
        connection.execute("PRAGMA max_page_count = 5")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(DiskFull):
        log.copy(copy, {}, always)
    monkeypatch.undo()

    fill(log, 1, "more")
    assert log.last_seq() == 2_001


def test_the_same_log_gives_the_same_copy(log: SqliteEventStore, tmp_path: Path) -> None:
    fill(log, 300)
    log.advance("memory", Seq(300))
    made = []
    for name in ("a", "b"):
        path = tmp_path / name
        path.touch()
        log.copy(path, log.hold(), always)
        made.append(path.read_bytes())

    assert made[0] == made[1]


def test_of_one_user_the_events_stay_and_of_all_others_not_even_the_bytes(log: SqliteEventStore, copy: Path) -> None:
    log.append([(BEN, event("bens", SECRET)), (ANNA, event("annas")), (BEN, event("broken", SECRET))])
    log.park(Seq(3), "broken")
    log.copy(copy, {}, always)
    assert SECRET.encode() in copy.read_bytes()

    copies.keep_only(copy, ANNA)

    assert SECRET.encode() not in copy.read_bytes()
    assert ids(copy) == ["annas"]
    other = opened(copy)
    assert other.parked() == []
    assert other.append([(ANNA, event("next"))])[0].seq == 4
    other.close()


def test_a_log_that_begins_behind_a_number_gives_the_next_one(tmp_path: Path) -> None:
    copies.begin_behind(tmp_path / "new.db", Seq(41))

    other = opened(tmp_path / "new.db")
    assert (other.last_seq(), other.cursor("memory")) == (41, BEFORE_ALL)
    assert list(other.read(BEFORE_ALL, 10)) == []
    assert other.append([(ANNA, event("next"))])[0].seq == 42
    other.close()


def test_a_damaged_copy_and_another_programs_database_are_told(log: SqliteEventStore, copy: Path) -> None:
    fill(log, 2_000, size=20)
    log.copy(copy, {}, always)
    content = copy.read_bytes()
    copy.write_bytes(content.replace(b"annae1500", b"annae1X00", 1))  # a row and its index disagree
    assert copies.faults(copy)[1] != []

    copy.write_bytes(content[: 20 * 4096] + b"\xff" * 4096 + content[21 * 4096 :])
    with pytest.raises(Damaged):
        copies.faults(copy)
    copy.write_bytes(b"not a database, but long enough to be read as one" * 50)
    with pytest.raises(Damaged):
        copies.faults(copy)
    copy.write_bytes(b"")
    with pytest.raises(Damaged, match="another program"):
        copies.faults(copy)
