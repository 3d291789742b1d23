"""Instants in the API's two directions: ISO 8601 text, and whole microseconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

from jobtrail.events import microseconds

_DAY: Final = 86_400_000_000
_SECOND: Final = 1_000_000
_EPOCH: Final = date(1970, 1, 1).toordinal()
#: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
_FIRST: Final = -62_135_596_800 * _SECOND
_LAST: Final = 253_402_300_799 * _SECOND
#: In a query an unescaped plus arrives as a space; before an offset it can't be anything else.
_LOST_PLUS: Final = re.compile(r" (?=\d\d(?::?\d\d)?\Z)")
_BELOW_MICROSECONDS: Final = re.compile(r"[.,]\d{6}\d*[1-9]")


def first_instant(text: str) -> int:
    """Return the first instant that a date or date-time stands for.

    Raises:
        ValueError: The text is neither.
    """
    moment, exact = _parse(text)
    return moment if exact else moment + 1


def last_instant(text: str) -> int:
    """Return the last instant that a date or date-time stands for.

    Raises:
        ValueError: The text is neither.
    """
    moment, _exact = _parse(text)
    return moment if "T" in text.upper() else moment + _DAY - 1


def _parse(text: str) -> tuple[int, bool]:
    """Return whole microseconds, rounded down, and whether nothing was lost by that."""
    text = text.upper()
    if "T" not in text:
        day = date.fromisoformat(text)
        return microseconds(datetime.combine(day, datetime.min.time(), UTC)), True
    moment = datetime.fromisoformat(_LOST_PLUS.sub("+", text))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return microseconds(moment), _BELOW_MICROSECONDS.search(text) is None


#: Every second of a day: looked up forty times faster than it is written.
_CLOCK: Final = tuple(
    f"T{hour:02d}:{minute:02d}:{second:02d}."
    for hour in range(24)
    for minute in range(60)
    for second in range(60)
)


@lru_cache(maxsize=16_384)
def _date(days: int) -> str:
    return date.fromordinal(days + _EPOCH).isoformat()


def as_text(instant: int | None) -> str | None:
    """Return an instant as ISO 8601 in UTC: milliseconds, or microseconds where there are any."""
    if instant is None:
        return None
    if not _FIRST <= instant < _LAST + _SECOND:
        # An offset may put what a client names outside of the years that there are names for. No
        # event is there, so the nearest instant that has one stands for the same.
        instant = _FIRST if instant < _FIRST else _LAST
    days, rest = divmod(instant, _DAY)
    seconds, rest = divmod(rest, _SECOND)
    if rest % 1000:
        return f"{_date(days)}{_CLOCK[seconds]}{rest:06d}Z"
    return f"{_date(days)}{_CLOCK[seconds]}{rest // 1000:03d}Z"
