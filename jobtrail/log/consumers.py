"""The only way in which the log is read: consumers that yield batches, untouched, in groups.

aiokafka parses a fetched batch record by record, and a reader of the partition never gets past a
batch that its parser refuses. It has no hook for that, so a process of ours that reads the log
replaces the one class in its fetcher that turns bytes into batches by `_Fetched`, and
`jobtrail.log.batches` parses each batch.

aiokafka also doesn't report a new connection or leader. A log can only lose its end, or be
replaced, when that happens: so each group of records carries the number of breaks of the connection
and the leader epoch, and a reader that folds them first proves that the log is still the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from aiokafka.errors import CorruptRecordException

from jobtrail.internals.aiokafka_internals import (
    DefaultRecordBatch,
    LegacyRecordBatch,
    PartitionRecords,
    count_breaks,
    parse_batches_with,
    yield_records_with,
)
from jobtrail.log.batches import BYTES, RECORDS, Batch, Limits, OldBatch
from jobtrail.log.clients import Consumer
from jobtrail.log.kafka import Client
from jobtrail.log.record_reading import HEADER_BYTES

#: Where a batch has the length of the rest of it, and how long that is together with what precedes:
#: https://kafka.apache.org/documentation/#recordbatch
_LENGTH: Final = struct.Struct(">8xi")
_BASE: Final = struct.Struct(">q")
#: Where it has the version of its format, and the one that Kafka has written since 0.11.
_VERSION: Final = 16
#: Bytes after the length in the smallest batch of any version.
_LEAST: Final = 14
_CURRENT: Final = 2
#: Records of a group that is yielded; the last batch of it may add more.
GROUP: Final = 4_096


class InGroups:
    """Marks a consumer, as its `value_deserializer`, as one that gets groups: see `fetch_groups`.

    Args:
        limits: How large an unpacked batch may be.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def __call__(self, _value: bytes) -> bytes:
        """Never be called: groups of records are not deserialized."""
        raise AssertionError("groups of records are not deserialized")


class Group:
    """Consecutive batches of a partition, not parsed yet.

    Every offset from `begin` to `next_offset` is accounted for by a batch, whether there is a
    record or not: control records and aborted transactions take offsets, compaction takes records
    out of batches. A group ends before offsets that no batch accounts for; the next one begins
    after them.

    A batch with a wrong checksum was damaged on the broker's disk, and the broker serves it as it
    is. It accounts for no offsets: in its place comes a group with `is_damaged`, without records
    and offsets, that begins after it. A reader that checks for gaps finds one; any other has to
    refuse it.
    """

    __slots__ = (
        "_batches",
        "_limits",
        "begin",
        "breaks",
        "epoch",
        "is_damaged",
        "next_offset",
        "timestamp",
    )

    def __init__(
        self,
        begin: int,
        next_offset: int,
        epoch: int,
        breaks: int,
        batches: Sequence[Any],
        limits: Limits = Limits(),  # noqa: B008
        *,
        is_damaged: bool = False,
    ) -> None:
        self._batches = batches
        self._limits = limits
        #: The first offset.
        self.begin = begin
        #: The offset after the last.
        self.next_offset = next_offset
        #: Epoch of the partition's leader that appended all of it; -1 where the broker sends none.
        self.epoch = epoch
        #: See `Breaks`.
        self.breaks = breaks
        #: The latest timestamp of the last batch, milliseconds since the epoch; 0 without a record.
        self.timestamp: int = batches[-1].timestamp if batches else 0
        #: Whether it stands for a damaged batch.
        self.is_damaged = is_damaged

    def check(self) -> Group:
        """Return itself.

        Raises:
            CorruptRecordException: It stands for a damaged batch.
        """
        if self.is_damaged:
            raise CorruptRecordException(f"Invalid CRC of a batch before offset {self.begin}")
        return self

    def until(self, end: int) -> Group:
        """Return the part of it before an offset."""
        if end >= self.next_offset:
            return self
        return Group(self.begin, end, self.epoch, self.breaks, self._batches, self._limits)

    def pieces(self, most: int = RECORDS) -> Iterator[list[Any]]:
        """Parse the batches, where the records are used: then they are in the processor's cache.

        Only one piece is in memory at a time: a small batch can unpack to very many records. A
        record whose value is an `UnreadBatch` stands for those of a batch that can't be read.

        Args:
            most: Records at which a piece ends, with the batch that reaches them.

        Yields:
            The next records, about `BYTES` and `RECORDS` at most; an empty list where it takes
            long, so that other tasks can run.
        """
        some: list[Any] = []
        size = 0
        for batch in self._batches:
            if batch.next_offset <= self.begin or batch.base_offset >= self.next_offset:
                continue
            if (complete := batch.all_records(self._limits)) is not None:
                records, taken = complete
                some += self._within(records)
                size += taken
            else:
                # The parsed records may be large.
                yield some
                some, size = [], 0
                for records in batch.pieces(self._limits):
                    yield self._within(records)
            if len(some) >= most or size >= BYTES:
                yield some
                some, size = [], 0
        if some:
            yield some

    def _within(self, records: list[Any]) -> list[Any]:
        # A fetch returns the complete batch that contains its offset.
        if records and (records[0].offset < self.begin or records[-1].offset >= self.next_offset):
            return [one for one in records if self.begin <= one.offset < self.next_offset]
        return records

    def at(self, offset: int) -> Any:
        """Return the record at an offset, or None."""
        if not self.begin <= offset < self.next_offset:
            return None
        only = Group(offset, offset + 1, self.epoch, self.breaks, self._batches, self._limits)
        return next((record for some in only.pieces() for record in some), None)


class Breaks:
    """Counts the events that may mean that two fetches were not from the same log.

    A log can't change before an offset that was read unless its broker was started again, or the
    topic was made again. The first breaks a connection, the second makes the broker refuse a fetch,
    upon which aiokafka asks for new metadata. Both are counted, for all clients of the process: a
    needless one costs one more check of the log.
    """

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        """Count for every client of this process from now on; may be called more than once."""
        count_breaks(self, self._note)

    def _note(self) -> None:
        self.count += 1


BREAKS: Final = Breaks()


class _InGroups(PartitionRecords):
    """Yields groups of batches to the consumers that ask for them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._breaks = BREAKS.count

    def unpack(self) -> Iterator[Any]:
        if not isinstance(self.deserializer, InGroups):
            yield from super().unpack()
            return
        limits = self.deserializer.limits
        batches: list[Any] = []
        begin, epoch = self.next_fetch_offset, -1
        while self.fetched.has_next():
            batch = self.fetched.next_batch()
            if self.checks_sums and not batch.validate_crc():
                if self.next_fetch_offset > begin:
                    # What comes before it is good.
                    yield Group(begin, self.next_fetch_offset, epoch, self._breaks, batches, limits)
                yield self._damaged(batch, limits)
                # What follows is fetched again: the batch may have ended a transaction.
                return
            follows = batch.base_offset <= self.next_fetch_offset
            if self.next_fetch_offset > begin and (not follows or batch.leader_epoch != epoch):
                yield Group(begin, self.next_fetch_offset, epoch, self._breaks, batches, limits)
                begin, batches = self.next_fetch_offset, []
            if not follows:
                begin = batch.base_offset
            epoch = batch.leader_epoch
            # In this order: the second check also records transaction markers.
            if not self.is_aborted(batch) and not batch.is_control_batch:
                batches.append(batch)
            # The batch's own end, as in aiokafka: compaction may have removed the last records.
            self.next_fetch_offset = batch.next_offset
            if self.next_fetch_offset - begin >= GROUP:
                yield Group(begin, self.next_fetch_offset, epoch, self._breaks, batches, limits)
                begin, batches = self.next_fetch_offset, []
        if self.next_fetch_offset > begin:
            yield Group(begin, self.next_fetch_offset, epoch, self._breaks, batches, limits)

    def _damaged(self, batch: Any, limits: Limits) -> Group:
        """Return the group that stands for a damaged batch, and continue after it.

        Raises:
            CorruptRecordException: The end of the batch is not known.
        """
        following = self.fetched.next_base()
        end: int = batch.next_offset if following is None else following
        if end <= self.next_fetch_offset:
            raise CorruptRecordException(f"Invalid CRC - {self.partition}")
        self.next_fetch_offset = end
        return Group(end, end, batch.leader_epoch, self._breaks, (), limits, is_damaged=True)


def fetch_groups() -> None:
    """Let consumers whose `value_deserializer` is `InGroups` yield a `Group` for many records.

    Then parsing is the only work per record. The other consumers of the process, such as a
    notebook's, stay as they are, except that they accept header names that are not UTF-8.
    """
    read_any_header_name()
    BREAKS.install()
    yield_records_with(_InGroups)


def group_reader(client: Mapping[str, Any], *topics: str, **options: Any) -> Consumer:
    """Return the consumer that every reader of the log uses, not started yet.

    It yields a `Group` for many records, committed ones only; is in no consumer group, unless the
    options name one, and commits nothing by itself; and never resets its position: by default
    aiokafka goes to the log's end where the log does not have the offset.

    Args:
        client: Keyword arguments for aiokafka: servers and security; a `Client` also has the limits
            of an unpacked batch.
        topics: Topics to subscribe to.
        **options: Further options of `AIOKafkaConsumer`.
    """
    fetch_groups()
    limits = client.limits if isinstance(client, Client) else Limits()
    return Consumer(
        *topics,
        **client,
        **options,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        value_deserializer=InGroups(limits),
    )


def read_any_header_name() -> None:
    """Let every aiokafka consumer of this process read records with such header names.

    Their values are `InvalidHeader`; the names are strings with surrogates (PEP 383).
    """
    parse_batches_with(_Fetched)


class _Fetched:
    """The response of one fetch for one partition, as aiokafka's fetcher uses it.

    aiokafka's own class takes the version of all batches from the first.
    """

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._next = 0

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        """Tell whether another batch is complete: a broker cuts the last one off."""
        return self._end() <= len(self._data)

    def _end(self) -> int:
        begin = self._next + _LENGTH.size
        if begin > len(self._data):
            return begin
        return begin + int(_LENGTH.unpack_from(self._data, self._next)[0])

    def next_base(self) -> int | None:
        """Return the first offset of the next batch, where it is complete."""
        if not self.has_next():
            return None
        return int(_BASE.unpack_from(self._data, self._next)[0])

    def next_batch(self) -> Batch | OldBatch | None:
        end = self._end()
        if end > len(self._data):
            return None
        if end - self._next < _LENGTH.size + _LEAST:
            raise CorruptRecordException(f"A batch of {end - self._next} bytes")
        data, self._next = self._data[self._next : end], end
        version = data[_VERSION]
        if version < _CURRENT:
            return OldBatch(LegacyRecordBatch(data, version), data)
        if len(data) < HEADER_BYTES:
            raise CorruptRecordException(f"A batch of {len(data)} bytes, with its header")
        return Batch(DefaultRecordBatch(data), data)
