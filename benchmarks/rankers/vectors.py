"""Vectors alone: the cosine of the question with each turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.rankers.ranker import DEPTH

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from benchmarks.conversations import Conversation
    from benchmarks.rankers.ranker import Encode


class System:
    """A `Ranker`."""

    def __init__(self, conversation: Conversation, folder: Path, encode: Encode) -> None:
        self._ids = [turn.id for turn in conversation.turns]
        self._encode = encode
        self._vectors = encode([turn.spoken for turn in conversation.turns])

    def rank(self, question: str, asked: datetime) -> list[str]:
        order = np.argsort(-(self._vectors @ self._encode([question])[0]), kind="stable")[:DEPTH]
        return [self._ids[place] for place in order.tolist()]

    def size(self) -> int:
        return self._vectors.nbytes
