"""What a record takes in a topic, packed: whether Kafka takes it there at all.

A topic bounds its batches as they are written. A record that its producer has packed may be far
larger than that, unpacked.
"""

from __future__ import annotations

from typing import Any, Final

from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError, UsageError
from jobtrail.internals.aiokafka_internals import DefaultRecordBatchBuilder
from jobtrail.log.record_reading import is_utf_8

#: How what we write is packed, as aiokafka calls it, and as Kafka numbers it.
CODEC: Final = "zstd"
_NUMBER: Final = 4
_VERSION: Final = 2
#: What a topic is allowed at most is this configuration of it.
LARGEST: Final = "max.message.bytes"


def is_misnamed(record: Any) -> bool:
    """Tell whether a record has a header whose name is no UTF-8: Kafka's clients can't write it."""
    return not all(is_utf_8(name) for name, _content in record.headers)


def fits(record: Any, largest: int) -> bool:
    """Tell whether a topic takes a record, in a batch of its own.

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
    """Check that a record which a topic does not take is no event, so that nothing is lost by it.

    Args:
        record: As aiokafka gives it.
        place: Where it lies, for the message.
        partition: Where its key belongs in the topic.
        partitions: How many the topic has.
        largest: Bytes of the topic's largest batch.

    Raises:
        UsageError: It is one.
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
