"""Text to word pieces: in windows that the model can read, counted to the end."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

# A megabyte in one go takes a second and 150 to 350 MB; in slices of this size 0.2 to 0.6 s and nothing to speak of.
_SLICE_CHARACTERS: Final = 8192

_MOST_WINDOWS: Final = 4  # of a text: what stands behind them is not embedded
_OVERLAP: Final = 8  # a window begins with the last eighth of the one before it


@dataclass(frozen=True, slots=True)
class Pieces:
    """`windows` as the model takes them, special pieces included.

    `total` counts the pieces of the whole text, `seen` those of them that are in a window.
    """

    windows: list[list[int]]
    total: int
    seen: int


class PieceReader:
    """A tokenizer that reads texts of any length in bounded memory, and cuts them into at most 4 windows.

    Texts are tokenised in slices of 8192 characters that end before a space or a line end where there is one, so
    ids and counts are those of the whole text. A slice without any is cut in the middle: a word of more than
    8192 characters then counts once per slice, and a word at the cut may count a piece or two more.
    """

    def __init__(self, path: Path, *, max_tokens: int) -> None:
        """Read a `tokenizer.json`; its own padding and truncation are not used.

        Raises ValueError if it is not one, or if `max_tokens` leaves no room beside its special pieces.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise ValueError(f"not a tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        sample = self._tokenizer.encode("a")
        is_special = sample.special_tokens_mask
        first = is_special.index(0) if 0 in is_special else len(is_special)
        last = len(is_special) - is_special[::-1].index(0) if 0 in is_special else len(is_special)
        self._prefix: Final = sample.ids[:first]
        self._suffix: Final = sample.ids[last:]
        self._room: Final = max_tokens - len(self._prefix) - len(self._suffix)
        if self._room < 1:
            raise ValueError(f"{max_tokens} tokens leave no room beside the special ones")
        self._overlap: Final = self._room // _OVERLAP
        self._most: Final = _MOST_WINDOWS * (self._room - self._overlap) + self._overlap

    def body(self, length: int) -> slice:
        """Return which pieces of a window of so many are of the text."""
        return slice(len(self._prefix), length - len(self._suffix))

    def read(self, text: str) -> Pieces:
        """Tokenise `text`; the interpreter lock is released meanwhile.

        Surrogate pairs are joined and lone surrogates become U+FFFD, which stands for no text.
        """
        body: list[int] = []
        count = 0
        for part in _slices(_well_formed(text)):
            # Unlike encode, this call releases the interpreter lock, and it tracks no offsets.
            (encoding,) = self._tokenizer.encode_batch_fast([part], add_special_tokens=False)
            count += len(encoding)
            if len(body) < self._most:
                body += encoding.ids[: self._most - len(body)]
        special = len(self._prefix) + len(self._suffix)
        return Pieces(self._windows(body), count + special, len(body) + special)

    def _windows(self, body: list[int]) -> list[list[int]]:
        """Cut a text into as few windows as hold it, of the same length, so that each says as much as any other."""
        step = self._room - self._overlap
        count = max(1, ceil((len(body) - self._overlap) / step))
        length = ceil((len(body) + (count - 1) * self._overlap) / count)
        starts = (window * (length - self._overlap) for window in range(count))
        return [[*self._prefix, *body[start : start + length], *self._suffix] for start in starts]


def _well_formed(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _slices(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _SLICE_CHARACTERS:
        limit = start + _SLICE_CHARACTERS
        # Before the space, not after it: some tokenizers read it as the first character of the next word.
        end = max(text.rfind(" ", start + 1, limit), text.rfind("\n", start + 1, limit))
        end = limit if end < 0 else end
        yield text[start:end]
        start = end
    yield text[start:]
