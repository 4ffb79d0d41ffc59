"""engram-search without its cross-encoder: windows of six turns, by vectors, BM25, names, phrases and dates, joined by rank.

Set up as its own benchmark of LoCoMo sets it up, but for the encoder. It finds windows, so only sessions can be told. It
holds the documents in memory and counts their words anew for every question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engram.backends.base import Document
from engram.ingestion.parser import session_to_documents
from engram.retrieval.embedder import Embedder
from engram.retrieval.pipeline import RetrievalPipeline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from benchmarks.conversations import Conversation
    from benchmarks.rankers.ranker import Encode
    from memoryd.protocol.interfaces import Vectors

_ROLES: Final = frozenset({"user", "assistant"})


class _Model:
    """Our encoder in the shape of sentence-transformers, which it cuts long documents for."""

    max_seq_length = 256

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def encode(self, texts: Sequence[str], **_: object) -> Vectors:
        return self._encode(texts)


class System:
    """A `Ranker`."""

    def __init__(self, conversation: Conversation, folder: Path, encode: Encode) -> None:
        embedder = Embedder("minilm")
        embedder._model = _Model(encode)  # noqa: SLF001 - it would download one
        self._pipeline = RetrievalPipeline(embedder=embedder, use_reranker=False)
        made = _documents(conversation)
        vectors = embedder.encode_documents([each["text"] for each in made])
        self._documents = [
            Document(id=each["id"], text=each["text"], embedding=vector, metadata=each["metadata"])
            for each, vector in zip(made, vectors, strict=True)
        ]

    def rank(self, question: str, asked: datetime) -> list[str]:
        found = self._pipeline.search(
            question, self._documents, top_k=len(self._documents), question_date=f"{asked:%Y/%m/%d}"
        )
        return list(dict.fromkeys(document.metadata["session_id"] for document in found))

    def size(self) -> None:
        return None


def _documents(conversation: Conversation) -> list[dict[str, object]]:
    """Return what it makes of each session. Of two people the first one to speak is its user, the other its assistant."""
    speakers = list(dict.fromkeys(turn.speaker for turn in conversation.turns))
    names = None if _ROLES.issuperset(speakers) else dict(zip(("user", "assistant"), speakers, strict=False))
    user = "user" if names is None else speakers[0]
    made = []
    for session in dict.fromkeys(turn.session for turn in conversation.turns):
        turns = [turn for turn in conversation.turns if turn.session == session]
        roles = ["user" if turn.speaker == user else "assistant" for turn in turns]
        said = [{"role": role, "content": turn.text} for role, turn in zip(roles, turns, strict=True)]
        made += session_to_documents(said, session, turns[0].date, include_assistant=True, speaker_names=names)
    return made
