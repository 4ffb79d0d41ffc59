"""Files that the reference runtime makes here, read by us: whatever was done to them, the same answers."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from memoryd.files import RealFiles
from memoryd.rvf.foreign import ForeignStore
from tests.helpers.foreign import answers
from tests.helpers.interop import run_reference, write_script

if TYPE_CHECKING:
    from pathlib import Path

DIM = 4
METRICS = ("l2", "inner_product", "cosine")
BRANCHES = ("branch.rvf", "below/branch_of_branch.rvf")

Order = dict[str, object]


def work(name: str, random: np.random.Generator) -> list[Order]:
    """Return some things to do with an open store; ids come again and again, deleted ones too."""
    orders: list[Order] = []
    for _ in range(int(random.integers(1, 7))):
        ids = random.integers(0, 25, int(random.integers(1, 6))).tolist()
        match int(random.integers(6)):
            case 0:
                orders.append({"delete": name, "ids": ids})
            case 1:
                orders.append({"compact": name})
            case 2:
                orders += [{"close": name}, {"open": name}]
            case _:
                vectors = random.standard_normal((len(ids), DIM)).round(2).tolist()
                orders.append({"ingest": name, "ids": ids, "vectors": vectors})
    return orders


def stores(random: np.random.Generator, metric: str) -> tuple[list[Order], list[str]]:
    """Return what makes a store and perhaps a branch of it and a branch of that, and their names."""
    names = ["first.rvf", *BRANCHES[: int(random.integers(len(BRANCHES) + 1))]]
    orders: list[Order] = [{"create": names[0], "dimension": DIM, "metric": metric}, *work(names[0], random)]
    for parent, branch in pairwise(names):
        orders += [{"branch": branch, "of": parent}, *work(branch, random)]
    return [*orders, *({"close": name} for name in names)], names


@pytest.mark.parametrize("seed", range(24))
def test_a_store_that_the_reference_runtime_worked_on_gives_us_its_answers(tmp_path: Path, seed: int) -> None:
    (tmp_path / "below").mkdir()
    random = np.random.default_rng(seed)
    orders, names = stores(random, METRICS[seed % len(METRICS)])
    queries = random.standard_normal((3, DIM)).round(3).tolist()
    asked: list[Order] = [{"ask": name, "queries": queries, "k": 100} for name in names]

    done = cast(
        "list[list[list[tuple[int, float]]]]",
        run_reference(write_script(), tmp_path, json.dumps(orders + asked))["done"],
    )

    for name, said in zip(names, done[-len(names) :], strict=True):
        with ForeignStore.open(RealFiles(), tmp_path / name) as store:
            for query, hits in zip(queries, said, strict=True):
                found = answers(store, query, 100)
                assert {row for row, _ in found} == {row for row, _ in hits}
                assert [distance for _, distance in found] == pytest.approx(
                    [distance for _, distance in hits], abs=1e-4
                )
