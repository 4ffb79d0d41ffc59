"""The vectors of the parts of a long text, as its record carries them.

An encoder reads a long text in windows. Their mean finds the text, but a question about one part of it is nearer to the
window that holds it. One byte for each number is enough to score by: a cosine is off by some thousandths at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import Vectors

_LARGEST: Final = 127


def packed(vectors: Vectors) -> bytes:
    """Return the directions of the windows of one text, float32 [n, dim], as int8 [n, dim]."""
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    directions: NDArray[np.int8] = np.rint(vectors / largest * _LARGEST).astype(np.int8)
    return directions.tobytes()


def nearest_cosine(windows: bytes, vector: Vectors) -> float:
    """Return the cosine of `vector`, float32 [dim], unit length, and the nearest of the packed windows."""
    directions = np.frombuffer(windows, np.int8).reshape(-1, len(vector)).astype(np.float32)
    lengths = np.maximum(np.linalg.norm(directions, axis=1), 1)
    return float(np.max(directions @ vector / lengths))
