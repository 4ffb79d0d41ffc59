"""Ask a memory file directly, without a daemon: what was committed when it is opened, whoever else has it open."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from memoryd.actors.trajectories import Trajectories
from memoryd.files import RealFiles
from memoryd.protocol.messages import Recalled
from memoryd.protocol.records import RetrievedMemory
from memoryd.rvf.file import require_model
from memoryd.rvf.records import decode_record
from memoryd.rvf.snapshot import read_snapshot
from memoryd.vectors.codes import Codebook
from memoryd.vectors.index import VectorIndex

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Embedder
    from memoryd.protocol.records import MemoryFilter


def recall(path: Path, query: str, embedder: Embedder, *, top_k: int, where: MemoryFilter) -> Recalled:
    """Return what a daemon would answer from the file at `path`, which is neither locked nor written to.

    A writer that goes on changes nothing of the answer. Raises Damaged, ModelMismatch or another StorageFault.
    """
    path = path.absolute()
    began = time.perf_counter()
    file = RealFiles().open(path, writable=False)
    try:
        found = read_snapshot(file, path)
        require_model(found.history.model, embedder.model, path.parent.name)
        contents = found.contents()
        index = VectorIndex(contents, Codebook.shipped(embedder.model.sha256))
        hits = index.view().search(embedder.embed([query]).vectors[0], k=top_k, where=where)
    finally:
        file.close()
    trajectories = Trajectories(contents.trajectories)
    memories = tuple(
        RetrievedMemory(
            record=trajectories.with_outcome(decode_record(hit.record)), score=hit.score, sona_score=hit.score
        )
        for hit in hits.hits
    )
    elapsed = time.perf_counter() - began
    return Recalled(memories=memories, tier=hits.path, partial=(), elapsed_ms=round(elapsed * 1e3, 3))
