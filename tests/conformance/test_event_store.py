"""What every event log promises, run against each implementation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.errors import CursorTooOld, InvalidMessage, NotFound
from memoryd.protocol.events import Event, JsonObject
from memoryd.protocol.ids import BEFORE_ALL, EventId, Seq, UserId
from memoryd.stores.events import SqliteEventStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memoryd.protocol.interfaces import EventStore

ANNA = UserId("anna")
BEN = UserId("ben")
NOON = datetime(2026, 3, 11, 12, tzinfo=UTC)


class SetClock:
    """A clock that stands where it was put."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["sqlite"])
def store(tmp_path: Path, clock: SetClock) -> Iterator[EventStore]:
    log = SqliteEventStore(tmp_path / "events" / "log.db", clock)
    yield log
    log.close()


def event(name: str, payload: JsonObject | None = None) -> Event:
    return Event(
        id=EventId(name),
        type="chat.user_msg",
        timestamp=NOON,
        actor="chat",
        session_id="s1",
        run_id="r1",
        payload={"text": name} if payload is None else payload,
    )


def fill(store: EventStore, count: int, user: UserId = ANNA) -> list[Seq]:
    names = [f"{user}-{n}" for n in range(count)]
    return [appended.seq for appended in store.append([(user, event(name)) for name in names])]


def ids(store: EventStore, after: int = 0, user: UserId | None = None) -> list[str]:
    return [stored.id for stored in store.read(Seq(after), 1000, user=user)]


def test_events_come_back_as_they_were_appended(store: EventStore) -> None:
    written = Event(
        id=EventId("e1"),
        type="worker.report.received",
        timestamp=datetime(2026, 3, 11, 10, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2))),
        actor="terminal-1",
        session_id="s1",
        run_id="r1",
        payload={"text": "grüße \x00 🜁", "n": [1, 2.5, None, True], "deep": {"a": {"b": []}}},
    )

    store.append([(ANNA, written)])
    (read,) = store.read(BEFORE_ALL, 10)

    assert (read.seq, read.user) == (1, ANNA)
    assert {field: getattr(read, field) for field in Event.__struct_fields__} == {
        field: getattr(written, field) for field in Event.__struct_fields__
    }
    assert read.timestamp.utcoffset() == timedelta(hours=2)


def test_numbers_grow_by_one_in_the_order_of_the_batch(store: EventStore) -> None:
    assert fill(store, 3) == [1, 2, 3]
    assert store.last_seq() == 3


def test_a_known_id_keeps_its_first_number_and_uses_up_none(store: EventStore) -> None:
    store.append([(ANNA, event("a")), (ANNA, event("b"))])

    again = store.append([(ANNA, event("b", {"text": "changed"})), (ANNA, event("c"))])

    assert [(known.event_id, known.seq, known.duplicate) for known in again] == [("b", 2, True), ("c", 3, False)]
    assert [stored.payload for stored in store.read(Seq(1), 1)] == [{"text": "b"}]


def test_the_same_id_twice_in_one_batch_is_stored_once(store: EventStore) -> None:
    appended = store.append([(ANNA, event("a")), (ANNA, event("a"))])

    assert [(known.seq, known.duplicate) for known in appended] == [(1, False), (1, True)]


def test_the_same_id_of_two_users_is_two_events(store: EventStore) -> None:
    appended = store.append([(ANNA, event("a")), (BEN, event("a"))])

    assert [(known.seq, known.duplicate) for known in appended] == [(1, False), (2, False)]


def test_an_empty_batch_appends_nothing(store: EventStore) -> None:
    assert list(store.append([])) == []
    assert store.last_seq() == BEFORE_ALL


def test_a_payload_that_is_not_json_refuses_the_whole_batch(store: EventStore) -> None:
    with pytest.raises(InvalidMessage) as refused:
        store.append([(ANNA, event("a")), (ANNA, event("b", {"text": "\ud800"}))])

    assert refused.value.field == "payload"
    assert store.last_seq() == BEFORE_ALL


def test_reading_goes_on_after_the_given_number_and_stops_at_the_limit(store: EventStore) -> None:
    fill(store, 5)

    assert [stored.seq for stored in store.read(Seq(1), 3)] == [2, 3, 4]
    assert list(store.read(Seq(5), 3)) == []


def test_reading_one_user_shows_only_that_users_events(store: EventStore) -> None:
    fill(store, 2, ANNA)
    fill(store, 2, BEN)

    assert [stored.seq for stored in store.read(BEFORE_ALL, 10, user=BEN)] == [3, 4]


def test_a_new_reader_stands_before_all(store: EventStore) -> None:
    assert store.cursor("memory") == BEFORE_ALL


def test_a_cursor_never_goes_backwards(store: EventStore) -> None:
    store.advance("memory", Seq(7))
    store.advance("memory", Seq(3))

    assert store.cursor("memory") == 7


def test_truncation_forgets_what_is_old_and_passed_by_every_reader(store: EventStore, clock: SetClock) -> None:
    fill(store, 4)
    store.advance("memory", Seq(4))
    store.advance("global", Seq(2))
    clock.now = NOON + timedelta(days=1)

    forgotten = store.truncate(NOON + timedelta(hours=1))

    assert forgotten == 2
    assert ids(store, after=2) == ["anna-2", "anna-3"]


def test_truncation_keeps_what_arrived_lately_however_old_it_says_it_is(store: EventStore, clock: SetClock) -> None:
    fill(store, 1)
    clock.now = NOON + timedelta(days=30)
    store.append([(ANNA, event("replayed"))])
    store.advance("memory", Seq(2))

    assert store.truncate(NOON + timedelta(days=1)) == 1
    assert ids(store, after=1) == ["replayed"]


def test_truncation_without_any_reader_forgets_nothing(store: EventStore) -> None:
    fill(store, 2)

    assert store.truncate(NOON + timedelta(days=1)) == 0


def test_truncation_takes_more_than_one_slice(store: EventStore) -> None:
    fill(store, 5000)
    store.advance("memory", Seq(4999))

    assert store.truncate(NOON + timedelta(days=1)) == 4999
    assert ids(store, after=4999) == ["anna-4999"]
    assert store.truncate(NOON + timedelta(days=1)) == 0


def test_truncated_events_are_still_known_as_duplicates(store: EventStore) -> None:
    fill(store, 2)
    store.advance("memory", Seq(2))
    store.truncate(NOON + timedelta(days=1))

    (again,) = store.append([(ANNA, event("anna-0"))])

    assert (again.seq, again.duplicate) == (1, True)


def test_reading_behind_the_truncation_names_the_first_number_that_can_be_read(store: EventStore) -> None:
    fill(store, 5)
    store.advance("memory", Seq(3))
    store.truncate(NOON + timedelta(days=1))

    with pytest.raises(CursorTooOld) as refused:
        store.read(Seq(2), 10)

    assert refused.value.details["first"] == 4
    assert [stored.seq for stored in store.read(Seq(3), 10)] == [4, 5]


def test_an_idle_users_old_cursor_is_good_when_only_others_events_were_truncated(store: EventStore) -> None:
    fill(store, 1, BEN)
    fill(store, 3, ANNA)
    store.advance("memory", Seq(4))
    store.truncate(NOON + timedelta(days=1))

    assert ids(store, after=1, user=BEN) == []
    with pytest.raises(CursorTooOld):
        ids(store, after=1, user=ANNA)


def test_erased_events_are_no_longer_read_but_still_known(store: EventStore) -> None:
    fill(store, 3)

    erased = store.erase(ANNA, [EventId("anna-1"), EventId("never there")])

    assert erased == 1
    assert ids(store) == ["anna-0", "anna-2"]
    assert store.append([(ANNA, event("anna-1"))])[0].duplicate


def test_erasing_a_user_leaves_the_others_alone(store: EventStore) -> None:
    fill(store, 2, ANNA)
    fill(store, 2, BEN)

    assert store.erase(ANNA, None) == 2
    assert store.erase(ANNA, None) == 0
    assert ids(store) == ["ben-0", "ben-1"]


def test_erasing_by_id_needs_the_right_user(store: EventStore) -> None:
    fill(store, 1, ANNA)

    assert store.erase(BEN, [EventId("anna-0")]) == 0
    assert ids(store) == ["anna-0"]


def test_a_parked_event_is_listed_and_not_read(store: EventStore, clock: SetClock) -> None:
    fill(store, 3)
    clock.now = NOON + timedelta(minutes=1)

    store.park(Seq(2), "the agent failed twice")

    (parked,) = store.parked()
    assert (parked.seq, parked.user, parked.event_id, parked.type) == (2, ANNA, "anna-1", "chat.user_msg")
    assert (parked.error, parked.parked_at) == ("the agent failed twice", NOON + timedelta(minutes=1))
    assert ids(store) == ["anna-0", "anna-2"]


def test_parking_an_unknown_number_is_refused(store: EventStore) -> None:
    with pytest.raises(NotFound):
        store.park(Seq(9), "nothing there")


def test_parking_an_erased_event_does_nothing(store: EventStore) -> None:
    fill(store, 1)
    store.erase(ANNA, None)

    store.park(Seq(1), "too late")

    assert list(store.parked()) == []


def test_erasing_takes_a_parked_event_out_of_the_parking_place(store: EventStore) -> None:
    fill(store, 2)
    store.park(Seq(1), "failed")

    store.erase(ANNA, [EventId("anna-0")])

    assert list(store.parked()) == []


def test_an_unparked_event_is_read_under_a_new_number(store: EventStore) -> None:
    fill(store, 3)
    store.park(Seq(1), "failed")

    assert list(store.unpark([Seq(1)], drop=False)) == [4]

    assert [(stored.seq, stored.id) for stored in store.read(Seq(2), 10)] == [(3, "anna-2"), (4, "anna-0")]
    assert store.append([(ANNA, event("anna-0"))])[0].seq == 4
    assert list(store.parked()) == []


def test_a_dropped_event_is_neither_parked_nor_read_and_still_known(store: EventStore) -> None:
    fill(store, 2)
    store.park(Seq(1), "failed")

    assert list(store.unpark([Seq(1)], drop=True)) == []

    assert ids(store) == ["anna-1"]
    assert list(store.parked()) == []
    assert store.append([(ANNA, event("anna-0"))])[0].duplicate


@pytest.mark.parametrize("drop", [False, True])
def test_unparking_something_that_is_not_parked_changes_nothing(store: EventStore, *, drop: bool) -> None:
    fill(store, 2)
    store.park(Seq(1), "failed")

    with pytest.raises(NotFound):
        store.unpark([Seq(1), Seq(2)], drop=drop)

    assert [parked.seq for parked in store.parked()] == [1]
    assert list(store.unpark([Seq(1)], drop=False)) == [3]
    assert [stored.payload for stored in store.read(BEFORE_ALL, 10)] == [{"text": "anna-1"}, {"text": "anna-0"}]


def test_truncation_keeps_parked_events_whole(store: EventStore) -> None:
    fill(store, 2)
    store.park(Seq(1), "failed")
    store.advance("memory", Seq(2))

    assert store.truncate(NOON + timedelta(days=1)) == 1
    store.unpark([Seq(1)], drop=False)

    assert [stored.payload for stored in store.read(Seq(2), 10)] == [{"text": "anna-0"}]


def test_a_number_is_not_given_again_after_the_last_event_was_renumbered_and_erased(store: EventStore) -> None:
    fill(store, 1)
    store.park(Seq(1), "failed")
    store.unpark([Seq(1)], drop=False)
    store.erase(ANNA, None)

    assert store.append([(ANNA, event("new"))])[0].seq == 3


def test_the_status_counts_what_is_there(store: EventStore) -> None:
    fill(store, 5)
    store.park(Seq(4), "failed")
    store.erase(ANNA, [EventId("anna-4")])
    store.advance("memory", Seq(2))
    store.truncate(NOON + timedelta(days=1))

    status = store.status()

    assert (status.first, status.last, status.events, status.parked) == (3, 5, 2, 1)
    assert status.cursors == {"memory": 2}
    assert status.file_bytes > 0
