"""Questions in other words, always the same for the same seed: what somebody may ask who means the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from memoryd.words.terms import STOP_WORDS

if TYPE_CHECKING:
    import numpy as np

WAYS: Final = 3
_LEFT_OUT: Final = 0.35
_WORD: Final = re.compile(r"[\w'\u2019-]+")
_OTHERS: Final = {
    "what": "which", "who": "what person", "when": "at what time", "where": "in which place", "how": "in what way",
    "like": "enjoy", "buy": "purchase", "bought": "purchased", "get": "obtain", "got": "obtained", "go": "travel",
    "went": "travelled", "make": "create", "made": "created", "kids": "children", "children": "kids", "job": "work",
    "friends": "companions", "book": "novel", "books": "novels", "movie": "film", "movies": "films", "home": "house",
    "happy": "glad", "start": "begin", "started": "began", "plan": "intention", "plans": "intentions", "think": "believe",
    "talk": "speak", "help": "assist", "big": "large", "trip": "journey", "pet": "animal", "pets": "animals",
    "favorite": "preferred", "recently": "lately", "new": "recent", "picture": "photo", "painting": "artwork",
    "said": "mentioned", "meet": "encounter", "met": "encountered", "gift": "present", "reason": "motive", "type": "kind",
    "hobbies": "pastimes", "activities": "pursuits", "event": "occasion", "events": "occasions", "live": "reside",
    "family": "relatives", "school": "college", "problem": "trouble", "game": "match", "games": "matches",
    "planning": "intending", "visited": "went to", "visit": "go to", "wants": "wishes", "want": "wish",
}  # fmt: skip


def reworded(question: str, way: int, rng: np.random.Generator) -> str:
    """Return a question in one of three ways: its keywords in any order, other words in a wrapper, or a third of them left out."""
    words = _WORD.findall(question)
    keywords = [word for word in words if word.lower() not in STOP_WORDS] or words
    if way == 0:
        return " ".join(keywords[place] for place in rng.permutation(len(keywords)))
    if way == 1:
        return f"Can you remember: {' '.join(_OTHERS.get(word.lower(), word) for word in words)}, please?"
    kept = [word for word in words if word.lower() in STOP_WORDS or rng.random() > _LEFT_OUT]
    return " ".join(kept if any(word in keywords for word in kept) else keywords[:1])
