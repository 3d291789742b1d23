"""Dead letters as they lie in their topic: what their headers say, and which ones are meant.

A letter is known by its place in the log: it can come twice. The topic only ever grows, so that a
letter was written back to the log, or dropped, is said by a small record of its own, a *mark*. A
letter that was written back and failed again is another one, with another place; a header that
counts says that it was tried before.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from jobtrail.core.errors import UsageError
from jobtrail.core.position import mark_of
from jobtrail.internals.aiokafka_internals import DefaultRecordBatch
from jobtrail.log.batches import Batch, Limits

#: The name under which each fact stands in a dead letter's headers, the last ones that it has.
REASON: Final = "jobtrail-reason"
DETAIL: Final = "jobtrail-detail"
PLACE: Final = "jobtrail-place"
#: Says that the record was too large for a letter, and how large: key, value and headers in bytes.
CUT: Final = "jobtrail-cut"
#: The header before the place of a letter that is no single record with key or value, and what it
#: says. There is one at most, and no record can have its own there.
#: Of a run, refused for one reason: its last offset/how many; the value is a batch of Kafka's.
RUN: Final = "jobtrail-run"
#: Of a batch that was not read: its last offset/its codec; the value is the batch as it was.
BATCH: Final = "jobtrail-batch"
#: Of a record that had neither key nor value.
NONE: Final = "jobtrail-none"
#: The headers of a mark, in this order: the letter's place, what tells its record from another at
#: the same place of a topic that was made again, and what became of the letter.
LETTER: Final = "jobtrail-letter"
MARK: Final = "jobtrail-mark"
DONE: Final = "jobtrail-done"
#: Of a record in the log: how often it was written back. A letter of it has it, too.
RETRIES: Final = "jobtrail-retries"
RETRIED: Final = "retried"
DROPPED: Final = "dropped"
_NAMES: Final = (REASON, DETAIL, PLACE)
#: Milliseconds of the last instant that a letter is shown to have.
_LAST: Final = 253_370_764_799_000
#: No offset and no count is greater.
_GREATEST: Final = 2**63 - 1


class Letter(NamedTuple):
    """A record of the log that is no valid event, or many of them."""

    #: topic/partition/offset of the record.
    place: str
    #: Where it lies in the log.
    partition: int
    offset: int
    #: When it was found to be none.
    at: datetime
    reason: str
    detail: str
    #: Whose record it claims to be: its key.
    job: str
    #: Bytes of its value.
    size: int
    #: How often it was written back before.
    retries: int
    #: `RUN`, `BATCH` or `NONE`; empty for a record.
    kind: str
    #: The last offset that it stands for, and how many records, as far as is known.
    last: int
    records: int
    #: Whether the letter has not all of the record.
    cut: bool
    #: Tells its record from others.
    mark: str
    #: Where the letter itself lies.
    lies: tuple[int, int]
    #: `retried` or `dropped`; empty while nothing was done about it.
    done: str = ""


class Wanted(NamedTuple):
    """Which letters are meant. Empty or None: all."""

    places: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    jobs: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def has(self, letter: Letter) -> bool:
        """Tell whether a letter is meant."""
        return (
            (not self.places or letter.place in self.places)
            and (not self.reasons or letter.reason in self.reasons)
            and (not self.partitions or letter.partition in self.partitions)
            and (not self.jobs or letter.job in self.jobs)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at <= self.until)
        )


class Whole(NamedTuple):
    """A letter's record as it was in the log."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def whole_of(letter: Letter, record: Any) -> Whole:
    """Return a letter's record without the headers that made it a letter."""
    ours = len(_NAMES) + bool(letter.kind) + letter.cut
    value = None if letter.kind == NONE else record.value
    return Whole(record.key, value, list(record.headers[: len(record.headers) - ours]))


def records_of(letter: Letter, whole: Whole) -> list[Whole]:
    """Return the records of the log that a letter has; none of a batch that was not read."""
    if letter.kind == BATCH or (letter.cut and letter.kind):
        return []
    if letter.kind != RUN or whole.value is None:
        return [whole]
    batch = Batch(DefaultRecordBatch(whole.value), memoryview(whole.value))
    return [
        Whole(record.key, record.value, list(record.headers))
        for some in batch.pieces(Limits())
        for record in some
    ]


def letter_in(record: Any, lies_in: int) -> Letter | None:
    """Return the letter that a record of the dead topic is; None where it is none.

    Args:
        record: As aiokafka gives it.
        lies_in: The partition of the dead topic.
    """
    headers = list(record.headers)
    kind = said = ""
    if len(headers) > len(_NAMES) and headers[-2][0] in (RUN, BATCH, NONE):
        kind, content = headers.pop(-2)
        said = (content or b"").decode(errors="replace")
    if tuple(name for name, _content in headers[-len(_NAMES) :]) != _NAMES:
        return None
    reason, detail, place = (
        (content or b"").decode(errors="replace") for _name, content in headers[-3:]
    )
    lay = _place_in(place)
    if lay is None:
        return None
    lay_in, offset = lay
    before = headers[:-3]
    last, _, count = said.partition("/")
    end = max(_number(last) or 0, offset)
    many = (_number(count) if kind == RUN else None) or end - offset + 1
    retries = [content or b"" for name, content in before if name == RETRIES]
    return Letter(
        place=place,
        partition=lay_in,
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
        mark=f"{mark_of(record.key, record.value):08x}",
        lies=(lies_in, record.offset),
    )


def _place_in(text: str) -> tuple[int, int] | None:
    """Return partition and offset of a place, topic/partition/offset; None where it is none."""
    topic, _, rest = text.rpartition("/")
    topic, _, partition = topic.rpartition("/")
    lay_in, offset = _number(partition), _number(rest)
    return None if not topic or lay_in is None or offset is None else (lay_in, offset)


def _number(text: str) -> int | None:
    """Return the offset or count that a text is; None where it is none.

    Anybody may write into a header, and Python refuses to read very long numbers.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    number = int(text)
    return number if number <= _GREATEST else None


def mark_in(record: Any) -> tuple[str, str, str] | None:
    """Return what a mark says: place and mark of the letter, and what was done; None for others."""
    if tuple(name for name, _content in record.headers) != (LETTER, MARK, DONE):
        return None
    place, mark, done = ((content or b"").decode(errors="replace") for _, content in record.headers)
    return place, mark, done


def place_of(text: str) -> str:
    """Return a letter's place as it was given.

    Raises:
        UsageError: It has another form.
    """
    if _place_in(text) is None:
        raise UsageError(
            "This is no place of a letter.", expected="topic/partition/offset", found=repr(text)
        )
    return text
