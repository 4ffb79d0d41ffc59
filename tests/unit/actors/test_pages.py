"""Documents that go through a frame page by page."""

from __future__ import annotations

import pytest

from memoryd.actors import pages
from memoryd.actors.pages import Incoming, Outgoing
from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.messages import ImportLearning

DATA = bytes(range(250))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 100)


def part(after: int, data: bytes, size: int = len(DATA)) -> ImportLearning:
    return ImportLearning(data=data, after=after, size=size)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 250])
def test_pages_joined_are_the_document(size: int) -> None:
    outgoing, found = Outgoing(), b""
    outgoing.begin(DATA[:size])
    page = outgoing.page(0, "")
    while page.next is not None:
        found += page.data
        page = outgoing.page(page.next, page.sha256)

    assert found + page.data == DATA[:size]
    assert page.size == size


def test_pages_of_another_document_are_not_mixed_in() -> None:
    outgoing = Outgoing()
    outgoing.begin(DATA)
    first = outgoing.page(0, "")
    outgoing.begin(DATA[1:])

    with pytest.raises(InvalidMessage) as refused:
        outgoing.page(100, first.sha256)

    assert refused.value.field == "sha256"


def test_what_was_let_go_is_not_read_any_more() -> None:
    outgoing = Outgoing()
    outgoing.begin(DATA)
    first = outgoing.page(0, "")
    outgoing.clear()

    with pytest.raises(InvalidMessage):
        outgoing.page(100, first.sha256)


def test_parts_become_the_document_once_it_is_whole() -> None:
    incoming = Incoming()

    assert incoming.add(part(0, DATA[:100])) is None
    assert incoming.add(part(100, DATA[100:200])) is None
    assert incoming.add(part(200, DATA[200:])) == DATA
    assert incoming.add(part(0, DATA)) == DATA


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(part(50, DATA[50:60]), id="again"),
        pytest.param(part(150, DATA[150:160]), id="a gap"),
        pytest.param(part(100, DATA[:151]), id="more than was said"),
    ],
)
def test_a_part_that_does_not_follow_is_refused_and_all_begins_anew(wrong: ImportLearning) -> None:
    incoming = Incoming()
    incoming.add(part(0, DATA[:100]))

    with pytest.raises(InvalidMessage) as refused:
        incoming.add(wrong)

    assert refused.value.field == "after"
    with pytest.raises(InvalidMessage):
        incoming.add(part(100, DATA[100:]))
    assert incoming.add(part(0, DATA)) == DATA


def test_who_begins_again_is_not_hindered_by_what_was_broken_off() -> None:
    incoming = Incoming()
    incoming.add(part(0, DATA[:100]))

    assert incoming.add(part(0, DATA[:200])) is None
    assert incoming.add(part(200, DATA[200:])) == DATA
