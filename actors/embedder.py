"""The EmbedderActor: the one way to the encoder, shared by all users.

A text of a recall goes before the texts of ingestion, which keep one run in four. Equal texts that wait together are
embedded once. What nobody waits for any more is not embedded.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.actors.context import as_error
from memoryd.protocol.interfaces import Embeddings
from memoryd.protocol.internal import Embed

if TYPE_CHECKING:
    from memoryd.actors.context import Context
    from memoryd.actors.mailbox import Deadline
    from memoryd.actors.pools import Pools
    from memoryd.protocol.interfaces import Embedder

URGENT_IN_A_ROW: Final = 3  # runs for recalls before ingestion gets one
RUN_CHARACTERS: Final = 1_024  # texts that share one trip to a thread: about one long text of work


@dataclass(slots=True, eq=False)
class _Text:
    """One text that waits, and everybody who waits for it."""

    text: str
    deadline: Deadline | None
    answer: asyncio.Future[tuple[np.ndarray, int, int]]

    @property
    def is_dead(self) -> bool:
        return self.answer.done() or (self.deadline is not None and self.deadline.passed)


class EmbedderActor(Actor):
    """Schedules texts over the threads of the encoder."""

    def __init__(self, embedder: Embedder, pools: Pools) -> None:
        self._embedder = embedder
        self._pools = pools
        self._urgent: deque[_Text] = deque()
        self._patient: deque[_Text] = deque()
        self._waiting: dict[str, _Text] = {}
        self._news = asyncio.Event()
        self._urgent_runs = 0

    async def started(self, ctx: Context) -> None:
        for _ in range(self._pools.embed_threads):
            ctx.spawn(self._run_forever())

    async def handle(self, message: object, ctx: Context) -> object:
        if isinstance(message, Embed):
            texts = [self._enqueue(text, ctx.deadline, urgent=message.urgent) for text in message.texts]
            return ctx.detach(self._gather(texts))
        return None

    @property
    def waiting(self) -> int:
        """How many texts wait."""
        return len(self._urgent) + len(self._patient)

    def _enqueue(self, text: str, deadline: Deadline | None, *, urgent: bool) -> _Text:
        """Queue a text, or join those that wait for the same one."""
        known = self._waiting.get(text)
        if known is not None and not known.is_dead:
            if urgent and known in self._patient:
                self._patient.remove(known)
                self._urgent.append(known)
            if known.deadline is not None and (deadline is None or deadline.at > known.deadline.at):
                known.deadline = deadline
            return known
        waiting = _Text(text, deadline, asyncio.get_running_loop().create_future())
        self._waiting[text] = waiting
        (self._urgent if urgent else self._patient).append(waiting)
        self._news.set()
        return waiting

    async def _gather(self, texts: list[_Text]) -> Embeddings:
        rows = [await asyncio.shield(text.answer) for text in texts]
        if not rows:
            return Embeddings(
                np.empty((0, self._embedder.model.dim), np.float32), np.empty(0, np.int32), np.empty(0, np.int32)
            )
        return Embeddings(
            np.stack([row[0] for row in rows]),
            np.array([row[1] for row in rows], np.int32),
            np.array([row[2] for row in rows], np.int32),
        )

    async def _run_forever(self) -> None:
        while True:
            if not self._urgent and not self._patient:
                self._news.clear()
                await self._news.wait()
            if texts := self._next_run():
                await self._run(texts)

    def _next_run(self) -> list[_Text]:
        """Take the texts of the next run: one of a recall if possible, else some of ingestion up to a bound."""
        if self._urgent and (self._urgent_runs < URGENT_IN_A_ROW or not self._patient):
            self._urgent_runs += 1
            return self._alive([self._urgent.popleft()])
        self._urgent_runs = 0
        taken: list[_Text] = []
        size = 0
        while self._patient and (not taken or size + len(self._patient[0].text) <= RUN_CHARACTERS):
            taken.append(self._patient.popleft())
            size += len(taken[-1].text)
        return self._alive(taken)

    def _alive(self, texts: list[_Text]) -> list[_Text]:
        for text in texts:
            if self._waiting.get(text.text) is text:
                del self._waiting[text.text]
        return [text for text in texts if not text.is_dead]

    async def _run(self, texts: list[_Text]) -> None:
        began = time.perf_counter()
        try:
            found = await self._pools.embed(self._embedder.embed, [text.text for text in texts])
        except Exception as error:  # noqa: BLE001 - a text the encoder cannot take fails its askers, not the encoder
            if len(texts) > 1:
                for text in texts:
                    await self._run([text])
            elif not texts[0].answer.done():
                texts[0].answer.set_exception(as_error(error))
                texts[0].answer.exception()  # who asked may be gone, and asyncio would print what it says
            return
        metrics.EMBEDS.observe(time.perf_counter() - began)
        metrics.EMBEDDED.inc(len(texts))
        for row, text in enumerate(texts):
            if not text.answer.done():
                text.answer.set_result((found.vectors[row], int(found.tokens[row]), int(found.embedded_tokens[row])))
