"""The vectors of the rows that live at one moment, by the ids of their records."""

from __future__ import annotations

from functools import cached_property
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
        self._vectors = vectors
        self._rows = rows
        self._keys = keys

    @cached_property
    def _order(self) -> Rows:
        """The places by key, which only who learns from a run needs."""
        return np.argsort(self._keys)  # none is there twice: a stable one takes six times as long

    def vectors(self, keys: Keys) -> tuple[Keys, Vectors]:
        found_at = self._found(keys)
        rows = self._rows[found_at]
        order = np.argsort(rows)
        found = np.empty((len(rows), self._vectors.dim), np.float32)
        found[order] = self._vectors.take(rows[order])
        return self._keys[found_at], found

    def living(self, keys: Keys) -> Keys:
        return self._keys[self._found(keys)]

    def sample(self, count: int, rng: np.random.Generator) -> Keys:
        if count >= len(self._keys):
            return self._keys
        return self._keys[rng.choice(len(self._keys), count, replace=False)]

    def _found(self, keys: Keys) -> Rows:
        """Return the places, int64 [m], of those of these keys that are there."""
        if not len(self._keys):
            return self._order
        places = np.searchsorted(self._keys, keys, sorter=self._order)
        places[places == len(self._keys)] = 0
        found_at: Rows = self._order[places[self._keys[self._order[places]] == keys]]
        return found_at
