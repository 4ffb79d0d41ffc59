"""The EmbedderActor: the one way to the encoder, shared by all users.

Texts of a recall and texts of ingestion have threads of their own, and those of ingestion yield. Equal texts that wait
together, or that come again soon, are embedded once. What nobody waits for any more is not embedded.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.actors.context import as_error
from memoryd.protocol.interfaces import Embeddings
from memoryd.protocol.internal import Embed, ForgetTexts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from memoryd.actors.context import Context
    from memoryd.actors.mailbox import Deadline
    from memoryd.actors.pools import Pools
    from memoryd.protocol.interfaces import Embedder, Vectors

    _Embed = Callable[[Callable[[Sequence[str]], Embeddings], Sequence[str]], Coroutine[object, object, Embeddings]]

RUN_CHARACTERS: Final = 1_024  # texts of ingestion that share one trip to a thread: about one long text of work

# Agents repeat themselves: instructions, calls of tools, questions. 1.8 kB each.
REMEMBERED: Final = 4_096


class _Row(NamedTuple):
    """What the encoder says of one text: float32 [dim], its tokens, and how many of them were embedded."""

    vector: Vectors
    tokens: int
    embedded_tokens: int


@dataclass(slots=True, eq=False)
class _Text:
    """One text that waits, and everybody who waits for it."""

    text: str
    deadline: Deadline | None
    answer: asyncio.Future[_Row]

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


class _Remembered:
    """The last texts that were embedded, by their hashes: the texts themselves would be the larger part."""

    def __init__(self) -> None:
        self._rows: OrderedDict[bytes, _Row] = OrderedDict()

    def get(self, text: str) -> _Row | None:
        key = _hashed(text)
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, text: str, row: _Row) -> None:
        self._rows[_hashed(text)] = row._replace(vector=row.vector.copy())  # not the whole run with it
        if len(self._rows) > REMEMBERED:
            self._rows.popitem(last=False)

    def clear(self) -> None:
        self._rows.clear()


def _hashed(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


class EmbedderActor(Actor):
    """Schedules texts over the threads of the encoder."""

    def __init__(self, embedder: Embedder, pools: Pools) -> None:
        self._embedder = embedder
        self._threads = pools.embed_threads
        self._urgent = _Lane(pools.embed, run_characters=0)
        self._patient = _Lane(pools.embed_patiently, RUN_CHARACTERS)
        self._waiting: dict[str, _Text] = {}
        self._remembered = _Remembered()

    async def started(self, ctx: Context) -> None:
        for _ in range(self._threads):
            ctx.spawn(self._serve(self._urgent))
            ctx.spawn(self._serve(self._patient))

    async def handle(self, message: object, ctx: Context) -> object:
        match message:
            case Embed(texts=texts, urgent=urgent):
                return ctx.detach(self._gather([self._row(text, ctx.deadline, urgent=urgent) for text in texts]))
            case ForgetTexts():
                self._remembered.clear()
        return None

    @property
    def waiting(self) -> int:
        """How many texts wait."""
        return len(self._urgent.texts) + len(self._patient.texts)

    def _row(self, text: str, deadline: Deadline | None, *, urgent: bool) -> _Row | asyncio.Future[_Row]:
        known = self._remembered.get(text)
        if known is not None:
            metrics.REMEMBERED.inc()
            return known
        return self._enqueue(text, deadline, urgent=urgent).answer

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

    async def _gather(self, answers: list[_Row | asyncio.Future[_Row]]) -> Embeddings:
        rows = [each if isinstance(each, _Row) else await asyncio.shield(each) for each in answers]
        if not rows:
            return Embeddings(
                np.empty((0, self._embedder.model.dim), np.float32), np.empty(0, np.int32), np.empty(0, np.int32)
            )
        return Embeddings(
            np.stack([row.vector for row in rows]),
            np.array([row.tokens for row in rows], np.int32),
            np.array([row.embedded_tokens for row in rows], np.int32),
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
        for place, text in enumerate(texts):
            row = _Row(found.vectors[place], int(found.tokens[place]), int(found.embedded_tokens[place]))
            self._remembered.put(text.text, row)
            if not text.answer.done():
                text.answer.set_result(row)
