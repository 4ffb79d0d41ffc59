"""Encoded records in memory, in blocks of their own: the C library gives a block back to the kernel as a whole.

Records one by one on the heap would keep it as large as it ever was, since something small always stays between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Places = NDArray[np.uint32]  # [n, 3]: block, first byte, length

# Far above what the C library takes from its heap (see `garbage.return_large_blocks`), far below a huge page. What nobody has
# written to has no pages.
_BLOCK: Final = 1 << 20


class Texts:
    """Byte strings, added by one writer; readers look only at places that they know of."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []
        self._used = 0  # bytes of the last block
        self.resident_bytes = 0

    def add(self, texts: Sequence[bytes]) -> Places:
        """Keep these; return where they are, uint32 [n, 3]."""
        places = np.empty((len(texts), 3), np.uint32)
        for number, text in enumerate(texts):
            if not self._blocks or self._used + len(text) > len(self._blocks[-1]):
                self._blocks.append(np.empty(max(_BLOCK, len(text)), np.uint8))
                self._used = 0
            places[number] = len(self._blocks) - 1, self._used, len(text)
            self._blocks[-1][self._used : self._used + len(text)] = np.frombuffer(text, np.uint8)
            self._used += len(text)
            self.resident_bytes += len(text)
        return places

    def take(self, places: Places) -> list[bytes]:
        """Return those in these places, uint32 [m, 3]."""
        return [self._blocks[block][start : start + length].tobytes() for block, start, length in places.tolist()]

    def erase(self, place: Places) -> None:
        """Overwrite the one in this place, uint32 [3], with zeros."""
        block, start, length = place.tolist()
        self._blocks[block][start : start + length] = 0
