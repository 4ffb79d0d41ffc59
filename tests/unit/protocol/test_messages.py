"""A message that exists is valid: every rule, its field and its mend."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from memoryd.protocol import ids, messages
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.events import Event
from memoryd.protocol.records import MAX_TEXT_BYTES, Draft, MemoryFilter, MemoryKind, MemoryRecord, MemorySource

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAIVE = datetime(2026, 3, 1, 12)  # noqa: DTZ001 - that is the point
ID = ids.RecordId("01ARZ3NDEKTSV4RRFFQ69G5FAV")


def draft(**fields: object) -> Draft:
    return Draft(**{"text": "added a mutex", **fields})


def an_event(**fields: object) -> Event:
    return Event(**{"id": "e1", "type": "chat.user_msg", "timestamp": NOON, **fields})


def record(**fields: object) -> MemoryRecord:
    known = {
        "id": ID,
        "text": "added a mutex",
        "kind": MemoryKind.FINDING,
        "source": MemorySource.USER_INPUT,
        "timestamp": NOON,
    }
    return MemoryRecord(**(known | fields))


def an_import(**fields: object) -> messages.Import:
    return messages.Import(records=(record(**fields),), model_sha256="0" * 64)


WRONG: list[tuple[str, Callable[[], object]]] = [
    # texts
    ("text", lambda: draft(text="")),
    ("text", lambda: draft(text=" \n\t ")),
    ("text", lambda: draft(text="x" * (1 << 20))),
    ("text", lambda: draft(text="\u00e9" * (MAX_TEXT_BYTES // 2 + 1))),
    ("text", lambda: draft(text="half a pair \ud800")),
    ("query", lambda: messages.Recall(query="")),
    ("query", lambda: messages.Recall(query="x" * (messages.MAX_QUERY_BYTES + 1))),
    ("query", lambda: messages.BeginTrajectory(query=" ")),
    ("action", lambda: messages.AddStep(id=ids.TrajectoryId("t"), action="")),
    ("text", lambda: messages.AddStep(id=ids.TrajectoryId("t"), action="edit", text="x" * 16_385)),
    ("records[0].text", lambda: an_import(text="")),
    # folders
    ("folder", lambda: messages.Backup(folder="")),
    ("folder", lambda: messages.Backup(folder="backup")),
    ("folder", lambda: messages.Backup(folder="/srv/../etc")),
    ("folder", lambda: messages.Backup(folder="/srv/a\x00b")),
    ("folder", lambda: messages.Backup(folder="/srv/" + "x" * 4_096)),
    # names
    ("session_id", lambda: draft(session_id="x" * 257)),
    ("session_id", lambda: draft(session_id="a\x00b")),
    ("kind", lambda: draft(kind="dream")),
    ("source", lambda: draft(source="")),
    ("kinds", lambda: MemoryFilter(kinds=frozenset({"episode", "dream"}))),
    ("sources", lambda: MemoryFilter(sources=frozenset({"nobody"}))),
    ("session_id", lambda: an_event(session_id="a\nb")),
    ("actor", lambda: an_event(actor="\x1b[31m")),
    ("run_id", lambda: an_event(run_id="\u202e")),
    ("records[0].kind", lambda: an_import(kind="dream")),
    ("records[0].session_id", lambda: an_import(session_id="\x00")),
    # numbers
    ("quality_score", lambda: draft(quality_score=1.01)),
    ("quality_score", lambda: draft(quality_score=math.nan)),
    ("quality_score", lambda: draft(quality_score=-math.inf)),
    ("quality", lambda: messages.EndTrajectory(id=ids.TrajectoryId("t"), quality=math.nan)),
    ("records[0].quality_score", lambda: an_import(quality_score=2.0)),
    ("top_k", lambda: messages.Recall(query="q", top_k=0)),
    ("top_k", lambda: messages.Recall(query="q", top_k=messages.MAX_TOP_K + 1)),
    ("min_relevance", lambda: messages.Recall(query="q", min_relevance=-0.01)),
    ("min_relevance", lambda: messages.Recall(query="q", min_relevance=1.01)),
    ("min_relevance", lambda: messages.Recall(query="q", min_relevance=math.nan)),
    ("limit", lambda: messages.Export(limit=0)),
    ("limit", lambda: messages.Export(after=-1)),
    ("limit", lambda: messages.ListTrajectories(limit=0)),
    ("limit", lambda: messages.ListPatterns(limit=0)),
    ("limit", lambda: messages.ListLessons(limit=0)),
    ("runs", lambda: messages.EvaluateLearning(runs=0)),
    ("runs", lambda: messages.EvaluateLearning(runs=messages.MAX_EVALUATED + 1)),
    ("form", lambda: messages.ExportLearning(form="xml")),
    ("after", lambda: messages.ExportLearning(after=-1)),
    ("size", lambda: messages.ImportLearning(data=b"", size=0)),
    ("size", lambda: messages.ImportLearning(data=b"x", size=messages.MAX_LEARNING_BYTES + 1)),
    ("after", lambda: messages.ImportLearning(data=b"x", size=1, after=2)),
    ("after", lambda: messages.ImportLearning(data=b"", size=1)),
    ("query", lambda: messages.ListPatterns(query="x" * (messages.MAX_QUERY_BYTES + 1))),
    ("after", lambda: messages.Subscribe(after=ids.Seq(-1))),
    ("after", lambda: messages.Subscribe(after=ids.Seq(1 << 63))),
    ("limit", lambda: messages.Export(after=1 << 63)),
    # times
    ("timestamp", lambda: draft(timestamp=NAIVE)),
    ("since", lambda: MemoryFilter(since=NAIVE)),
    ("until", lambda: MemoryFilter(until=NAIVE)),
    ("since", lambda: MemoryFilter(since=NOON, until=NOON)),
    ("since", lambda: MemoryFilter(since=NOON + timedelta(hours=1), until=NOON)),
    ("now", lambda: messages.Recall(query="q", now=NAIVE)),
    ("now", lambda: messages.Why(query="q", id=ID, now=NAIVE)),
    *(
        ("timezone", lambda zone=zone: messages.Recall(query="q", timezone=zone))
        for zone in ("", "Mars/Olympus", "Europe", "../etc/passwd", "/etc/localtime", "a\x00b", "\ud800", "x" * 5_000)
    ),
    ("time", lambda: messages.Recall(query="q", time="sometimes")),
    ("timezone", lambda: messages.Why(query="q", id=ID, timezone="CEST+2")),
    ("before", lambda: messages.Forget(before=NAIVE)),
    # ids
    ("id", lambda: draft(id="not-a-ulid")),
    ("id", lambda: an_event(id="")),
    ("id", lambda: an_event(id="with space")),
    ("id", lambda: an_event(id="x" * 129)),
    ("type", lambda: an_event(type="../etc")),
    ("type", lambda: an_event(type="")),
    ("id", lambda: messages.Forget(ids=(ids.RecordId("../x"),))),
    ("id", lambda: messages.BeginTrajectory(query="q", shown=(ids.RecordId("x"),))),
    # counts
    ("events", lambda: messages.Publish(events=())),
    ("events", lambda: messages.Publish(events=(an_event(),) * (messages.MAX_BATCH + 1))),
    ("drafts", lambda: messages.Remember(drafts=())),
    ("records", lambda: messages.Import(records=(), model_sha256="0" * 64)),
    ("ids", messages.Forget),
    ("ids", lambda: messages.Forget(everything=True, session_id="s")),
    ("ids", lambda: messages.PublishGlobal(ids=())),
    ("id", lambda: messages.PublishGlobal(ids=(ids.RecordId("../x"),))),
    ("ids", lambda: messages.UnpublishGlobal(ids=())),
    # topics
    ("topic", lambda: messages.Subscribe(topic="")),
    ("topic", lambda: messages.Subscribe(topic="chat*")),
    ("topic", lambda: messages.Subscribe(topic=".*")),
    ("topic", lambda: messages.Subscribe(topic="*.done")),
]


@pytest.mark.parametrize(("field", "make"), WRONG)
def test_a_message_that_breaks_a_rule_cannot_be_made_and_says_which_field_and_how_to_mend_it(
    field: str, make: Callable[[], object]
) -> None:
    with pytest.raises(InvalidMessage) as refused:
        make()

    assert refused.value.field == field
    assert refused.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "", "../x", "..", ".", "a/b", "a\\b", "/etc", "a.b", "-a", "_global", "a b", "a\x00", "a\n", "x" * 65,
        "\u0430lice", "\uff41lice", "al\u0131ce", "alice\u200b", "\u2024\u2024/x", "caf\u00e9", "CON:", "~root", "%2e%2e",
    ],
)  # fmt: skip
def test_a_name_that_is_not_safe_in_a_path_or_has_a_twin_is_no_user(name: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        ids.user_id(name)

    assert refused.value.field == "user"
    assert refused.value.hint


@pytest.mark.parametrize("name", ["a", "A9", "alice-1_b", "0", "x" * 64])
def test_plain_names_are_users(name: str) -> None:
    assert ids.user_id(name) == name


def test_the_message_of_a_refusal_does_not_quote_the_text() -> None:
    with pytest.raises(InvalidMessage) as refused:
        draft(text="my secret " * 10_000)

    assert "secret" not in f"{refused.value} {refused.value.hint} {refused.value.details}"


def test_a_part_of_an_event_gets_the_same_record_id_every_time() -> None:
    one = ids.derived_record_id(NOON, ids.EventId("e1"), 0)

    assert one == ids.derived_record_id(NOON, ids.EventId("e1"), 0)
    assert (
        len({one, ids.derived_record_id(NOON, ids.EventId("e1"), 1), ids.derived_record_id(NOON, ids.EventId("e2"), 0)})
        == 3
    )
    assert ids.record_id(one) == one


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_first_and_the_last_moment_make_record_ids(moment: datetime) -> None:
    assert ids.record_id(ids.derived_record_id(moment, ids.EventId("e"), 0))
    assert ids.record_id(ids.new_ulid(moment))
