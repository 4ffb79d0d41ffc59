"""A conversation to be asked, and pupils whose answers are known beforehand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from benchmarks.conversations import Conversation, Question, Turn
from benchmarks.learning.bases import Plain
from benchmarks.learning.figures import OURS, PLAIN, Figures
from benchmarks.learning.protocols import Trial
from benchmarks.learning.stores import Encoder
from benchmarks.learning.users import People, User
from memoryd.embedding.hashing import HashingEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.learning.pupils import Pupil, Told
    from memoryd.protocol.ids import RecordId

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
THINGS = ["violin", "kayak", "telescope", "sourdough", "bicycle", "aquarium", "pottery", "lighthouse"]
SUBJECTS = ["doctor", "neighbour", "teacher", "cousin", "plumber"]


def conversation(name: str, things: Sequence[str] = THINGS) -> Conversation:
    """Each thing is spoken of with each person, and asked about once; the evidence is one turn."""
    turns, questions = [], []
    for thing in things:
        for subject in SUBJECTS:
            number = len(turns)
            text = f"the {subject} of {name} came to see my {thing} on the {number} day"
            turns.append(Turn(f"D1:{number}", "Ann", text, "session 1", NOON + timedelta(minutes=number), "today"))
        held = frozenset({f"D1:{len(turns) - 1}"})
        questions.append(
            Question(
                f"Who of those whom {name} knows likes the {thing} best?", "single-hop", held, frozenset({"session 1"})
            )
        )
    return Conversation(name, turns, questions, turns[-1].when, 0)


def people(*names: str) -> People:
    return People.of([conversation(name) for name in names], Encoder(HashingEmbedder()))


def trial(given: People, begin: Callable[[User], Pupil], seed: int = 0) -> Trial:
    """Return a trial under the plain score, which begins with what `begin` makes."""
    user = User(given, Plain)
    return Trial(user, lambda: begin(user), seed, PLAIN, OURS, Figures())


class Oracle:
    """A pupil that answers rightly what it was told of, in whatever words, and all else as it is without learning.

    Of the questions before the last `most` it was told of it knows nothing.
    """

    def __init__(self, user: User, most: int | None = None) -> None:
        self.told: list[Told] = []
        self.fits = 0
        self._user = user
        self._most = most
        self._of = {
            text: place
            for place, question in enumerate(user.questions)
            for text in (question.text, *user.phrasings(place))
        }

    @property
    def is_due(self) -> bool:
        return False

    def answers(self, text: str) -> list[RecordId]:
        known = [self._of[told.text] for told in self.told[-self._most if self._most else 0 :]]
        question = self._of[text]
        return sorted(self._user.questions[question].gold) if question in known else self._user.unlearned(text)

    def learn(self, told: Told) -> None:
        self.told.append(told)

    def fit(self) -> str:
        self.fits += 1
        return "accepted"
