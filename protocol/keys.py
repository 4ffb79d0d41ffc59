"""Ids of records as numbers: what columns hold, and what is looked for in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.ids import record_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId

    Keys = NDArray[np.uint64]  # [n, 2]: the halves of each id of 128 bits, the higher one first

# 2^64 over the golden ratio, odd: times it, numbers that follow each other lie far apart (Knuth, TAOCP 3, 6.4).
_ODD: Final = np.uint64(0x9E37_79B9_7F4A_7C15)


def keys_of(records: Iterable[RecordId]) -> Keys:
    """Return those of these ids that are ULIDs as numbers, uint64 [n, 2]: no record has another."""
    keys = b"".join(key for key in map(record_key, records) if key is not None)
    return np.frombuffer(keys, ">u8").astype("<u8").reshape(-1, 2)


def folded(keys: Keys) -> NDArray[np.uint64]:
    """Return one number for each id, uint64 [n]: two ids share one with a chance of 2^-64."""
    halves: NDArray[np.uint64] = keys[:, 0] * _ODD ^ keys[:, 1]
    return halves
