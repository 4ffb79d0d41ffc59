"""Weights as bytes: float32 arrays to signed or blocked bytes and their scales.

Rounding is half to even, so the same weights give the same bytes on every machine.
"""

import numpy as np
import numpy.typing as npt

_INT8_MAX = 127.0
_UINT8_MAX = 255.0


def per_column(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantise float32 [k, m]: int8 [k, m] and float32 [m], symmetric, `weight ~ bytes * scale`."""
    scale = _scale(np.abs(weight).max(axis=0))
    return np.rint(weight / scale).astype(np.int8), scale


def per_row(table: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantise float32 [rows, dim]: int8 [rows, dim] and float32 [rows, 1], symmetric."""
    scale = _scale(np.abs(table).max(axis=1, keepdims=True))
    return np.rint(table / scale).astype(np.int8), scale


def per_block(weight: npt.NDArray[np.float32], *, block: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Quantise float32 [k, m] for MatMulNBits: uint8 [m, k / block, block] around 128 and float32 [m, k / block].

    Raises ValueError unless `block` divides k.
    """
    rows, columns = weight.shape
    if rows % block:
        raise ValueError(f"blocks of {block} do not divide {rows} rows")
    blocks = weight.T.reshape(columns, rows // block, block)
    scale = _scale(np.abs(blocks).max(axis=2))
    return (np.rint(blocks / scale[:, :, None]) + 128).astype(np.uint8), scale


def over_range(low: float, high: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return how unsigned bytes cover `low` <= 0 to `high` > 0: float32 [] step and uint8 [] zero.

    A value is `(byte - zero) * step`; those outside become the nearest one.
    """
    step = np.float32((high - low) / _UINT8_MAX)
    return np.array(step), np.array(np.rint(-low / step), np.uint8)


def _scale(largest: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    # A column of zeros has no scale; any does.
    return np.where(largest > 0, largest / np.float32(_INT8_MAX), np.float32(1)).astype(np.float32)
