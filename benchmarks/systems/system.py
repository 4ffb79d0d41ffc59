"""What a measured system does, and the process that measures one phase of it.

    python -m benchmarks.systems.system NAME load|query|open|append GIVEN STORE [FIRST]

GIVEN is the folder that `benchmarks.given` wrote, STORE the system's own; FIRST is the query with which `open` begins.
Prints one JSON object. It also runs in the environment of the peers, so it imports nothing but numpy besides the system
itself.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]  # [n, dim], rows of unit length
    Found = Sequence[tuple[int, str]]  # row and text, best first

WARM_QUERIES: Final = 20
ROUNDS: Final = 3  # of each query the quickest time counts: others use the machine too


class System(Protocol):
    """A store of vectors with their texts, below a folder of its own. A row's number is its identity."""

    def open(self, *, new: bool) -> None:
        """Open the store, or make it, for reading and writing."""
        ...

    def add(self, first: int, vectors: Vectors, texts: Sequence[str]) -> None:
        """Keep rows `first`, `first + 1`, ... as durably as the system can, and let them be found."""
        ...

    def settle(self) -> None:
        """Finish what the system would do in the background after it was opened or filled."""
        ...

    def search(self, query: Vectors, k: int) -> Found:
        """Return the `k` nearest rows by cosine with their texts; `query` is float32 [dim]."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class About:
    """What the parent says in `about.json`: `batch` rows go into one commit of the load; each append is made `appends` times."""

    dim: int
    rows: int
    k: int
    batch: int
    append_rows: int
    appends: int
    model_sha256: str


class Phases:
    """The phases of one system; each returns what it prints."""

    def __init__(self, system: System, given: Path, about: About, first: int) -> None:
        self._system = system
        self._given = given
        self._about = about
        self._first = first

    def load(self) -> dict[str, object]:
        """Fill a new store and close it."""
        system, (vectors, texts) = self._system, self._part("rows")
        began = time.perf_counter()
        system.open(new=True)
        for first in range(0, len(texts), self._about.batch):
            last = first + self._about.batch
            system.add(first, vectors[first:last], texts[first:last])
        system.settle()
        system.close()
        return {"load_s": time.perf_counter() - began}

    def query(self) -> dict[str, object]:
        """Ask every query ROUNDS times, one after the other, after some that only warm up."""
        system, queries, k = self._system, self._queries(), self._about.k
        system.open(new=False)
        system.settle()
        for query in queries[:WARM_QUERIES]:
            system.search(query, k)
        times: list[float] = []
        answers: list[Found] = []
        for query in [*queries] * ROUNDS:
            began = time.perf_counter()
            answers.append(system.search(query, k))
            times.append(_ms_since(began))
        system.close()
        if not all(text for found in answers for _, text in found):
            raise AssertionError("an answer without its text")
        quickest = np.array(times).reshape(ROUNDS, -1).min(axis=0)
        return {
            "query_ms": quickest.tolist(),
            "found": [[row for row, _ in found] for found in answers[: len(queries)]],
        }

    def open(self) -> dict[str, object]:
        """Open the store and ask once; then ask on, and see what memory that took."""
        system, queries, k = self._system, self._queries()[self._first :], self._about.k
        before = private_bytes()
        began = time.perf_counter()
        system.open(new=False)
        system.search(queries[0], k)
        took = _ms_since(began)
        system.settle()
        for query in queries[1 : WARM_QUERIES + 1]:
            system.search(query, k)
        after = private_bytes()
        system.close()
        return {"open_ms": took, "private_bytes": after - before}

    def append(self) -> dict[str, object]:
        """Add rows many at a time and one at a time; see whether the last one is found at once."""
        system, (vectors, texts) = self._system, self._part("extra")
        system.open(new=False)
        system.settle()
        system.search(vectors[0], self._about.k)
        times: dict[int, list[float]] = {self._about.append_rows: [], 1: []}
        place = 0
        for size, took in times.items():
            for _ in range(self._about.appends):
                part = slice(place, place + size)
                began = time.perf_counter()
                system.add(self._about.rows + place, vectors[part], texts[part])
                took.append(_ms_since(began))
                place += size
        found = system.search(vectors[place - 1], self._about.k)
        system.close()
        return {
            "append_ms": times[self._about.append_rows],
            "append_one_ms": times[1],
            "is_found": self._about.rows + place - 1 in [row for row, _ in found],
        }

    def _part(self, name: str) -> tuple[Vectors, list[str]]:
        with (self._given / f"{name}.jsonl").open(encoding="utf-8") as lines:
            texts = [json.loads(line) for line in lines]
        return np.load(self._given / f"{name}.npy"), texts

    def _queries(self) -> Vectors:
        return cast("Vectors", np.load(self._given / "queries.npy"))


def private_bytes() -> int:
    """Return the memory that the kernel cannot drop: that of no file (proc(5), smaps_rollup)."""
    return sum(_private_kib()) << 10


def _private_kib() -> Iterator[int]:
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Anonymous":
            yield int(value.split()[0])


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def main(name: str, phase: str, given: str, store: str, first: str = "0") -> None:
    """Run one phase of the system in the module `name` and print what it found."""
    about = About(**json.loads((Path(given) / "about.json").read_text(encoding="utf-8")))
    make = importlib.import_module(f"benchmarks.systems.{name}").Store
    phases = Phases(make(Path(store), about), Path(given), about, int(first))
    run = {"load": phases.load, "query": phases.query, "open": phases.open, "append": phases.append}[phase]
    print(json.dumps(run()))


if __name__ == "__main__":
    main(*sys.argv[1:])
