"""Ask a memory file directly, without a daemon: what was committed when it is opened, whoever else has it open."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from memoryd.actors.recalling import QUESTION_CHARACTERS, Understood, best_relevance, plan_of, relevant
from memoryd.actors.timing import Timing, timing
from memoryd.actors.trajectories import Trajectories
from memoryd.clock import SystemClock
from memoryd.files import RealFiles
from memoryd.protocol.messages import Recalled
from memoryd.protocol.records import microseconds
from memoryd.rvf.file import require_model
from memoryd.rvf.foreign import committed, is_memory, standing_alone
from memoryd.rvf.lineage import lineage_of
from memoryd.rvf.places import branch_of
from memoryd.rvf.reader import damaged
from memoryd.rvf.records import UNREADABLE, decode_record
from memoryd.rvf.snapshot import read_snapshot
from memoryd.times import spoken
from memoryd.vectors.codes import Codebook
from memoryd.vectors.index import VectorIndex
from memoryd.words.hybrid import WordsIndex

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

    from memoryd.protocol.interfaces import Embedder
    from memoryd.protocol.records import MemoryFilter, TimeUse


def recall(
    path: Path,
    query: str,
    embedder: Embedder | None,
    *,
    top_k: int,
    where: MemoryFilter,
    as_of: datetime | None = None,
    zone: tzinfo = UTC,
    time_use: TimeUse = "prefer",
    explain: bool = False,
    min_relevance: float = 0.0,
) -> Recalled:
    """Return what a daemon would answer from the file at `path`, a memory's or a branch's, now or at an earlier moment.

    Without an `embedder` words alone answer. The file is neither locked nor written to, and a writer that goes on changes
    nothing of the answer. Raises Damaged, ModelMismatch or another StorageFault.
    """
    path = path.absolute()
    began = time.perf_counter()
    with closing(RealFiles().open(path, writable=False)) as file, standing_alone():
        state = committed(file, path)
        if not is_memory(file, state):
            hint = "it is a store of another program: bring it in with memoryd import"
            raise damaged(path, state.segment.offset, "no records of memoryd", hint)
        lineage = lineage_of(RealFiles(), path, read_snapshot(file, path))
        if embedder is not None:
            require_model(lineage.own.history.model, embedder.model, branch_of(path)[0].name)
        moment_us = None if as_of is None else microseconds(as_of)
        contents = lineage.contents(moment_us)
        partial = ("history",) if moment_us is not None and lineage.has_lost(moment_us) else ()
        index = VectorIndex(contents, None if embedder is None else Codebook.shipped(embedder.model.sha256))
        view, words = index.view(), WordsIndex(None, RealFiles(), decode_record)
        trajectories = Trajectories(contents.trajectories)
        try:
            words.cover(view, view.rows)
            asked = Timing(where)
            if time_use != "ignore":
                said = spoken(query, SystemClock().now(), zone)
                event = words.event(view, query, said.event, 0) if said.event else None
                asked = timing(said, event, time_use, where)
            matched = words.match(view, query, asked.where, 0, asked.preferred)
            asked_for = [words.addressed(query)[:QUESTION_CHARACTERS]]
            meaning = None if embedder is None else embedder.embed(asked_for).meaning(0)
            question = Understood(view, matched, asked, meaning)
            hits = question.hits(top_k, explain=explain)
            plan = plan_of(question, hits.candidates, began, time.perf_counter()) if explain else None
            records = [trajectories.with_outcome(decode_record(hit.record)) for hit in hits.hits]
        except UNREADABLE as error:
            hint = "a newer program wrote it: use a newer memoryd"
            raise damaged(path, state.segment.offset, "a record that cannot be decoded", hint) from error
        finally:
            words.close()
    found = [hit.retrieved(record) for record, hit in zip(records, hits.hits, strict=True)]
    elapsed_ms = round((time.perf_counter() - began) * 1e3, 3)
    return Recalled(
        memories=tuple(relevant(found, min_relevance)),
        tier=hits.path,
        partial=partial,
        best_relevance=best_relevance(found),
        elapsed_ms=elapsed_ms,
        plan=plan,
    )
