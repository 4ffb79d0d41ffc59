"""Memory that is free again: Python's cyclic collector, kept from holding up the event loop, and the C library's heap.

A collection of everything takes a quarter of a second when a thousand users are resident, and by itself it comes whenever
much was made. So the young are collected in small portions, and everything seldom. Who is put to rest does not wait for it: a
user's vectors are in no cycle.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from typing import Final

COLLECT_EVERY_S: Final = 300.0
_YOUNG: Final = 700  # objects made until the youngest are looked at; Python's own number
_MIDDLE: Final = 1  # times that, until their survivors are; ten by default
_NEVER: Final = 1 << 30

_M_MMAP_THRESHOLD: Final = -3  # of mallopt(3)
_LARGE_BLOCK: Final = 256 << 10  # bytes: the rows of one user are more


def settle() -> None:
    """Leave what is there now alone for ever, and everything else until `collect`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)


def collect() -> None:
    """Look at everything."""
    gc.collect()


def return_large_blocks() -> None:
    """Have the C library give back what was large as soon as it is freed.

    By itself it keeps ever larger blocks for the next who asks, and what is small and stays, between them, keeps them all.
    """
    with contextlib.suppress(AttributeError):  # not every C library has it
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
