"""Brings records into a daemon, with their vectors, so that nothing is embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memoryd import Memory, MemoryRecord

_FRAME_BYTES: Final = 900_000  # a frame holds 1 MiB
_BATCH: Final = 1_024


async def fill(memory: Memory, user: str, records: Sequence[MemoryRecord], model_sha256: str) -> None:
    """Import all records as one user's."""
    for batch in _batches(records):
        await memory.import_records(batch, model_sha256=model_sha256, user=user)


def slice_for(records: Sequence[MemoryRecord], user: int, size: int) -> list[MemoryRecord]:
    """Return `size` of the records, beginning elsewhere for each user."""
    start = user * size // 2
    return [records[(start + place) % len(records)] for place in range(size)]


def _batches(records: Sequence[MemoryRecord]) -> Iterator[list[MemoryRecord]]:
    batch: list[MemoryRecord] = []
    size = 0
    for record in records:
        weight = len(record.embedding) + 2 * len(record.text.encode()) + 1_000
        if batch and (size + weight > _FRAME_BYTES or len(batch) == _BATCH):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += weight
    if batch:
        yield batch
