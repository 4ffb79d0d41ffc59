"""The one way to the encoder: who goes first, who shares, who is left out."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from memoryd.actors import embedded, embedder
from memoryd.actors.beside import Beside, EmbedQuery
from memoryd.actors.embedder import EmbedderActor
from memoryd.actors.mailbox import Deadline
from memoryd.actors.pools import AWAITED, PATIENT, Pools
from memoryd.actors.slot import Slot
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol.errors import ActorFailed, Expired, MemorydError, ModelUnavailable, NotFound
from memoryd.protocol.interfaces import Embeddings, ModelInfo
from memoryd.protocol.internal import Embed, ForgetTexts
from tests.helpers.daemon import until

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import Meaning


class Recorder:
    """An encoder that notes what it was given, waits at a gate, and cannot take one word."""

    batch_size = 1

    def __init__(self, dim: int = 16) -> None:
        self.runs: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._hashing = HashingEmbedder(dim)

    @property
    def model(self) -> ModelInfo:
        return self._hashing.model

    def embed(self, texts: Sequence[str], running: Callable[[], None] | None = None) -> Embeddings:
        self.runs.append(list(texts))
        if "illegible" in texts:
            raise ValueError("cannot read it")
        if running is not None:
            running()
        self.gate.wait(10)
        if "poison" in texts:
            raise ValueError("cannot take it")
        return self._hashing.embed(texts)


class Bench:
    def __init__(self) -> None:
        self.encoder = Recorder()
        self.model = self.encoder.model
        self.fault: ModelUnavailable | None = None
        self.pools = Pools(embed_threads=1)
        self.slot = Slot(
            "embedder",
            lambda: EmbedderActor(self.load, self.model, self.pools),
            on_exit=lambda *_: None,
            park=lambda *_: None,
        )

    def load(self) -> Recorder:
        if self.fault is not None:
            raise self.fault
        return self.encoder

    def ask(self, *texts: str, urgent: bool = False, within: float = 5.0) -> asyncio.Task[Embeddings]:
        message = Embed(texts=texts, urgent=urgent, weight=1)
        return asyncio.ensure_future(self.slot.ref.ask(message, deadline=Deadline.after(within)))

    def query(
        self,
        text: str,
        look: Callable[[], object] | None = None,
        end: Callable[..., object] | None = None,
        within: float = 5.0,
    ) -> Beside[object, object]:
        beside = Beside(look or looked_up, end or both)
        assert self.slot.ref.offer(EmbedQuery(query=text, beside=beside, deadline=Deadline.after(within), weight=1))
        return beside

    async def held(self, *, urgent: bool = False) -> asyncio.Task[Embeddings]:
        """Close the gate, and have the encoder hold a run at it."""
        self.encoder.gate.clear()
        running = self.ask("running", urgent=urgent)
        await self.busy()
        return running

    async def busy(self) -> None:
        """Wait until the encoder holds a run at the closed gate."""
        async with asyncio.timeout(5):
            while not self.encoder.runs:
                await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.slot.start()
    yield bench
    bench.encoder.gate.set()
    await bench.slot.stop(5.0)
    bench.pools.close()


async def test_vectors_come_back_in_the_order_of_the_texts(bench: Bench) -> None:
    found = await bench.ask("one", "two", "three")

    expected = bench.encoder._hashing.embed(["one", "two", "three"])
    assert (found.vectors == expected.vectors).all()
    assert found.tokens.tolist() == expected.tokens.tolist()


async def test_no_texts_give_no_vectors(bench: Bench) -> None:
    assert (await bench.ask()).vectors.shape == (0, 16)


async def test_a_text_that_comes_again_soon_is_not_embedded_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "REMEMBERED", 2)
    first = await bench.ask("one", "two")
    again = await bench.ask("two", "one", urgent=True)
    assert (again.vectors == first.vectors[::-1]).all()
    assert again.embedded_tokens.tolist() == first.embedded_tokens[::-1].tolist()
    assert bench.encoder.runs == [["one", "two"]]

    await bench.ask("three")  # takes the place of the one that was not asked for for the longest time
    await bench.ask("one", "two")
    assert bench.encoder.runs == [["one", "two"], ["three"], ["two"]]


async def test_what_is_to_leave_no_trace_is_not_remembered(bench: Bench) -> None:
    await bench.ask("one")
    await bench.slot.ref.tell(ForgetTexts())
    await bench.ask("one")

    assert bench.encoder.runs == [["one"], ["one"]]


async def test_what_is_on_its_way_when_it_is_to_leave_no_trace_is_not_remembered_either(bench: Bench) -> None:
    bench.encoder.gate.clear()
    asked = bench.ask("one")
    await bench.busy()
    await bench.slot.ref.tell(ForgetTexts())
    await until(lambda: bench.slot.mailbox.is_empty)
    bench.encoder.gate.set()
    await asked
    await bench.ask("one")

    assert bench.encoder.runs == [["one"], ["one"]]


async def test_what_nobody_waits_for_any_more_does_not_pile_up(bench: Bench) -> None:
    bench.encoder.gate.clear()
    first = bench.ask("running")
    await bench.busy()
    for _ in range(5):
        with pytest.raises(Expired):
            await bench.ask("one", "two", within=0.01)

    assert bench.slot.actor.waiting == 2
    bench.encoder.gate.set()
    await first


async def test_a_recall_does_not_wait_for_ingestion(bench: Bench) -> None:
    bench.encoder.gate.clear()
    patient = [bench.ask("x" * 900), bench.ask("y" * 900)]
    await bench.busy()
    urgent = bench.ask("urgent", urgent=True)
    async with asyncio.timeout(5):
        while ["urgent"] not in bench.encoder.runs:
            await asyncio.sleep(0.001)
    bench.encoder.gate.set()
    await asyncio.gather(urgent, *patient)

    assert bench.encoder.runs == [["x" * 900], ["urgent"], ["y" * 900]]


async def test_ingestion_goes_on_beside_recalls(bench: Bench) -> None:
    bench.encoder.gate.clear()
    asks = [bench.ask(f"urgent {number}", urgent=True) for number in range(6)]
    await bench.busy()
    asks.append(bench.ask("patient"))
    async with asyncio.timeout(5):
        while ["patient"] not in bench.encoder.runs:
            await asyncio.sleep(0.001)
    bench.encoder.gate.set()
    await asyncio.gather(*asks)

    assert bench.encoder.runs[:2] == [["urgent 0"], ["patient"]]


async def test_threads_yield_to_the_event_loop_and_those_of_ingestion_to_those_of_recalls(bench: Bench) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    pools, loop = bench.pools, priority()
    for awaited in (pools.embed, pools.disk, pools.search, pools.log_read, pools.log_write):
        assert await awaited(priority) == loop + AWAITED
    for patient in (pools.embed_patiently, pools.disk_in_background, pools.link):
        assert await patient(priority) == loop + PATIENT


async def test_a_text_of_ingestion_that_a_recall_needs_too_goes_with_the_recalls(bench: Bench) -> None:
    bench.encoder.gate.clear()
    asks = [bench.ask("running")]
    await bench.busy()
    asks += [bench.ask("z" * 900), bench.ask("wanted"), bench.ask("wanted", urgent=True)]
    async with asyncio.timeout(5):
        while ["wanted"] not in bench.encoder.runs:
            await asyncio.sleep(0.001)
    bench.encoder.gate.set()
    await asyncio.gather(*asks)

    assert bench.encoder.runs == [["running"], ["wanted"], ["z" * 900]]


async def test_equal_texts_that_wait_together_are_embedded_once(bench: Bench) -> None:
    bench.encoder.gate.clear()
    asks = [bench.ask("running")]
    await bench.busy()
    asks += [bench.ask("same"), bench.ask("same"), bench.ask("same", urgent=True)]
    await asyncio.sleep(0.01)
    bench.encoder.gate.set()
    _, *found = await asyncio.gather(*asks)

    assert sum(run.count("same") for run in bench.encoder.runs) == 1
    assert (found[0].vectors == found[2].vectors).all()


async def test_what_expired_while_it_waited_is_not_embedded(bench: Bench) -> None:
    running = await bench.held()
    with pytest.raises(Expired):
        await bench.ask("too late", within=0.02)
    await asyncio.sleep(0.01)  # uvloop's clock counts whole milliseconds
    bench.encoder.gate.set()
    await running
    await bench.ask("next")

    assert ["too late"] not in bench.encoder.runs


async def test_a_model_that_comes_later_must_be_the_one_that_was_expected(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "RETRY_MODEL_S", 0.01)
    await bench.slot.stop(5.0)
    expected, bench.fault = bench.encoder, ModelUnavailable("gone", hint="bring it back")
    await bench.slot.start()
    patient = bench.ask("can wait")
    with pytest.raises(ModelUnavailable, match="bring it back"):
        await bench.ask("cannot wait", urgent=True)

    bench.encoder, bench.fault = Recorder(dim=24), None
    await until(lambda: "another one" in str(bench.slot.actor.fault))
    assert not patient.done()

    bench.encoder = expected
    assert (await patient).vectors.shape == (1, 16)
    assert (await bench.ask("cannot wait", urgent=True)).vectors.shape == (1, 16)
    assert bench.slot.incarnations == 2


async def test_a_text_the_encoder_cannot_take_fails_its_asker_alone(bench: Bench) -> None:
    running = await bench.held()
    good, bad = bench.ask("good"), bench.ask("poison")
    await asyncio.sleep(0.01)
    bench.encoder.gate.set()
    await running

    assert (await good).vectors.shape == (1, 16)
    with pytest.raises(ActorFailed):
        await bad
    assert bench.slot.incarnations == 1


# --- queries, which are looked up beside the encoder ---


def looked_up() -> str:
    return "words"


def both(words: str, meaning: Meaning | None) -> tuple[str, Meaning | None]:
    return words, meaning


async def test_a_query_is_looked_up_while_the_encoder_runs_and_answered_with_its_meaning(bench: Bench) -> None:
    looked = threading.Event()

    def look() -> str:
        looked.set()
        return "words"

    bench.encoder.gate.clear()
    beside = bench.query("one", look)
    await until(looked.is_set)
    assert not beside._answer.done()
    bench.encoder.gate.set()

    words, meaning = await beside.whole()
    assert words == "words"
    assert (meaning.vector == bench.encoder._hashing.embed(["one"]).vectors[0]).all()


async def test_a_query_that_is_remembered_needs_no_encoder(bench: Bench) -> None:
    first = await bench.ask("one")

    words, meaning = await bench.query("one").whole()

    assert words == "words"
    assert (meaning.vector == first.vectors[0]).all()
    assert bench.encoder.runs == [["one"]]


async def test_two_who_ask_the_same_share_a_run_and_have_their_own_answers(bench: Bench) -> None:
    running = await bench.held(urgent=True)
    asked = [bench.query("same", lambda name=name: name) for name in "ab"]
    await until(lambda: bench.slot.mailbox.is_empty)
    bench.encoder.gate.set()
    await running

    (first, one), (second, other) = [await beside.whole() for beside in asked]
    assert (first, second) == ("a", "b")
    assert (one.vector == other.vector).all()
    assert one.signs == other.signs != b""
    assert bench.encoder.runs == [["running"], ["same"]]


async def test_an_encoder_that_does_not_say_when_it_runs_is_looked_up_for_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = bench.encoder.embed
    monkeypatch.setattr(bench.encoder, "embed", lambda texts, _running: embed(texts))

    assert (await bench.query("one").whole())[0] == "words"


async def test_a_query_that_is_given_up_before_its_turn_is_not_looked_up(bench: Bench) -> None:
    looked = []
    running = await bench.held(urgent=True)
    beside = bench.query("one", lambda: looked.append("looked"))
    waiting = asyncio.ensure_future(beside.whole())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.encoder.gate.set()
    await running
    await bench.ask("next", urgent=True)

    assert looked == []


async def test_who_gives_up_while_it_is_looked_up_waits_for_that_and_not_for_the_encoder(bench: Bench) -> None:
    looking, go, ended = threading.Event(), threading.Event(), []

    def look() -> str:
        looking.set()
        go.wait(10)
        return "words"

    bench.encoder.gate.clear()
    beside = bench.query("one", look, lambda *_: ended.append("ended"))
    waiting = asyncio.ensure_future(beside.whole())
    await until(looking.is_set)
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.encoder.gate.set()
    await bench.ask("next", urgent=True)

    assert ended == []


async def test_who_gives_up_while_it_is_answered_waits_until_that_has_returned(bench: Bench) -> None:
    ending, go = threading.Event(), threading.Event()

    def end(_words: str, _meaning: Meaning | None) -> str:
        ending.set()
        go.wait(10)
        return "ended"

    beside = bench.query("one", looked_up, end)
    waiting = asyncio.ensure_future(beside.whole())
    await until(ending.is_set)
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    go.set()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_cannot_be_looked_up_fails_the_query_alone(bench: Bench) -> None:
    def look() -> str:
        raise NotFound("no words")

    with pytest.raises(NotFound):
        await bench.query("one", look).whole()
    assert (await bench.query("two").whole())[0] == "words"
    assert bench.slot.incarnations == 1


async def test_a_query_that_the_encoder_cannot_take_is_answered_without_a_meaning(bench: Bench) -> None:
    assert await bench.query("poison").whole() == ("words", None)
    assert bench.slot.incarnations == 1


async def test_a_query_that_cannot_be_read_is_looked_up_all_the_same(bench: Bench) -> None:
    assert await bench.query("illegible").whole() == ("words", None)


async def test_a_query_that_waited_too_long_for_the_encoder_is_answered_without_a_meaning(bench: Bench) -> None:
    running = await bench.held(urgent=True)
    beside = bench.query("too late", within=0.01)
    await asyncio.sleep(0.03)
    bench.encoder.gate.set()
    await running

    assert await beside.whole() == ("words", None)
    assert ["too late"] not in bench.encoder.runs


async def test_a_query_that_waits_when_the_encoder_stops_is_answered_without_a_meaning(bench: Bench) -> None:
    running = await bench.held(urgent=True)
    beside = bench.query("one")
    await until(lambda: bench.slot.mailbox.is_empty)
    stopping = asyncio.ensure_future(bench.slot.stop(5.0))
    await asyncio.sleep(0.01)
    bench.encoder.gate.set()

    assert await beside.whole() == ("words", None)
    with pytest.raises(MemorydError):
        await running
    await stopping
    bench.slot.close()
    assert not bench.slot.ref.offer(ForgetTexts())


async def test_without_a_model_a_query_is_answered_without_a_meaning(bench: Bench) -> None:
    await bench.slot.stop(5.0)
    bench.fault = ModelUnavailable("gone", hint="bring it back")
    await bench.slot.start()

    assert await bench.query("one").whole() == ("words", None)


async def test_the_encoder_waits_for_nobody_who_is_slow_to_look_up(bench: Bench) -> None:
    go = threading.Event()

    def look() -> str:
        go.wait(10)
        return "words"

    slow = bench.query("one", look)
    assert (await bench.ask("two", urgent=True)).vectors.shape == (1, 16)  # on the only thread of the encoder
    go.set()

    words, meaning = await slow.whole()
    assert words == "words"
    assert meaning is not None


async def test_a_meaning_that_comes_after_the_answer_counts_no_more(bench: Bench) -> None:
    ended_on = []

    def end(words: str, meaning: Meaning | None) -> tuple[str, Meaning | None]:
        ended_on.append(threading.current_thread().name)
        return words, meaning

    bench.encoder.gate.clear()
    beside = bench.query("one", looked_up, end)
    await until(lambda: beside._looked)
    beside.alone(bench.pools)

    assert await beside.whole() == ("words", None)
    assert ended_on[0].startswith("search")  # and not on the event loop
    bench.encoder.gate.set()
    await bench.ask("two", urgent=True)
    assert await beside.whole() == ("words", None)


async def test_who_is_cancelled_twice_still_waits_until_nobody_is_at_work(bench: Bench) -> None:
    looking, go = threading.Event(), threading.Event()

    def look() -> str:
        looking.set()
        go.wait(10)
        raise NotFound("nobody is told")

    beside = bench.query("one", look)
    waiting = asyncio.ensure_future(beside.whole())
    await until(looking.is_set)
    for _ in range(2):
        waiting.cancel()
        await asyncio.sleep(0.01)
    assert not waiting.done()
    go.set()

    with pytest.raises(asyncio.CancelledError):
        await waiting
