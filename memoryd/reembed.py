"""Give memories new vectors when the model has changed: offline, file by file, each replaced only when it is complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from memoryd.clock import SystemClock
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.files import RealFiles
from memoryd.protocol.errors import NotFound
from memoryd.protocol.ids import UserId, user_id
from memoryd.protocol.records import as_embedded
from memoryd.rvf.store import RvfMemoryStore
from memoryd.stores.datadir import GLOBAL, DataDir
from memoryd.vectors.index import VectorIndex

if TYPE_CHECKING:
    from memoryd.config import Config
    from memoryd.protocol.interfaces import Embedder, ModelInfo, Vectors


@dataclass(frozen=True, slots=True)
class Reembedded:
    """One user's memory has its new vectors; `records` is 0 when it had the right ones already."""

    user: str
    records: int


def run(root: Path, config: Config, user: str | None = None, embedder: Embedder | None = None) -> Iterator[Reembedded]:
    """Re-embed one user or all, and what is published for everybody; yield each as it is done.

    Raises Locked while a daemon serves `root`, NotFound for an unknown user, or another StorageFault.
    """
    files = RealFiles()
    data = DataDir.take(root, files)
    try:
        threads = config.embedding.threads or 2
        encoder = embedder or OnnxEmbedder.open(config.embedding.model, threads=1)
        with ThreadPoolExecutor(threads) as pool:
            for folder in (root, root / GLOBAL) if user is None else (root,):
                # What is published and taken back is kept for nobody.
                history_s = 0.0 if folder.name == GLOBAL else config.memory.history_s
                store = _store(folder, encoder.model, history_s)
                users = list(store.users()) if user is None else [_known(store, user)]
                for each in users:
                    yield Reembedded(each, _reembed(folder, each, encoder, pool, history_s))
    finally:
        data.release()


def _reembed(folder: Path, user: UserId, encoder: Embedder, pool: ThreadPoolExecutor, history_s: float) -> int:
    """Give every branch of a user its new vectors, the youngest first; return how many."""
    new, done = encoder.model, 0

    def embed(records: Sequence[bytes]) -> tuple[Sequence[bytes], Vectors]:
        nonlocal done
        vectors = np.empty((len(records), new.dim), np.float32)
        decoded = [store.decode(record) for record in records]
        texts = [as_embedded(each.text, each.metadata) for each in decoded]
        encoded = []
        for row, found in enumerate(pool.map(lambda text: encoder.embed([text]), texts)):
            vectors[row] = found.vectors[0]
            encoded.append(
                store.encode(msgspec.structs.replace(decoded[row], windows=found.windows[0], signs=found.signs[0]))
            )
        done += len(records)
        return encoded, vectors

    for branch, model in _store(folder, new, history_s).models(user).items():
        if (model.name, model.dim, model.sha256) != (new.name, new.dim, new.sha256):
            store = _store(folder, model, history_s)
            store.reembed(user, branch, new, embed)
    return done


def _known(store: RvfMemoryStore, name: str) -> UserId:
    user = user_id(name)
    if not store.exists(user):
        raise NotFound("this user has no memory", field="user", hint="see the folders of the data directory")
    return user


def _store(folder: Path, model: ModelInfo, history_s: float) -> RvfMemoryStore:
    return RvfMemoryStore(folder, model, RealFiles(), SystemClock(), VectorIndex, history_s=history_s)
