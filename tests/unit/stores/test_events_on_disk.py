"""The event log and its file: crashes, full disks, missing rights, damage, erased bytes."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memoryd.protocol.errors import Damaged, DiskFull, Locked, ReadOnly, StorageFault
from memoryd.protocol.events import Event
from memoryd.protocol.ids import BEFORE_ALL, EventId, Seq, UserId
from memoryd.stores.events import SqliteEventStore

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2026, 3, 11, 12, tzinfo=UTC)
ANNA = UserId("anna")
BEN = UserId("ben")

# Appends batches for ever and says after each which number it was promised.
APPENDING_FOR_EVER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from memoryd.protocol.events import Event
from memoryd.stores.events import SqliteEventStore

store = SqliteEventStore(Path(sys.argv[1]), lambda: datetime.now(UTC))
n = store.last_seq()
while True:
    size = 1 + n % 7
    batch = [
        ("anna", Event(id=f"e{n + i + 1}", type="t", timestamp=datetime.now(UTC), payload={"n": "x" * 500}))
        for i in range(size)
    ]
    n = store.append(batch)[-1].seq
    print(n, flush=True)
"""


def open_store(path: Path, max_bytes: int | None = None) -> SqliteEventStore:
    return SqliteEventStore(path, lambda: NOON, max_bytes=max_bytes)


def event(name: str, text: str = "hello") -> Event:
    return Event(
        id=EventId(name), type="chat.user_msg", timestamp=NOON, actor=f"actor of {text[:20]}", payload={"text": text}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(path: Path) -> None:
    moments = random.Random(7)  # repeatable, not secret
    acknowledged = 0
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDING_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.15))
        child.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in child.stdout if line.endswith("\n"))])
        child.stdout.close()
        child.wait()

        store = open_store(path)
        stored = store.read(BEFORE_ALL, 1_000_000)
        store.close()

        assert len(stored) >= acknowledged
        assert [(one.seq, one.id) for one in stored] == [(n, f"e{n}") for n in range(1, len(stored) + 1)]


def test_publishing_everything_again_after_a_kill_leaves_no_gap(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", APPENDING_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline()
    child.kill()
    child.stdout.close()
    child.wait()
    store = open_store(path)
    last = store.last_seq()

    again = store.append([(ANNA, event(f"e{n}")) for n in range(1, last + 3)])

    store.close()
    assert [one.seq for one in again] == list(range(1, last + 3))
    assert [one.duplicate for one in again] == [True] * last + [False, False]


def test_the_file_and_its_companions_are_private(path: Path) -> None:
    store = open_store(path)
    store.append([(ANNA, event("a"))])

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    store.close()
    assert modes == {"log.db": 0o600, "log.db-wal": 0o600, "log.db-shm": 0o600}


def test_a_full_disk_refuses_the_whole_batch_and_reading_goes_on(path: Path) -> None:
    store = open_store(path, max_bytes=65_536)
    store.append([(ANNA, event("first"))])

    with pytest.raises(DiskFull) as refused:
        store.append([(ANNA, event(f"e{n}", "x" * 4000)) for n in range(100)])

    kept = [one.id for one in store.read(BEFORE_ALL, 1000)]
    store.close()
    assert kept == ["first"]
    assert refused.value.hint


def test_appending_goes_on_unaided_when_there_is_room_again(path: Path) -> None:
    store = open_store(path, max_bytes=65_536)
    with pytest.raises(DiskFull):
        store.append([(ANNA, event(f"e{n}", "x" * 4000)) for n in range(100)])

    (appended,) = store.append([(ANNA, event("small"))])

    store.close()
    assert appended.seq == 1


def test_a_failed_write_closes_the_writer_for_good_and_loses_nothing(path: Path) -> None:
    store = open_store(path)
    store.append([(ANNA, event("kept"))])
    wal = path.with_name("log.db-wal")

    with no_file_grows_beyond(wal.stat().st_size), pytest.raises(StorageFault):
        store.append([(ANNA, event("lost", "x" * 100_000))])
    with pytest.raises(StorageFault, match="open it anew"):
        store.append([(ANNA, event("later"))])

    assert [one.id for one in store.read(BEFORE_ALL, 10)] == ["kept"]
    store.close()
    reopened = open_store(path)
    assert [one.id for one in reopened.read(BEFORE_ALL, 10)] == ["kept"]
    assert reopened.append([(ANNA, event("later"))])[0].seq == 2
    reopened.close()


def test_a_folder_in_the_place_of_the_file_is_read_only(path: Path) -> None:
    path.mkdir()

    with pytest.raises(ReadOnly):
        open_store(path)


def test_a_file_in_the_place_of_the_folder_is_a_storage_fault(path: Path) -> None:
    path.write_bytes(b"")

    with pytest.raises(StorageFault):
        open_store(path / "log.db")


def test_a_log_that_cannot_be_written_is_read_only_to_append_and_can_still_be_read(path: Path) -> None:
    store = open_store(path)
    store.append([(ANNA, event("a"))])
    # What a read-only mount answers; a mode of 0400 would not stop root.
    store._writer.execute("PRAGMA query_only = ON")

    with pytest.raises(ReadOnly):
        store.append([(ANNA, event("b"))])

    assert [one.id for one in store.read(BEFORE_ALL, 10)] == ["a"]
    store.close()


def test_bytes_that_are_no_database_are_damaged(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 500)

    with pytest.raises(Damaged) as found:
        open_store(path)

    assert found.value.hint


def test_overwritten_pages_are_reported_as_damage(path: Path) -> None:
    store = open_store(path)
    store.append([(ANNA, event(f"e{n}", "x" * 2000)) for n in range(50)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    with pytest.raises(Damaged):
        open_store(path).read(BEFORE_ALL, 100)


def test_an_event_whose_payload_was_overwritten_is_reported_with_its_number(path: Path) -> None:
    store = open_store(path)
    store.append([(ANNA, event("a", "seen by nobody"))])
    store.close()
    path.write_bytes(path.read_bytes().replace(b'{"text":"seen', b'}"text":"seen'))
    store = open_store(path)

    with pytest.raises(Damaged) as found:
        store.read(BEFORE_ALL, 10)

    store.close()
    assert found.value.details["seq"] == 1


def test_another_programs_database_is_not_touched(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()

    with pytest.raises(Damaged, match="another program"):
        open_store(path)


def test_a_newer_format_is_refused(path: Path) -> None:
    open_store(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()

    with pytest.raises(StorageFault, match="unknown format"):
        open_store(path)


def test_a_log_that_another_program_writes_is_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memoryd.stores.schema._BUSY_TIMEOUT_S", 0.05)
    store = open_store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(Locked):
        store.append([(ANNA, event("a"))])

    other.close()
    assert store.append([(ANNA, event("a"))])[0].seq == 1
    store.close()


def test_erasing_while_another_program_reads_says_so_and_works_the_second_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memoryd.stores.schema._BUSY_TIMEOUT_S", 0.05)
    store = open_store(path)
    store.append([(ANNA, event("a", "topsecret"))])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM events").fetchone()

    with pytest.raises(Locked):
        store.erase(ANNA, None)
    other.close()
    store.erase(ANNA, None)

    assert files_with(path, b"topsecret") == []
    store.close()


def files_with(path: Path, needle: bytes) -> list[str]:
    return [file.name for file in path.parent.iterdir() if needle in file.read_bytes()]


def test_erased_bytes_are_in_no_file(path: Path) -> None:
    store = open_store(path)
    store.append([(ANNA, event("a", "topsecret")), (BEN, event("b", "harmless"))])
    assert files_with(path, b"topsecret") == ["log.db-wal"]

    store.erase(ANNA, None)

    assert files_with(path, b"topsecret") == []
    assert files_with(path, b"harmless") == ["log.db"]
    store.close()


def test_dropped_bytes_are_in_no_file(path: Path) -> None:
    store = open_store(path)
    store.append([(ANNA, event("a", "topsecret")), (BEN, event("b", "harmless"))])
    store.park(Seq(1), "failed")
    assert files_with(path, b"topsecret") == ["log.db-wal"]

    store.unpark([Seq(1)], drop=True)

    assert files_with(path, b"topsecret") == []
    assert files_with(path, b"harmless") == ["log.db"]
    store.close()


def test_dropping_while_another_program_reads_says_so_and_works_the_second_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memoryd.stores.schema._BUSY_TIMEOUT_S", 0.05)
    store = open_store(path)
    store.append([(ANNA, event("a", "topsecret")), (ANNA, event("b"))])
    store.park(Seq(1), "failed")
    store.park(Seq(2), "failed")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM events").fetchone()

    with pytest.raises(Locked):
        store.unpark([Seq(1)], drop=True)

    other.close()
    assert [parked.seq for parked in store.parked()] == [1, 2]
    assert store.unpark([Seq(1), Seq(2)], drop=False) == [3]  # what has nothing to say any more is left alone
    assert [one.id for one in store.read(BEFORE_ALL, 10)] == ["b"]
    store.unpark([Seq(1)], drop=True)
    assert store.parked() == []
    assert files_with(path, b"topsecret") == []
    store.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_erased_bytes_are_gone_after_pages_were_split_merged_and_reused(path: Path, seed: int) -> None:
    sizes = random.Random(seed)  # repeatable, not secret
    store = open_store(path)
    for batch in range(20):
        store.append(
            [
                (user, event(f"{batch}-{n}", f"{user}-says-" + "x" * sizes.choice((5, 80, 900, 6000))))
                for n in range(40)
                for user in (ANNA, BEN)
            ]
        )
        store.erase(ANNA, [EventId(f"{batch}-{n}") for n in range(0, 40, 3)])
        # Both move rows, and a moved row may leave a copy behind.
        store.park(store.read(Seq(store.last_seq() - 20), 1)[0].seq, "failed")
        store.unpark([parked.seq for parked in store.parked()], drop=False)
        store.advance("memory", Seq(store.last_seq() - 1500))
        store.truncate(NOON + timedelta(days=1))

    store.erase(ANNA, None)
    assert files_with(path, b"anna-says-") == []
    assert files_with(path, b"ben-says-") == ["log.db"]
    store.erase(BEN, None)

    assert files_with(path, b"-says-") == []
    store.close()


@pytest.mark.parametrize("is_dropped", [False, True])
@pytest.mark.parametrize("seed", [4, 6, 9, 11])  # each leaves copies behind when the file is not rewritten
def test_bytes_are_gone_though_rows_were_moved_before(path: Path, seed: int, *, is_dropped: bool) -> None:
    chance = random.Random(seed)  # repeatable, not secret
    store = open_store(path)
    texts = [f"<says {n}>" * chance.choice((1, 5, 60, 200)) for n in range(1, 301)]
    store.append([(ANNA, event(f"e{n}", text)) for n, text in enumerate(texts, 1)])
    for seq in chance.sample(range(1, 301), 200):
        store.park(Seq(seq), "failed")
        store.unpark([Seq(seq)], drop=False)

    if is_dropped:
        seqs = [one.seq for one in store.read(BEFORE_ALL, 1000)]
        for seq in seqs:
            store.park(seq, "failed")
        store.unpark(seqs, drop=True)
    else:
        store.erase(ANNA, None)

    assert files_with(path, b"<says ") == []
    store.close()


def test_reading_goes_on_while_a_group_is_being_written(path: Path) -> None:
    store = open_store(path)
    store.append([(ANNA, event("a"))])
    is_read = threading.Event()

    def read() -> None:
        store.read(BEFORE_ALL, 10)
        is_read.set()

    with store._writing():
        reader = threading.Thread(target=read)
        reader.start()
        assert is_read.wait(5)

    reader.join()
    store.close()


def test_many_threads_may_append_and_read_at_once(path: Path) -> None:
    store = open_store(path)

    def work(name: int) -> None:
        for n in range(20):
            store.append([(ANNA, event(f"{name}-{n}")), (ANNA, event(f"shared-{n}"))])
            store.read(BEFORE_ALL, 10)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [one.seq for one in store.read(BEFORE_ALL, 1000)] == list(range(1, 101))
    store.close()


def test_a_closed_log_answers_with_a_typed_error(path: Path) -> None:
    store = open_store(path)
    store.close()
    store.close()

    with pytest.raises(StorageFault, match="closed"):
        store.read(Seq(0), 1)
    with pytest.raises(StorageFault, match="closed"):
        store.append([(ANNA, event("a"))])
