"""Deciding whether a record of the log is a valid event, for projectors, tails and replay.

Refused records go to the dead-letter topic with the reason; every reader that folds the log must
refuse the same ones, or their folds would differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final

import msgspec

from jobtrail.core.errors import EventError
from jobtrail.core.events import (
    MAX_NAME_BYTES,
    MAX_PAYLOAD_BYTES,
    Event,
    decode,
    decode_lines,
    is_json_type,
    is_plain,
    is_utc_year,
)
from jobtrail.core.job import event_key, foreign_key
from jobtrail.core.nesting import SHALLOW_BYTES, may_be_deep
from jobtrail.core.partitions import partition_of
from jobtrail.core.readable import big_number, may_have_big_numbers

#: Values that are decoded at once: the results stay in the processor's cache.
DECODED_TOGETHER: Final = 256
_FIRST: Final = itemgetter(0)
_LAST: Final = itemgetter(-1)
_OPENED: Final = {ord("{")}
_CLOSED: Final = {ord("}")}


class InvalidHeader(bytes):
    """The value of a record that has a header name which is no UTF-8: it is no valid event."""

    __slots__ = ()


def accept(key: bytes | None, value: bytes | None, partition: int, partitions: int) -> Event:
    """Decode a record and check that it is in its job's partition.

    Args:
        key: The record's key: the job id in UTF-8.
        value: The record's value: one CloudEvent.
        partition: Where the record was found.
        partitions: How many partitions the log has.

    Returns:
        The event.

    Raises:
        EventError: The reasons of `jobtrail.core.events.decode`, `header-not-utf-8`, `wrong-key` or
            `wrong-partition`.
    """
    if isinstance(value, InvalidHeader):
        raise EventError(
            "The record has a header whose name is no UTF-8.",
            reason="header-not-utf-8",
            expected="names of headers in UTF-8",
        )
    event = decode(value)
    if key != event.subject.encode():
        raise EventError(
            "The record's key is not its job's id.",
            reason="wrong-key",
            expected=f"the subject {event.subject!r} in UTF-8",
            found=repr(key),
        )
    expected = partition_of(event.subject, partitions)
    if expected != partition:
        raise EventError(
            "The record is in another partition than its key's.",
            reason="wrong-partition",
            expected=f"partition {expected} of {partitions} (murmur2 of the key)",
            found=f"partition {partition}",
            hint="Clients on librdkafka set partitioner=murmur2_random.",
        )
    return event


def ids_of(keys: Iterable[bytes | None]) -> dict[bytes, str]:
    """Decode the keys of records that can be job ids.

    A key that is not UTF-8 is no id, nor is one that is longer than any: it may have megabytes, and
    look-ups by id would take as long.
    """
    found = [key for key in keys if key is not None and len(key) <= MAX_NAME_BYTES]
    try:
        return {key: key.decode() for key in found}
    except UnicodeDecodeError:
        ids = {}
        for key in found:
            with contextlib.suppress(UnicodeDecodeError):
                ids[key] = key.decode()
        return ids


def decode_clear(values: Sequence[bytes | None]) -> list[Event | None]:
    """Decode simple values together, in half the time of `decode` for each.

    A value is simple where a few checks over all values show that the schema alone decides: it is
    ASCII without a backslash, neither large nor deep, and one line. Key and partition are not
    checked.

    Args:
        values: Of records, some hundred at most: what was decoded should be used while it is in
            the processor's cache, and if one of them is no event, none is decoded.

    Returns:
        Per value its event, the same as `decode` makes of it; None for a value that `accept` has to
        judge.
    """
    plain = [value for value in values if type(value) is bytes]
    if len(plain) == len(values) and (lines := _clear_lines(plain)) is not None:
        return _decode_lines(lines, len(plain))
    rows = [
        row
        for row, value in enumerate(values)
        if type(value) is bytes and _clear_lines([value]) is not None
    ]
    events: list[Event | None] = [None] * len(values)
    clear = [value for value in map(values.__getitem__, rows) if value is not None]
    for row, event in zip(rows, _decode_lines(b"\n".join(clear), len(clear)), strict=True):
        events[row] = event
    return events


def _clear_lines(values: Sequence[bytes]) -> bytes | None:
    """Return simple values as lines; None if one is not simple.

    No value takes two lines: a brace is never followed by an opening one within a value,
    and within a string the decoder takes no line's end.
    """
    sizes = set(map(len, values))
    if not sizes or min(sizes) < len(b"{}") or max(sizes) > MAX_PAYLOAD_BYTES:
        return None
    text = b"".join(values)
    if (
        is_plain(text)
        and b"\n" not in text
        and set(map(_FIRST, values)) == _OPENED
        and set(map(_LAST, values)) == _CLOSED
        and (max(sizes) <= SHALLOW_BYTES or not any(map(may_be_deep, values)))
    ):
        return b"\n".join(values)
    return None


def _decode_lines(lines: bytes, count: int) -> list[Event | None]:
    """Decode the lines of simple values; None for each of them if one is no event."""
    nothing: list[Event | None] = [None] * count
    try:
        events = decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return nothing
    if may_have_big_numbers(lines) and any(
        map(big_number, filter(may_have_big_numbers, lines.split(b"\n")))
    ):
        return nothing
    # As many as there are lines: then each line is one.
    years = {event.time.year for event in events if event.time is not None}
    kinds = {event.datacontenttype for event in events}
    if len(events) == count and all(map(is_utc_year, years)) and all(map(is_json_type, kinds)):
        return [*events]
    return nothing


def event_keys(values: Sequence[bytes | None]) -> set[bytes]:
    """Return the keys of the events among the values of some records."""
    found: set[bytes] = set()
    for begin in range(0, len(values), DECODED_TOGETHER):
        some = values[begin : begin + DECODED_TOGETHER]
        for value, clear in zip(some, decode_clear(some), strict=True):
            with contextlib.suppress(EventError):
                event = decode(value) if clear is None else clear
                found.add(event_key(event.id))
                if event.bound_to is not None:
                    found.add(foreign_key(event.bound_to, event.id))
    return found
