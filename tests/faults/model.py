"""A memory against a plain model, by chance: `python -m tests.faults.model --minutes 60 --seed 7`.

Hypothesis draws what happens: memories come and go, are committed and recalled; the file is folded, compacted and linked
beside; its user rests and comes back, or wants everything forgotten; meanwhile the machine stops, the disk fails, or it is
full. After every step the file, its index, what a stop of the machine would leave, and a check of every byte agree with the
model. A failure is shown as the shortest list of steps that leads to it.
"""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import click
import faiss
import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rich.progress import Progress

from memoryd.protocol.errors import DiskFull, StorageFault
from memoryd.protocol.ids import RecordId, Seq, TrajectoryId
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.records import ANY, MemoryFilter, MemoryKind, MemoryRecord, MemorySource, Trajectory
from memoryd.rvf import ledger, rewriting
from memoryd.vectors.graph import link
from tests.helpers.faultfs import Crash, FaultDisk
from tests.helpers.memories import (
    CODED,
    FILE,
    NOON,
    ROOT,
    USER,
    Expected,
    codebook,
    record,
    record_id,
    store,
    trajectory,
    units,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memoryd.protocol.interfaces import Contents, MemoryFile, MemoryIndex, MemoryStore, Rewriting

TORN: Final = "bytes behind the newest commit"
CLOSE: Final = 1e-5  # so much may a cosine of the index differ from one computed with twice the digits
STEPS: Final = 50

NUMBERS = st.integers(0, 40)  # of memories; times the scale
SEEDS = st.integers(0, 1 << 16)
SURVIVES = st.sampled_from([0.0, 0.5, 0.5, 1.0])
SOON = st.one_of(st.integers(0, 6), st.integers(0, 60))  # operations: within a commit, or what is longer
HOWS = st.sampled_from(["compaction", "fold", "compaction", "quiet fold", "linking"])
SEQS = st.integers(0, 9)
AGAIN = st.one_of(st.none(), st.integers(0, 20))  # operations of opening
ERRORS = st.sampled_from([errno.EIO, errno.ENOSPC])
ROOMS = st.one_of(st.none(), st.integers(0, 4_000))
FILTERS = st.one_of(
    st.just(ANY),
    st.builds(
        MemoryFilter,
        kinds=st.frozensets(st.sampled_from(MemoryKind), max_size=2),
        sources=st.frozensets(st.sampled_from(MemorySource), max_size=2),
        session_id=st.sampled_from([None, "session 1", "never"]),
        since=st.one_of(st.none(), st.integers(0, 600).map(lambda number: NOON + timedelta(minutes=number))),
        until=st.one_of(st.none(), st.integers(601, 900).map(lambda number: NOON + timedelta(minutes=number))),
    ),
)


@lru_cache(1 << 14)
def said(number: int, version: int) -> Entry:
    """Return what memory `number` says in one of its versions."""
    text = f"memory {number}, version {version}"
    return Entry(record(number, text=text), units(1, CODED.dim, seed=1_000 * number + version)[0])


def passes(one: MemoryRecord, where: MemoryFilter) -> bool:
    return (
        (not where.kinds or one.kind in where.kinds)
        and (not where.sources or one.source in where.sources)
        and (where.since is None or one.timestamp >= where.since)
        and (where.until is None or one.timestamp < where.until)
        and where.session_id in (None, one.session_id)
    )


class Pending:
    """What the index shows and the file does not hold yet, as a writer keeps it: a batch deletes before it adds."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.deleted: list[RecordId] = []
        self.trajectories: dict[TrajectoryId, Trajectory] = {}
        self.dropped: list[TrajectoryId] = []
        self.applied_seq = Seq(0)

    def batch(self) -> Batch:
        return Batch(
            entries=tuple(self.entries),
            deleted=tuple(self.deleted),
            trajectories=tuple(self.trajectories.values()),
            dropped=tuple(self.dropped),
            applied_seq=self.applied_seq,
        )


class Memory(RuleBasedStateMachine):
    """One user's memory on a disk with faults, used as its writer uses it.

    `committed` is what was acknowledged; `possible` are the states that the disk may hold, which are more while a commit
    that failed on a full disk is not read again. `file` is None as long as the disk was found full.
    """

    index: MemoryIndex

    def __init__(self) -> None:
        super().__init__()
        self.file: MemoryFile | None = None
        self.patch = pytest.MonkeyPatch()
        self.disk = FaultDisk()
        self.disk.put(ROOT)
        self.committed = Expected()
        self.possible = [self.committed]
        self.pending = Pending()
        self.rewriting: Rewriting | None = None
        self.is_prepared = False
        self.forgotten: list[bytes] = []
        self.seq = self.versions = 0
        self.scale = 1
        self.crash: tuple[float, int, int | None] = (0.0, 0, None)

    @initialize(is_small=st.sampled_from([True] * 9 + [False]))
    def begin(self, *, is_small: bool) -> None:
        """Let a few rows do what hundreds do otherwise, or take hundreds."""
        self.patch.setattr(ledger, "_LINKED_ROWS", 8 if is_small else 256)
        if is_small:
            self.patch.setattr(ledger, "_FOLD_COMMITS", 4)
            self.patch.setattr(ledger, "_FOLD_ROWS", 16)
            self.patch.setattr(ledger, "_MERGES", ((24, 3), (64, 2)))
            self.patch.setattr(ledger, "MAX_ROWS", 48)
            for module in (ledger, rewriting):
                self.patch.setattr(module, "SEALED_ROWS", 6)
        else:
            self.scale = 15
        self.activate()

    def teardown(self) -> None:
        self.patch.undo()
        self.disk.heal()
        with suppress(Crash):  # what failed may have failed while the machine was stopped
            self.give_up()
            if self.file is not None:
                self.file.close()
            assert (self.disk.open_files, self.disk.trusted_again) == (0, 0)

    @property
    def store(self) -> MemoryStore:
        return store(self.disk, model=CODED, book=codebook(), link=link)

    @property
    def shown(self) -> Expected:
        """What is committed, and what will be."""
        return self.committed.after(self.pending.batch())

    # --- what the user does ---

    @rule(first=NUMBERS, count=st.integers(1, 20), is_twice=st.booleans())
    def remember(self, first: int, count: int, *, is_twice: bool) -> None:
        """Remember some memories, also in the place of others; perhaps the first of them twice."""
        numbers = [*range(first * self.scale, (first + count) * self.scale)]
        for number in numbers + numbers[:1] * is_twice:
            self.versions += 1
            entry = said(number, self.versions)
            self.index.add([self.store.encode(entry.record)], entry.vector[None])
            self.pending.entries.append(entry)

    @precondition(lambda self: self.file is not None)
    @rule(first=NUMBERS, count=st.integers(1, 20))
    def remember_and_wait(self, first: int, count: int) -> None:
        self.remember(first, count, is_twice=False)
        self.commit()

    @rule(first=NUMBERS, count=st.integers(1, 12))
    def forget(self, first: int, count: int) -> None:
        """Forget some memories that are there, and some that are not."""
        there = [one.id for one, _ in self.shown.rows]
        first %= max(1, len(there))
        ids = [*there[first : first + count * self.scale], record_id(first), RecordId("no ULID")]
        self.index.discard(ids)
        self.pending.entries = [each for each in self.pending.entries if each.record.id not in ids]
        self.pending.deleted += ids

    @rule(number=st.integers(1, 5), quality=st.sampled_from([None, 0.0, 1.0]), is_over=st.booleans(), by=SEQS)
    def follow(self, number: int, quality: float | None, by: int, *, is_over: bool) -> None:
        """Keep a trajectory or drop it, and apply some events that say nothing else."""
        one = trajectory(number, quality)
        if is_over:
            self.pending.trajectories.pop(one.id, None)
            self.pending.dropped.append(one.id)
        else:
            self.pending.trajectories[one.id] = one
        self.seq += by
        self.pending.applied_seq = Seq(self.seq)

    @rule(seed=SEEDS, k=st.integers(1, 30), where=FILTERS)
    def recall(self, seed: int, k: int, where: MemoryFilter) -> None:
        """The best rows that pass are found, and nothing else; the model looks at every row."""
        query = units(1, CODED.dim, seed=seed)[0]
        passing = [row for row in self.shown.rows if passes(row[0], where)]
        vectors = np.frombuffer(b"".join(vector for _, vector in passing), np.float32).reshape(-1, CODED.dim)
        cosines = (vectors.astype(np.float64) @ query).tolist()
        known = {one.id: (one, cosine) for (one, _), cosine in zip(passing, cosines, strict=True)}

        hits = self.index.view().search(query, k=k, where=where).hits

        best = sorted(cosines, reverse=True)[:k]
        found = [self.store.decode(hit.record) for hit in hits]
        assert [known[one.id][0] for one in found] == found
        assert len({one.id for one in found}) == len(found)
        np.testing.assert_allclose([known[one.id][1] for one in found], best, atol=CLOSE)
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=CLOSE)
        assert list(self.index.select(where)) == [one.id for one, _ in passing]

    # --- what the writer does ---

    @precondition(lambda self: self.file is not None)
    @rule()
    def commit(self) -> None:
        before, after = self.committed, self.shown
        with self.disturbed(after, keeps_index=True) as file:
            file.commit(self.pending.batch())
            self.holds(after)
            self.pending = Pending()
            held = {vector for _, vector in after.rows}
            self.forgotten += [vector for _, vector in before.rows if vector not in held]

    @precondition(lambda self: self.file is not None and self.rewriting is None)
    @rule(how=HOWS)
    def rewrite(self, how: str) -> None:
        """Begin to rewrite, if it is offered."""
        assert self.file is not None
        match how:
            case "compaction":
                self.rewriting = self.file.compaction()
            case "linking":
                self.rewriting = self.file.linking()
            case _:
                self.rewriting = self.file.fold(is_quiet=how == "quiet fold")

    @precondition(lambda self: self.file is not None and self.rewriting is None)
    @rule(how=HOWS, first=NUMBERS, count=st.integers(1, 12), number=st.integers(1, 5))
    def rewrite_beside_a_commit(self, how: str, first: int, count: int, number: int) -> None:
        """Rewrite to the end, and commit a bit of everything between."""
        self.rewrite(how)
        if self.rewriting is not None:
            self.prepare()
            self.forget(first, count)
            self.remember(first, count, is_twice=False)
            self.follow(number, 1.0, 1, is_over=bool(count % 2))
            if self.file is not None:
                self.commit()
            if self.file is not None and self.is_prepared:
                self.finish()

    @precondition(lambda self: self.file is not None and self.rewriting is None)
    @rule()
    def tidy(self) -> None:
        """Do all that is offered when it is quiet."""
        while (file := self.file) is not None and (offered := file.fold(is_quiet=True) or file.linking()) is not None:
            self.rewriting = offered
            self.prepare()
            if self.file is not file or not self.is_prepared:
                return
            self.finish()

    @precondition(lambda self: self.file is not None)
    @rule()
    def compact(self) -> None:
        """Rewrite the file for somebody who forgot: nothing of that stays in it."""
        with self.disturbed(keeps_index=True) as file:
            self.give_up()
            file.compact()
            self.rebase(file)
            content = self.disk.content(FILE) if self.disk.exists(FILE) else b""
            assert not any(vector in content for vector in self.forgotten)
            self.forgotten.clear()

    @precondition(lambda self: self.file is not None and self.rewriting is not None)
    @rule()
    def go_on(self) -> None:
        if self.is_prepared:
            self.finish()
        else:
            self.prepare()

    def prepare(self) -> None:
        """It reads, and writes to a file of its own: when that fails, the memory goes on as if nothing had been."""
        with self.disturbed():
            assert self.rewriting is not None
            try:
                self.is_prepared = self.rewriting.prepare()
            except StorageFault:
                self.stop_failing()
            if not self.is_prepared:
                self.give_up()

    def finish(self) -> None:
        with self.disturbed(keeps_index=True) as file:
            assert self.rewriting is not None
            assert file.awaits(self.rewriting)
            file.finish(self.rewriting)
            self.give_up()
            self.rebase(file)

    @precondition(lambda self: self.rewriting is not None)
    @rule()
    def abandon(self) -> None:
        with self.disturbed():
            self.give_up()

    def give_up(self) -> None:
        if self.rewriting is not None:
            self.rewriting.abandon()
        self.rewriting, self.is_prepared = None, False

    def rebase(self, file: MemoryFile) -> None:
        """Let the index stand on what the file holds now, and on what is not committed yet."""
        swap = self.index.rebased(file.load())
        entries = self.pending.entries
        encoded = [self.store.encode(each.record) for each in entries]
        swap(self.pending.deleted, encoded, np.stack([each.vector for each in entries]) if entries else None)

    # --- who rests and comes back ---

    @precondition(lambda self: self.file is not None)
    @rule(everything_goes=st.sampled_from([False] * 9 + [True]))
    def rest(self, *, everything_goes: bool) -> None:
        """Close the memory and open it again; perhaps everything is forgotten between, or if that fails nothing."""
        if not everything_goes:
            self.commit()
        if self.file is None:
            return
        with self.disturbed(*[Expected()] * everything_goes) as file:
            self.give_up()
            file.close()
            if everything_goes:
                self.store.erase(USER)
                self.holds(Expected())
            self.activate()

    def activate(self) -> None:
        """Open the memory; what was not committed is gone, and the file holds a state that it may hold."""
        opened = self.store.open(USER)
        self.file, self.index = opened.file, opened.index
        self.rewriting, self.is_prepared = None, False
        self.pending = Pending()
        with self.disk.unnoticed():
            found = Expected.of(opened.file.load())
        assert found in self.possible
        assert opened.applied_seq == found.applied_seq
        assert {(one.id, one.quality) for one in opened.trajectories} == found.trajectories
        self.holds(found)

    def holds(self, state: Expected) -> None:
        self.committed, self.possible = state, [state]

    # --- what goes wrong ---

    @rule(operations=SOON, survives=SURVIVES, seed=SEEDS, again=AGAIN, commits=st.booleans())
    def stop_the_machine(
        self, operations: int, survives: float, seed: int, again: int | None, *, commits: bool
    ) -> None:
        """Stop it now, or at an operation of what follows; perhaps again while the memory is opened then."""
        self.crash = (survives, seed, again)
        if not operations:
            self.start_the_machine()
            return
        self.disk.crash_in(operations - 1)
        if commits:
            self.commit_something()

    @rule(operations=SOON, error=ERRORS, for_good=st.booleans(), room=ROOMS, commits=st.booleans())
    def let_the_disk_fail(
        self, operations: int, error: int, room: int | None, *, for_good: bool, commits: bool
    ) -> None:
        """Let it fail at an operation of what follows, or be full behind so many bytes; or mend it."""
        if operations:
            self.disk.fail_in(operations - 1, error, for_good=for_good)
        else:
            self.disk.capacity = None if room is None else self.disk.used + room
        if commits:
            self.commit_something()

    def commit_something(self) -> None:
        self.remember(self.versions % 40, 2, is_twice=False)
        if self.file is not None:
            self.commit()

    @precondition(lambda self: self.file is None)
    @rule()
    def write_again(self) -> None:
        """Open the file anew, whether there is room or not; the index goes on as it is."""
        index, pending = self.index, self.pending
        with self.disturbed():
            self.activate()
            self.index, self.pending = index, pending

    @contextmanager
    def disturbed(self, *others: Expected, keeps_index: bool = False) -> Iterator[MemoryFile]:
        """Do something on the disk; if that fails, it holds what it held before, or one of `others`."""
        self.possible = [*self.possible, *others]
        try:
            yield cast("MemoryFile", self.file)
        except Crash:
            self.start_the_machine()
        except StorageFault as error:
            self.stop_failing()
            self.give_up()
            if self.file is not None:
                self.file.close()
            if keeps_index and isinstance(error, DiskFull):
                self.file = None
            else:
                self.activate()
        else:
            self.possible = [self.committed]

    def stop_failing(self) -> None:
        """Heal the disk, but not by making room."""
        capacity = self.disk.capacity
        self.disk.heal()
        self.disk.capacity = capacity

    def start_the_machine(self) -> None:
        survives, seed, again = self.crash
        self.disk = self.crashed(survives, seed)
        if again is not None:
            self.disk.crash_in(again)
            with suppress(Crash):
                self.activate()
                self.file.close()
            self.disk = self.crashed(survives, seed + 1)
        self.activate()

    def crashed(self, survives: float, seed: int) -> FaultDisk:
        disk = self.disk.after_crash(survives, seed)
        disk.capacity = self.disk.capacity
        return disk

    # --- what holds after every step ---

    @invariant()
    def the_file_holds_what_was_committed(self) -> None:
        with self.disk.unnoticed():
            if self.file is not None:
                contents = self.file.load()
                assert Expected.of(contents) == self.committed
                status = self.file.status()
                assert (status.records, status.applied_seq) == (len(self.committed.rows), self.committed.applied_seq)
                assert_codes(contents)
            findings = self.store.verify(USER) if self.disk.exists(FILE) else []
        assert all(TORN in finding.what for finding in findings)
        assert findings == [] or self.file is None

    @invariant()
    def the_index_shows_what_will_be_committed(self) -> None:
        records, vectors, _ = self.index.page(0, 1 << 20)
        shown = self.shown.rows
        assert len(self.index) == len(shown)
        assert [self.store.decode(one) for one in records] == [one for one, _ in shown]
        assert vectors.tobytes() == b"".join(vector for _, vector in shown)

    @invariant()
    def what_was_committed_is_on_the_platter(self) -> None:
        disk = self.disk.after_crash(0.0)
        opened = store(disk, model=CODED, book=codebook()).open(USER)
        assert Expected.of(opened.file.load()) in self.possible
        opened.file.close()


def assert_codes(contents: Contents) -> None:
    """The codes of sealed rows are those of their vectors."""
    for part in contents.sealed:
        assert part.codes.tobytes() == codebook().encode(part.vectors(slice(0, part.slots)))


def profile(examples: int, steps: int = STEPS) -> settings:
    """Return settings under which so many lists of so many steps are tried."""
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=60.0, show_default=True)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The first one; every hundred lists have their own."
)
@click.option("--steps", type=click.IntRange(1), default=2 * STEPS, show_default=True, help="The longest list.")
def main(minutes: float, seed: int, steps: int) -> None:
    """Try lists of steps until the time is over."""
    faiss.omp_set_num_threads(1)  # as in the daemon
    began, done = time.monotonic(), 0
    with Progress() as progress:
        bar = progress.add_task("lists of steps", total=minutes * 60)
        while time.monotonic() < began + minutes * 60:
            progress.update(bar, description=f"seed {seed + done}", completed=time.monotonic() - began)
            hypothesis.seed(seed + done)(Memory)
            run_state_machine_as_test(Memory, settings=settings(profile(100, steps), database=None))
            done += 1
    click.echo(f"{100 * done:,} lists of up to {steps} steps agree with the model (seeds {seed} to {seed + done - 1})")


if __name__ == "__main__":
    main()
