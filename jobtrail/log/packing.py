"""How large a record is once compressed, and whether a topic accepts it.

A topic limits the size of batches as they are written, compressed. A record may be far larger than
that uncompressed.
"""

from __future__ import annotations

from typing import Any, Final

from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError, UsageError
from jobtrail.internals.aiokafka_internals import DefaultRecordBatchBuilder
from jobtrail.log.record_reading import is_utf_8

#: The codec of our own batches: aiokafka's name and Kafka's number.
CODEC: Final = "zstd"
_NUMBER: Final = 4
_VERSION: Final = 2
#: The topic configuration with the largest batch in bytes.
LARGEST: Final = "max.message.bytes"


def is_misnamed(record: Any) -> bool:
    """Tell whether a record has a header name that is not UTF-8: clients can't write it."""
    return not all(is_utf_8(name) for name, _content in record.headers)


def fits(record: Any, largest: int) -> bool:
    """Tell whether a topic accepts a record in a batch of its own.

    Args:
        record: As aiokafka gives it.
        largest: Bytes of the topic's largest batch.
    """
    key, value, headers = record.key, record.value, record.headers
    # An upper bound; nearly all records are far below it.
    if DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, headers) <= largest:
        return True
    # The producer's own batch, which it doesn't show before it is sent.
    batch = DefaultRecordBatchBuilder(
        _VERSION,
        _NUMBER,
        is_transactional=1,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=0,
        batch_size=0,
    )
    batch.append(0, record.timestamp, key, value, headers)
    return len(batch.build()) <= largest


def check_no_event(record: Any, place: str, partition: int, partitions: int, largest: int) -> None:
    """Check that a record which a topic does not accept is no event, so that none is lost.

    Args:
        record: As aiokafka gives it.
        place: Its place, for the message.
        partition: The key's partition in the topic.
        partitions: How many the topic has.
        largest: Bytes of the topic's largest batch.

    Raises:
        UsageError: It is an event.
    """
    try:
        accept(record.key, record.value, partition, partitions)
    except EventError:
        return
    raise UsageError(
        "An event is larger than the new topic takes.",
        where=place,
        expected=f"{largest:,} bytes at most, packed ({LARGEST})",
        found="more",
        hint=f"Give the new topic a larger {LARGEST}, and say --resume to go on.",
    )
