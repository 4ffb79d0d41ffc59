"""The vectors of the rows that live at one moment, by the ids of their records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Vectors
    from memoryd.protocol.learning import Keys
    from memoryd.vectors.blocks import Blocks
    from memoryd.vectors.exact import Rows


class Remembered:
    """Rows, int64 [n] ascending, of `vectors`, and the keys of their records, uint64 [n]."""

    def __init__(self, vectors: Blocks, rows: Rows, keys: Keys) -> None:
        order = np.argsort(keys, kind="stable")
        self._vectors = vectors
        self._keys = keys[order]
        self._rows = rows[order]

    def vectors(self, keys: Keys) -> tuple[Keys, Vectors]:
        places = np.searchsorted(self._keys, keys)
        places[places == len(self._keys)] = 0
        known = self._keys[places] == keys if len(self._keys) else np.zeros(len(keys), bool)
        rows = self._rows[places[known]]
        order = np.argsort(rows)
        found = np.empty((len(rows), self._vectors.dim), np.float32)
        found[order] = self._vectors.take(rows[order])
        return keys[known], found

    def sample(self, count: int, rng: np.random.Generator) -> Keys:
        if count >= len(self._keys):
            return self._keys
        return self._keys[rng.choice(len(self._keys), count, replace=False)]
