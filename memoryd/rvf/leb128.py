"""Numbers as unsigned LEB128: seven bits to a byte, the lowest first, and the high bit in every byte but the last.

Whole arrays at once. Decoding raises ValueError with the reason, and allocates in proportion to the bytes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

_BITS: Final = 7
_MORE: Final = 1 << _BITS
_LONGEST: Final = 9  # bytes of a number below 2^63


def pack_numbers(numbers: Numbers) -> tuple[bytes, Numbers]:
    """Return `numbers`, int64 [n] and none negative, one after the other, and where each begins, int64 [n]."""
    lengths = np.ones(len(numbers), np.int64)
    for place in range(1, _LONGEST):
        longer = numbers >= 1 << (_BITS * place)
        if not longer.any():
            break
        lengths += longer
    starts = np.cumsum(lengths) - lengths
    octets = np.empty(int(lengths.sum()), np.uint8)
    for place in range(int(lengths.max(initial=0))):
        reaching = np.flatnonzero(lengths > place)
        bits = numbers[reaching] >> (_BITS * place) & (_MORE - 1)
        octets[starts[reaching] + place] = bits | np.where(lengths[reaching] > place + 1, _MORE, 0)
    return octets.tobytes(), starts


def unpack_numbers(data: bytes) -> tuple[Numbers, Numbers]:
    """Return all numbers in `data`, int64 [n], each below 2^63, and where each begins, int64 [n]. Raises ValueError."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < _MORE)
    if len(octets) and (not len(ends) or ends[-1] != len(octets) - 1):
        raise ValueError("number cut short")
    starts = np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1))
    lengths = ends - starts + 1
    if len(lengths) and int(lengths.max()) > _LONGEST:
        raise ValueError("number too long")
    numbers = np.zeros(len(ends), np.int64)
    for place in range(int(lengths.max(initial=0))):
        longer = lengths > place
        numbers[longer] |= (octets[starts[longer] + place] & (_MORE - 1)).astype(np.int64) << (_BITS * place)
    return numbers, starts
