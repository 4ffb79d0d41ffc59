"""Times in words: the stretch of time that a question speaks of.

It takes for a time only what is hardly anything else: `may` is a verb until it stands as "in May" or "8 May 2023", and 2023 is
a number until it stands as "in 2023". Days, weeks, months and years are those of the calendar, weeks begin on Monday, and what
names no year was the last such time before now. Dates are read, and counted with, by dateutil.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from dateutil.parser import parse
from dateutil.relativedelta import relativedelta

LONGEST: Final = 400  # characters; a longer text was pasted: its times are its own, and no part of a question

_MICROSECOND: Final = timedelta(microseconds=1)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_LEAP_YEARS: Final = 8  # the 29th of February comes again within so many years


class Span(NamedTuple):
    """From a moment, included, up to another one, not included; None stands for no end on that side."""

    since: datetime | None
    until: datetime | None


_ALWAYS: Final = Span(None, None)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a text says about time: the words that say it, and what they mean, in UTC.

    `event` is a thing that is no date, and of which the text says what came before or after it; only a memory can tell when that
    was. `relation` says what: before, after, since, until; `apart` how far from it at most, if that is said; `told` is all of that.
    """

    phrases: tuple[str, ...] = ()
    span: Span = _ALWAYS
    relation: str = ""
    event: str = ""
    apart: relativedelta | None = None
    told: str = ""

    def with_event(self, moment: datetime) -> Spoken:
        """Return what is said if the event was at this moment; the same as before, if that contradicts the dates beside it."""
        own = Span(moment, min(moment, _LAST - _MICROSECOND) + _MICROSECOND)
        try:
            meant = _bordered(self.relation, own) if self.apart is None else _beside(self.relation, self.apart, own)
        except (OverflowError, ValueError):  # before the year 1 or after 9999
            return self
        both = _common(self.span, meant)
        return Spoken((*self.phrases, self.told), both) if both else self


def spoken(text: str, now: datetime, zone: tzinfo) -> Spoken:
    """Return what `text` says about time when it is said at the moment `now` by somebody in `zone`.

    Of several times it is what they have in common, or from the first to the last of them when that is nothing. A date with its
    year stands alone: "last Friday, 23 January 2022" was that Friday.
    """
    if len(text) > LONGEST or not _HINT.search(text):
        return Spoken()
    try:
        found = list(_found(text, now.astimezone(zone).replace(tzinfo=None)))
        if any(one.is_dated for one in found):
            found = [one for one in found if one.is_dated]
        span = _ALWAYS
        for one in found:
            own = Span(*(moment and moment.replace(tzinfo=zone).astimezone(UTC) for moment in one.span))
            span = _common(span, own) or _hull(span, own)
    except OverflowError:  # before the year 1 or after 9999
        return Spoken()
    rest = text
    for one in found:
        rest = rest[: one.start] + "," * (one.end - one.start) + rest[one.end :]
    event = _EVENT.search(rest)
    relation, name = (event["relation"].lower(), event["event"]) if event else ("", "")
    apart = _delta(event["number"], event["unit"]) if event and event["unit"] else None
    return Spoken(
        tuple(text[one.start : one.end] for one in found), span, relation, name, apart, event[0] if event else ""
    )


def beginning(text: str, now: datetime) -> datetime | None:
    """Return the first moment of the time that `text`, the whole of it, names; None if it names none. Both without a zone."""
    for form in _FORMS:
        match = form.pattern.fullmatch(text.strip())
        span = _read(form, match, now) if match else None
        if span is not None:
            return span.since
    return None


# --- where times stand ---


class _Form(NamedTuple):
    """One way to name a time. One that is not `plain` may mean something else where no preposition stands before it."""

    pattern: re.Pattern[str]
    read: Callable[[re.Match[str], datetime], Span]
    plain: bool = True
    is_dated: bool = False


class _Found(NamedTuple):
    start: int
    end: int
    span: Span
    is_dated: bool


def _found(text: str, now: datetime) -> Iterable[_Found]:
    """Yield the times that stand in a text, in order; of those that overlap, the one that begins first, or is longer."""
    matches = [(match, form) for form in _FORMS for match in form.pattern.finditer(text)]
    behind = 0
    for match, form in sorted(matches, key=lambda pair: (pair[0].start(), -pair[0].end())):
        lead = _LEAD.search(text, behind, match.start())
        if match.start() < behind or not (form.plain or lead):
            continue
        start, end = lead.start() if lead else match.start(), match.end()
        relation = " ".join(lead["relation"].lower().split()) if lead else ""
        both = _joined(text, form, match, now, relation)
        span = both.span if both else _read(form, match, now)
        if span is None or (form is _BARE_MONTH and relation in ("from", "by") and not both):
            continue  # "the mail from April": a month is a name, too
        if both:
            end = both.end
        elif lead and lead["unit"]:
            span = _beside(relation, _delta(lead["number"], lead["unit"]), span)
        else:
            span = _bordered(relation, span)
        if span.since and span.until and span.since >= span.until:
            continue
        yield _Found(start, end, span, form.is_dated or bool(both and both.is_dated))
        behind = end


def _joined(text: str, form: _Form, match: re.Match[str], now: datetime, relation: str) -> _Found | None:
    """Return a time with the one that is joined to it, as the other end of a range or as one more; None without one."""
    other = _other_end(text, match.end(), now, _JOINTS[relation]) if relation in _JOINTS else None
    span = _read(form, match, now)
    if other is None or span is None:
        return None
    if relation in ("between", "from"):
        if span >= other.span:  # "from March to May 2023": the last one before the other end
            span = _read(form, match, other.span.until or now)
        return span and other._replace(span=Span(span.since, other.span.until))
    if form.is_dated and not other.is_dated:
        return None  # "in May 2023 and June": of that year, or of this one
    if other.is_dated and not form.is_dated and other.span.since:  # "in June or April 2023": the one of that year
        span = _read(form, match, _floor("year", other.span.since) + _delta("1", "year") - _MICROSECOND)
    return span and other._replace(span=_hull(span, other.span))


def _other_end(text: str, start: int, now: datetime, joint_of: re.Pattern[str]) -> _Found | None:
    """Return the time that is joined to one that ends at `start`: the other end of a range, or one more."""
    joint = joint_of.match(text, start)
    for form in _FORMS if joint else ():
        match = form.pattern.match(text, joint.end()) if joint else None
        span = _read(form, match, now) if match else None
        if match and span:
            return _Found(match.start(), match.end(), span, form.is_dated)
    return None


def _read(form: _Form, match: re.Match[str], now: datetime) -> Span | None:
    """Return what is named; None when there is no such time, as with the 31st of April or 9,999 years ago."""
    try:
        return form.read(match, now)
    except (ValueError, OverflowError):
        return None


def _bordered(relation: str, span: Span) -> Span:
    """Return what a preposition makes of a time."""
    match relation:
        case "since":
            return Span(span.since, None)
        case "after":
            return Span(span.until, None)
        case "before":
            return Span(None, span.since)
        case "until" | "till" | "by" | "as of":
            return Span(None, span.until)
        case _:
            return span


def _beside(relation: str, delta: relativedelta, span: Span) -> Span:
    """Return the time and what stands so far before it, or after it."""
    if relation == "before" and span.since:
        return Span(span.since - delta, span.until)
    if relation == "after" and span.until:
        return Span(span.since, span.until + delta)
    return span


def _common(one: Span, other: Span) -> Span | None:
    since = max((each for each in (one.since, other.since) if each), default=None)
    until = min((each for each in (one.until, other.until) if each), default=None)
    return None if since and until and since >= until else Span(since, until)


def _hull(one: Span, other: Span) -> Span:
    since = min(one.since, other.since) if one.since and other.since else None
    until = max(one.until, other.until) if one.until and other.until else None
    return Span(since, until)


# --- what they mean ---


def _day(match: re.Match[str], now: datetime) -> Span:
    back = {"today": 0, "yesterday": 1}.get(match[0].lower(), 2)
    return _unit("day", _floor("day", now) - timedelta(days=back))


def _part(match: re.Match[str], now: datetime) -> Span:
    named, part = match["of"].lower(), match["part"].lower()
    day = _floor("day", now) - timedelta(days=named == "yesterday" or (named, part) == ("last", "night"))
    if named in _WEEKDAYS:
        day = _last_weekday(named, now)
    return _part_of(day, part)


def _weekday(match: re.Match[str], now: datetime) -> Span:
    which, name = (match["which"] or "").lower(), match["name"].lower()
    if which == "this":
        return _unit("day", _floor("week", now) + timedelta(days=_WEEKDAYS.index(name)))
    return _unit("day", _last_weekday(name, now - timedelta(days=which == "last")))


def _ago(match: re.Match[str], now: datetime) -> Span:
    unit = match["unit"].lower()
    return _unit(unit, _floor(unit, now - _delta(match["number"], unit)))


def _rolling(match: re.Match[str], now: datetime) -> Span:
    return Span(now - _delta(match["number"], match["unit"] or match["one"]), now)


def _calendar(match: re.Match[str], now: datetime) -> Span:
    unit = match["unit"].lower()
    of = "week" if unit == "weekend" else unit
    start = _floor(of, now) - (_delta("1", of) if match["which"].lower() in ("last", "previous") else relativedelta())
    return Span(start + timedelta(days=5), start + timedelta(days=7)) if unit == "weekend" else _unit(unit, start)


def _date(unit: str) -> Callable[[re.Match[str], datetime], Span]:
    """Return what reads a date that is exact to a day, a month or a year."""
    return lambda match, now: _unit(unit, _dated(match[0], now))


def _dated(text: str, now: datetime) -> datetime:
    """Return the beginning of a date, of the last one before now when it names no year. Raises ValueError."""
    for year in range(now.year, now.year - _LEAP_YEARS, -1):
        try:
            start: datetime = parse(text, default=_floor("year", now).replace(year=max(year, 1)))
        except ValueError:  # the 29th of February is not in every year
            continue
        if start <= now or _YEAR.search(text):
            return start
    raise ValueError("no such date")


def _days(match: re.Match[str], now: datetime) -> Span:
    """Read the days of one month from one to another."""
    since = _dated(f"{match['first']} {match['month']} {match.groupdict().get('year', '')}", now)
    last = since.replace(day=int(match["last"]))
    if last < since:
        raise ValueError("no such days")
    return Span(since, last + timedelta(days=1))


def _of_year(unit: str) -> Callable[[re.Match[str], datetime], Span]:
    """Return what reads a day or a month of this or the last year."""

    def read(match: re.Match[str], now: datetime) -> Span:
        year = now.year - (match["which"].lower() == "last")
        return _unit(unit, parse(match["date"], default=_floor("year", now).replace(year=year)))

    return read


def _month(match: re.Match[str], now: datetime) -> Span:
    start = parse(match["month"], default=_floor("year", now))
    is_over = start + _delta("1", "month") <= now
    return _unit("month", start if match["which"].lower() == "this" or is_over else start - _delta("1", "year"))


def _unit(unit: str, start: datetime) -> Span:
    return Span(start, start + _delta("1", unit))


def _part_of(day: datetime, part: str) -> Span:
    first, behind = _PARTS[part]
    return Span(day + timedelta(hours=first), day + timedelta(hours=behind))


def _floor(unit: str, moment: datetime) -> datetime:
    moment = moment.replace(minute=0, second=0, microsecond=0, hour=moment.hour if unit == "hour" else 0)
    if unit == "week":
        return moment - timedelta(days=moment.weekday())
    if unit in ("month", "year"):
        return moment.replace(day=1, month=1 if unit == "year" else moment.month)
    return moment


def _last_weekday(name: str, now: datetime) -> datetime:
    return _floor("day", now) - timedelta(days=(now.weekday() - _WEEKDAYS.index(name)) % 7)


def _delta(number: str | None, unit: str) -> relativedelta:
    word = " ".join((number or "one").lower().split())
    count = _NUMBERS[word] if word in _NUMBERS else int(word)
    match unit.lower():
        case "hour":
            return relativedelta(hours=count)
        case "day":
            return relativedelta(days=count)
        case "month":
            return relativedelta(months=count)
        case "year":
            return relativedelta(years=count)
        case _:  # "the Monday before" is within a week, as a weekend is
            return relativedelta(weeks=count)


_UNITS: Final = ("hour", "day", "week", "month", "year")
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_PARTS: Final = {"morning": (0, 12), "afternoon": (12, 18), "evening": (18, 24), "night": (18, 30)}  # hours
_WORDS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBERS: Final = {"a": 1, "an": 1, "a couple of": 2, **{word: count for count, word in enumerate(_WORDS, 1)}}

_N: Final = (
    rf"(?P<number>\d{{1,4}}|a\s+couple\s+of|{'|'.join(sorted(_NUMBERS.keys() - {'a couple of'}, reverse=True))})"
)
_U: Final = rf"(?P<unit>{'|'.join(_UNITS)})"
_W: Final = "|".join(_WEEKDAYS)
_MONTHS: Final = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?"
    "|dec(?:ember)?"
)
_M: Final = rf"(?:{_MONTHS})"
_D: Final = r"(?:0?[1-9]|[12]\d|3[01])"
_TH: Final = r"(?:st|nd|rd|th)"
_Y: Final = r"(?:19|20)\d\d"
_DAYS: Final = (
    rf"(?P<first>{_D}){_TH}?(?:\s*[-\u2013]\s*|\s+(?:and|or|to|until|till|through)\s+(?:the\s+)?)(?P<last>{_D}){_TH}?"
)
_YEAR: Final = re.compile(_Y)

# "in 2023 requests", "after 2000 steps" count something; words that end like that and count nothing are few.
_COUNTS: Final = r"(?:\s+(?!(?:was|is|as|does|has|this|his|its|us)\b)\w+s\b|\s*%)"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-]){text}(?![\w-]|\.\d)", re.IGNORECASE)


_BARE_MONTH: Final = _Form(_pattern(_M), _date("month"), plain=False)
_FORMS: Final = (
    _Form(_pattern(r"(?:the\s+day\s+before\s+yesterday|yesterday|today)"), _day),
    _Form(_pattern(rf"(?P<of>this|yesterday|{_W})\s+(?P<part>morning|afternoon|evening|night)"), _part),
    _Form(_pattern(r"(?P<of>last)\s+(?P<part>night)"), _part),
    _Form(_pattern(rf"(?P<which>last|this)\s+(?P<name>{_W})"), _weekday),
    _Form(_pattern(rf"(?P<which>)(?P<name>{_W})"), _weekday, plain=False),
    _Form(_pattern(rf"{_N}\s+{_U}s?\s+ago"), _ago),
    _Form(
        _pattern(
            rf"(?:(?:the\s+)?(?:last|past|previous)\s+{_N}\s+{_U}s?"
            rf"|(?:the\s+last|(?:the\s+|this\s+)?past)\s+(?P<one>{'|'.join(_UNITS)}))"
        ),
        _rolling,
    ),
    _Form(_pattern(r"(?P<which>last|previous|this)\s+(?P<unit>week|month|year|weekend)"), _calendar),
    _Form(_pattern(rf"(?P<which>last|this)\s+(?P<month>{_M})"), _month),
    _Form(_pattern(rf"(?P<which>last|this)\s+year\s+in\s+(?P<date>{_M})"), _of_year("month")),
    _Form(_pattern(rf"(?P<date>{_M})\s+(?:of\s+)?(?P<which>last|this)\s+year"), _of_year("month"), plain=False),
    _Form(
        _pattern(rf"(?P<date>{_D}{_TH}?\s+(?:of\s+)?{_M}|{_M}\s+{_D}{_TH}?)\s+(?:of\s+)?(?P<which>last|this)\s+year"),
        _of_year("day"),
        plain=False,
    ),
    _Form(_pattern(rf"{_DAYS}\s+(?:of\s+)?(?P<month>{_M}),?\s*(?P<year>{_Y})"), _days, is_dated=True),
    _Form(_pattern(rf"(?P<month>{_M})\s+{_DAYS}(?:,\s*|\s+)(?P<year>{_Y})"), _days, is_dated=True),
    _Form(_pattern(rf"{_DAYS}\s+(?:of\s+)?(?P<month>{_M})"), _days, plain=False),
    _Form(_pattern(rf"(?P<month>{_M})\s+{_DAYS}"), _days, plain=False),
    _Form(_pattern(rf"{_Y}-(?:0[1-9]|1[0-2])-{_D}"), _date("day"), is_dated=True),
    _Form(_pattern(rf"{_Y}-(?:0[1-9]|1[0-2])"), _date("month"), is_dated=True),
    _Form(
        _pattern(rf"(?:{_D}{_TH}?\s+(?:of\s+)?{_M},?\s*{_Y}|{_M}\s+{_D}{_TH}?(?:,\s*|\s+){_Y})"),
        _date("day"),
        is_dated=True,
    ),
    _Form(_pattern(rf"(?:{_D}{_TH}\s+(?:of\s+)?{_M}|{_M}\s+{_D}{_TH})"), _date("day")),
    _Form(_pattern(rf"(?:{_D}\s+{_M}|{_M}\s+{_D})"), _date("day"), plain=False),
    _Form(_pattern(rf"{_M}(?:\s+of\s+|,?\s+){_Y}"), _date("month"), is_dated=True),
    _BARE_MONTH,
    _Form(_pattern(rf"{_Y}(?!{_COUNTS})"), _date("year"), plain=False, is_dated=True),
)

_LEAD: Final = re.compile(
    rf"(?:\b(?:{_N}\s+)?(?P<unit>{'|'.join(_UNITS)}|weekend|{_W})s?\s+(?=before|after))?"
    r"\b(?P<relation>in|on|during|since|before|after|until|till|by|from|between|as\s+of)\s+(?:the\s+)?"
    r"(?:(?:early|mid|late)[\s-]+)?$",
    re.IGNORECASE,
)
_TO: Final = re.compile(r"\s+(?:and|to|until|till|through)\s+(?:the\s+)?", re.IGNORECASE)
_AND: Final = re.compile(r"\s+(?:and|or|to|through)\s+", re.IGNORECASE)
_JOINTS: Final = {"between": _TO, "from": _TO, "in": _AND, "on": _AND, "during": _AND}

# What is spoken of as known, up to where the sentence goes on: "before the release", "since our move to the new cluster".
_EVENT: Final = re.compile(
    rf"\b(?:(?:{_N}\s+)?{_U}s?\s+(?=before|after))?(?P<relation>before|after|since|until)\s+"
    r"(?P<event>(?:the|our|my|your|their|his|her|its)\s+[^\W\d].*?)"
    r"(?=\s*(?:[,;:?!()\"]|[.](?:\s|$)|$)"
    r"|\s+(?:and|or|but|what|which|who|whom|where|when|why|how|that|did|do|does|was|were|is|are|had|has|have|in|on|at|with"
    r"|for|by|from|about|we|i|he|she|they|you|it)\b)",
    re.IGNORECASE,
)
_HINT: Final = re.compile(
    rf"\b(?:today|yesterday|ago|last|past|previous|this|since|before|after|until|till|{_MONTHS}|{_W}|{_Y})\b",
    re.IGNORECASE,
)
