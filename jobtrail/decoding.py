"""The one judgement of what is a valid record of the log, shared by projectors, tails and replay.

What it refuses goes to the dead-letter topic with the reason; everyone who folds the log must
refuse the same records, or their folds would differ.
"""

from __future__ import annotations

from jobtrail.errors import EventError
from jobtrail.events import Event, decode
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
