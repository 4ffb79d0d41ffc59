"""Folders of earlier versions open, answer as they did, are written to, and open again."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from memoryd.protocol.ids import MAIN, Seq
from memoryd.protocol.interfaces import Batch
from tests.data.make_golden_store import EXPECTED, STORES, TRIAL, Golden, asked, memories, write
from tests.helpers.memories import CODED, USER, entries

VERSIONS = sorted(path.name for path in STORES.iterdir())


@pytest.fixture(params=VERSIONS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of a golden folder."""
    return Path(shutil.copytree(STORES / request.param, tmp_path / "data"))


def expected(folder: Path) -> Golden:
    return msgspec.json.decode((folder / EXPECTED).read_bytes(), type=Golden)


def test_it_holds_and_answers_what_it_did(folder: Path) -> None:
    assert asked(memories(folder)) == expected(folder)
    assert memories(folder).verify(USER) == []


def test_it_is_written_to_rewritten_and_opened_again(folder: Path) -> None:
    known = expected(folder)
    for branch in (TRIAL, MAIN):
        memories(folder).switch(USER, branch, Seq(11))
        opened = memories(folder).open(USER)
        opened.file.commit(Batch(entries=entries([900], CODED.dim), applied_seq=Seq(12)))
        opened.file.compact()
        opened.file.close()
        index = memories(folder).look(USER, branch).index
        assert len(index.known([one.record.id for one in entries([900], CODED.dim)])) == 1

    assert memories(folder).verify(USER) == []
    again = asked(memories(folder))
    assert again.answers["before, any, 0"] == known.answers["before, any, 0"]
    assert again.applied_seq == 12


def test_this_version_still_writes_what_answers_the_same(tmp_path: Path) -> None:
    write(tmp_path / "data")

    assert asked(memories(tmp_path / "data")) == expected(STORES / VERSIONS[-1])
