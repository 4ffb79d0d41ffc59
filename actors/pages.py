"""A document that is larger than a frame, on its way out or in, page by page. Kept in memory meanwhile, one in each direction."""

from __future__ import annotations

import hashlib
from typing import Final

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.messages import ImportLearning, LearningExported

PAGE_BYTES: Final = 512 << 10  # half a frame


class Outgoing:
    """A document that is read."""

    def __init__(self) -> None:
        self.clear()

    def begin(self, data: bytes) -> None:
        """Have `data` read from now on."""
        self._data, self._sha256 = data, hashlib.sha256(data).hexdigest()

    def clear(self) -> None:
        """Let go of what has not been read."""
        self.begin(b"")

    def page(self, after: int, sha256: str) -> LearningExported:
        """Return what stands behind `after` in the document with this hash; with the last page it is let go.

        Raises InvalidMessage when another one is read.
        """
        data, known = self._data, self._sha256
        if (after and sha256 != known) or after > len(data):
            raise InvalidMessage("it has changed since this export began", field="sha256", hint="begin again at 0")
        behind = after + PAGE_BYTES
        is_last = behind >= len(data)
        if is_last:
            self.clear()
        return LearningExported(data=data[after:behind], size=len(data), sha256=known, next=None if is_last else behind)


class Incoming:
    """A document that is written."""

    def __init__(self) -> None:
        self._data = bytearray()

    def clear(self) -> None:
        """Let go of what has come."""
        self._data.clear()

    def add(self, part: ImportLearning) -> bytes | None:
        """Take a part, the first of which begins anew; return the document when it is whole.

        Raises InvalidMessage when a part is missing, or there is more than was said.
        """
        if not part.after:
            self._data.clear()
        if part.after != len(self._data) or part.after + len(part.data) > part.size:
            self._data.clear()
            raise InvalidMessage("not the part that follows", field="after", hint="begin again at 0")
        self._data += part.data
        if len(self._data) < part.size:
            return None
        whole = bytes(self._data)
        self._data.clear()
        return whole
