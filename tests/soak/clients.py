"""What the users of one daemon do until it dies: they publish, remember, recall, forget and finish trajectories."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from memoryd import Draft, Event
from memoryd.protocol.errors import MemorydError, Refused, ShuttingDown, Unreachable
from memoryd.protocol.ids import RecordId, new_ulid
from tests.soak.ledger import Fate, expected, is_usable

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from memoryd import Memory
    from memoryd.protocol.events import Ack
    from tests.soak.ledger import Ledger

SAMPLE: Final = Path(__file__).parents[2] / "demo" / "sample.jsonl.gz"
_SHORT: Final = 120  # characters; a short text is embedded in a millisecond, so that more happens before the kill


@cache
def sample() -> tuple[Event, ...]:
    """Return the real events whose texts are short."""
    with gzip.open(SAMPLE, "rb") as lines:
        events = [msgspec.json.decode(line, type=Event) for line in lines]
    return tuple(
        event for event in events if is_usable(event) and all(len(text) <= _SHORT for text in expected(event).values())
    )


@dataclass(slots=True)
class Journal:
    """What happened in all lives of the daemon."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


class Client:
    """One task of one user. `life` names the daemon's life, and `task` this one among all tasks in it."""

    def __init__(
        self, memory: Memory, ledger: Ledger, life: str, task: str, rng: random.Random, journal: Journal
    ) -> None:
        self._memory = memory
        self._ledger = ledger
        self._user = ledger.user
        self._life = f"{life}-"
        self._name = f"{life}-{task}"
        self._rng = rng
        self._journal = journal
        self._count = 0
        self._session = self._fresh("s")
        self._published: list[Event] = []

    async def work(self) -> None:
        """Do one thing after the other until the daemon is gone."""
        things = {
            self.publish: 40,
            self.remember: 15,
            self.recall: 15,
            self.finish_trajectory: 10,
            self.forget_some: 8,
            self.forget_session: 5,
            self.publish_again: 5,
        }
        await self._repeat(list(things), list(things.values()))

    async def forget_now(self) -> None:
        """Forget something beside everything else that goes on, just before the end."""
        await self._do(self.forget_some)

    async def come_and_go(self) -> None:
        """The same for a user with one task, who from time to time forgets everything."""
        await self._repeat([self.publish, self.remember, self.recall, self.forget_everything], [6, 2, 2, 2])

    async def _repeat(self, things: Sequence[Callable[[], Awaitable[None]]], weights: Sequence[int]) -> None:
        while True:
            (thing,) = self._rng.choices(things, weights)
            if not await self._do(thing):
                return

    async def _do(self, thing: Callable[[], Awaitable[None]]) -> bool:
        """Do one thing; return whether the daemon is still there."""
        name = thing.__name__
        try:
            await thing()
        except Unreachable:
            return False
        except MemorydError as error:
            self._journal.refused[f"{name}: {type(error).__name__}"] += 1
            if not isinstance(error, Refused):
                self._break(f"{name} failed: {type(error).__name__}: {error}")
            return not isinstance(error, ShuttingDown)
        self._journal.done[name] += 1
        return True

    # --- what a user does ---

    async def publish(self) -> None:
        events = [self._event() for _ in range(self._rng.randint(1, 6))]
        ack: Ack = self._rng.choice(("stored", "committed"))
        self._ledger.send_events(events)
        await self._memory.publish(events, user=self._user, ack=ack)
        self._ledger.acknowledge_events(events, ack)
        self._published += events
        self._journal.done[f"events {ack}"] += len(events)

    async def publish_again(self) -> None:
        """What is known stays known; what was forgotten stays forgotten."""
        if self._published:
            again = self._rng.sample(self._published, min(3, len(self._published)))
            receipts = await self._memory.publish(again, user=self._user, ack="committed")
            self._ledger.acknowledge_events(again, "committed")
            if any(receipt.status != "duplicate" for receipt in receipts):
                self._break("an event that was published again is not a duplicate")

    async def remember(self) -> None:
        drafts = [
            Draft(id=RecordId(new_ulid(datetime.now(UTC))), text=self._fresh("note"), session_id=self._session)
            for _ in range(self._rng.randint(1, 3))
        ]
        ids = [str(draft.id) for draft in drafts]
        for draft in drafts:
            self._ledger.send(str(draft.id), draft.text, self._session)
        await self._memory.remember_many(drafts, user=self._user)
        self._ledger.acknowledge(ids)
        self._journal.done["records remembered"] += len(ids)

    async def recall(self) -> None:
        gone = set(self._ledger.of(Fate.GONE))
        text = next(iter(expected(self._rng.choice(sample())).values()))
        recalled = await self._memory.recall(text, user=self._user, top_k=20)
        for what in self._ledger.check_hits([each.record for each in recalled.memories], gone):
            self._break(what)

    async def finish_trajectory(self) -> None:
        query = self._fresh("run")
        run = await self._memory.begin_trajectory(query, user=self._user)
        await self._memory.add_step(run, action="look", text="found nothing")
        self._ledger.trajectories[run.id] = Fate.SENT
        # The record it leaves behind has its id; its text is put together by the daemon.
        self._ledger.send(run.id, f"{query}\n- look: found nothing\nsucceeded (quality 0.75)")
        await self._memory.end_trajectory(run, quality=0.75)
        self._ledger.trajectories[run.id] = Fate.KEPT
        self._ledger.acknowledge([run.id])

    async def forget_some(self) -> None:
        """Forget what is in the file, or what can be recalled and is still on its way there."""
        where = Fate.STORED if self._rng.random() < 0.7 else Fate.KEPT
        own = self._ledger.of(where)
        if where is Fate.STORED and own:
            found = await self._memory.recall(self._ledger.texts[own[-1]], user=self._user, top_k=20)
            shown = {each.record.id for each in found.memories}
            own = [record for record in self._ledger.of(where) if record in shown]
        own = [record for record in own if self._may_forget(record)]
        if not own:
            return
        record = self._rng.choice(own)
        self._ledger.forget([record])
        forgotten = await self._memory.forget(ids=[record], user=self._user)
        if forgotten.records:
            self._ledger.forgotten([record])
        else:
            self._break(f"{record} is {where.value} and shown, and was not there to be forgotten")
        self._journal.done[f"records forgotten when {where.value}"] += forgotten.records

    async def forget_session(self) -> None:
        session, self._session = self._session, self._fresh("s")
        records = self._ledger.forget(self._ledger.sessions[session])
        await self._memory.forget(session_id=session, user=self._user)
        self._ledger.forgotten(records)
        self._journal.done["records forgotten"] += len(records)

    async def forget_everything(self) -> None:
        records = self._ledger.forget(list(self._ledger.records))
        await self._memory.forget(everything=True, user=self._user)
        self._ledger.forgotten(records)
        self._journal.done["records forgotten"] += len(records)

    # --- parts ---

    def _event(self) -> Event:
        own = {"id": self._fresh("e"), "session_id": self._session, "run_id": f"{self._session}-run"}
        return msgspec.structs.replace(self._rng.choice(sample()), **own)

    def _fresh(self, what: str) -> str:
        self._count += 1
        return f"{self._name}-{what}-{self._count}"

    def _may_forget(self, record: str) -> bool:
        """Whether no other task may be about to forget it; and the memory of a run stays, as its trajectory does."""
        session = self._ledger.session_of[record]
        is_anothers = session.startswith(self._life) and not session.startswith(f"{self._name}-")
        return not is_anothers and record not in self._ledger.trajectories

    def _break(self, what: str) -> None:
        self._journal.broken.append(f"{self._user}: {what}")


async def together(clients: Sequence[Client], fleeting: Client) -> None:
    """Let all work until the daemon is gone."""
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.work())
        group.create_task(fleeting.come_and_go())
