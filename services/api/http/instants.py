"""Converts instants between ISO 8601 text and microseconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Final

from jobtrail.core.events import microseconds

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
    """Return microseconds, rounded down, and whether they are exact."""
    text = text.upper()
    if "T" not in text:
        day = date.fromisoformat(text)
        return microseconds(datetime.combine(day, datetime.min.time(), UTC)), True
    moment = datetime.fromisoformat(_LOST_PLUS.sub("+", text))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return microseconds(moment), _BELOW_MICROSECONDS.search(text) is None


# An instant is joined from prepared texts: a page of 20 jobs has sixty instants, and formatting
# them takes four times as long. Larger tables (every millisecond of a minute) are slower, since
# they don't stay in the processor's cache. Every divisor is below 2**30, since Python divides by
# larger ones digit by digit.
_HOUR_MS: Final = 3_600_000
_SECONDS: Final = tuple(f"{second // 60:02d}:{second % 60:02d}." for second in range(3600))
_MILLISECONDS: Final = tuple(f"{millisecond:03d}Z" for millisecond in range(1000))
#: Hours that are remembered, about 150 bytes each. A dictionary, since a page of 20 jobs takes 3 us
#: more with `lru_cache`.
_MOST_HOURS: Final = 8_192
_hours: Final[dict[int, str]] = {}


def _begin(hour: int) -> str:
    """Return the beginning of the texts of an hour since 1970, and remember it."""
    days, of_day = divmod(hour, 24)
    text = f"{date.fromordinal(days + _EPOCH).isoformat()}T{of_day:02d}:"
    if len(_hours) >= _MOST_HOURS:
        _hours.clear()
    _hours[hour] = text
    return text


def as_text(instant: int | None) -> str | None:
    """Return an instant as ISO 8601 in UTC, with milliseconds, or microseconds if needed."""
    if instant is None:
        return None
    milliseconds = instant // 1000
    hour = milliseconds // _HOUR_MS
    begin = _hours.get(hour)
    if begin is None:
        try:
            begin = _begin(hour)
        except (ValueError, OverflowError):
            # With its UTC offset, what a client names may lie outside of the years 1 to 9999. No
            # event is there, so the nearest instant inside means the same.
            return as_text(_FIRST if instant < _FIRST else _LAST)
    rest = milliseconds % _HOUR_MS
    if instant % 1000:
        of_second = rest % 1000 * 1000 + instant % 1000
        return f"{begin}{_SECONDS[rest // 1000]}{of_second:06d}Z"
    return f"{begin}{_SECONDS[rest // 1000]}{_MILLISECONDS[rest % 1000]}"
