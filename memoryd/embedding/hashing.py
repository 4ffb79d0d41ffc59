"""Vectors by feature hashing: for tests only.

Texts that share words or parts of words come out alike, nothing more is promised. No model, no files, the same
vectors on every machine. Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd import maxsim
from memoryd.protocol.interfaces import Embeddings, ModelInfo
from memoryd.windows import packed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD: Final = re.compile(r"\w+")
_GRAM: Final = 3  # characters
_GRAM_WEIGHT: Final = 0.25  # a word in common counts for more than a few of its letters
_MAX_WORDS: Final = 256
_WINDOW: Final = 128  # words


class HashingEmbedder:
    """A deterministic stand-in for a real encoder, for tests; a word counts as one token."""

    def __init__(self, dim: int = 384) -> None:
        """Make vectors of `dim` dimensions; ValueError if there are none."""
        if dim < 1:
            raise ValueError("dim must be at least 1")
        recipe = f"hashing-test {dim} {_GRAM} {_GRAM_WEIGHT} {_MAX_WORDS}"
        self.model: Final = ModelInfo(
            name="hashing-test",
            dim=dim,
            sha256=hashlib.sha256(recipe.encode()).hexdigest(),
            max_tokens=_MAX_WORDS,
            variant="hashing",
        )
        self.batch_size: Final = 32

    def embed(self, texts: Sequence[str], running: Callable[[], None] | None = None) -> Embeddings:
        """Embed `texts`; any string is taken, lone surrogates and the empty one included."""
        if running is not None:
            running()
        words = [_WORD.findall(text.casefold()) for text in texts]
        vectors = [self._vector(some[:_MAX_WORDS]) for some in words]
        tokens = np.array([len(some) for some in words], np.int32)
        return Embeddings(
            vectors=np.stack(vectors) if vectors else np.empty((0, self.model.dim), np.float32),
            tokens=tokens,
            embedded_tokens=np.minimum(tokens, np.int32(_MAX_WORDS)),
            windows=[self._windows(some[:_MAX_WORDS]) for some in words],
            signs=[self._signs(some[:_MAX_WORDS]) for some in words],
        )

    def _windows(self, words: Sequence[str]) -> bytes:
        parts = [words[start : start + _WINDOW] for start in range(0, len(words), _WINDOW)]
        return packed(np.stack([self._vector(part) for part in parts])) if len(parts) > 1 else b""

    def _signs(self, words: Sequence[str]) -> bytes:
        pieces = [self._piece(word) for word in words]
        parts = [pieces[start : start + _WINDOW] for start in range(0, len(pieces), _WINDOW)]
        return b"".join(maxsim.packed(np.stack(part)) for part in parts)

    def _piece(self, word: str) -> "NDArray[np.float32]":
        seed = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(self.model.dim, np.float32)

    def _vector(self, words: Sequence[str]) -> "NDArray[np.float32]":
        row = np.zeros(self.model.dim, np.float32)
        for feature, weight in _features(words):
            slot, sign = self._slot(feature)
            row[slot] += sign * weight
        if not row.any():  # no words, or signs that cancel: still a unit row
            row[0] = 1
        row /= np.linalg.norm(row)
        return row

    def _slot(self, feature: str) -> tuple[int, int]:
        digest = hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        return (number >> 1) % self.model.dim, 1 if number & 1 else -1


def _features(words: Sequence[str]) -> Iterator[tuple[str, float]]:
    for word in words:
        yield f"w {word}", 1.0
        padded = f" {word} "
        for start in range(len(padded) - _GRAM + 1):
            yield f"g {padded[start : start + _GRAM]}", _GRAM_WEIGHT
