"""The EmbedderActor: the one way to the encoder, shared by all users.

Texts of a recall and texts of ingestion have threads of their own, and those of ingestion yield. Equal texts that wait
together, or that come again soon, are embedded once. What nobody waits for any more is not embedded.

A model whose files are missing or damaged is looked for again and again. Meanwhile what somebody waits for is refused, and
what is to be remembered waits.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog

from memoryd import metrics
from memoryd.actors.actor import Actor
from memoryd.actors.beside import EmbedQuery
from memoryd.actors.context import as_error
from memoryd.actors.embedded import EmbeddedText, EmbeddedTexts
from memoryd.protocol.errors import ModelUnavailable
from memoryd.protocol.interfaces import Embeddings
from memoryd.protocol.internal import Embed, ForgetTexts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from memoryd.actors.beside import Beside
    from memoryd.actors.context import Context
    from memoryd.actors.mailbox import Deadline
    from memoryd.actors.pools import Pools
    from memoryd.protocol.interfaces import Embedder, ModelInfo

    _Embed = Callable[[Callable[..., Embeddings], Embedder, Sequence["_Text"]], Coroutine[object, object, Embeddings]]

log = structlog.get_logger("memoryd.embedder")

RUN_CHARACTERS: Final = 1_024  # texts of ingestion that share one trip to a thread: about one long text of work
RETRY_MODEL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _LoadAgain:
    """Control message: see whether the model is there now."""


@dataclass(slots=True, eq=False)
class _Text:
    """One text that waits, and everybody who waits for it."""

    text: str
    deadline: Deadline | None
    answer: asyncio.Future[EmbeddedText]
    beside: list[Beside[Any, Any]] = field(default_factory=list)

    @property
    def is_dead(self) -> bool:
        return self.answer.done() or (self.deadline is not None and self.deadline.passed)

    def give_up(self, pools: Pools) -> None:
        """Leave it unembedded."""
        self.answer.cancel()
        for each in self.beside:
            each.alone(pools)


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

    def drop(self, text: _Text) -> None:
        """Let go of a text that nobody waits for any more, if it is here."""
        if text in self.texts:
            self.texts.remove(text)

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
    """Schedules texts over the threads of the encoder, which `load` opens and which must be that of `model`."""

    def __init__(self, load: Callable[[], Embedder], model: ModelInfo, pools: Pools) -> None:
        self._load = load
        self._model = model
        self._pools = pools
        self._fault: ModelUnavailable | None = None
        self._urgent = _Lane(pools.embed, run_characters=0)
        self._patient = _Lane(pools.embed_patiently, RUN_CHARACTERS)
        self._waiting: dict[str, _Text] = {}
        self._remembered = EmbeddedTexts()

    async def started(self, ctx: Context) -> None:
        await self._begin(ctx)

    async def closed(self) -> None:
        for text in self._waiting.values():
            text.give_up(self._pools)

    async def handle(self, message: object, ctx: Context) -> object:
        match message:
            case Embed(urgent=True) if (fault := self.fault) is not None:
                raise fault
            case Embed(texts=texts, urgent=urgent):
                return ctx.detach(self._gather([self._row(text, ctx.deadline, urgent=urgent) for text in texts]))
            case EmbedQuery(beside=beside) if self._fault is not None:
                beside.alone(self._pools)
            case EmbedQuery(query=query, beside=beside) if (known := self._known(query)) is not None:
                beside.finish(known.meaning)
                beside.begin(self._pools)
            case EmbedQuery(query=query, beside=beside, deadline=deadline):
                self._enqueue(query, deadline, urgent=True).beside.append(beside)
            case ForgetTexts():
                self._remembered = EmbeddedTexts()  # what is on its way goes to the one before
            case _LoadAgain():
                ctx.spawn(self._begin(ctx))
        return None

    @property
    def fault(self) -> ModelUnavailable | None:
        """Why there is no model, in an error of its own: one that is raised keeps where that was."""
        return copy.copy(self._fault)

    @property
    def waiting(self) -> int:
        """How many texts wait."""
        return len(self._urgent.texts) + len(self._patient.texts)

    def _row(
        self, text: str, deadline: Deadline | None, *, urgent: bool
    ) -> EmbeddedText | asyncio.Future[EmbeddedText]:
        known = self._known(text)
        return self._enqueue(text, deadline, urgent=urgent).answer if known is None else known

    def _known(self, text: str) -> EmbeddedText | None:
        known = self._remembered.get(text)
        if known is not None:
            metrics.REMEMBERED.inc()
        return known

    async def _begin(self, ctx: Context) -> None:
        """Load the model and serve from then on; if it cannot be loaded, try again later."""
        try:
            embedder = await self._pools.disk(self._load_same)
        except ModelUnavailable as error:
            if str(error) != str(self._fault):
                log.error("model_unavailable", error=error.message, hint=error.hint)  # noqa: TRY400 - the trace says no more
            self._fault = error.with_traceback(None)
            ctx.after(RETRY_MODEL_S, _LoadAgain())
            return
        if self._fault is not None:
            log.info("model_available", model=self._model.name)
            self._fault = None
        for _ in range(self._pools.embed_threads):
            ctx.spawn(self._serve(self._urgent, embedder))
            ctx.spawn(self._serve(self._patient, embedder))

    def _load_same(self) -> Embedder:
        """Load the model. Raises ModelUnavailable, also when it is not the one that the memories were opened with."""
        embedder = self._load()
        if embedder.model != self._model:
            raise ModelUnavailable(
                f"embedding model {embedder.model.name}: another one than at the start of this daemon",
                field="embedding.model",
                hint="put that one back, or restart memoryd",
            )
        return embedder

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
        if known is not None:
            for lane in (self._urgent, self._patient):
                lane.drop(known)
            known.give_up(self._pools)
        waiting = _Text(text, deadline, asyncio.get_running_loop().create_future())
        self._waiting[text] = waiting
        (self._urgent if urgent else self._patient).put(waiting)
        return waiting

    async def _gather(self, answers: list[EmbeddedText | asyncio.Future[EmbeddedText]]) -> Embeddings:
        rows = [each if isinstance(each, EmbeddedText) else await asyncio.shield(each) for each in answers]
        if not rows:
            none = np.empty(0, np.int32)
            return Embeddings(np.empty((0, self._model.dim), np.float32), none, none, [], [])
        return Embeddings(
            np.stack([row.meaning.vector for row in rows]),
            np.array([row.tokens for row in rows], np.int32),
            np.array([row.embedded_tokens for row in rows], np.int32),
            [row.windows for row in rows],
            [row.meaning.signs for row in rows],
        )

    async def _serve(self, lane: _Lane, embedder: Embedder) -> None:
        while True:
            # Not a name for them: until the next ones come it would keep what was made of these, and a whole memory with that.
            await self._run(self._alive(await lane.take()), lane, embedder)

    def _embed(self, embedder: Embedder, texts: Sequence[_Text]) -> Embeddings:
        """Embed some texts on this thread, and answer the queries among them."""
        queries = [(each, place) for place, text in enumerate(texts) for each in text.beside]

        def running() -> None:
            for each, _ in queries:
                each.begin(self._pools)

        began = time.perf_counter()
        try:
            found = embedder.embed([text.text for text in texts], running if queries else None)
        except BaseException:
            for each, _ in queries:
                each.alone(self._pools)
            raise
        metrics.EMBEDS.observe(time.perf_counter() - began)
        metrics.EMBEDDED.inc(len(texts))
        for each, place in queries:
            each.finish(found.meaning(place))
            each.begin(self._pools)  # if the encoder has not said that it runs
        return found

    def _alive(self, texts: list[_Text]) -> list[_Text]:
        for text in texts:
            if self._waiting.get(text.text) is text:
                del self._waiting[text.text]
            if text.is_dead:
                text.give_up(self._pools)  # who gathered it with others waits still
        return [text for text in texts if not text.is_dead]

    async def _run(self, texts: list[_Text], lane: _Lane, embedder: Embedder) -> None:
        if not texts:
            return
        remembered = self._remembered
        try:
            found = await lane.embed(self._embed, embedder, texts)
        except Exception as error:  # noqa: BLE001 - a text the encoder cannot take fails its askers, not the encoder
            if len(texts) > 1:
                for text in texts:
                    await self._run([text], lane, embedder)
            elif not texts[0].answer.done():
                texts[0].answer.set_exception(as_error(error))
                texts[0].answer.exception()  # who asked may be gone, and asyncio would print what it says
            return
        rows = [
            EmbeddedText(
                found.meaning(place), int(found.tokens[place]), int(found.embedded_tokens[place]), found.windows[place]
            )
            for place in range(len(texts))
        ]
        for text, row in zip(texts, rows, strict=True):
            if not text.answer.done():
                text.answer.set_result(row)
        for text, row in zip(texts, rows, strict=True):
            remembered.put(text.text, row)
