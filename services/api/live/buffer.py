"""Records that the tail has read and the projections may not have applied yet, found by key.

Nothing is decoded here. The buffer knows per partition from which offset on it has every record.
Folded onto a projection whose checkpoint is at that offset or later, its records bring a job up to
the end of the log.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Final

from jobtrail.core.position import LastRecord
from jobtrail.log.questions import Read
from projections.ports.read import Watermark

#: partition, offset, the log's timestamp in microseconds, value
Record = tuple[int, int, int, bytes | None]

#: Bytes of memory of a record beside its key and value.
_OVERHEAD: Final = 400
#: Records of a partition whose marks are remembered, so that recent positions are proven without
#: reading the log. 300 KiB for each partition.
MARKS: Final = 4_096
#: Stands for a lag that is not known.
UNKNOWN: Final = -1
#: 2011, in microseconds: an older timestamp is wrong, since no record is older than Kafka.
_OLDEST: Final = 1_293_840_000_000_000
#: Records of one key after which the listener is called, and again after about as many more.
MANY: Final = 512
_offset: Final = itemgetter(1)
_first: Final = itemgetter(0)


class _Queue:
    """The buffered records of one partition, in order."""

    __slots__ = (
        "arrivals",
        "began",
        "caught_up_at",
        "end",
        "floor",
        "last",
        "marks",
        "offsets",
        "records",
        "size",
    )

    def __init__(self, offset: int, now: int) -> None:
        #: From here on the buffer has every record up to `end`.
        self.floor = offset
        #: The next offset that the tail will see.
        self.end = offset
        #: record, key, size
        self.records: deque[tuple[Record, bytes | None, int]] = deque()
        self.size = 0
        #: When the tail began to follow it, in microseconds: records before its floor are older.
        self.began = now
        #: When the tail had last read the partition to its end, in microseconds.
        self.caught_up_at = now
        #: For records that arrived together: the offset of the first, when the tail had last read
        #: the partition to its end, and when they arrived. They were appended between these times.
        self.arrivals: deque[tuple[int, int, int]] = deque()
        #: The last record of the log before `end`; None if it is not known.
        self.last: LastRecord | None = None
        #: Offsets, ascending, and marks of the last records.
        self.offsets: deque[int] = deque(maxlen=MARKS)
        self.marks: deque[int] = deque(maxlen=MARKS)


class Buffer:
    """Records beyond the projections, in bounded memory.

    Args:
        limit: The most bytes; beyond it the oldest records are dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queues: dict[int, _Queue] = {}
        #: The records by key, in order; of each key those of the partition of its first record.
        #: Read only for other modules.
        self.by_key: dict[bytes, list[Record]] = {}
        #: The same for further partitions: a producer wrote them to the wrong partition.
        self._elsewhere: dict[bytes, dict[int, list[Record]]] = {}
        #: Bytes of all records.
        self.size = 0
        #: Incremented whenever the known end of the log changes.
        self.version = 0
        self._on_many: Callable[[bytes, list[Record]], object] = lambda *_: None
        #: How many records were dropped because the buffer was full.
        self.dropped = 0

    def listen(self, on_many: Callable[[bytes, list[Record]], object]) -> None:
        """Call a function from time to time with a key that has very many records, and these."""
        self._on_many = on_many

    @property
    def followed(self) -> int:
        """How many partitions the tail follows; 0 before it has found the log."""
        return len(self._queues)

    @property
    def position(self) -> dict[int, int]:
        """The end of the log per partition, as far as the tail has read it."""
        return {partition: queue.end for partition, queue in self._queues.items()}

    def follows(self, partition: int) -> bool:
        """Tell whether the tail follows a partition."""
        return partition in self._queues

    def end(self, partition: int) -> int:
        """Return the end of a partition as far as the tail has read it; 0 before it follows it."""
        queue = self._queues.get(partition)
        return queue.end if queue is not None else 0

    def begin(self, partition: int, offset: int, now: int) -> None:
        """Follow a partition from an offset on; buffered records of it are dropped.

        Args:
            partition: Which.
            offset: The first one that will be added.
            now: Microseconds since the epoch.
        """
        queue = self._queues.get(partition)
        if queue is not None:
            self._cut(partition, queue, queue.end)
        self._queues[partition] = _Queue(offset, now)
        self.version += 1

    def add(self, key: bytes | None, record: Record) -> None:
        """Add the next record of a partition."""
        partition, offset, _timestamp, value = record
        queue = self._queues[partition]
        queue.end = offset + 1
        self.version += 1
        if offset < queue.floor:
            return
        size = _OVERHEAD + len(key or b"") + len(value or b"")
        queue.records.append((record, key, size))
        queue.size += size
        self.size += size
        if key is not None:
            records = self.by_key.get(key)
            if records is None:
                self.by_key[key] = [record]
            elif records[0][0] == partition:
                records.append(record)
                if not offset % MANY and len(records) > MANY:
                    self._on_many(key, records)
            else:
                self._elsewhere.setdefault(key, {}).setdefault(partition, []).append(record)
        while self.size > self._limit:
            self._drop_oldest()

    def reach(self, partition: int, end: int, last: LastRecord | None) -> None:
        """Note up to where a partition was read, which may be after offsets without a record.

        Args:
            partition: Which.
            end: The offset before which everything was added.
            last: The last record before it; None if there is none since the last call.
        """
        queue = self._queues[partition]
        if end > queue.end:
            queue.end = end
            self.version += 1
        if last is not None:
            queue.last = last

    def arrive(self, partition: int, offset: int, now: int) -> None:
        """Note when records arrived; calls of `add` follow.

        Args:
            partition: Which.
            offset: Of the first of these records.
            now: Microseconds since the epoch.
        """
        queue = self._queues[partition]
        queue.arrivals.append((offset, min(queue.caught_up_at, now), now))

    def note_caught_up(self, partition: int, now: int) -> None:
        """Note that the tail had read a partition to its end at a time in microseconds."""
        queue = self._queues.get(partition)
        if queue is not None:
            queue.caught_up_at = now

    def caught_up_at(self, partition: int) -> int:
        """Return when the tail had last read a partition to its end, in microseconds."""
        return self._queues[partition].caught_up_at

    def remember(self, partition: int, offsets: Iterable[int], marks: Iterable[int]) -> None:
        """Remember the marks of the next records; those of the last `MARKS` are kept."""
        queue = self._queues[partition]
        queue.offsets.extend(offsets)
        queue.marks.extend(marks)

    def mark(self, partition: int, offset: int) -> int | None:
        """Return the mark of the record at an offset; None if it is not remembered."""
        queue = self._queues.get(partition)
        if queue is None:
            return None
        at = bisect_left(queue.offsets, offset)
        if at < len(queue.offsets) and queue.offsets[at] == offset:
            return queue.marks[at]
        last = queue.last
        return last.mark if last is not None and last.offset == offset else None

    def last(self, partition: int, before: int | None = None) -> tuple[int, int] | None:
        """Return offset and mark of the last remembered record before an offset, or None.

        Args:
            partition: Which.
            before: The offset; None for the log's end.
        """
        queue = self._queues.get(partition)
        if queue is None:
            return None
        if queue.last is not None and (before is None or queue.last.offset < before):
            return queue.last.offset, queue.last.mark
        at = bisect_left(queue.offsets, before or 0) - 1
        return (queue.offsets[at], queue.marks[at]) if at >= 0 else None

    def last_record(self, partition: int) -> LastRecord | None:
        """Return the last record of a partition; None if it is not known."""
        return self._queues[partition].last

    def read(self) -> dict[int, Read]:
        """Return up to where each partition was read, and the record that identifies its log."""
        return {p: Read(queue.end, queue.last) for p, queue in self._queues.items()}

    def trim(self, position: Mapping[int, int], most: int | None = None) -> bool:
        """Drop records that the projections have applied.

        Args:
            position: Of the projections.
            most: The most records to drop of each partition; None for all.

        Returns:
            Whether there is more to drop.
        """
        more = False
        for partition, queue in self._queues.items():
            checkpoint = position.get(partition, 0)
            if checkpoint <= queue.floor:
                continue
            if most is not None and len(queue.records) > most:
                # Drop only up to the record that is `most` further.
                nearer = queue.records[most][0][1]
                if nearer < checkpoint:
                    checkpoint, more = nearer, True
            self._cut(partition, queue, checkpoint)
            queue.floor = checkpoint
        return more

    def covers(self, partition: int, checkpoint: int) -> bool:
        """Tell whether the buffer has every record from a checkpoint to the log's end."""
        queue = self._queues.get(partition)
        return queue is not None and checkpoint >= queue.floor

    def beyond(
        self, key: bytes, partition: int, checkpoint: int, most: int | None = None
    ) -> list[Record]:
        """Return the records of a key in a partition from a checkpoint on, in order.

        Args:
            key: Of the records.
            partition: Which.
            checkpoint: The first offset.
            most: How many at most; None for all.
        """
        records = self.by_key.get(key)
        if records is None:
            return []
        if records[0][0] != partition:
            records = self._elsewhere.get(key, {}).get(partition, [])
        begin = bisect_left(records, checkpoint, key=_offset)
        return records[begin : None if most is None else begin + most]

    def between(self, partition: int, begin: int, end: int) -> Iterator[tuple[bytes, Record]]:
        """Yield key and record of a partition's records that have a key, in order.

        Args:
            partition: Which.
            begin: The first offset.
            end: The offset after the last one.
        """
        for record, key, _size in self._queues[partition].records:
            if record[1] >= end:
                return
            if record[1] >= begin and key is not None:
                yield key, record

    def lagging_since(self, watermark: Watermark) -> int | None:
        """Return since when the projections lag.

        Args:
            watermark: Of the projections.

        Returns:
            The log's timestamp, in microseconds, of the first record that they have not applied;
            clamped to the times between which it was appended, since a producer may set any. A
            little earlier if that record was dropped here. None if they do not lag, `UNKNOWN` if
            the time is not known.
        """
        since: int | None = None
        for partition, queue in self._queues.items():
            checkpoint = watermark.position.get(partition, 0)
            if checkpoint >= queue.end:
                continue
            found = self._since(queue, checkpoint, watermark.timestamps.get(partition, 0))
            if since is None or found < since:
                since = found
        return since

    @staticmethod
    def _since(queue: _Queue, checkpoint: int, applied: int) -> int:
        if checkpoint >= queue.floor:
            records = queue.records
            at = bisect_left(records, checkpoint, key=_place)
            if at < len(records):
                (_partition, offset, timestamp, _value), _key, _size = records[at]
                came = bisect_right(queue.arrivals, offset, key=_first) - 1
                if came < 0:
                    return timestamp
                _begin, before, after = queue.arrivals[came]
                return min(max(timestamp, before), after)
        if applied and applied < _OLDEST:
            return UNKNOWN
        return applied or queue.began

    def _drop_oldest(self) -> None:
        """Drop the oldest eighth of the records of the partition that takes the most bytes."""
        partition, queue = max(self._queues.items(), key=lambda item: item[1].size)
        some = len(queue.records) // 8 + 1
        before = queue.records[some - 1][0][1] + 1
        self._cut(partition, queue, before)
        queue.floor = before
        self.dropped += some

    def _cut(self, partition: int, queue: _Queue, before: int) -> None:
        """Drop the records of a partition before an offset."""
        records = queue.records
        while records and records[0][0][1] < before:
            _record, key, size = records.popleft()
            queue.size -= size
            self.size -= size
            if key is not None:
                self._cut_key(key, partition, before)
        arrivals = queue.arrivals
        while len(arrivals) > 1 and arrivals[1][0] <= before:
            arrivals.popleft()

    def _cut_key(self, key: bytes, partition: int, before: int) -> None:
        records = self.by_key.get(key)
        if records is None:
            return
        if records[0][0] != partition:
            others = self._elsewhere.get(key, {})
            if some := others.get(partition):
                del some[: bisect_left(some, before, key=_offset)]
                if not some:
                    del others[partition]
                    if not others:
                        del self._elsewhere[key]
            return
        if records[0][1] >= before:
            return
        if records[-1][1] >= before:
            del records[: bisect_left(records, before, key=_offset)]
            return
        if key not in self._elsewhere:
            del self.by_key[key]
            return
        others = self._elsewhere[key]
        # The records of another partition take their place.
        other = next(iter(others))
        self.by_key[key] = others.pop(other)
        if not others:
            del self._elsewhere[key]


def _place(entry: tuple[Record, bytes | None, int]) -> int:
    return entry[0][1]
