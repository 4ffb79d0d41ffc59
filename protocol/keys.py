"""Ids of records as numbers: what columns hold, and what is looked for in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memoryd.protocol.ids import record_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId

    Keys = NDArray[np.uint64]  # [n, 2]: the halves of each id of 128 bits, the higher one first


def keys_of(records: Iterable[RecordId]) -> Keys:
    """Return those of these ids that are ULIDs as numbers, uint64 [n, 2]: no record has another."""
    keys = b"".join(key for key in map(record_key, records) if key is not None)
    return np.frombuffer(keys, ">u8").astype("<u8").reshape(-1, 2)
