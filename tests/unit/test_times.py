"""Times in words: what is one, what it means, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from memoryd.times import LONGEST, Span, Spoken, spoken

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 11, 11, 34, 5, tzinfo=UTC)  # a Wednesday, 12:34:05 in Berlin
NO_END = ""


def here(text: str) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN) if text else None


@pytest.mark.parametrize(
    ("text", "phrase", "since", "until"),
    [
        # of the calendar, counted from now
        ("what failed today?", "today", "2026-03-11", "2026-03-12"),
        ("Yesterday the build broke", "Yesterday", "2026-03-10", "2026-03-11"),
        ("what broke the day before yesterday", "the day before yesterday", "2026-03-09", "2026-03-10"),
        ("what failed last week", "last week", "2026-03-02", "2026-03-09"),
        ("the plan for this week", "this week", "2026-03-09", "2026-03-16"),
        ("last weekend's deploy", "last weekend", "2026-03-07", "2026-03-09"),
        ("errors last month", "last month", "2026-02-01", "2026-03-01"),
        ("last year's report", "last year", "2025-01-01", "2026-01-01"),
        ("the deploy two days ago", "two days ago", "2026-03-09", "2026-03-10"),
        ("3 weeks ago it worked", "3 weeks ago", "2026-02-16", "2026-02-23"),
        ("a couple of months ago", "a couple of months ago", "2026-01-01", "2026-02-01"),
        ("an hour ago", "an hour ago", "2026-03-11T11:00", "2026-03-11T12:00"),
        ("in the last 3 days", "in the last 3 days", "2026-03-08T12:34:05", "2026-03-11T12:34:05"),
        ("during the past week", "during the past week", "2026-03-04T12:34:05", "2026-03-11T12:34:05"),
        # parts of days, and weekdays
        ("what ran this morning", "this morning", "2026-03-11T00:00", "2026-03-11T12:00"),
        ("last night's run", "last night", "2026-03-10T18:00", "2026-03-11T06:00"),
        ("the test on Friday evening", "on Friday evening", "2026-03-06T18:00", "2026-03-07T00:00"),
        ("on Wednesday", "on Wednesday", "2026-03-11", "2026-03-12"),
        ("last Wednesday", "last Wednesday", "2026-03-04", "2026-03-05"),
        ("since Monday", "since Monday", "2026-03-09", NO_END),
        # the last such time before now, where no year is named
        ("in March", "in March", "2026-03-01", "2026-04-01"),
        ("what happened in May?", "in May", "2025-05-01", "2025-06-01"),
        ("last March", "last March", "2025-03-01", "2025-04-01"),
        ("on 8 May", "on 8 May", "2025-05-08", "2025-05-09"),
        ("May 8th was late", "May 8th", "2025-05-08", "2025-05-09"),
        ("on 29 February", "on 29 February", "2024-02-29", "2024-03-01"),
        # dates
        ("What did Ann do on 8 May 2023?", "on 8 May 2023", "2023-05-08", "2023-05-09"),
        ("the 8th of May, 2023", "8th of May, 2023", "2023-05-08", "2023-05-09"),
        ("May 8, 2023", "May 8, 2023", "2023-05-08", "2023-05-09"),
        ("the log of 2023-05-08", "2023-05-08", "2023-05-08", "2023-05-09"),
        ("what happened in March 2023", "in March 2023", "2023-03-01", "2023-04-01"),
        ("errors in 2022", "in 2022", "2022-01-01", "2023-01-01"),
        # borders and ranges
        ("after 8 May 2023", "after 8 May 2023", "2023-05-09", NO_END),
        ("before last week", "before last week", NO_END, "2026-03-02"),
        ("until yesterday", "until yesterday", NO_END, "2026-03-11"),
        ("by July 10, 2022", "by July 10, 2022", NO_END, "2022-07-11"),
        ("between 3 May and 7 May 2023", "between 3 May and 7 May 2023", "2023-05-03", "2023-05-08"),
        ("from March to May 2023", "from March to May 2023", "2023-03-01", "2023-06-01"),
        ("from Monday to Wednesday", "from Monday to Wednesday", "2026-03-09", "2026-03-12"),
        ("from 28 February to 3 March", "from 28 February to 3 March", "2026-02-28", "2026-03-04"),
        # several together
        ("between 5 and 8 May 2023", "between 5 and 8 May 2023", "2023-05-05", "2023-05-09"),
        ("from the 5th to the 8th of May", "from the 5th to the 8th of May", "2025-05-05", "2025-05-09"),
        ("the outage of May 5-8, 2023", "May 5-8, 2023", "2023-05-05", "2023-05-09"),
        ("what broke on May 5 and 6", "on May 5 and 6", "2025-05-05", "2025-05-07"),
        ("in May and June", "in May and June", "2025-05-01", "2025-07-01"),
        ("in May or June 2023", "in May or June 2023", "2023-05-01", "2023-07-01"),
        ("in December and January", "in December and January", "2025-12-01", "2026-02-01"),
        ("on Monday and Tuesday", "on Monday and Tuesday", "2026-03-09", "2026-03-11"),
        ("in 2022 and 2023", "in 2022 and 2023", "2022-01-01", "2024-01-01"),
        ("on Tuesday and Monday", "on Tuesday and Monday", "2026-03-09", "2026-03-11"),
        ("on 8 June and 5 May", "on 8 June and 5 May", "2025-05-05", "2025-06-09"),
        ("in June or April 2023", "in June or April 2023", "2023-04-01", "2023-07-01"),
        ("on 5 May last year", "on 5 May last year", "2025-05-05", "2025-05-06"),
        ("in May last year", "in May last year", "2025-05-01", "2025-06-01"),
        ("last year in May", "last year in May", "2025-05-01", "2025-06-01"),
        ("what I said in January of this year", "in January of this year", "2026-01-01", "2026-02-01"),
        ("the week before August 3, 2023", "week before August 3, 2023", "2023-07-27", "2023-08-04"),
    ],
)
def test_a_time_in_a_question_is_found_and_counted_in_the_zone_of_who_asks(
    text: str, phrase: str, since: str, until: str
) -> None:
    assert spoken(text, NOW, BERLIN) == Spoken((phrase,), Span(here(since), here(until)))


@pytest.mark.parametrize(
    "text",
    [
        "When did Melanie run a charity race?", "may I march in second place", "all 8 may fail", "the sun sets",
        "exit code 2 in 2023 requests", "after 2000 steps", "build v2023", "in 2023.1", "tests in 2023-beta",
        "issue 2023-05-081", "on 31 April", "99999 years ago", "9999 years ago", "since it flies", "after all", "last time",
        "in a second", "port 8080", "tests 5 and 8 may fail", "5-8 may be enough", "from 8 to 5 May", "from 30 to 31 February",
        "the mail from April", "painted by June", "between 2023 and 2021", "the second march", "Mondays are slow", "recently", "",
        "\x00 in \ud800 \U0001f600",
    ],
)  # fmt: skip
def test_what_is_hardly_a_time_is_none(text: str) -> None:
    assert spoken(text, NOW, BERLIN) == Spoken()


def test_a_pasted_text_speaks_of_its_own_times() -> None:
    assert spoken("what failed last week " + "x" * LONGEST, NOW, UTC) == Spoken()


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("on Monday this week", "2026-03-09", "2026-03-10"),  # what they have in common
        ("in May and in June", "2025-05-01", "2025-07-01"),  # nothing: from the first to the last
        ("last Friday, on 23 January 2022", "2022-01-23", "2022-01-24"),  # a date with its year stands alone
        ("after 3 May 2023 and before 2023-06-01", "2023-05-04", "2023-06-01"),
    ],
)
def test_several_times_are_one(text: str, since: str, until: str) -> None:
    found = spoken(text, NOW, BERLIN)

    assert found.span == Span(here(since), here(until))


def test_a_day_is_as_long_as_the_zone_makes_it() -> None:
    since, until = spoken("on 29 March 2026", NOW, BERLIN).span

    assert since is not None
    assert until is not None
    assert until - since == timedelta(hours=23)


@pytest.mark.parametrize("now", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@pytest.mark.parametrize("text", ["yesterday", "today", "last year", "this year", "3 days ago", "on Monday", "in May"])
def test_the_ends_of_time_break_nothing(text: str, now: datetime) -> None:
    for zone in (UTC, BERLIN, ZoneInfo("Pacific/Kiritimati")):
        assert len(spoken(text, now, zone).phrases) <= 1


@pytest.mark.parametrize(
    ("text", "relation", "event"),
    [
        ("what did we try before the release?", "before", "the release"),
        ("Errors after the migration of the users in production", "after", "the migration of the users"),
        ("what has changed since our move to the new cluster, and why", "since", "our move to the new cluster"),
        ("before the release 2.0", "before", "the release 2.0"),
        ("what broke last week after the release last week", "after", "the release"),
        ("since the 3rd", "", ""),
        ("before lunch", "", ""),
    ],
)
def test_an_event_is_named_but_not_known(text: str, relation: str, event: str) -> None:
    found = spoken(text, NOW, UTC)

    assert (found.relation, found.event) == (relation, event)


def test_an_event_that_is_known_is_a_border() -> None:
    release = datetime(2026, 3, 4, 9, tzinfo=UTC)
    week = Span(datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 9, tzinfo=UTC))

    before = spoken("before the release", NOW, UTC).with_event(release)
    after = spoken("last week, after the release", NOW, UTC).with_event(release)
    contradicted = spoken("last week, after the release", NOW, UTC)

    assert before == Spoken(("before the release",), Span(None, release))
    assert after.span == Span(release + timedelta(microseconds=1), week.until)
    assert after.phrases == ("last week", "after the release")
    assert contradicted.with_event(NOW) == contradicted
    assert contradicted.span == week


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("what did we do two weeks before the release?", timedelta(days=-14), timedelta(microseconds=1)),
        ("3 days after the release", timedelta(0), timedelta(days=3, microseconds=1)),
        ("a day before the release", timedelta(days=-1), timedelta(microseconds=1)),
        ("the week before the release", timedelta(days=-7), timedelta(microseconds=1)),
    ],
)
def test_so_far_from_an_event_is_no_further(text: str, since: timedelta, until: timedelta) -> None:
    release = datetime(2026, 3, 4, 9, tzinfo=UTC)

    found = spoken(text, NOW, UTC).with_event(release)

    assert found.span == Span(release + since, release + until)
    assert found.phrases[0] in text


def test_so_far_from_an_event_at_the_end_of_time_is_nothing() -> None:
    said = spoken("9999 years before the release", NOW, UTC)

    assert said.with_event(NOW) == said
