"""Dead letters as records of their topic: their headers, and filters over them.

A letter is identified by its place in the log, since it can be written twice. The topic is
append-only, so a small record of its own, the letter's *resolution*, says that the letter was
written back to the log or dropped. A record that was written back and failed again is another
letter, with another place; a header counts how often it was written back.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from jobtrail.core.errors import UsageError
from jobtrail.core.position import mark_of
from jobtrail.internals.aiokafka_internals import DefaultRecordBatch
from jobtrail.log.batches import Batch, Limits

#: The names of a dead letter's own headers, which come after the record's.
REASON: Final = "jobtrail-reason"
DETAIL: Final = "jobtrail-detail"
PLACE: Final = "jobtrail-place"
#: The record was too large for a letter; its bytes: key, value and headers.
CUT: Final = "jobtrail-cut"
#: One of these headers comes before the place of a letter that is not a single record with a key or
#: value. No record can have a header of its own there.
#: For a run of records refused for one reason: last offset/count; the value is a Kafka batch.
RUN: Final = "jobtrail-run"
#: For a batch that was not read: its last offset/its codec; the value is the batch as it was.
BATCH: Final = "jobtrail-batch"
#: For a record that had neither key nor value.
NONE: Final = "jobtrail-none"
#: The headers of a resolution, in this order: the letter's place, its fingerprint (which differs
#: from that of a record at the same place of a topic that was made again), and what was done.
LETTER: Final = "jobtrail-letter"
MARK: Final = "jobtrail-mark"
DONE: Final = "jobtrail-done"
#: Header of a record in the log, and of its letter: how often it was written back.
RETRIES: Final = "jobtrail-retries"
RETRIED: Final = "retried"
DROPPED: Final = "dropped"
_NAMES: Final = (REASON, DETAIL, PLACE)
#: The latest instant that is shown for a letter, in milliseconds since 1970.
_LAST: Final = 253_370_764_799_000
#: No offset and no count is greater.
_GREATEST: Final = 2**63 - 1


class DeadLetter(NamedTuple):
    """A record of the log that is no valid event, or many of them."""

    #: topic/partition/offset of the record.
    place: str
    #: The record's partition and offset in the log.
    partition: int
    offset: int
    #: When the record was refused.
    at: datetime
    reason: str
    detail: str
    #: The record's key: the job that it claims to belong to.
    job: str
    #: Bytes of its value.
    size: int
    #: How often it was written back before.
    retries: int
    #: `RUN`, `BATCH` or `NONE`; empty for a record.
    kind: str
    #: The last offset that it stands for, and the number of records, an estimate for a batch.
    last: int
    records: int
    #: Whether a part of the record is missing from the letter.
    cut: bool
    #: A short hash of the record's key and value, in hexadecimal.
    fingerprint: str
    #: Partition and offset of the letter in the dead-letter topic.
    topic_place: tuple[int, int]
    #: `retried` or `dropped`; empty while it is open.
    done: str = ""


class LetterFilter(NamedTuple):
    """A selection of letters. Empty or None: no restriction."""

    places: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    jobs: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def has(self, letter: DeadLetter) -> bool:
        """Tell whether a letter is selected."""
        return (
            (not self.places or letter.place in self.places)
            and (not self.reasons or letter.reason in self.reasons)
            and (not self.partitions or letter.partition in self.partitions)
            and (not self.jobs or letter.job in self.jobs)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at <= self.until)
        )


class OriginalRecord(NamedTuple):
    """A letter's record as it was in the log."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def original_of(letter: DeadLetter, record: Any) -> OriginalRecord:
    """Return a letter's record without the headers that made it a letter."""
    ours = len(_NAMES) + bool(letter.kind) + letter.cut
    value = None if letter.kind == NONE else record.value
    return OriginalRecord(record.key, value, list(record.headers[: len(record.headers) - ours]))


def records_of(letter: DeadLetter, original: OriginalRecord) -> list[OriginalRecord]:
    """Return the log records in a letter; an empty list for a batch that was not read."""
    if letter.kind == BATCH or (letter.cut and letter.kind):
        return []
    if letter.kind != RUN or original.value is None:
        return [original]
    batch = Batch(DefaultRecordBatch(original.value), memoryview(original.value))
    return [
        OriginalRecord(record.key, record.value, list(record.headers))
        for some in batch.pieces(Limits())
        for record in some
    ]


def parse_letter(record: Any, topic_partition: int) -> DeadLetter | None:
    """Parse a record of the dead-letter topic; None where it is no letter.

    Args:
        record: As aiokafka gives it.
        topic_partition: The record's partition in the dead-letter topic.
    """
    headers = list(record.headers)
    kind = kind_detail = ""
    if len(headers) > len(_NAMES) and headers[-2][0] in (RUN, BATCH, NONE):
        kind, content = headers.pop(-2)
        kind_detail = (content or b"").decode(errors="replace")
    if tuple(name for name, _content in headers[-len(_NAMES) :]) != _NAMES:
        return None
    reason, detail, place = (
        (content or b"").decode(errors="replace") for _name, content in headers[-3:]
    )
    record_place = _place_in(place)
    if record_place is None:
        return None
    partition, offset = record_place
    before = headers[:-3]
    last, _, count = kind_detail.partition("/")
    end = max(_number(last) or 0, offset)
    many = (_number(count) if kind == RUN else None) or end - offset + 1
    retries = [content or b"" for name, content in before if name == RETRIES]
    return DeadLetter(
        place=place,
        partition=partition,
        offset=offset,
        at=datetime.fromtimestamp(min(max(record.timestamp, 0), _LAST) / 1000, UTC),
        reason=reason,
        detail=detail,
        job=(record.key or b"").decode(errors="backslashreplace"),
        size=len(record.value or b""),
        retries=(_number(retries[-1].decode("ascii", "replace")) if retries else None) or 0,
        kind=kind,
        last=end,
        records=many,
        cut=bool(before) and before[-1][0] == CUT,
        fingerprint=f"{mark_of(record.key, record.value):08x}",
        topic_place=(topic_partition, record.offset),
    )


def _place_in(text: str) -> tuple[int, int] | None:
    """Parse a place, topic/partition/offset, into partition and offset; None where invalid."""
    topic, _, rest = text.rpartition("/")
    topic, _, partition = topic.rpartition("/")
    number, offset = _number(partition), _number(rest)
    return None if not topic or number is None or offset is None else (number, offset)


def _number(text: str) -> int | None:
    """Parse an offset or count; None where it is invalid.

    Any producer may write any header, and Python refuses to parse very long numbers.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    number = int(text)
    return number if number <= _GREATEST else None


def parse_resolution(record: Any) -> tuple[str, str, str] | None:
    """Parse a resolution: the letter's place and fingerprint, and what was done; else None."""
    if tuple(name for name, _content in record.headers) != (LETTER, MARK, DONE):
        return None
    place, fingerprint, done = (
        (content or b"").decode(errors="replace") for _, content in record.headers
    )
    return place, fingerprint, done


def checked_place(text: str) -> str:
    """Return a letter's place, after checking its form.

    Raises:
        UsageError: It is not topic/partition/offset.
    """
    if _place_in(text) is None:
        raise UsageError(
            "This is no place of a letter.", expected="topic/partition/offset", found=repr(text)
        )
    return text
