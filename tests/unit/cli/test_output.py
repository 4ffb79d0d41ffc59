"""Short forms, and tables that hold what others wrote."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from memoryd.cli.output import age, memories_table, outcome, shorten, size
from memoryd.protocol.ids import RecordId
from memoryd.protocol.records import MemoryKind, MemoryRecord, MemorySource, RetrievedMemory

NOW = datetime(2026, 3, 11, 12, 0, tzinfo=UTC)


def remembered(text: str, quality: float | None = None) -> RetrievedMemory:
    record = MemoryRecord(
        id=RecordId("01JZ8Q4T6V0000000000000000"),
        text=text,
        kind=MemoryKind.FINDING,
        source=MemorySource.WORKER_RESULT,
        timestamp=NOW - timedelta(hours=2),
        session_id="01JZ8Q4T6V00000000AAAABBBB",
        quality_score=quality,
    )
    return RetrievedMemory(record=record, score=0.5, sona_score=0.625, relevance=0.25)


def shown(*memories: RetrievedMemory) -> str:
    out = Console(file=StringIO(), width=140, color_system=None)
    out.print(memories_table(memories, NOW))
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()


def test_a_short_text_stays_as_it_is() -> None:
    assert shorten("added a mutex", 20) == "added a mutex"


def test_a_long_text_is_cut_at_a_word() -> None:
    assert shorten("added a mutex around the session table", 20) == "added a mutex…"


def test_a_long_word_is_cut_where_it_must() -> None:
    assert shorten("a" * 50, 10) == "a" * 9 + "…"


def test_line_ends_and_terminal_codes_become_spaces() -> None:
    assert shorten("red\x1b[31m\nand\tmore\x07", 40) == "red [31m and more"


@pytest.mark.parametrize("width", range(1, 40))
def test_what_is_cut_is_never_wider_than_asked(width: int) -> None:
    assert len(shorten("added a mutex, around the session table", width)) <= width


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7_199, "1 h"),
        (86_400, "1 d"),
        (700_000, "1 w"),
        (63_072_000, "104 w"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_bytes_are_told_in_a_unit_that_people_read() -> None:
    assert [size(each) for each in (0, 1_023, 2_048, 3 << 20, 5 << 30)] == [
        "0 B",
        "1023 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]


def test_an_outcome_is_a_tick_a_cross_or_open() -> None:
    assert [outcome(each).plain for each in (1.0, 0.5, 0.4, 0.0, None)] == [
        "✔ 1.00",
        "✔ 0.50",
        "✘ 0.40",
        "✘ 0.00",
        "– open",  # noqa: RUF001
    ]


def test_a_row_tells_text_kind_source_score_relevance_age_session_and_outcome() -> None:
    row = shown(remembered("added a mutex", 1.0)).splitlines()[1].split("  ")

    assert [cell.strip() for cell in row if cell.strip()] == [
        "added a mutex",
        "finding",
        "worker_result",
        "0.625",
        "0.25",
        "2 h",
        "…AAAABBBB",
        "✔ 1.00",
    ]


def test_markup_in_a_memory_is_shown_and_not_obeyed() -> None:
    assert "[bold red]x[/]" in shown(remembered("[bold red]x[/] [link=file:///]y"))
