"""Asks one system about conversations: `python -m benchmarks.rankers.ranker NAME FOLDER FILES`, and prints what it found.

All are given the same: each turn with its speaker as one text, and the vectors of memoryd's encoder on one thread. A system
that wants something else says so in its module.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from benchmarks.conversations import load
from memoryd.embedding.onnx import OnnxEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from benchmarks.conversations import Conversation
    from memoryd.protocol.interfaces import Vectors

    Encode = Callable[[Sequence[str]], Vectors]

DEPTH: Final = 50  # turns that are ranked, for the sessions
MODEL: Final = "all-MiniLM-L6-v2"


class Ranker(Protocol):
    """A system over one conversation, in a folder of its own."""

    def __init__(self, conversation: Conversation, folder: Path, encode: Encode) -> None: ...

    def rank(self, question: str, asked: datetime) -> list[str]:
        """Return the ids of DEPTH turns, best first; all sessions instead, where turns are not told apart."""
        ...

    def size(self) -> int | None:
        """Return the bytes that it keeps; None if it keeps nothing."""
        ...


def encoder() -> Encode:
    """Return what makes vectors of texts, float32 [n, dim], unit length, each text by itself as the daemon does it."""
    embedder = OnnxEmbedder.open(MODEL, threads=1)
    return lambda texts: np.concatenate([embedder.embed([text]).vectors for text in texts])


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(name: str, folder: str, *files: str) -> None:
    """Print one JSON document: for each question, in order, what was found and the milliseconds, and the bytes in all."""
    make: type[Ranker] = importlib.import_module(f"benchmarks.rankers.{name}").System
    encode = encoder()
    found, kept = [], []
    for conversation in (each for file in files for each in load(Path(file))):
        home = Path(folder) / conversation.name
        home.mkdir()
        system = make(conversation, home, encode)
        kept.append(system.size())
        for question in conversation.questions:
            began = time.perf_counter()
            ids = system.rank(question.text, conversation.asked)
            found.append({"ids": ids, "ms": (time.perf_counter() - began) * 1e3})
    sizes = [size for size in kept if size is not None]
    print(json.dumps({"found": found, "size": sum(sizes) if sizes else None}))


if __name__ == "__main__":
    main(*sys.argv[1:])
