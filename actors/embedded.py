"""The texts that were embedded last, and what came of them: agents repeat instructions, calls of tools and questions."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Meaning

REMEMBERED: Final = 4_096  # texts, of 2.3 kB each, and 0.4 for each window of a long one


class EmbeddedText(NamedTuple):
    """What the encoder says of one text: its meaning, its tokens, how many of them were embedded, and its windows."""

    meaning: Meaning
    tokens: int
    embedded_tokens: int
    windows: bytes


class EmbeddedTexts:
    """The last REMEMBERED texts, by their hashes: the texts themselves would be the larger part."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, EmbeddedText] = OrderedDict()

    def get(self, text: str) -> EmbeddedText | None:
        """Return what came of a text, if it is among the last."""
        key = _hashed(text)
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def put(self, text: str, embedded: EmbeddedText) -> None:
        """Remember a text in place of the one that nobody has asked for for the longest time."""
        meaning = embedded.meaning
        meaning = meaning._replace(vector=meaning.vector.copy())  # not the whole run with it
        self._known[_hashed(text)] = embedded._replace(meaning=meaning)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def _hashed(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
