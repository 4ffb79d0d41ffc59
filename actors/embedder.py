"""The EmbedderActor: the one way to the encoder, shared by all users.

Texts of a recall and texts of ingestion have threads of their own, and those of ingestion yield. Equal texts that wait
together are embedded once. What nobody waits for any more is not embedded.
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
    from collections.abc import Callable, Coroutine, Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.mailbox import Deadline
    from memoryd.actors.pools import Pools
    from memoryd.protocol.interfaces import Embedder

    _Embed = Callable[[Callable[[Sequence[str]], Embeddings], Sequence[str]], Coroutine[object, object, Embeddings]]

RUN_CHARACTERS: Final = 1_024  # texts of ingestion that share one trip to a thread: about one long text of work


@dataclass(slots=True, eq=False)
class _Text:
    """One text that waits, and everybody who waits for it."""

    text: str
    deadline: Deadline | None
    answer: asyncio.Future[tuple[np.ndarray, int, int]]

    @property
    def is_dead(self) -> bool:
        return self.answer.done() or (self.deadline is not None and self.deadline.passed)


class _Lane:
    """The texts that wait for the same threads. A run takes several of them up to `run_characters`, and at least one."""

    def __init__(self, embed: _Embed, run_characters: int) -> None:
        self.embed = embed
        self.texts: deque[_Text] = deque()
        self._run_characters = run_characters
        self._news = asyncio.Event()

    def put(self, text: _Text) -> None:
        self.texts.append(text)
        self._news.set()

    async def take(self) -> list[_Text]:
        """Wait for texts and return those of the next run."""
        while not self.texts:
            self._news.clear()
            await self._news.wait()
        taken = [self.texts.popleft()]
        size = len(taken[0].text)
        while self.texts and (size := size + len(self.texts[0].text)) <= self._run_characters:
            taken.append(self.texts.popleft())
        return taken


class EmbedderActor(Actor):
    """Schedules texts over the threads of the encoder."""

    def __init__(self, embedder: Embedder, pools: Pools) -> None:
        self._embedder = embedder
        self._threads = pools.embed_threads
        self._urgent = _Lane(pools.embed, run_characters=0)
        self._patient = _Lane(pools.embed_patiently, RUN_CHARACTERS)
        self._waiting: dict[str, _Text] = {}

    async def started(self, ctx: Context) -> None:
        for _ in range(self._threads):
            ctx.spawn(self._serve(self._urgent))
            ctx.spawn(self._serve(self._patient))

    async def handle(self, message: object, ctx: Context) -> object:
        if isinstance(message, Embed):
            texts = [self._enqueue(text, ctx.deadline, urgent=message.urgent) for text in message.texts]
            return ctx.detach(self._gather(texts))
        return None

    @property
    def waiting(self) -> int:
        """How many texts wait."""
        return len(self._urgent.texts) + len(self._patient.texts)

    def _enqueue(self, text: str, deadline: Deadline | None, *, urgent: bool) -> _Text:
        """Queue a text, or join those that wait for the same one."""
        known = self._waiting.get(text)
        if known is not None and not known.is_dead:
            if urgent and known in self._patient.texts:
                self._patient.texts.remove(known)
                self._urgent.put(known)
            if known.deadline is not None and (deadline is None or deadline.at > known.deadline.at):
                known.deadline = deadline
            return known
        waiting = _Text(text, deadline, asyncio.get_running_loop().create_future())
        self._waiting[text] = waiting
        (self._urgent if urgent else self._patient).put(waiting)
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

    async def _serve(self, lane: _Lane) -> None:
        while True:
            if texts := self._alive(await lane.take()):
                await self._run(texts, lane)

    def _alive(self, texts: list[_Text]) -> list[_Text]:
        for text in texts:
            if self._waiting.get(text.text) is text:
                del self._waiting[text.text]
        return [text for text in texts if not text.is_dead]

    async def _run(self, texts: list[_Text], lane: _Lane) -> None:
        began = time.perf_counter()
        try:
            found = await lane.embed(self._embedder.embed, [text.text for text in texts])
        except Exception as error:  # noqa: BLE001 - a text the encoder cannot take fails its askers, not the encoder
            if len(texts) > 1:
                for text in texts:
                    await self._run([text], lane)
            elif not texts[0].answer.done():
                texts[0].answer.set_exception(as_error(error))
                texts[0].answer.exception()  # who asked may be gone, and asyncio would print what it says
            return
        metrics.EMBEDS.observe(time.perf_counter() - began)
        metrics.EMBEDDED.inc(len(texts))
        for row, text in enumerate(texts):
            if not text.answer.done():
                text.answer.set_result((found.vectors[row], int(found.tokens[row]), int(found.embedded_tokens[row])))
