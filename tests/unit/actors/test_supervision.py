"""Asks, failures, restarts, budgets and orderly ends."""

from __future__ import annotations

import asyncio

import pytest

from memoryd.actors.actor import Actor
from memoryd.actors.context import Context, TaskFailed
from memoryd.actors.exits import Failed, Killed, Passivated, Stopped
from memoryd.actors.mailbox import Deadline
from memoryd.actors.slot import Passivate, Slot, Stop
from memoryd.actors.supervisor import Escalated
from memoryd.protocol.errors import ActorFailed, Damaged, Expired, NotFound, Overloaded, ShuttingDown

from .conftest import Echo, Fail, Heavy, Kit, Later, Poison


async def test_an_ask_is_answered(kit: Kit, soon: Deadline) -> None:
    await kit.start("a")

    assert await kit.slot("a").ref.ask(Echo(number=7), deadline=soon) == 7


async def test_the_mailbox_moves_on_while_a_detached_answer_is_prepared(kit: Kit, soon: Deadline) -> None:
    await kit.start("a")
    kit.gate.clear()
    later = asyncio.create_task(kit.slot("a").ref.ask(Later(number=1), deadline=soon))
    await asyncio.sleep(0.01)

    with pytest.raises(NotFound):
        await kit.slot("a").ref.ask(Fail(error=NotFound("nothing here")), deadline=soon)
    kit.gate.set()

    assert await later == 1


async def test_a_refusal_is_an_answer_and_no_crash(kit: Kit, soon: Deadline) -> None:
    await kit.start("a")

    with pytest.raises(NotFound):
        await kit.slot("a").ref.ask(Fail(error=NotFound("nothing here")), deadline=soon)

    assert kit.slot("a").incarnations == 1


async def test_an_unexpected_error_fails_the_ask_and_restarts_the_actor(kit: Kit, soon: Deadline) -> None:
    await kit.start("a")

    with pytest.raises(ActorFailed):
        await kit.slot("a").ref.ask(Fail(error=ValueError("bug")), deadline=soon)
    await kit.incarnation("a", 2)

    assert await kit.slot("a").ref.ask(Echo(number=1), deadline=soon) == 1
    assert kit.log.count("started") == 2


async def test_a_fault_of_the_disk_reaches_the_asker_as_it_is_and_ends_the_actor(kit: Kit, soon: Deadline) -> None:
    await kit.start("a")

    with pytest.raises(Damaged):
        await kit.slot("a").ref.ask(Fail(error=Damaged("bytes are wrong")), deadline=soon)

    await kit.incarnation("a", 2)


async def test_an_asker_at_work_on_an_error_goes_on_while_its_actor_ends_by_the_same_one(
    kit: Kit, soon: Deadline
) -> None:
    await kit.start("a")

    async def asker() -> str:
        try:
            await kit.slot("a").ref.ask(Fail(error=Damaged("bytes are wrong"), beside=True), deadline=soon)
        except Damaged:
            await kit.incarnation("a", 2)
            return "went on"
        return "no error"

    assert await asyncio.create_task(asker()) == "went on"


async def test_mail_that_waits_survives_the_crash_of_its_actor(kit: Kit, soon: Deadline) -> None:
    await kit.start("a")
    ref = kit.slot("a").ref
    kit.gate.clear()
    blocker = asyncio.create_task(ref.ask(Echo(number=0), deadline=soon))
    await asyncio.sleep(0.01)
    failing = asyncio.create_task(ref.ask(Fail(error=ValueError("bug")), deadline=soon))
    waiting = asyncio.create_task(ref.ask(Echo(number=5), deadline=soon))
    await asyncio.sleep(0.01)
    kit.gate.set()

    assert await blocker == 0
    with pytest.raises(ActorFailed):
        await failing
    assert await waiting == 5


async def test_a_message_that_fails_its_actor_twice_is_parked(kit: Kit) -> None:
    await kit.start("a")

    await kit.slot("a").ref.tell(Poison())
    await kit.incarnation("a", 3)

    assert kit.parked == [("root/a", Poison())]
    assert kit.log.count("poison") == 2


async def test_over_its_budget_a_supervisor_gives_up_and_stops_its_children(kit: Kit) -> None:
    await kit.start("a", "b", restarts=1)

    await kit.slot("a").ref.tell(Poison())
    async with asyncio.timeout(5):
        await kit.ended.wait()

    assert isinstance(kit.ends[0], Failed)
    assert isinstance(kit.ends[0].cause, Escalated)
    assert [slot.is_alive for slot in kit.places] == [False, False]


async def test_rest_for_one_restarts_the_failed_child_and_those_after_it(kit: Kit, soon: Deadline) -> None:
    await kit.start("a", "b", "c", strategy="rest_for_one")

    with pytest.raises(ActorFailed):
        await kit.slot("b").ref.ask(Fail(error=ValueError("bug")), deadline=soon)
    await kit.incarnation("c", 2)

    assert [kit.slot(name).incarnations for name in "abc"] == [1, 2, 2]


async def test_children_start_left_to_right_and_stop_right_to_left(kit: Kit) -> None:
    order: list[str] = []

    class Named(Actor):
        def __init__(self, name: str) -> None:
            self._name = name

        async def started(self, ctx: Context) -> None:
            self._name = ctx.path
            order.append(f"+{ctx.path[-1]}")

        async def stopping(self, ctx: Context) -> None:
            order.append(f"-{ctx.path[-1]}")

    await kit.start("a", "b", "c", factory=lambda: Named(""))
    await kit.root.stop(5.0)

    assert order == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert kit.ends == [Stopped()]


async def test_a_full_mailbox_refuses_an_ask_at_once(kit: Kit, soon: Deadline) -> None:
    await kit.start("a", max_items=1)
    kit.gate.clear()
    await kit.slot("a").ref.tell(Heavy(weight=1))
    await asyncio.sleep(0.01)
    await kit.slot("a").ref.tell(Heavy(weight=1))

    with pytest.raises(Overloaded) as refused:
        await kit.slot("a").ref.ask(Echo(number=1), deadline=soon)

    assert refused.value.retry_after > 0


async def test_work_that_expired_in_the_queue_is_never_begun(kit: Kit) -> None:
    await kit.start("a")
    kit.gate.clear()
    await kit.slot("a").ref.tell(Heavy(weight=1))

    with pytest.raises(Expired):
        await kit.slot("a").ref.ask(Poisonous(), deadline=Deadline.after(0.02))
    kit.gate.set()
    await asyncio.sleep(0.02)

    assert kit.slot("a").incarnations == 1


async def test_a_handler_without_progress_is_killed(soon: Deadline) -> None:
    ends = []
    gate = asyncio.Event()

    class Stuck(Actor):
        async def handle(self, message: object, ctx: Context) -> object:
            await gate.wait()

    slot = Slot("stuck", Stuck, on_exit=lambda _, end: ends.append(end), park=lambda *_: None, hang_after_s=0.05)
    await slot.start()

    with pytest.raises(ActorFailed):
        await slot.ref.ask(Echo(number=1), deadline=soon)
    await asyncio.sleep(0.01)

    assert isinstance(ends[0], Killed)


async def test_an_actor_that_does_not_stop_in_time_is_killed_and_closed() -> None:
    ends: list[object] = []
    closed: list[bool] = []

    class Stubborn(Actor):
        async def handle(self, message: object, ctx: Context) -> object:
            await asyncio.sleep(60)

        async def closed(self) -> None:
            closed.append(True)

    slot = Slot("stubborn", Stubborn, on_exit=lambda _, end: ends.append(end), park=lambda *_: None)
    await slot.start()
    await slot.ref.tell(Heavy(weight=1))
    await asyncio.sleep(0.01)

    await slot.stop(0.05)

    assert isinstance(ends[0], Killed)
    assert closed == [True]


async def test_what_ended_one_incarnation_does_not_end_the_next() -> None:
    ends: list[object] = []
    slot = Slot("user", Actor, on_exit=lambda _, end: ends.append(end), park=lambda *_: None)
    await slot.start()
    for number in range(2):
        slot.mailbox.put_control(TaskFailed(RuntimeError(str(number))))
    async with asyncio.timeout(5):
        while slot.is_alive:
            await asyncio.sleep(0.005)
    slot.mailbox.put_control(Stop())
    slot.mailbox.put_control(Passivate())

    assert await slot.start() is None

    for _ in range(5):
        await asyncio.sleep(0)
    assert slot.is_alive
    assert len(ends) == 1
    await slot.stop(5.0)
    assert ends[1:] == [Stopped()]


async def test_passivation_waits_until_there_is_no_mail(soon: Deadline) -> None:
    ends: list[object] = []
    gate = asyncio.Event()
    log: list[str] = []
    slot = Slot("user", lambda: _worker(log, gate), on_exit=lambda _, end: ends.append(end), park=lambda *_: None)
    await slot.start()
    waiting = asyncio.create_task(slot.ref.ask(Echo(number=3), deadline=soon))
    await asyncio.sleep(0.01)
    slot.mailbox.put_control(Passivate())
    busy = asyncio.create_task(slot.ref.ask(Echo(number=4), deadline=soon))
    await asyncio.sleep(0.01)
    gate.set()

    assert [await waiting, await busy] == [3, 4]
    assert ends == []
    slot.mailbox.put_control(Passivate())
    async with asyncio.timeout(5):
        while not ends:
            await asyncio.sleep(0.005)
    assert ends == [Passivated()]
    assert log[-2:] == ["stopping", "closed"]


async def test_a_closed_place_answers_that_the_daemon_stops(kit: Kit, soon: Deadline) -> None:
    await kit.start("a")
    await kit.root.stop(5.0)
    kit.slot("a").close()

    with pytest.raises(ShuttingDown):
        await kit.slot("a").ref.ask(Echo(number=1), deadline=soon)


class Poisonous(Fail, frozen=True, kw_only=True):
    error: Exception = ValueError("must never be handled")


def _worker(log: list[str], gate: asyncio.Event) -> Actor:
    from .conftest import Worker

    return Worker(log, gate)
