"""What a cell says, as an event's fields need it: texts, numbers, instants, JSON."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Final
from uuid import UUID

import msgspec

from jobtrail.core.errors import EventError
from jobtrail.core.events import from_microseconds
from jobtrail.core.readable import check_value, json_of

#: A declared format of times, and how many microseconds its unit has; none where it is a text.
TIME_FORMATS: Final = {"iso": 0, "s": 1_000_000, "ms": 1_000, "us": 1}
# `datetime.fromisoformat` passes over a character between a time and its offset.
_ISO: Final = re.compile(
    r"\d{4}-?\d\d-?\d\d"
    r"(?:[T ]\d\d(?::?\d\d(?::?\d\d(?:[.,]\d+)?)?)?(?:Z|[+-]\d\d(?::?\d\d){0,2})?)?",
    re.ASCII,
)
#: Far beyond any instant: larger figures are not even computed.
_MAX_DIGITS: Final = 30


class Fault(Exception):
    """A row can't become events: which column is to blame, where one is, and why."""

    def __init__(self, reason: str, column: str = "") -> None:
        self.reason = reason
        self.column = column
        super().__init__(reason)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def wrong(expected: str, found: object) -> ValueError:
    """Return the error that a value is not what was expected."""
    return ValueError(f"expected {expected}, found {_shown(found)}")


def as_text(value: object) -> str:
    """Return a value as text; JSON's words for what is true or false.

    Raises:
        ValueError: It is a list, an object or bytes that are no text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float | Decimal | UUID | time):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    raise wrong("a text, a number or a truth value", value)


def as_int(value: object) -> int:
    """Return a whole number, also from a text or from a float such as 3.0.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise wrong("a whole number", value)


def as_float(value: object) -> float:
    """Return a number, also from a text.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, int | float | str | Decimal) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise wrong("a number", value)


def json_reader(field: str, texts: bool) -> Callable[[object], object]:
    """Return what makes JSON of values.

    Args:
        field: The member of an event's data that it is.
        texts: Whether a text is JSON already, to be taken byte for byte.
    """

    def written(value: object) -> object:
        try:
            return json_of(value, ("data", field))
        except EventError as error:
            raise ValueError(str(error)) from None

    def parsed(value: object) -> object:
        if not isinstance(value, str):
            return written(value)
        content = value.encode()
        try:
            check_value(content)
        except EventError as error:
            raise ValueError(f"expected JSON, found {_shown(value)}: {error.found}") from None
        return msgspec.Raw(content)

    return parsed if texts else written


def as_texts(value: object) -> list[str]:
    """Return a value, or each value of a list, as text.

    Raises:
        ValueError: One of them has no text.
    """
    if isinstance(value, list):
        return [as_text(one) for one in value if one is not None]
    return [as_text(value)]


def instant_reader(form: str, zone: tzinfo | None) -> Callable[[object], datetime]:
    """Return what reads times of a declared format.

    Args:
        form: `iso`, or the unit of a number since 1970-01-01T00:00:00Z: `s`, `ms`, `us`.
        zone: Where clocks that name no offset stand; None where each has to name one.

    Returns:
        A function of a value that returns an aware datetime and raises ValueError.
    """
    unit = TIME_FORMATS[form]

    def from_text(value: object) -> datetime:
        if isinstance(value, str):
            try:
                if not _ISO.fullmatch(value):
                    raise ValueError
                value = datetime.fromisoformat(value)
            except ValueError:
                raise wrong("an instant in ISO 8601", value) from None
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if not isinstance(value, datetime):
            raise wrong("an instant in ISO 8601, as no other format is declared", value)
        if value.tzinfo is not None:
            return value
        if zone is None:
            raise wrong("an instant with an offset, as no zone is declared", value.isoformat())
        return value.replace(tzinfo=zone)

    def from_number(value: object) -> datetime:
        if isinstance(value, datetime):
            return from_text(value)
        try:
            return from_microseconds(_scaled(value, unit))
        except (ValueError, OverflowError, InvalidOperation):
            raise wrong(f"{form} since 1970 as a number", value) from None

    return from_number if unit else from_text


def _scaled(value: object, unit: int) -> int:
    if isinstance(value, str) and value.isdecimal():
        return int(value) * unit
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError
    if isinstance(value, int):
        return value * unit
    # By way of the shortest text, so that 0.1 is 100,000 µs and not a little more.
    number = Decimal(repr(value) if isinstance(value, float) else value)
    if number.is_finite() and number.adjusted() > _MAX_DIGITS:
        raise OverflowError
    return round(number * unit)


def reader(
    field: str, json: bool = False, form: str = "iso", zone: tzinfo | None = None
) -> Callable[[object], object]:
    """Return what reads the values of a part of an event.

    Args:
        field: The part's name in the mapping.
        json: Whether its texts are JSON.
        form: How its times are written.
        zone: Where its times stand that name no offset.

    Returns:
        A function of a value that is not null; it raises ValueError where the value does not fit.
    """
    if field in ("time", "retry_at"):
        return instant_reader(form, zone)
    if field in ("error", "output"):
        return json_reader(field, json)
    return {"attempt": as_int, "progress": as_float, "viewers": as_texts}.get(field, as_text)
