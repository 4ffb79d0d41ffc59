"""Moments as people write them: ISO dates, `2h`, `3d`, `1w` for so long ago, and "yesterday" or "two days ago"."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_AGO: Final = re.compile(r"(\d{1,9})([smhdw])")

FORMS: Final = "an ISO date or time (2026-03-11, 2026-03-11T10:00Z; local time unless it says otherwise), 90s, 30m, 2h, 3d, 1w ago, or where yesterday, last week, 'two days ago', 'May 2023' begins"


def parse_moment(text: str, now: datetime) -> datetime:
    """Return the moment `text` means. Raises ValueError.

    `2h` is two hours before `now`; units are s, m (minutes), h, d and w. A time in words is its beginning, see memoryd.times.
    Anything else is read as ISO 8601; without a time zone it means local time, as words do.
    """
    ago = _AGO.fullmatch(text.strip().lower())
    try:
        if ago is not None:
            return now - int(ago[1]) * _UNITS[ago[2]]
        try:
            found = datetime.fromisoformat(text.strip())
        except ValueError:
            from memoryd.times import beginning

            named = beginning(text, now.astimezone().replace(tzinfo=None))
            if named is None:
                raise
            found = named
        return found.astimezone()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a moment: use {FORMS}") from None


def moment(text: str) -> datetime:
    """Return the moment an option means, as click wants its types. Raises click.BadParameter."""
    try:
        return parse_moment(text, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
