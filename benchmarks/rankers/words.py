"""Words alone, FTS5 as it comes: every word of the question, joined with OR, ordered by bm25."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

from benchmarks.rankers.ranker import DEPTH, folder_bytes

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from benchmarks.conversations import Conversation
    from benchmarks.rankers.ranker import Encode


class System:
    """A `Ranker`."""

    def __init__(self, conversation: Conversation, folder: Path, encode: Encode) -> None:
        self._folder = folder
        self._ids = [turn.id for turn in conversation.turns]
        self._database = sqlite3.connect(folder / "words.sqlite")
        self._database.execute("CREATE VIRTUAL TABLE turns USING fts5(text, content='', tokenize='porter unicode61')")
        rows = [(place, turn.spoken) for place, turn in enumerate(conversation.turns)]
        self._database.executemany("INSERT INTO turns (rowid, text) VALUES (?, ?)", rows)
        self._database.commit()

    def rank(self, question: str, asked: datetime) -> list[str]:
        found = self._database.execute(
            "SELECT rowid FROM turns WHERE turns MATCH ? ORDER BY rank LIMIT ?", (any_word_of(question), DEPTH)
        )
        return [self._ids[place] for (place,) in found]

    def size(self) -> int:
        return folder_bytes(self._folder)


def any_word_of(text: str) -> str:
    """Return the query for whatever holds a word of the text."""
    return " OR ".join(f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", text.lower())))
