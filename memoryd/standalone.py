"""One `.rvf` file of its own for some memories, which needs nothing else: rows from the first on, sealed, with their graph."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from memoryd.clock import SystemClock
from memoryd.files import RealFiles
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.interfaces import Batch, Entry, ModelInfo
from memoryd.protocol.records import microseconds
from memoryd.rvf.file import RvfMemoryFile
from memoryd.rvf.lock import WriterLock
from memoryd.rvf.places import lock_path
from memoryd.vectors.codes import Codebook
from memoryd.vectors.graph import link

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memoryd.protocol.messages import Exported
    from memoryd.protocol.records import MemoryRecord


@contextmanager
def standalone(path: Path) -> Iterator[Standalone]:
    """Write a new file at `path`, which is there when all of it is. Raises InvalidMessage or StorageFault."""
    path = path.absolute()
    files = RealFiles()
    if files.exists(path):
        raise InvalidMessage("this file is there already", field="FILE", hint="choose another name")
    draft = path.with_name(path.name + ".part")
    lock = WriterLock.acquire(files, lock_path(draft), SystemClock().now(), secrets.token_bytes(9))
    try:
        files.unlink(draft)
        writing = Standalone(files, draft, lock)
        yield writing
        writing.finish()
        files.rename(draft, path)
        files.sync_folder(path.parent)
    except BaseException:
        files.unlink(draft)
        raise
    finally:
        lock.release()


class Standalone:
    """A file that is being written; see `standalone`."""

    def __init__(self, files: RealFiles, path: Path, lock: WriterLock) -> None:
        self._files = files
        self._path = path
        self._lock = lock
        self._file: RvfMemoryFile | None = None
        self.records = 0

    def add(self, page: Exported) -> None:
        """Write these records with their vectors."""
        if not page.records:
            return
        if self._file is None:
            model = ModelInfo(page.model, len(page.records[0].embedding) // 4, page.model_sha256)
            codebook = Codebook.shipped(model.sha256)
            self._file, _ = RvfMemoryFile.open(
                self._files, self._path, model, self._lock, secrets.token_bytes(16), codebook, link
            )
        self._file.commit(Batch(entries=[_entry(record) for record in page.records]))
        self.records += len(page.records)

    def finish(self) -> None:
        """Seal the rows and make their graph."""
        file, self._file = self._file, None
        if file is None:
            raise InvalidMessage("this branch holds no memory", field="NAME", hint="remember something first")
        file.compact()
        if (linking := file.linking()) is not None and linking.prepare():
            file.finish(linking)
        file.close()


def _entry(record: MemoryRecord) -> Entry:
    vector = np.frombuffer(record.embedding, "<f4")
    return Entry(msgspec.structs.replace(record, embedding=b""), vector, max(0, microseconds(record.timestamp)))
