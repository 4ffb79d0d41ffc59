"""Writes `tests/data/stores/VERSION`: a user's folder as this version writes it, and what it must answer for ever.

`python -m tests.data.make_golden_store` when a version is released; a folder that is there is never written again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec
import pytest

from memoryd.files import RealFiles
from memoryd.protocol.ids import MAIN, BranchName, Seq
from memoryd.protocol.interfaces import Batch, Entry
from memoryd.protocol.records import ANY, MemoryFilter, microseconds
from memoryd.rvf import ledger
from memoryd.vectors.graph import link
from memoryd.version import VERSION
from tests.helpers.memories import CODED, NOON, USER, codebook, record, record_id, store, trajectory, units

if TYPE_CHECKING:
    from memoryd.rvf.store import RvfMemoryStore

STORES: Final = Path(__file__).parent / "stores"
EXPECTED: Final = "expected.json"
TRIAL: Final = BranchName("trial")
DAY_US: Final = 86_400_000_000


class Answer(msgspec.Struct):
    """What a search finds: ids, and the SHA-256 of the vectors behind them."""

    ids: list[str]
    vectors: str


class Golden(msgspec.Struct):
    """What a folder holds, and what it answers, by the name of the question."""

    applied_seq: int
    answers: dict[str, Answer]
    runs: dict[str, float | None]


def memories(root: Path) -> RvfMemoryStore:
    return store(RealFiles(), root, CODED, codebook(), link)


def asked(memories: RvfMemoryStore) -> Golden:
    """Ask a folder everything that a golden one is asked."""
    moments = {
        "main": (MAIN, None),
        "trial": (TRIAL, None),
        "main after a day": (MAIN, _at(1)),
        "before": (TRIAL, _at(0)),
    }
    answers: dict[str, Answer] = {}
    for name, (branch, moment) in moments.items():
        index = memories.look(USER, branch, moment).index
        for kind, where in (("any", ANY), ("a session", MemoryFilter(session_id="session 1"))):
            for number in range(3):
                query = units(1, CODED.dim, seed=9_000 + number)[0]
                ids = [memories.decode(hit.record).id for hit in index.view().search(query, k=10, where=where).hits]
                vectors = b"".join(index.vectors([each]).tobytes() for each in ids)
                answers[f"{name}, {kind}, {number}"] = Answer([*ids], hashlib.sha256(vectors).hexdigest())
    opened = memories.open(USER)
    try:
        runs = {run.id: run.quality for run in opened.trajectories}
        return Golden(opened.applied_seq, answers, runs)
    finally:
        opened.file.close()


def write(root: Path) -> None:
    """Write a memory with sealed rows, codes, a graph, commits behind them, deleted rows, runs, and a branch in use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_LINKED_ROWS", 200)
        made = memories(root)
        file = made.open(USER).file
        file.commit(Batch(entries=_entries(range(300), 0), trajectories=[trajectory(1)], moment_us=_at(0)))
        for begin in (lambda: file.fold(is_quiet=True), file.linking):
            rewriting = begin()
            assert rewriting is not None
            assert rewriting.prepare()
            file.finish(rewriting)
        file.commit(Batch(entries=_entries(range(300, 310), 1), applied_seq=Seq(7), moment_us=_at(1)))
        file.close()
        made.branch(USER, TRIAL, MAIN)
        file = made.open(USER).file
        gone = [record_id(number) for number in (3, 44, 305)]
        file.commit(Batch(entries=_entries([400], 2), deleted=gone, applied_seq=Seq(9), moment_us=_at(2)))
        file.close()
        made.switch(USER, TRIAL, Seq(9))
        file = made.open(USER).file
        run = trajectory(1, quality=0.5)
        gone = [record_id(number) for number in (10, 301)]
        file.commit(Batch(entries=_entries(range(500, 505), 3), deleted=gone, trajectories=[run], moment_us=_at(3)))
        file.close()


def _at(day: int) -> int:
    return microseconds(NOON) - 10 * DAY_US + day * DAY_US


def _entries(numbers: range | list[int], day: int) -> list[Entry]:
    return [Entry(record(number), units(1, CODED.dim, seed=number)[0], _at(day)) for number in numbers]


@click.command(help=__doc__)
def main() -> None:
    folder = STORES / VERSION
    if folder.exists():
        raise click.UsageError(f"{folder} is there: a golden folder stays as it was released")
    write(folder)
    (folder / EXPECTED).write_bytes(msgspec.json.format(msgspec.json.encode(asked(memories(folder)))))
    for lock in folder.rglob("*.lock"):
        lock.unlink()


if __name__ == "__main__":
    main()
