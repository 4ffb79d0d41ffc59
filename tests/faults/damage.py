"""Changes every byte of a file, cuts it at every length, and appends to it: `python -m tests.faults.damage --seed 7`.

Whatever a user can see of such a file is what was written, or the commit before where the newest one is torn, or it is an
error: never a wrong vector or text. The files are one of a few commits, and one of more than 64 KiB with everything in it
that we write: compacted, folded and masked sealed rows with codes, trajectories, a graph, deleted rows, commits, and what
none of them needs any more. A finding is printed with its place, and the command fails.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

import click
import faiss
import numpy as np
import pytest
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memoryd.protocol.errors import Damaged
from memoryd.protocol.ids import Seq, TrajectoryId
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.records import ANY, MemoryFilter, MemoryKind, MemorySource
from memoryd.rvf import format as rvf
from memoryd.rvf import ledger, rewriting
from memoryd.rvf.reader import find_state
from memoryd.vectors import index as vector_index
from tests.helpers.faultfs import FaultDisk
from tests.helpers.memories import (
    CODED,
    FILE,
    MODEL,
    NOON,
    ROOT,
    USER,
    Expected,
    codebook,
    entries,
    record,
    record_id,
    ring,
    store,
    trajectory,
    units,
)

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import MemoryFile, MemoryIndex, MemoryStore, ModelInfo, SealedRows

APPENDED: Final = 4 << 10  # bytes, at most
_PORTION: Final = 256  # places that a process is given at a time
_ALL_ROWS: Final = frozenset({"status", "trajectories", "contents", "page"})  # what stands where it stood is as it was
_KINDS: Final = frozenset({MemoryKind.FINDING, MemoryKind.STRATEGY})
_ASKED: Final = (
    ANY,
    MemoryFilter(kinds=_KINDS, sources=frozenset({MemorySource.USER_INPUT}), since=NOON, session_id="SFVR"),
)


@dataclass(frozen=True)
class Sample:
    """A file, and what the memory held at the end of each manifest in it."""

    content: bytes
    model: ModelInfo
    states: dict[int, Expected]

    def disk(self, content: bytes) -> FaultDisk:
        disk = FaultDisk()
        disk.put(FILE, content)
        return disk

    def store(self, disk: FaultDisk) -> MemoryStore:
        return store(disk, model=self.model, book=codebook() if self.model is CODED else None, link=ring)


@dataclass(frozen=True)
class Segment:
    """One segment of a sample; `is_live` when the newest manifest lists it, or it is that manifest."""

    kind: int
    start: int
    payload: int
    end: int
    is_live: bool


class _Built:
    """A file that grows, and its model."""

    def __init__(self, model: ModelInfo) -> None:
        self.disk = FaultDisk()
        self.disk.put(ROOT)
        self.model = model
        self.expected = Expected()
        self.states: dict[int, Expected] = {}
        self.memory: MemoryFile = Sample(b"", model, {}).store(self.disk).open(USER).file

    def commit(self, batch: Batch) -> None:
        self.expected = self.expected.after(batch)
        self.states[self.memory.commit(batch).file_bytes] = self.expected

    def compact(self) -> None:
        self.states = {self.memory.compact().file_bytes: self.expected}

    def fold(self) -> None:
        while (folding := self.memory.fold()) is not None:
            assert folding.prepare()
            self.states[self.memory.finish(folding).file_bytes] = self.expected

    def link(self) -> None:
        linking = self.memory.linking()
        assert linking is not None
        assert linking.prepare()
        self.states[self.memory.finish(linking).file_bytes] = self.expected

    def sample(self) -> Sample:
        self.memory.close()
        return Sample(self.disk.content(FILE), self.model, self.states)


@contextmanager
def small_pieces() -> Iterator[None]:
    """Let a few rows do what thousands do otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_FOLD_COMMITS", 3)
        patch.setattr(ledger, "_MERGES", ())
        patch.setattr(ledger, "_LINKED_ROWS", 8)
        patch.setattr(vector_index, "EXACT_ROWS", 8)
        for module in (ledger, rewriting):
            patch.setattr(module, "SEALED_ROWS", 4)
        yield


@cache
def commits() -> Sample:
    """Return a file of a few commits."""
    built = _Built(MODEL)
    built.commit(Batch(entries=entries([1]), applied_seq=Seq(1)))
    built.commit(Batch(entries=entries([2, 3, 4]), applied_seq=Seq(4), trajectories=[trajectory(1)]))
    built.commit(Batch(deleted=[record_id(2)], applied_seq=Seq(4)))
    built.commit(Batch(entries=entries([5, 6]), deleted=[record_id(1)], applied_seq=Seq(6)))
    return built.sample()


@cache
def everything() -> Sample:
    """Return a file of more than 64 KiB that holds all kinds of what we write."""
    with small_pieces():
        built = _Built(CODED)
        run = [trajectory(number, quality=number / 10) for number in range(6)]
        built.commit(Batch(entries=_wordy(range(16)), trajectories=run[:3], applied_seq=Seq(1)))
        built.compact()
        for first in range(16, 28, 3):
            batch = Batch(
                # Told in this session, the head of sealed rows looks like a segment, and is masked.
                entries=_wordy(range(first, first + 3), session_id="SFVR"),
                deleted=[record_id(first - 14), record_id(first - 1)],
                trajectories=run[3:4],
                dropped=[TrajectoryId("run 0")],
                applied_seq=Seq(first),
            )
            built.commit(batch)
        built.fold()
        built.link()
        built.commit(Batch(entries=_wordy([28, 3]), deleted=[record_id(10)], applied_seq=Seq(50)))
        built.commit(Batch(trajectories=run[4:], dropped=[TrajectoryId("run 3")], applied_seq=Seq(51)))
        built.commit(Batch(entries=_wordy([29, 30, 31]), deleted=[record_id(28), record_id(21)], applied_seq=Seq(52)))
        return built.sample()


def _wordy(numbers: Iterable[int], **fields: object) -> list[Entry]:
    """Return records whose texts do not become much smaller when they are packed."""
    return [
        Entry(
            record(number, text=np.random.default_rng(number).bytes(1030).hex(), **fields),
            units(1, CODED.dim, seed=number)[0],
        )
        for number in numbers
    ]


def segments(sample: Sample) -> list[Segment]:
    """Return the segments of a sample in order."""
    content = sample.content
    state = find_state(sample.disk(content).open(FILE, writable=False), FILE)
    live = {entry.offset for entry in (*state.entries, state.segment)}
    found, at = [], 0
    while at < len(content):
        header = rvf.unpack_header(content[at : at + rvf.HEADER_SIZE])
        end = at + rvf.HEADER_SIZE + header.length
        found.append(Segment(header.type, at, at + rvf.HEADER_SIZE, end, at in live))
        at = end
    return found


# --- what a user can see ---


def seen(memory: MemoryFile, index: MemoryIndex) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of everything that can be asked of an open memory, and how to ask it."""
    contents = memory.load()
    query = units(1, contents.vectors.shape[1], seed=18)[0]
    yield "status", lambda: (memory.status().records, memory.status().deleted, memory.status().applied_seq)
    yield "trajectories", lambda: (contents.trajectories, contents.applied_seq)
    yield "contents", lambda: Expected.of(contents)
    for number, part in enumerate(contents.sealed):
        for name, ask in _of_sealed(part).items():
            yield f"{name} of {number}", ask
    for where in _ASKED:
        yield f"select {where}", lambda where=where: index.select(where)
        yield f"search {where}", lambda where=where: index.view().search(query, k=3, where=where)
    ids = [record_id(number) for number in range(0, 40, 7)]
    yield "records", lambda: index.records(ids)
    yield "vectors", lambda: index.vectors(ids).tobytes()
    yield "page", lambda: _page(index)
    yield "check", lambda: _checked(index)


def _checked(index: MemoryIndex) -> None:
    tell = index.check()
    tell()


def _of_sealed(part: SealedRows) -> dict[str, Callable[[], object]]:
    columns = ("kind", "source", "session", "time_us", "keys", "codes")
    return {
        "names": lambda: (part.kinds, part.sources, part.sessions, part.codebook, part.slots, part.dim),
        **{name: lambda name=name: getattr(part, name).tobytes() for name in columns},
        "ids": part.ids,
        "all records": part.records,
        "alive": lambda: part.alive().tobytes(),
        "all vectors": lambda: part.vectors(slice(0, part.slots)).tobytes(),
    }


def _page(index: MemoryIndex) -> tuple[object, bytes]:
    records, vectors, _ = index.page(0, 1000)
    return records, vectors.tobytes()


@cache
def told(sample: Callable[[], Sample], end: int) -> dict[str, object]:
    """Return all answers of the file as it was at this length, of which the model knows the most important one."""
    found = sample()
    opened = found.store(found.disk(found.content[:end])).open(USER)
    answers = {name: ask() for name, ask in seen(opened.file, opened.index)}
    assert answers["contents"] == found.states[end]
    return answers


# --- what becomes of a file ---


def fate(sample: Callable[[], Sample], content: bytes, asked: frozenset[str] = frozenset()) -> tuple[str, int]:
    """Return what becomes of a file with this content, and the end of the manifest that it is answered by.

    `refused` when it cannot be opened, `reported` when something of it cannot be read, `whole` when all is as it was.
    Fails when an answer is another than that of the commit which stands there, or when damage is not found by verify.
    Everything is asked, or what is named.
    """
    found = sample()
    try:
        opened = found.store(found.disk(content)).open(USER)
    except Damaged:
        assert found.store(found.disk(content)).verify(USER), "verify does not find it"
        return "refused", 0
    end = opened.file.status().file_bytes
    assert end in found.states, f"a state that never was, of {end} bytes"
    assert opened.file.status().torn_bytes_cut == len(content) - end
    answers, is_whole = told(sample, end), True
    for name, ask in seen(opened.file, opened.index):
        if asked and name not in asked:
            continue
        try:
            answer = ask()
        except Damaged:
            is_whole = False
        else:
            assert answer == answers[name], f"another answer: {name}"
    if is_whole:
        return "whole", end
    assert found.store(found.disk(content)).verify(USER), "verify does not find it"
    return "reported", end


def change(sample: Callable[[], Sample], at: int, flip: int) -> str:
    """Change one byte; return what becomes of the file. Raises AssertionError when that is not allowed."""
    found = sample()
    content = found.content[:at] + bytes([found.content[at] ^ flip]) + found.content[at + 1 :]
    became, end = fate(sample, content)
    parts = _segments(sample)
    (part,) = [part for part in parts if part.start <= at < part.end]
    if part is parts[-1] and at == part.start + len(rvf.MAGIC):  # the version: of a newer program, which is not cut
        assert became == "refused", "a commit of an unknown version is cut"
        return became
    if part is parts[-1]:  # the newest manifest cannot be told from a torn one, and what it says is known by its hash
        before = sorted(found.states)[-2]
        assert (became, end) in {("whole", before), ("whole", len(content))}
        assert end == before or at < part.payload, "a changed manifest is believed"
        return "torn" if end == before else "harmless"
    assert became == "refused" or end == len(content), "an older state is answered"
    if part.is_live and at >= part.payload:
        assert found.store(found.disk(content)).verify(USER), "verify does not find it"
    elif not part.is_live:
        assert became == "whole", "what nobody needs does harm"
    return "harmless" if became == "whole" else became


def cut(sample: Callable[[], Sample], length: int) -> str:
    """Cut the file; return what becomes of it. Raises AssertionError when that is not allowed."""
    found = sample()
    whole = max((end for end in found.states if end <= length), default=0)
    became, end = fate(sample, found.content[:length], _ALL_ROWS)
    assert (became, end) == (("whole", whole) if whole else ("refused", 0))
    return became


def append(sample: Callable[[], Sample], junk: bytes) -> str:
    """Append to the file; return what becomes of it. Raises AssertionError when that is not allowed."""
    found = sample()
    became, end = fate(sample, found.content + junk, _ALL_ROWS)
    assert (became, end) == ("whole", len(found.content))
    findings = found.store(found.disk(found.content + junk)).verify(USER)
    assert [finding.offset for finding in findings] == [len(found.content)][: len(junk)]
    return became


@cache
def _segments(sample: Callable[[], Sample]) -> list[Segment]:
    return segments(sample())


# --- all of it ---


@dataclass(frozen=True)
class Task:
    """What is done to the file `sample` at each of some places, by the seed."""

    sample: Callable[[], Sample]
    how: str
    seed: int

    def places(self) -> int:
        """Return how many there are."""
        return {"change": len(self.sample().content), "cut": len(self.sample().content)}.get(self.how, APPENDED + 1)

    def do(self, places: Iterable[int]) -> tuple[Counter[str], list[str]]:
        """Return what became of the file each time, and every finding."""
        noise = np.random.default_rng(self.seed)
        flips, garbage = noise.integers(1, 256, len(self.sample().content)), noise.bytes(APPENDED)
        act: Callable[[int], str] = {
            "change": lambda at: change(self.sample, at, int(flips[at])),
            "cut": lambda length: cut(self.sample, length),
            "zeros": lambda length: append(self.sample, bytes(length)),
            "garbage": lambda length: append(self.sample, garbage[:length]),
        }[self.how]
        became: Counter[str] = Counter()
        findings = []
        with small_pieces():
            for place in places:
                try:
                    became[act(place)] += 1
                except Exception as error:  # noqa: BLE001 - whatever is raised but Damaged is a finding
                    findings.append(f"{self}, place {place}: {type(error).__name__}: {error}")
        return became, findings

    def __str__(self) -> str:
        return f"{self.sample.__name__}, {self.how}, seed {self.seed}"


HOWS: Final = ("change", "cut", "zeros", "garbage")


@click.command(help=__doc__)
@click.option("--seed", type=int, default=1, show_default=True, help="What the changed bytes become.")
@click.option("--processes", type=click.IntRange(1), default=os.cpu_count(), help="As many as there are processors.")
def main(seed: int, processes: int) -> None:
    """Do it all."""
    tasks = [Task(sample, how, seed) for sample in (commits, everything) for how in HOWS]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    broken: list[str] = []
    pool = ProcessPoolExecutor(processes, get_context("spawn"), faiss.omp_set_num_threads, (1,))
    with pool, Progress(*columns) as progress:
        for task in tasks:
            places = task.places()
            bar = progress.add_task(str(task), total=places)
            portions = [range(at, min(at + _PORTION, places)) for at in range(0, places, _PORTION)]
            all_became: Counter[str] = Counter()
            for portion, (became, findings) in zip(portions, pool.map(task.do, portions), strict=True):
                all_became += became
                broken += findings
                progress.advance(bar, len(portion))
            progress.console.print(f"{task}, {places:,} places: {_said(all_became)}")
    for what in broken:
        click.echo(what, err=True)
    if broken:
        raise SystemExit(1)


def _said(became: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in became.most_common())


if __name__ == "__main__":
    main()
