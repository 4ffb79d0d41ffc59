"""Another model: the memory refuses to open, and the command that the error names gives it new vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from memoryd import reembed
from memoryd.clock import SystemClock
from memoryd.config import Config
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.files import RealFiles
from memoryd.protocol.errors import Locked, ModelMismatch, NotFound
from memoryd.protocol.ids import BranchName, RecordId, Seq, UserId, new_ulid
from memoryd.protocol.interfaces import Batch, Embeddings, Entry
from memoryd.protocol.records import ANY, MemoryKind, MemoryRecord, MemorySource
from memoryd.rvf.store import RvfMemoryStore
from memoryd.stores.datadir import DataDir
from memoryd.vectors.index import VectorIndex

USER = UserId("u1")
TEXTS = ["a mutex around the counter", "the build misses a header", "the release notes are stale"]


def store_of(root: Path, embedder: HashingEmbedder) -> RvfMemoryStore:
    return RvfMemoryStore(root, embedder.model, RealFiles(), SystemClock(), VectorIndex)


def filled(root: Path, embedder: HashingEmbedder) -> list[MemoryRecord]:
    now = SystemClock().now()
    records = [
        MemoryRecord(
            id=RecordId(new_ulid(now)),
            text=text,
            kind=MemoryKind.FINDING,
            source=MemorySource.WORKER_RESULT,
            timestamp=now,
        )
        for text in TEXTS
    ]
    opened = store_of(root, embedder).open(USER)
    vectors = embedder.embed(TEXTS).vectors
    entries = [Entry(record, vectors[row]) for row, record in enumerate(records)]
    opened.file.commit(Batch(entries=entries, applied_seq=Seq(7)))
    opened.file.commit(Batch(deleted=[records[1].id], applied_seq=Seq(9)))
    opened.file.close()
    return records


def test_a_memory_of_another_model_names_the_command_that_converts_it(tmp_path: Path) -> None:
    filled(tmp_path, HashingEmbedder(32))

    with pytest.raises(ModelMismatch) as refused:
        store_of(tmp_path, HashingEmbedder(64)).open(USER)

    assert refused.value.hint == "memoryd reembed --user u1"


def test_reembedding_keeps_records_and_cursor_and_makes_the_new_models_vectors(tmp_path: Path) -> None:
    records = filled(tmp_path, HashingEmbedder(32))
    new = HashingEmbedder(64)

    assert list(reembed.run(tmp_path, Config(), embedder=new)) == [reembed.Reembedded("u1", 2)]

    opened = store_of(tmp_path, new).open(USER)
    contents = opened.file.load()
    assert opened.applied_seq == 9
    assert opened.index.select(ANY) == [records[0].id, records[2].id]
    assert np.array_equal(contents.vectors, new.embed([TEXTS[0], TEXTS[2]]).vectors)
    opened.file.close()
    assert store_of(tmp_path, new).verify(USER) == []


def test_a_long_text_gets_the_new_models_windows_and_signs(tmp_path: Path) -> None:
    long = TEXTS[0] + " and one more word" * 60
    old, new = HashingEmbedder(32), HashingEmbedder(64)
    (record, *_) = filled(tmp_path, old)
    opened = store_of(tmp_path, old).open(USER)
    found = old.embed([long])
    changed = msgspec.structs.replace(record, text=long, windows=found.windows[0])
    opened.file.commit(Batch(entries=[Entry(changed, found.vectors[0])]))
    opened.file.close()

    assert list(reembed.run(tmp_path, Config(), embedder=new)) == [reembed.Reembedded("u1", 2)]

    store = store_of(tmp_path, new)
    opened = store.open(USER)
    (kept,) = opened.index.records([record.id])
    assert store.decode(kept).windows == new.embed([long]).windows[0] != found.windows[0]
    assert store.decode(kept).signs == new.embed([long]).signs[0] != found.signs[0]
    opened.file.close()


def test_a_memory_that_has_the_right_vectors_is_left_alone(tmp_path: Path) -> None:
    embedder = HashingEmbedder(32)
    filled(tmp_path, embedder)
    before = (tmp_path / USER / "memory.rvf").read_bytes()

    assert list(reembed.run(tmp_path, Config(), user="u1", embedder=embedder)) == [reembed.Reembedded("u1", 0)]

    assert (tmp_path / USER / "memory.rvf").read_bytes() == before


def test_a_failure_of_the_new_model_leaves_the_memory_as_it_was(tmp_path: Path) -> None:
    filled(tmp_path, HashingEmbedder(32))
    before = (tmp_path / USER / "memory.rvf").read_bytes()

    class Failing(HashingEmbedder):
        def embed(self, texts: object) -> object:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        list(reembed.run(tmp_path, Config(), embedder=Failing(64)))

    assert (tmp_path / USER / "memory.rvf").read_bytes() == before
    store_of(tmp_path, HashingEmbedder(32)).open(USER).file.close()


def test_it_refuses_while_a_daemon_serves_the_directory_and_for_an_unknown_user(tmp_path: Path) -> None:
    filled(tmp_path, HashingEmbedder(32))
    with pytest.raises(NotFound):
        list(reembed.run(tmp_path, Config(), user="nobody", embedder=HashingEmbedder(32)))
    data = DataDir.take(tmp_path, RealFiles())

    with pytest.raises(Locked):
        list(reembed.run(tmp_path, Config(), embedder=HashingEmbedder(64)))
    data.release()


@pytest.mark.parametrize("fails_at", [None, 0, 1, 2])
def test_branches_get_the_new_models_vectors_too_even_in_two_goes(tmp_path: Path, fails_at: int | None) -> None:
    old, new = HashingEmbedder(32), HashingEmbedder(64)
    records = filled(tmp_path, old)
    before = store_of(tmp_path, old)
    for name, parent in (("trial", "main"), ("deeper", "trial")):
        before.branch(USER, BranchName(name), BranchName(parent))
        before.switch(USER, BranchName(name), Seq(9))
        opened = before.open(USER)
        record = msgspec.structs.replace(records[0], id=RecordId(new_ulid(SystemClock().now())), text=f"on {name}")
        vector = old.embed([record.text]).vectors[0]
        opened.file.commit(Batch(entries=[Entry(record, vector)], deleted=[records[0].id]))
        opened.file.close()
    if fails_at is not None:
        with pytest.raises(RuntimeError, match="enough"):
            list(reembed.run(tmp_path, Config(), embedder=Tired(64, fails_at)))

    list(reembed.run(tmp_path, Config(), embedder=new))

    after = store_of(tmp_path, new)
    assert after.verify(USER) == []
    texts = {
        "main": [TEXTS[0], TEXTS[2]],
        "trial": [TEXTS[2], "on trial"],
        "deeper": [TEXTS[2], "on deeper", "on trial"],
    }
    for branch, held in texts.items():
        index = after.look(USER, BranchName(branch)).index
        found = {after.decode(each).text: each for each in index.records(index.select(ANY))}
        assert sorted(found) == sorted(held)
        for text, encoded in found.items():
            np.testing.assert_array_equal(index.vectors([after.decode(encoded).id])[0], new.embed([text]).vectors[0])


class Tired(HashingEmbedder):
    """Fails after so many texts."""

    def __init__(self, dim: int, texts: int) -> None:
        super().__init__(dim)
        self.left = texts

    def embed(self, texts: Sequence[str]) -> Embeddings:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("enough")
        return super().embed(texts)
