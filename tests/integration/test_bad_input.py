"""Whatever is sent: a typed error that names the place and the mend, and nothing that was accepted before is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgpack
import msgspec
import numpy as np
import pytest

from memoryd.app import Daemon
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol import wire
from memoryd.protocol.errors import (
    BadFrame,
    Damaged,
    Forbidden,
    InvalidMessage,
    Locked,
    MemorydError,
    ModelMismatch,
    ModelUnavailable,
    NotFound,
    ReadOnly,
    TooLarge,
    Unsupported,
)
from memoryd.protocol.interfaces import Finding
from memoryd.protocol.records import Draft, MemoryRecord
from memoryd.relay import desk
from memoryd.rvf.store import RvfMemoryStore
from tests.helpers.daemon import House, config_of, event, events, exported, running, texts

TEXT = "added a mutex around the cache"


@contextmanager
def nothing_is_lost(house: House) -> Iterator[None]:
    """Say that what is inside changes nothing; `still_there` proves it."""
    before = {actor.path: actor.incarnations for actor in house.daemon.application.places}
    yield
    assert {actor.path: actor.incarnations for actor in house.daemon.application.places} == before


async def still_there(house: House) -> None:
    recalled = await house.memory.recall(TEXT, user="alice")

    assert texts(recalled)[0] == TEXT
    assert house.user_slot("alice").incarnations == 1


def framed(payload: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I", len(payload) if length is None else length) + payload


def deep(levels: int) -> bytes:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return msgpack.packb(["recall", 9, 0, {"query": value}])


@pytest.mark.parametrize(
    ("frame", "error", "field"),
    [
        pytest.param(framed(b"\xc1"), BadFrame, "frame", id="malformed"),
        pytest.param(framed(b"\x94\xa6recall\x01\x00"), BadFrame, "frame", id="cut short"),
        pytest.param(framed(b"", 1 << 30), TooLarge, "length", id="oversized"),
        pytest.param(framed(deep(100)), TooLarge, "body", id="deeply nested"),
        pytest.param(framed(b"\x91" * 5_000), BadFrame, "frame", id="nested without end"),
        pytest.param(
            framed(msgpack.packb(["recall", 9, 0, {"q": "xy"}])[:-2] + b"\xff\xfe"), BadFrame, "body", id="UTF-8"
        ),
        pytest.param(framed(msgpack.packb([0] * 70_000)), BadFrame, "frame", id="too many items"),
    ],
)
async def test_a_frame_that_cannot_be_read_is_answered_with_its_fault_and_the_connection_is_closed(
    tmp_path: Path, frame: bytes, error: type[MemorydError], field: str
) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")
        with nothing_is_lost(house):
            async with await house.raw() as raw:
                await raw.hello()
                await raw.send(frame)

                refused = await raw.error()

                assert type(refused) is error
                assert refused.field == field
                assert refused.hint
                assert await raw.answer() is None
        await still_there(house)


@pytest.mark.parametrize(
    ("kind", "body", "error", "field"),
    [
        pytest.param("dream", {}, Unsupported, "kind", id="unknown kind"),
        pytest.param("hello", {"version": 1}, Unsupported, "kind", id="second hello"),
        pytest.param("recall", {"query": "q", "mood": 1}, Unsupported, "mood", id="unknown field"),
        pytest.param("remember", {"drafts": [{"text": ""}]}, InvalidMessage, "text", id="empty text"),
        pytest.param("remember", {"drafts": [{"text": "x" * 1_000_000}]}, InvalidMessage, "text", id="1 MB text"),
        pytest.param("recall", {"query": "x" * 1_000_000}, InvalidMessage, "query", id="1 MB query"),
        pytest.param("recall", {"query": ""}, InvalidMessage, "query", id="empty query"),
        pytest.param("why", {"query": " ", "id": "0" * 26}, InvalidMessage, "query", id="blank query"),
        pytest.param("recall", {"query": "q", "top_k": 0}, InvalidMessage, "top_k", id="none wanted"),
        pytest.param("recall", {"query": "q", "top_k": 10**6}, InvalidMessage, "top_k", id="a million wanted"),
        pytest.param(
            "recall",
            {"query": "q", "filter": {"kinds": ["dream"]}},
            InvalidMessage,
            "filter.kinds[0]",
            id="no such kind",
        ),
        pytest.param(
            "recall",
            {"query": "q", "filter": {"sources": [7]}},
            InvalidMessage,
            "filter.sources[0]",
            id="no such source",
        ),
        pytest.param(
            "remember", {"drafts": [{"text": "a", "kind": "dream"}]}, InvalidMessage, "drafts[0].kind", id="kind"
        ),
        pytest.param("recall", {"query": "q", "user": "../x"}, InvalidMessage, "user", id="path as user"),
        pytest.param("recall", {"query": "q", "user": "x" * 65}, InvalidMessage, "user", id="long user"),
        pytest.param("recall", {"query": "q", "user": 7}, InvalidMessage, "user", id="number as user"),
        pytest.param("recall", {"query": 7}, InvalidMessage, "query", id="wrong type"),
        pytest.param("subscribe", {"after": 1 << 63}, InvalidMessage, "after", id="cursor beyond the log"),
        pytest.param("export", {"after": 1 << 63}, InvalidMessage, "limit", id="page beyond the rows"),
        pytest.param("publish_global", {"ids": []}, InvalidMessage, "ids", id="nothing to publish"),
        pytest.param(
            "remember",
            {"drafts": [{"text": "a", "timestamp": "0001-01-01T00:00:00+14:00"}]},
            InvalidMessage,
            "timestamp",
            id="before all time",
        ),
        pytest.param(
            "publish",
            {"events": [{"id": "e", "type": "t", "timestamp": "9999-12-31T23:59:59-14:00"}]},
            InvalidMessage,
            "timestamp",
            id="after all time",
        ),
        pytest.param("end_trajectory", {"id": "nothing", "quality": 1.0}, NotFound, "id", id="unknown trajectory"),
        pytest.param("verify", {"user": "nobody"}, NotFound, "user", id="nothing to verify"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_refused_by_name_and_the_connection_goes_on(
    tmp_path: Path, kind: str, body: dict[str, object], error: type[MemorydError], field: str
) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")
        with nothing_is_lost(house):
            async with await house.raw() as raw:
                await raw.hello()

                answer = await raw.ask(kind, 2, {"user": "alice", **body})

                assert answer.kind == "error"
                refused = wire.error_of(answer.body)
                assert type(refused) is error
                assert refused.field == field
                assert refused.hint
                assert (await raw.ask("status", 3, {})).kind == "ok"
        await still_there(house)


async def test_a_text_of_a_megabyte_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.remember("x" * (1 << 20), user="alice")

        assert refused.value.field == "text"
        assert "65536" in str(refused.value.hint)
        await still_there(house)


async def test_more_than_a_frame_of_texts_is_refused_and_none_of_them_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.remember_many([Draft(text="x" * 60_000) for _ in range(20)], user="alice")

        assert refused.value.field == "drafts"
        assert len(await exported(house.memory, "alice")) == 1


async def test_strange_but_legal_payloads_and_metadata_come_back_as_they_were(tmp_path: Path) -> None:
    strange = {"nested": {"deep": [[[[1]]]]}, "big": (1 << 64) - 1, "small": -(1 << 63), "": "\x00\u202e", "none": None}
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice", metadata=strange)
        await house.memory.publish([event("e1", "strange", payload=strange)], user="alice", ack="committed")

        found = (await house.memory.recall(TEXT, user="alice", top_k=2)).memories

        assert found[0].record.metadata == strange
        assert [each.record.text for each in found] == [TEXT, "strange"]
        assert house.user_slot("alice").incarnations == 1


@pytest.mark.parametrize(
    "value",
    [b"\xff", {b"k": 1}, float("nan"), float("inf"), [[[[[[[[[[1]]]]]]]]]], object()],
    ids=["bytes", "bytes as key", "NaN", "infinity", "deep", "object"],
)
async def test_what_is_not_json_is_refused_in_a_payload_and_in_metadata(tmp_path: Path, value: object) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(TEXT, user="alice")

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.remember("x", user="alice", metadata={"note": value})
        assert refused.value.field == "metadata"
        assert refused.value.hint
        with pytest.raises(InvalidMessage) as refused:
            event("e1", "x", payload={"note": value})
        assert refused.value.field == "payload"
        assert refused.value.hint

        await still_there(house)


async def test_the_first_and_the_last_moment_of_utc_can_be_remembered(tmp_path: Path) -> None:
    moments = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    async with running(tmp_path) as house:
        await house.memory.publish(
            [event(f"e{n}", f"moment {n}", timestamp=moment) for n, moment in enumerate(moments)],
            user="alice",
            ack="committed",
        )

        assert sorted(record.timestamp for record in await exported(house.memory, "alice")) == moments


# --- vectors from outside ---


def changed(record: MemoryRecord, vector: np.ndarray) -> MemoryRecord:
    return msgspec.structs.replace(record, embedding=np.asarray(vector, "<f4").tobytes())


@pytest.mark.parametrize(
    ("vector", "hint"),
    [
        pytest.param(np.full(384, np.nan), "export", id="NaN"),
        pytest.param(np.r_[np.inf, np.zeros(383)], "export", id="infinity"),
        pytest.param(np.r_[1.0, np.zeros(382)], "384", id="dimension too small"),
        pytest.param(np.r_[1.0, np.zeros(384)], "384", id="dimension too large"),
        pytest.param(np.zeros(384), "normalise", id="no direction"),
        pytest.param(np.ones(384), "normalise", id="not of unit length"),
        pytest.param(np.zeros(0), "384", id="no vector"),
    ],
)
async def test_a_wrong_vector_in_an_import_is_named_and_nothing_of_the_import_is_kept(
    tmp_path: Path, vector: np.ndarray, hint: str
) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")
        (good,) = await exported(house.memory, "alice")
        bad = changed(msgspec.structs.replace(good, id="01ARZ3NDEKTSV4RRFFQ69G5FAV"), vector)

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.import_records([good, bad], model_sha256=HashingEmbedder().model.sha256, user="bob")

        assert refused.value.field == "records[1].embedding"
        assert hint in str(refused.value.hint)
        assert await exported(house.memory, "bob") == []
        await still_there(house)


@pytest.mark.parametrize(
    ("field", "vectors", "hint"),
    [
        ("windows", b"x" * 383, "384"),
        ("windows", b"x" * 384 * 65, "384"),
        ("signs", b"x" * 23, "24"),
        ("signs", b"x" * 24 * (64 * 24 + 1), "24"),
    ],
)
async def test_wrong_windows_or_signs_in_an_import_are_named_and_nothing_of_the_import_is_kept(
    tmp_path: Path, field: str, vectors: bytes, hint: str
) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")
        (good,) = await exported(house.memory, "alice")

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.import_records(
                [msgspec.structs.replace(good, **{field: vectors})],
                model_sha256=HashingEmbedder().model.sha256,
                user="bob",
            )

        assert refused.value.field == f"records[0].{field}"
        assert hint in str(refused.value.hint)
        assert await exported(house.memory, "bob") == []
        await still_there(house)


async def test_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")
        records = await exported(house.memory, "alice")

        with pytest.raises(InvalidMessage) as refused:
            await house.memory.import_records(records, model_sha256="0" * 64, user="alice")

        assert refused.value.field == "model_sha256"
        assert refused.value.hint
        await still_there(house)


async def test_a_memory_of_another_model_is_refused_whole_and_answers_again_under_its_own(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(TEXT, user="alice")

    async with running(tmp_path, embedder=HashingEmbedder(dim=128)) as house:
        with pytest.raises(ModelMismatch) as refused:
            await house.memory.recall(TEXT, user="alice")
        assert "reembed" in str(refused.value.hint)

    async with running(tmp_path) as house:
        await still_there(house)


# --- the model ---


async def test_a_model_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    config = config_of(tmp_path / "data", tmp_path / "d.sock", embedding={"model": "gpt-17"})

    with pytest.raises(ModelUnavailable) as refused:
        Daemon(config, listen=False)

    assert "all-MiniLM-L6-v2" in str(refused.value.hint)


# --- the data directory ---


@contextmanager
def without_root() -> Iterator[Path]:
    """A folder of a plain user, as whom the process acts: root may write anywhere."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield folder
        finally:
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o700)
            if is_root:
                os.seteuid(0)


async def test_a_data_directory_that_cannot_be_written_is_refused_and_serves_again_when_it_can() -> None:
    with without_root() as folder:
        async with running(folder) as house:
            await house.memory.remember(TEXT, user="alice")
        for path in (folder / "data", *(folder / "data").rglob("*")):
            path.chmod(0o500 if path.is_dir() else 0o400)

        with pytest.raises(ReadOnly) as refused:
            Daemon(config_of(folder / "data", folder / "d.sock"), listen=False, embedder=HashingEmbedder())

        assert refused.value.hint
        assert "memoryd.lock" in str(refused.value.details["path"])
        for path in (folder / "data", *(folder / "data").rglob("*")):
            path.chmod(0o700)
        async with running(folder) as house:
            await still_there(house)


async def test_a_folder_that_cannot_be_written_refuses_its_user_and_nobody_else() -> None:
    with without_root() as folder:
        async with running(folder) as house:
            await house.memory.remember(TEXT, user="alice")
            await house.memory.remember("the other one", user="bob")
        (folder / "data" / "bob" / "memory.rvf").chmod(0o400)

        async with running(folder) as house:
            with pytest.raises(ReadOnly) as refused:
                await house.memory.remember("one more", user="bob")

            assert refused.value.hint
            assert "bob/memory.rvf" in str(refused.value)
            await still_there(house)


async def test_a_second_daemon_on_the_same_directory_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")
        before = {path: path.stat().st_mtime_ns for path in house.root.rglob("*")}

        with pytest.raises(Locked) as refused:
            Daemon(config_of(house.root, tmp_path / "other.sock"), listen=True, embedder=HashingEmbedder())

        assert refused.value.exit_code == 75
        assert "--data-dir" in str(refused.value.hint)
        assert {path: path.stat().st_mtime_ns for path in house.root.rglob("*")} == before
        await still_there(house)


async def test_a_daemon_on_a_socket_that_is_served_is_refused_and_the_first_one_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        await house.memory.remember(TEXT, user="alice")
        second = Daemon(config_of(tmp_path / "other", house.daemon.socket), listen=True, embedder=HashingEmbedder())

        with pytest.raises(MemorydError):
            await second.start()

        await still_there(await _again(house))


async def _again(house: House) -> House:
    """Return the same house, spoken to through a new connection: the socket must still be there."""
    house.memory = await house.connect()
    return house


# --- damaged files ---


@pytest.mark.parametrize("how", ["flipped", "cut to nothing", "another format", "zeros"])
async def test_a_damaged_memory_is_named_left_as_it_is_and_harms_nobody_else(tmp_path: Path, how: str) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(TEXT, user="alice")
        await house.memory.remember("it will be damaged", user="bob")
        good = house.file("bob").read_bytes()
    bad = {
        "flipped": good[:100] + bytes([good[100] ^ 1]) + good[101:],
        "cut to nothing": good[:40],
        "another format": b"SQLite format 3\x00" + good,
        "zeros": bytes(len(good)),
    }[how]
    house.file("bob").write_bytes(bad)

    async with running(tmp_path) as house:
        with pytest.raises(Damaged) as refused:
            await house.memory.recall("damaged", user="bob")

        assert refused.value.hint == "memoryd verify --user bob"
        assert refused.value.details["path"] == "bob/memory.rvf"
        assert isinstance(refused.value.details["offset"], int)
        await still_there(house)
        receipts = await house.memory.publish([event("later", "published to a damaged memory")], user="bob")
        assert [receipt.status for receipt in receipts] == ["stored"]
        assert house.file("bob").read_bytes() == bad

    house.file("bob").write_bytes(good)
    async with running(tmp_path) as house:
        await house.settled()
        assert texts(await house.memory.recall("damaged", user="bob", top_k=2)) == [
            "it will be damaged",
            "published to a damaged memory",
        ]


async def test_verify_names_the_byte_that_is_wrong(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(TEXT, user="alice")
        assert await house.memory.verify(user="alice") == []
    data = bytearray(house.file("alice").read_bytes())
    data[200] ^= 0x40
    house.file("alice").write_bytes(data)

    async with running(tmp_path) as house:
        findings = await house.memory.verify(user="alice")

    assert findings
    assert all(finding.hint for finding in findings)


TORN = Finding("7 bytes behind the newest commit", 900, "", "memory.rvf", may_pass=True)
BEHIND = Finding("9 bytes behind the newest commit", 907, "", "memory.rvf", may_pass=True)
OTHER = Finding("content hash fails", 64, "", "memory.rvf")


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        ([TORN], [], []),
        ([TORN], [BEHIND], []),
        ([TORN], [TORN], [TORN]),
        ([TORN, OTHER], [OTHER], [OTHER]),
        ([TORN], [OTHER], [OTHER]),
        ([OTHER], [], [OTHER]),
    ],
)
async def test_a_commit_under_way_is_not_told_as_something_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: list[Finding], then: list[Finding], told: list[Finding]
) -> None:
    looks = iter([first, then])
    monkeypatch.setattr(desk, "_STAYS_S", 0.0)
    monkeypatch.setattr(RvfMemoryStore, "verify", lambda _self, _user: next(looks))
    async with running(tmp_path) as house:
        await house.memory.remember(TEXT, user="alice")
        found = await house.memory.verify(user="alice")

    assert [each.what for each in found] == [each.what for each in told]


@pytest.mark.parametrize("content", [b"not a database at all, and long enough to be none", b""])
async def test_an_event_log_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember(TEXT, user="alice")
    log = tmp_path / "data" / "events.sqlite"
    log.write_bytes(content)
    for name in ("events.sqlite-wal", "events.sqlite-shm"):
        (log.parent / name).unlink(missing_ok=True)

    if content:
        with pytest.raises(Damaged) as refused:
            Daemon(config_of(log.parent, tmp_path / "d.sock"), listen=False, embedder=HashingEmbedder())
        assert refused.value.hint
        log.unlink()
    async with running(tmp_path) as house:
        await still_there(house)


async def test_another_programs_database_is_not_written_to(tmp_path: Path) -> None:
    log = tmp_path / "data" / "events.sqlite"
    log.parent.mkdir()
    with sqlite3.connect(log) as other:
        other.execute("CREATE TABLE theirs (a)")
    other.close()

    with pytest.raises(Damaged) as refused:
        Daemon(config_of(log.parent, tmp_path / "d.sock"), listen=False, embedder=HashingEmbedder())

    assert refused.value.hint


async def test_a_damaged_global_store_costs_the_global_answers_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        record = await house.memory.remember(TEXT, user="alice")
        await house.memory.publish_global([record.id], user="alice")
    file = tmp_path / "data" / "_global" / "global" / "memory.rvf"
    file.write_bytes(b"\x00" * 500)

    async with running(tmp_path) as house:
        recalled = await house.memory.recall(TEXT, user="alice")

        assert texts(recalled) == [TEXT]
        assert recalled.partial == ("global",)
        with pytest.raises(MemorydError) as refused:
            await house.memory.publish_global([record.id], user="alice")
        assert refused.value.hint


async def test_a_user_whose_folder_is_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    async with running(tmp_path) as house:
        await house.memory.remember(TEXT, user="alice")
        await house.memory.remember("somebody else's", user="bob")
    shutil.move(tmp_path / "data" / "bob", outside)
    (tmp_path / "data" / "bob").symlink_to(outside)

    async with running(tmp_path) as house:
        with pytest.raises(MemorydError) as refused:
            await house.memory.recall("else", user="bob")

        assert "symbolic link" in str(refused.value.hint)
        await still_there(house)


async def test_events_that_were_published_with_a_wrong_one_are_refused_together(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        good = [wire.to_body(each) for each in events(3)]
        async with await house.raw() as raw:
            await raw.hello()

            answer = await raw.ask("publish", 2, {"events": [*good, {**good[0], "id": "with space"}], "user": "alice"})

            assert wire.error_of(answer.body).field == "id"
        assert (await house.memory.status()).events_last_seq == 0


async def test_a_token_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    async with running(tmp_path, listen=True) as house:
        with pytest.raises(Forbidden) as refused:
            await house.connect("forged")

        assert refused.value.field == "token"
        assert refused.value.hint
