"""Moments as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from memoryd.cli.times import parse_moment

NOW = datetime(2026, 3, 11, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(days=7)),
        (" 3D ", timedelta(days=3)),
    ],
)
def test_a_number_and_a_unit_mean_so_long_ago(text: str, ago: timedelta) -> None:
    assert parse_moment(text, NOW) == NOW - ago


def test_a_time_with_a_zone_is_taken_as_it_is() -> None:
    assert parse_moment("2026-03-11T10:00:00Z", NOW) == datetime(2026, 3, 11, 10, tzinfo=UTC)


def test_a_date_alone_is_its_local_midnight() -> None:
    assert parse_moment("2026-03-11", NOW) == datetime(2026, 3, 11).astimezone()


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("yesterday", datetime(2026, 3, 10).astimezone()),
        ("Two days ago", datetime(2026, 3, 9).astimezone()),
        ("last week", datetime(2026, 3, 2).astimezone()),
        ("8 May 2023", datetime(2023, 5, 8).astimezone()),
        ("March", datetime(2026, 3, 1).astimezone()),
        ("2022", datetime(2022, 1, 1).astimezone()),
    ],
)
def test_words_mean_where_that_time_begins_here(text: str, begins: datetime) -> None:
    assert parse_moment(text, NOW) == begins


@pytest.mark.parametrize(
    "text",
    ["", "someday", "since yesterday", "31 April 2023", "3", "h", "3x", "-2h", "2026-13-01", "999999999w", "2h30m"],
)
def test_anything_else_is_refused_with_the_forms_that_are_known(text: str) -> None:
    with pytest.raises(ValueError, match="use an ISO date"):
        parse_moment(text, NOW)
