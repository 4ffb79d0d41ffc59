"""What a run says later, made of the reference answer of its question, which is an idealised report; so it is spoiled, too.

A run that was shown no evidence reports the answer of another question:

- answer: the answer, and nothing else,
- other: the answer, and that of another question,
- quoted: the question and the answer, and one of the memories shown that is no evidence, word by word,
- wrong: the answer of another question only,
- mixed: one of these, or the question and such a quotation, or nothing, each as often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmarks.learning.protocols import Telling
from memoryd.rvf.records import decode_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from benchmarks.learning.pupils import Told
    from benchmarks.learning.users import User
    from memoryd.protocol.ids import RecordId

NONE: Final = "none"
ANSWER: Final = "answer"
OTHER: Final = "other"
QUOTED: Final = "quoted"
WRONG: Final = "wrong"
MIXED: Final = "mixed"
KINDS: Final = (ANSWER, OTHER, QUOTED, WRONG, MIXED)

FLIPPED: Final = 0.1  # of the outcomes


@dataclass(frozen=True)
class Reporting(Telling):
    """Runs of which only the outcome is known, one in ten wrongly, and that say something of this kind later."""

    is_coarse: bool = True
    wrong: float = FLIPPED
    kind: str = NONE

    def named(self, what: str) -> str:
        return self.kind

    def of(self, user: User, question: int, text: str, shown: Sequence[RecordId], rng: np.random.Generator) -> Told:
        # Of its own, so that the outcomes of all kinds are wrong alike.
        (chance,) = rng.spawn(1)
        later = _texts(self.kind, user, question, text, shown, chance)
        return replace(super().of(user, question, text, shown, rng), later=later)


def _texts(
    kind: str, user: User, question: int, text: str, shown: Sequence[RecordId], rng: np.random.Generator
) -> list[str]:
    asked, count = user.questions[question], len(user.questions)
    other = user.questions[(question + 1 + int(rng.integers(count - 1))) % count].answer
    answer = other if asked.gold.isdisjoint(shown) else asked.answer
    vain = [record for record in shown if record not in asked.gold]
    quoted = [_text(user, vain[int(rng.integers(len(vain)))])] if vain else []
    texts = {
        NONE: [],
        ANSWER: [answer],
        OTHER: [answer, other],
        QUOTED: [text, answer, *quoted],
        WRONG: [other],
        "quoted only": [text, *quoted],
    }
    return texts[list(texts)[int(rng.integers(len(texts)))] if kind == MIXED else kind]


def _text(user: User, record: RecordId) -> str:
    view = user.store.view
    (found,) = view.records(view.find((record,)))
    return decode_record(found).text
