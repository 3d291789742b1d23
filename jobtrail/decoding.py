"""The one judgement of what is a valid record of the log, shared by projectors, tails and replay.

What it refuses goes to the dead-letter topic with the reason; everyone who folds the log must
refuse the same records, or their folds would differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from jobtrail.errors import EventError
from jobtrail.events import (
    MAX_PAYLOAD_BYTES,
    Event,
    decode,
    decode_lines,
    is_plain,
    is_told_by_all,
    may_be_deep,
)
from jobtrail.partitions import partition_of
from jobtrail.records import Misnamed


def accept(key: bytes | None, value: bytes | None, partition: int, partitions: int) -> Event:
    """Decode a record and check that it lies where its job's events belong.

    Args:
        key: The record's key: the job id in UTF-8.
        value: The record's value: one CloudEvent.
        partition: Where the record was found.
        partitions: How many partitions the log has.

    Returns:
        The event.

    Raises:
        EventError: The reasons of `jobtrail.events.decode`, `header-not-utf-8`, `wrong-key` or
            `wrong-partition`.
    """
    if isinstance(value, Misnamed):
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
            "The record lies in another partition than its key's.",
            reason="wrong-partition",
            expected=f"partition {expected} of {partitions} (murmur2 of the key)",
            found=f"partition {partition}",
            mend="Clients on librdkafka set partitioner=murmur2_random.",
        )
    return event


def decode_clear(values: Sequence[bytes | None]) -> list[Event | None]:
    """Decode at one go what is clear: in half the time that `decode` takes for each.

    A value is clear where a few looks at all of them together tell that the schema alone decides:
    it is ASCII without a backslash, neither large nor deep, and begins and ends in its line. Key
    and partition are not looked at.

    Args:
        values: Of records, some hundred at most: what was decoded should be used while it is in
            the processor's cache, and if one of them is no event, none is decoded.

    Returns:
        Per value its event, the same as `decode` makes of it; None for a value that `accept` has to
        judge.
    """
    plain = [value for value in values if type(value) is bytes]
    if len(plain) == len(values) and _are_clear(plain):
        return _decode_together(plain)
    rows = [row for row, value in enumerate(values) if type(value) is bytes and _are_clear([value])]
    events: list[Event | None] = [None] * len(values)
    clear = [value for value in map(values.__getitem__, rows) if value is not None]
    for row, event in zip(rows, _decode_together(clear), strict=True):
        events[row] = event
    return events


def _are_clear(values: Sequence[bytes]) -> bool:
    """Tell of values whether the schema alone decides, and each begins and ends in its line.

    No value stretches over two lines: a brace is never followed by an opening one within a value,
    and within a string the decoder takes no line's end.
    """
    text = b"\n".join(values)
    return (
        is_plain(text)
        and text.startswith(b"{")
        and text.endswith(b"}")
        and text.count(b"\n") == text.count(b"}\n{") == len(values) - 1
        and max(map(len, values)) <= MAX_PAYLOAD_BYTES
        and not any(map(may_be_deep, values))
    )


def _decode_together(values: Sequence[bytes]) -> list[Event | None]:
    """Decode clear values; None stands for all if one of them is no event."""
    nothing: list[Event | None] = [None] * len(values)
    try:
        events = decode_lines(b"\n".join(values))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return nothing
    # As many as there are lines: then each line is one.
    if len(events) == len(values) and all(
        event.time is None or is_told_by_all(event.time) for event in events
    ):
        return [*events]
    return nothing
