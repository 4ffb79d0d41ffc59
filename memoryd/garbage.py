"""Python's cyclic collector, kept from holding up the event loop.

A collection of everything takes a quarter of a second when a thousand users are resident, and by itself it comes whenever
much was made. So the young are collected in small portions, and everything seldom. Who is put to rest does not wait for it: a
user's vectors are in no cycle.
"""

from __future__ import annotations

import gc
from typing import Final

COLLECT_EVERY_S: Final = 300.0
_YOUNG: Final = 700  # objects made until the youngest are looked at; Python's own number
_MIDDLE: Final = 1  # times that, until their survivors are; ten by default
_NEVER: Final = 1 << 30


def settle() -> None:
    """Leave what is there now alone for ever, and everything else until `collect`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)


def collect() -> None:
    """Look at everything."""
    gc.collect()
