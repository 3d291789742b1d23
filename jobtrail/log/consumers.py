"""The only way in which the log is read: consumers that yield batches, untouched, in groups.

aiokafka takes a fetched batch apart by itself, record by record, and whoever reads the partition
gets nothing behind what its parser refuses, for ever. It has no hook, so a process of ours that
reads the log puts `_Fetched` in the place of the one class in its fetcher that turns bytes into
batches, and `jobtrail.log.batches` says what becomes of each.

And it tells nobody that a connection or a leader is another one. A log can only lose its end, or
be replaced, where that happens: so groups of records say by how many breaks of the connection, and
under which leader, they came, and who folds them proves first that the log is still the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from aiokafka import client as aiokafka_client
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from jobtrail.log.batches import BYTES, RECORDS, Batch, Limits, OldBatch
from jobtrail.log.clients import Consumer
from jobtrail.log.kafka import Client
from jobtrail.log.record_reading import HEADER_BYTES

#: Where a batch says how long the rest of it is, and how long that is together with what precedes:
#: https://kafka.apache.org/documentation/#recordbatch
_LENGTH: Final = struct.Struct(">8xi")
_BASE: Final = struct.Struct(">q")
#: Where it says which version of the format it has, and the one that Kafka has written since 0.11.
_VERSION: Final = 16
#: Bytes behind the length in the smallest batch of any version.
_LEAST: Final = 14
_CURRENT: Final = 2
#: Records of a group that is yielded; the last batch of it may add more.
GROUP: Final = 4_096


class InGroups:
    """Stands for a wish, as the `value_deserializer` of a consumer: see `fetch_groups`.

    Args:
        limits: Of what a batch is unpacked to.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def __call__(self, _value: bytes) -> bytes:
        """Never be called: groups of records are not deserialized."""
        raise AssertionError("groups of records are not deserialized")


class Group:
    """Consecutive batches of a partition, not taken apart yet.

    Every offset from `begin` to `next_offset` is accounted for by a batch, whether there is a
    record or not: control records and aborted transactions take offsets, compaction takes records
    out of batches. A group ends before offsets that no batch accounts for; the next one begins
    behind them.

    A batch whose checksum is wrong has rotted on the broker's disk, which serves it as it is. It
    accounts for nothing: what comes in its place is a group that is rotten, without any records and
    offsets, and begins behind it. Who looks for holes finds one; who does not has to refuse it.
    """

    __slots__ = (
        "_batches",
        "_limits",
        "begin",
        "breaks",
        "epoch",
        "is_rotten",
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
        is_rotten: bool = False,
    ) -> None:
        self._batches = batches
        self._limits = limits
        #: The first offset.
        self.begin = begin
        #: The one behind the last.
        self.next_offset = next_offset
        #: Of the partition's leader that appended all of it; -1 where the broker does not say.
        self.epoch = epoch
        #: See `Breaks`.
        self.breaks = breaks
        #: The latest of the last batch, milliseconds since the epoch; 0 where there is no record.
        self.timestamp: int = batches[-1].timestamp if batches else 0
        #: Whether it stands for a batch that has rotted.
        self.is_rotten = is_rotten

    def check(self) -> Group:
        """Return itself.

        Raises:
            CorruptRecordException: It stands for a batch that has rotted.
        """
        if self.is_rotten:
            raise CorruptRecordException(f"Invalid CRC of a batch before offset {self.begin}")
        return self

    def until(self, end: int) -> Group:
        """Return what of it lies before an offset."""
        if end >= self.next_offset:
            return self
        return Group(self.begin, end, self.epoch, self.breaks, self._batches, self._limits)

    def pieces(self, most: int = RECORDS) -> Iterator[list[Any]]:
        """Take the batches apart: best where the records are used, while they are in the cache.

        Nobody lists more than a piece: a small batch can hold very much. A record whose value is
        `Unread` stands for those of a batch that can't be read.

        Args:
            most: Records of a piece that are enough: it ends with the batch that brings so many.

        Yields:
            The next records, about `BYTES` and `RECORDS` at most; none where it takes long, so that
            others can go on.
        """
        some: list[Any] = []
        size = 0
        for batch in self._batches:
            if batch.next_offset <= self.begin or batch.base_offset >= self.next_offset:
                continue
            if (whole := batch.whole(self._limits)) is not None:
                records, taken = whole
                some += self._within(records)
                size += taken
            else:
                # What comes of it may be large.
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
        # A fetch brings the whole of the batch in which its offset lies.
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
    """Counts what may separate two fetches of one log from fetches of two.

    A log can't change behind an offset that was read unless its broker was started again, or the
    topic was made again. The first breaks a connection, the second makes the broker refuse a fetch,
    upon which aiokafka asks for new metadata. Both are counted, for all clients of the process: one
    too many costs a look into the log.
    """

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        """Count for every client of this process from now on; again is no harm."""
        connect = aiokafka_client.create_conn
        if getattr(connect, "counts", None) is self:
            return
        refresh = aiokafka_client.AIOKafkaClient.force_metadata_update

        async def connect_counted(*arguments: Any, **keywords: Any) -> Any:
            connection = await connect(*arguments, **keywords)
            self.count += 1
            return connection

        def refresh_counted(client: Any) -> Any:
            self.count += 1
            return refresh(client)

        connect_counted.counts = self  # type: ignore[attr-defined]
        aiokafka_client.create_conn = connect_counted
        aiokafka_client.AIOKafkaClient.force_metadata_update = refresh_counted


BREAKS: Final = Breaks()


class _InGroups(fetcher.PartitionRecords):
    """Yields groups of batches to the consumer that wishes for it."""

    next_fetch_offset: int

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._breaks = BREAKS.count

    def _unpack_records(self) -> Iterator[Any]:
        if not isinstance(self._value_deserializer, InGroups):
            yield from super()._unpack_records()
            return
        limits = self._value_deserializer.limits
        batches: list[Any] = []
        begin, epoch = self.next_fetch_offset, -1
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                if self.next_fetch_offset > begin:
                    # What comes before it is good.
                    yield Group(begin, self.next_fetch_offset, epoch, self._breaks, batches, limits)
                yield self._rotten(batch, limits)
                # What follows is fetched again: the batch may have ended a transaction.
                return
            follows = batch.base_offset <= self.next_fetch_offset
            if self.next_fetch_offset > begin and (not follows or batch.leader_epoch != epoch):
                yield Group(begin, self.next_fetch_offset, epoch, self._breaks, batches, limits)
                begin, batches = self.next_fetch_offset, []
            if not follows:
                begin = batch.base_offset
            epoch = batch.leader_epoch
            # In this order: what is asked also takes note of markers.
            if not self._is_aborted(batch) and not batch.is_control_batch:
                batches.append(batch)
            # The batch's own end, as aiokafka has it, too: the last records may be gone.
            self.next_fetch_offset = batch.next_offset
            if self.next_fetch_offset - begin >= GROUP:
                yield Group(begin, self.next_fetch_offset, epoch, self._breaks, batches, limits)
                begin, batches = self.next_fetch_offset, []
        if self.next_fetch_offset > begin:
            yield Group(begin, self.next_fetch_offset, epoch, self._breaks, batches, limits)

    def _rotten(self, batch: Any, limits: Limits) -> Group:
        """Return what stands for a batch that has rotted, and go on behind it.

        Raises:
            CorruptRecordException: Nobody can tell where that is.
        """
        following = self._records.next_base()
        end: int = batch.next_offset if following is None else following
        if end <= self.next_fetch_offset:
            raise CorruptRecordException(f"Invalid CRC - {self._tp}")
        self.next_fetch_offset = end
        return Group(end, end, batch.leader_epoch, self._breaks, (), limits, is_rotten=True)

    def _is_aborted(self, batch: Any) -> bool:
        """Tell whether a batch belongs to a transaction that was aborted, as aiokafka does.

        The broker says with each fetch which producers' transactions in it were aborted, and from
        where on; a marker ends each.
        """
        if self._isolation_level != fetcher.READ_COMMITTED:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and self._contains_abort_marker(batch):
            self._aborted_producers.discard(batch.producer_id)
        return bool(batch.is_transactional and batch.producer_id in self._aborted_producers)


def fetch_groups() -> None:
    """Let consumers whose `value_deserializer` is `InGroups` yield a `Group` for many records.

    Then nothing is done for each record but its parsing. The other consumers of the process, which
    may be a notebook's, are what they were, but for header names that are no UTF-8.
    """
    read_any_header_name()
    BREAKS.install()
    fetcher.PartitionRecords = _InGroups


def group_reader(client: Mapping[str, Any], *topics: str, **options: Any) -> Consumer:
    """Return a consumer as everybody who reads the log has it, not started yet.

    It yields a `Group` for many records, of what is committed; is in no consumer group, unless the
    options name one, and commits nothing by itself; and never goes elsewhere than it is told to:
    by default aiokafka answers an offset that the log has not with the log's end.

    Args:
        client: Keyword arguments for aiokafka: servers and security; a `Client` says, too, what a
            batch is unpacked to.
        topics: What it is subscribed to.
        **options: What else it is to be.
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
    fetcher.MemoryRecords = _Fetched


class _Fetched:
    """What one fetch brought of one partition, as aiokafka's fetcher uses it.

    aiokafka's own takes the version of all batches from the first.
    """

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._next = 0

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        """Tell whether the whole of another batch is there: a broker cuts the last one."""
        return self._end() <= len(self._data)

    def _end(self) -> int:
        begin = self._next + _LENGTH.size
        if begin > len(self._data):
            return begin
        return begin + int(_LENGTH.unpack_from(self._data, self._next)[0])

    def next_base(self) -> int | None:
        """Return the first offset of the next batch, where the whole of it is there."""
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
