"""The ReasoningBank: which memories helped which questions.

    match(q, k) = .3 cos(q, k) + .5 common / own(q) + .2 common / sqrt(own(q) own(k))
    gate(k)     = clip((match - .65) / .25, 0, 1)
    value(m)    = WEIGHT clip(sum over the NEAREST entries k of gate(k) v_k(m), -1/2, 1)

`common` is the sum of the squared rarities of the words that two questions share, `own` that of one's own. An entry is a trajectory
that replay holds, or a pattern of what it holds no longer. What was shown and did not help counts little, and only for nearly the same question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.learning import Intent
    from memoryd.sona.lora import Floats

Number = TypeVar("Number", bound=np.generic)

WEIGHT: Final = 0.4
NEAREST: Final = 3
_BY_COSINE: Final = 0.3
_CONTAINED: Final = 0.5
_ALIKE: Final = 0.2
_SHUT: Final = 0.65
_OPEN: Final = 0.9
_SHUT_IN_VAIN: Final = 0.7
_IN_VAIN: Final = 0.15
_LEAST: Final = -0.5
_SAME_WORDS: Final = 0.99
_SAME_VECTOR: Final = 0.95
_ROOM: Final = 64
_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Near:
    """An entry that is like a question: its place in the bank, how much it matches, and how far its gate is open."""

    place: int
    match: float
    gate: float


class Bank:
    """Entries are added by one thread while others look; what changes otherwise makes a new bank."""

    def __init__(self, dim: int) -> None:
        self._vectors = np.empty((_ROOM, dim), np.float32)
        self._own = np.empty(_ROOM, np.float32)
        self._values: list[dict[int, float]] = []
        self._helped: list[tuple[RecordId, ...]] = []
        # The words of all entries, one behind the other, with the place of their entry.
        self._terms = np.empty(_ROOM, np.uint64)
        self._places = np.empty(_ROOM, np.int32)
        self._used = 0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, intent: Intent, values: Mapping[int, float], helped: Sequence[RecordId]) -> int:
        """Keep the values, from -1 to 1, of memories for a question, and which of them helped; return the place of the entry.

        What is known of the same question is joined.
        """
        same = self.same(intent)
        if same is not None:
            known = self._values[same]
            self._helped[same] = tuple(dict.fromkeys([*self._helped[same], *helped]))
            self._values[same] = {**known, **{key: max(value, known.get(key, -1.0)) for key, value in values.items()}}
            return same
        place, count = len(self._values), len(intent.terms)
        if place == len(self._own):
            self._vectors, self._own = _grown(self._vectors), _grown(self._own)
        while self._used + count > len(self._terms):
            self._terms, self._places = _grown(self._terms), _grown(self._places)
        self._vectors[place] = intent.vector
        self._own[place] = max(float(intent.rarity @ intent.rarity), _TINY)
        self._terms[self._used : self._used + count] = intent.terms
        self._places[self._used : self._used + count] = place
        self._used += count
        self._helped.append(tuple(helped))
        self._values.append(dict(values))  # the last thing: from now on it is seen
        return place

    def same(self, intent: Intent) -> int | None:
        """Return the place of the entry of the same question, if there is one."""
        if not self._values:
            return None
        cosines, common, own, size = self._compared(intent)
        alike = common / np.sqrt(own * size)
        wordless = (own <= _TINY) & (size <= _TINY)
        found = np.flatnonzero((cosines > _SAME_VECTOR) & (wordless | (alike > _SAME_WORDS)))
        return int(found[0]) if len(found) else None

    def match(self, intent: Intent) -> Floats:
        """Return how much each entry is like a question, float32 [entries]."""
        cosines, common, own, size = self._compared(intent)
        matches: Floats = _BY_COSINE * cosines + _CONTAINED * common / size + _ALIKE * common / np.sqrt(own * size)
        return matches

    def near(self, intent: Intent, most: int = NEAREST, without: Iterable[int] = ()) -> list[Near]:
        """Return the entries whose gates are open, those that match most first, but for the places `without`."""
        if not self._values:
            return []
        matches = self.match(intent)
        matches[list(without)] = -1
        best = np.argsort(-matches, kind="stable")[:most]
        found = (
            Near(place, match, _gate(match, _SHUT))
            for place, match in zip(best.tolist(), matches[best].tolist(), strict=True)
        )
        return [each for each in found if each.gate > 0]

    def values(self, near: Iterable[Near]) -> dict[int, float]:
        """Return what these entries say of the memories that they name, by key, in units of a score."""
        found: dict[int, float] = {}
        for each in near:
            in_vain = _IN_VAIN * _gate(each.match, _SHUT_IN_VAIN)
            for key, value in self._values[each.place].items():
                found[key] = found.get(key, 0.0) + value * (each.gate if value > 0 else in_vain)
        return {key: WEIGHT * min(1.0, max(_LEAST, value)) for key, value in found.items()}

    def helped(self, near: Iterable[Near]) -> list[RecordId]:
        """Return which memories helped, each once."""
        return list(dict.fromkeys(record for each in near for record in self._helped[each.place]))

    def _compared(self, intent: Intent) -> tuple[Floats, Floats, Floats, float]:
        """Return of each entry its cosine, what it has in common, and its own words; and how much words the question has."""
        count, used = len(self._values), self._used
        cosines: Floats = self._vectors[:count] @ intent.vector
        common = np.zeros(count, np.float32)
        if len(intent.terms) and used:
            places = np.searchsorted(intent.terms, self._terms[:used])
            places[places == len(intent.terms)] = 0
            shared = np.flatnonzero(intent.terms[places] == self._terms[:used])
            weights = intent.rarity[places[shared]] ** 2
            of_entries = self._places[shared]
            is_there = of_entries < count  # not of an entry that is being added
            common += np.bincount(of_entries[is_there], weights[is_there], count).astype(np.float32)
        return cosines, common, self._own[:count], max(float(intent.rarity @ intent.rarity), _TINY)


def _gate(match: float, shut: float) -> float:
    return min(1.0, max(0.0, (match - shut) / (_OPEN - shut)))


def _grown(array: NDArray[Number]) -> NDArray[Number]:
    return np.concatenate([array, np.empty_like(array)])
