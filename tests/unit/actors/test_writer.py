"""What gathers until a commit: the file sees the order of the calls, also over a full disk."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from functools import partial

import pytest

from memoryd.actors import writer
from memoryd.protocol.errors import DiskFull
from memoryd.protocol.interfaces import Entry
from memoryd.protocol.records import Trajectory
from memoryd.rvf import ledger, rewriting
from tests.helpers.memories import FILE, USER, entries, record, record_id, trajectory, units
from tests.helpers.writing import Desk, X

OLD, NEW = (
    Entry(record(1, text=text), units(1, seed=seed)[0]) for seed, text in ((91, "said first"), (92, "said again"))
)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    desk.pools.gate.set()
    await desk.ctx.close()
    await desk.writer.close()


async def has_committed(desk: Desk, *already: Entry) -> None:
    for entry in already:
        desk.add(entry)
    await desk.writer.durable()


@pytest.mark.parametrize("already", [(), (OLD,)])
async def test_what_is_added_after_it_was_deleted_is_there(desk: Desk, already: tuple[Entry, ...]) -> None:
    await has_committed(desk, *already)

    desk.forget()
    desk.add(NEW)
    await desk.writer.durable()

    assert await desk.reopened() == (["said again"], {})


@pytest.mark.parametrize("already", [(), (OLD,)])
async def test_what_is_deleted_after_it_was_added_is_gone_and_was_never_written(
    desk: Desk, already: tuple[Entry, ...]
) -> None:
    await has_committed(desk, *already)

    desk.add(NEW)
    desk.forget()
    await desk.writer.durable()

    assert NEW.vector.tobytes() not in desk.disk.content(FILE)
    assert await desk.reopened() == ([], {})


async def test_the_last_of_many_calls_counts(desk: Desk) -> None:
    desk.add(OLD)
    desk.forget()
    desk.add(NEW)
    desk.add(*entries([2]))
    desk.forget(record_id(2))
    await desk.writer.durable()

    assert await desk.reopened() == (["said again"], {})


async def test_a_trajectory_that_is_kept_after_it_was_dropped_is_there_and_the_other_way_round_gone(desk: Desk) -> None:
    def keep(each: Trajectory) -> str:
        desk.writer.keep(each)
        return each.id

    desk.writer.drop(keep(trajectory(1)))
    desk.writer.drop(trajectory(2).id)
    keep(trajectory(2, quality=1.0))
    await desk.writer.durable()

    assert await desk.reopened() == ([], {"run 2": 1.0})


async def test_on_a_full_disk_what_is_deleted_after_it_was_added_is_gone(desk: Desk) -> None:
    await has_committed(desk, OLD, *entries([2]))
    desk.fill()
    desk.pools.gate.clear()
    desk.forget()
    desk.add(NEW)
    desk.writer.keep(trajectory(1))
    refused = asyncio.create_task(desk.writer.durable())
    await desk.is_committing()

    desk.forget()
    desk.writer.drop(trajectory(1).id)
    desk.pools.gate.set()
    with pytest.raises(DiskFull):
        await refused
    await desk.goes_on()

    assert NEW.vector.tobytes() not in desk.disk.content(FILE)
    assert await desk.reopened() == (["memory 2"], {})


async def test_on_a_full_disk_what_is_added_after_it_was_deleted_is_there(desk: Desk) -> None:
    await has_committed(desk, OLD)
    desk.fill()
    desk.pools.gate.clear()
    desk.forget()
    desk.writer.drop(trajectory(1).id)
    refused = asyncio.create_task(desk.writer.durable())
    await desk.is_committing()

    desk.add(NEW)
    desk.writer.keep(trajectory(1, quality=1.0))
    desk.pools.gate.set()
    with pytest.raises(DiskFull):
        await refused
    await desk.goes_on()

    assert await desk.reopened() == (["said again"], {"run 1": 1.0})


async def test_who_is_refused_on_a_full_disk_takes_away_nothing_that_was_added_after_it(desk: Desk) -> None:
    await has_committed(desk, *entries([2]))
    desk.fill()
    desk.pools.gate.clear()
    desk.add(OLD)
    refused = asyncio.create_task(desk.writer.durable((X,)))
    await desk.is_committing()

    desk.forget()
    desk.add(NEW)
    desk.pools.gate.set()
    with pytest.raises(DiskFull):
        await refused
    await desk.goes_on()

    assert await desk.reopened() == (["memory 2", "said again"], {})


async def test_who_is_refused_on_a_full_disk_takes_away_nothing_that_was_committed_before_it(desk: Desk) -> None:
    await has_committed(desk, OLD)
    desk.fill()

    desk.add(*entries([2]))
    with pytest.raises(DiskFull):  # a batch with one record that is new and one that was there
        await desk.writer.durable((X, record_id(2)))
    await desk.goes_on()

    assert await desk.reopened() == (["said first"], {})


async def test_what_was_refused_does_not_come_back_when_only_the_last_fsync_found_no_room(desk: Desk) -> None:
    await has_committed(desk, OLD)
    desk.disk.only = lambda operation, _path: operation == "sync"
    desk.disk.fail_in(1, errno.ENOSPC)  # that of the manifest, behind that of the rows: all of it is written
    desk.add(*entries([2]))
    with pytest.raises(DiskFull):
        await desk.writer.durable((record_id(2),))
    await desk.goes_on()

    assert await desk.reopened() == (["said first"], {})


# --- folding and compaction beside commits ---


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_FOLD_COMMITS", 2)
    for module in (ledger, rewriting):
        monkeypatch.setattr(module, "SEALED_ROWS", 2)


async def begins_to_fold(desk: Desk) -> None:
    """Commit three times, and hold what is folded then before it begins."""
    for number in (1, 2, 3):
        await has_committed(desk, *entries([number]))
    desk.pools.gate.clear()
    assert desk.writer._rewriting is not None


async def is_folded(desk: Desk) -> None:
    desk.pools.gate.set()
    async with asyncio.timeout(5):
        while desk.writer._rewriting is not None:
            await asyncio.sleep(0)


@pytest.mark.usefixtures("_small_pieces")
async def test_what_changes_while_rows_are_folded_is_in_the_index_and_in_the_file(desk: Desk) -> None:
    await begins_to_fold(desk)

    desk.forget()
    desk.add(NEW)
    desk.forget(record_id(3))
    await is_folded(desk)
    desk.add(Entry(record(4), units(1, seed=4)[0]))

    assert desk.writer.file_status.segments <= 3
    assert await desk.reopened() == (["memory 2", "said again", "memory 4"], {})


@pytest.mark.usefixtures("_small_pieces")
async def test_a_disk_without_room_for_the_folded_rows_loses_nothing_and_is_not_asked_again_at_once(desk: Desk) -> None:
    await begins_to_fold(desk)
    desk.fill()

    await is_folded(desk)

    with pytest.raises(DiskFull):
        desk.writer.refuse_when_full()
    desk.add(NEW)
    await desk.goes_on()
    assert desk.writer._rewriting is None
    assert await desk.reopened() == (["memory 2", "memory 3", "said again"], {})


@pytest.mark.usefixtures("_small_pieces")
async def test_a_folding_that_was_overtaken_by_somebody_who_forgot_changes_nothing(desk: Desk) -> None:
    await begins_to_fold(desk)
    desk.forget()
    desk.writer.compact_soon()

    forgotten = asyncio.ensure_future(desk.writer.durable())
    await is_folded(desk)
    await forgotten

    assert b"memory 1" not in desk.disk.content(FILE)
    assert await desk.reopened() == (["memory 2", "memory 3"], {})


async def test_a_file_that_is_mostly_waste_is_compacted_beside_commits(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SMALLEST_WASTE", 2_000)
    for number in range(40):
        await has_committed(desk, Entry(record(1, text=f"said {number}"), units(1, seed=number)[0]))
    await is_folded(desk)

    assert desk.writer.file_status.file_bytes < 10_000  # forty commits take five times as much
    assert await desk.reopened() == (["said 39"], {})


@pytest.mark.usefixtures("_small_pieces")
async def test_commits_without_end_do_not_keep_the_folded_rows_waiting(desk: Desk) -> None:
    await begins_to_fold(desk)
    desk.pools.gate.set()
    folding = desk.writer._rewriting
    number = 10

    async def remember() -> None:
        nonlocal number
        while desk.writer._rewriting is folding:
            number += 1
            await has_committed(desk, *entries([number]))

    async with asyncio.timeout(5):
        await asyncio.gather(remember(), remember(), remember())

    assert len(desk.index) == 3 + number - 10


@pytest.mark.usefixtures("_small_pieces")
async def test_everything_is_erased_while_rows_are_folded(desk: Desk) -> None:
    await begins_to_fold(desk)
    erasing = asyncio.ensure_future(desk.writer.exchange(partial(desk.memories.erase, USER)))
    await asyncio.sleep(0)
    desk.pools.gate.set()
    await erasing
    desk.add(NEW)
    await desk.writer.durable()

    assert await desk.reopened() == (["said again"], {})
