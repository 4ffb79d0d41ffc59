"""Late interaction: how near the nearest word piece of a text is to each word piece of a query (MaxSim).

Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT"
(2020). An encoder makes a vector of each piece on its way to the one of the text, so they cost nothing. Only the signs of
half of their numbers are kept, of the query too, 24 bytes a piece for 384 dimensions: the share of signs in common stands for
the cosine (Charikar, "Similarity Estimation Techniques from Rounding Algorithms", 2002).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.protocol.interfaces import Vectors

MOST: Final = 24  # of one window of a text; of more pieces some that follow each other stand together
_NUMBERS: Final = 192  # of a vector whose signs are kept, about; evenly spread
_WORD: Final = 8  # bytes that are compared at once


def width(dim: int) -> int:
    """Return how many bytes the signs of one vector of so many dimensions take."""
    return _WORD * -(-len(range(0, dim, _step(dim))) // (8 * _WORD))


def packed(pieces: Vectors) -> bytes:
    """Return the signs of the vectors of the pieces of one window, float32 [n, dim], as uint8 [m, width(dim)], m <= MOST.

    Those of the windows of a long text stand one behind the other.
    """
    kept = pieces[:, :: _step(pieces.shape[1])]
    if len(kept) > MOST:
        kept = np.add.reduceat(kept, np.arange(MOST) * len(kept) // MOST)  # a sum has the signs of the mean
    signs = np.zeros((len(kept), width(pieces.shape[1])), np.uint8)
    bits = np.packbits(kept > 0, axis=1)
    signs[:, : bits.shape[1]] = bits
    return signs.tobytes()


def nearness(query: bytes, texts: Sequence[bytes], dim: int) -> Vectors:
    """Return of each text, float32 [n], the mean over the pieces of the query of the likeness of the nearest of the text.

    Both are `packed`, none of them empty. A likeness is 1 when all signs are the same, -1 when none is.
    """
    size = width(dim)
    words = size // _WORD
    asked = np.frombuffer(query, np.uint64).reshape(-1, words)
    held = np.frombuffer(b"".join(texts), np.uint64).reshape(-1, words)
    apart = np.zeros((len(held), len(asked)), np.uint16)
    for word in range(words):
        apart += np.bitwise_count(held[:, word, None] ^ asked[None, :, word])
    starts = np.cumsum([0, *(len(text) // size for text in texts[:-1])])
    nearest = np.minimum.reduceat(apart, starts)
    likeness: Vectors = 1 - 2 * nearest.mean(axis=1, dtype=np.float32) / len(range(0, dim, _step(dim)))
    return likeness


def _step(dim: int) -> int:
    return max(1, dim // _NUMBERS)
