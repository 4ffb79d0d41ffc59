"""The mailbox: two lanes, bounds, and waiting for room."""

from __future__ import annotations

import asyncio

import pytest

from memoryd.actors.mailbox import Deadline, Envelope, Mailbox
from memoryd.protocol.messages import Tell


class Weighing(Tell, frozen=True, kw_only=True):
    weight: int


async def test_control_messages_overtake_work() -> None:
    mailbox = Mailbox()
    mailbox.offer(Envelope("work"))
    mailbox.put_control("control")

    assert [(await mailbox.get()).message for _ in range(2)] == ["control", "work"]


async def test_work_keeps_its_order() -> None:
    mailbox = Mailbox()
    for number in range(5):
        mailbox.offer(Envelope(number))

    assert [(await mailbox.get()).message for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_a_full_mailbox_refuses_by_count() -> None:
    mailbox = Mailbox(max_items=2)

    assert [mailbox.offer(Envelope(number)) for number in range(3)] == [True, True, False]


async def test_a_full_mailbox_refuses_by_bytes_but_takes_one_large_message_when_empty() -> None:
    mailbox = Mailbox(max_bytes=100)

    assert mailbox.offer(Envelope(Weighing(weight=500)))
    assert not mailbox.offer(Envelope(Weighing(weight=1)))


async def test_a_sender_that_waits_gets_the_next_room_before_those_who_come_later() -> None:
    mailbox = Mailbox(max_items=1)
    mailbox.offer(Envelope("first"))
    waiting = asyncio.create_task(mailbox.put(Envelope("second")))
    await asyncio.sleep(0)

    assert not mailbox.offer(Envelope("pushing in"))
    await mailbox.get()
    await waiting

    assert (await mailbox.get()).message == "second"


async def test_waiting_for_room_ends_at_the_deadline() -> None:
    mailbox = Mailbox(max_items=1)
    mailbox.offer(Envelope("first"))

    with pytest.raises(TimeoutError):
        await mailbox.put(Envelope("second", Deadline.after(0.02)))

    assert mailbox.depth == 1


async def test_a_sender_that_gives_up_leaves_the_room_to_the_next() -> None:
    mailbox = Mailbox(max_items=1)
    mailbox.offer(Envelope("first"))
    quitter = asyncio.create_task(mailbox.put(Envelope("quitter")))
    patient = asyncio.create_task(mailbox.put(Envelope("patient")))
    await asyncio.sleep(0)
    quitter.cancel()
    await asyncio.sleep(0)

    await mailbox.get()
    await patient

    assert (await mailbox.get()).message == "patient"


async def test_what_is_put_back_comes_before_all_other_work() -> None:
    mailbox = Mailbox()
    mailbox.offer(Envelope("later"))
    mailbox.put_back(Envelope("again"))

    assert (await mailbox.get()).message == "again"


async def test_draining_returns_the_work_and_makes_room() -> None:
    mailbox = Mailbox(max_items=1)
    mailbox.offer(Envelope("work"))
    mailbox.put_control("control")

    assert [envelope.message for envelope in mailbox.drain()] == ["work"]
    assert mailbox.is_empty
    assert mailbox.depth_bytes == 0
    assert mailbox.offer(Envelope("next"))


async def test_control_messages_of_one_kind_are_dropped_and_the_rest_keeps_its_order() -> None:
    mailbox = Mailbox()
    mailbox.offer(Envelope(1))
    for control in ("first", 2, "second"):
        mailbox.put_control(control)
    mailbox.offer(Envelope(3))

    mailbox.drop_control(int)

    assert [(await mailbox.get()).message for _ in range(4)] == ["first", "second", 1, 3]
    assert mailbox.is_empty
    assert mailbox.depth == 0


async def test_the_age_is_that_of_the_oldest_work() -> None:
    mailbox = Mailbox()
    assert mailbox.oldest_age() == 0.0
    mailbox.offer(Envelope("old"))
    await asyncio.sleep(0.02)
    mailbox.offer(Envelope("new"))

    assert mailbox.oldest_age() >= 0.015
    await mailbox.get()
    assert mailbox.oldest_age() < 0.015
