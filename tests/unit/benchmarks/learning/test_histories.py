"""A run is asked before it is told of and before anybody remembers it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from benchmarks.agents import Run
from benchmarks.corpus import remembered
from benchmarks.learning.bases import Plain
from benchmarks.learning.histories import BY_NAME, BY_OUTCOME, Follower, Replayed
from benchmarks.learning.stores import Encoder, Store
from benchmarks.learning.users import People, User
from memoryd import Event
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol.records import Draft, MemoryKind, MemorySource
from tests.helpers.learning import NOON

if TYPE_CHECKING:
    from benchmarks.learning.pupils import Told
    from memoryd.protocol.ids import RecordId


class Watching:
    """A pupil that answers as without learning, and notes what was there when it was asked and what it was told."""

    is_due = False

    def __init__(self, user: User) -> None:
        self.texts: list[list[str]] = []
        self.told: list[Told] = []
        self._user = user

    def answers(self, text: str) -> list[RecordId]:
        self.texts.append(list(self._user.store.texts))
        return self._user.unlearned(text)

    def learn(self, told: Told) -> None:
        self.told.append(told)

    def fit(self) -> str:
        return ""


def test_each_run_knows_only_what_came_before_it() -> None:
    events = [
        Event(id=f"e{place}", type="chat.user_msg", session_id=name, timestamp=NOON + timedelta(hours=place))
        for place, name in enumerate("abc")
    ]
    groups = ["boats", "bread", "boats"]
    openings = ["mend my boat", "bake a loaf", "mend my other boat"]
    drafts = [
        Draft(
            text=f"{opening}, which was run {place}",
            kind=MemoryKind.EPISODE,
            source=MemorySource.USER_INPUT,
            timestamp=event.timestamp,
            session_id=event.session_id,
        )
        for place, (opening, event) in enumerate(zip(openings, events, strict=True))
    ]
    runs = [
        Run(event.session_id, group, opening, [event], succeeded=False)
        for event, group, opening in zip(events, groups, openings, strict=True)
    ]
    records = remembered(drafts)
    given = Replayed("three", runs, [[record] for record in records])
    store = Store(Encoder(HashingEmbedder()))
    user = User(People("three", store, (), 0, given.began), Plain)
    followers = [Follower("plain", "memoryd", told, user, Watching(user)) for told in (BY_NAME, BY_OUTCOME)]

    assert len(list(given.replay(store, followers))) == 3

    naming, by_outcome = followers
    assert naming.pupil.texts == [[drafts[0].text], [drafts[0].text, drafts[1].text]]
    assert [list(told.helped) for told in naming.pupil.told] == [[], [records[0].id]]
    assert [told.quality for told in by_outcome.pupil.told] == [0, 0]
    assert not any(told.helped or told.harmful for told in by_outcome.pupil.told)
    assert len(naming.before) == len(naming.after) == 1  # only the third has an earlier one of its group
    assert naming.before == naming.after
