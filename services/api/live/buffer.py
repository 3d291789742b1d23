"""What the tail has seen of the log and the projections have not: raw records, found by key.

Nothing is decoded here. The buffer knows, per partition, from which offset on it has everything;
laid over a projection that is at least there, it brings a job up to the end of the log.
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

#: What a record costs beside its key and value.
_OVERHEAD: Final = 400
#: Records of a partition whose marks are remembered: so positions that were given out lately are
#: proven without a look into the log. 300 KiB for each partition.
MARKS: Final = 4_096
#: Stands for a lag that nobody can tell.
UNKNOWN: Final = -1
#: 2011, in microseconds: no record is older than Kafka, whatever its producer's clock says.
_OLDEST: Final = 1_293_840_000_000_000
#: Records of a key that are very many: about so often somebody is told.
MANY: Final = 512
_offset: Final = itemgetter(1)
_first: Final = itemgetter(0)


class _Queue:
    """The records of one partition in order, for dropping them in order."""

    __slots__ = (
        "arrivals",
        "began",
        "end",
        "floor",
        "last",
        "level",
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
        #: When the tail began to follow: what it has not seen is older. Microseconds.
        self.began = now
        #: When the tail had all of the partition last.
        self.level = now
        #: Of records that came together the offset of the first, when the tail had all that was
        #: there before, and when they came: they were appended between these.
        self.arrivals: deque[tuple[int, int, int]] = deque()
        #: The last record that the log had before `end`; None where that is not known.
        self.last: LastRecord | None = None
        #: Of the last records their offsets, which only grow, and their marks.
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
        #: By key the records that it has, in order: of the partition that the first of them came
        #: from. Not to be changed by others.
        self.by_key: dict[bytes, list[Record]] = {}
        #: The same of further partitions: who writes there has not followed the rules.
        self._elsewhere: dict[bytes, dict[int, list[Record]]] = {}
        #: Bytes held.
        self.size = 0
        #: Changes whenever the log's end, as it is known here, does.
        self.turn = 0
        self._on_many: Callable[[bytes, list[Record]], object] = lambda *_: None
        #: How many records were dropped because there were too many.
        self.dropped = 0

    def listen(self, on_many: Callable[[bytes, list[Record]], object]) -> None:
        """Be told every now and then of a key that has very many records, and of these."""
        self._on_many = on_many

    @property
    def followed(self) -> int:
        """How many partitions the tail follows; 0 before it has found the log."""
        return len(self._queues)

    @property
    def position(self) -> dict[int, int]:
        """The end of the log per partition, as far as the tail knows it."""
        return {partition: queue.end for partition, queue in self._queues.items()}

    def follows(self, partition: int) -> bool:
        """Tell whether the tail follows a partition."""
        return partition in self._queues

    def end(self, partition: int) -> int:
        """The end of a partition as far as the tail knows it; 0 before it follows it."""
        queue = self._queues.get(partition)
        return queue.end if queue is not None else 0

    def begin(self, partition: int, offset: int, now: int) -> None:
        """Follow a partition from an offset on; what was held of it is dropped.

        Args:
            partition: Which.
            offset: The first one that will be added.
            now: Microseconds since the epoch.
        """
        queue = self._queues.get(partition)
        if queue is not None:
            self._cut(partition, queue, queue.end)
        self._queues[partition] = _Queue(offset, now)
        self.turn += 1

    def add(self, key: bytes | None, record: Record) -> None:
        """Take in the next record of a partition."""
        partition, offset, _timestamp, value = record
        queue = self._queues[partition]
        queue.end = offset + 1
        self.turn += 1
        if offset < queue.floor:
            return
        size = _OVERHEAD + len(key or b"") + len(value or b"")
        queue.records.append((record, key, size))
        queue.size += size
        self.size += size
        if key is not None:
            known = self.by_key.get(key)
            if known is None:
                self.by_key[key] = [record]
            elif known[0][0] == partition:
                known.append(record)
                if not offset % MANY and len(known) > MANY:
                    self._on_many(key, known)
            else:
                self._elsewhere.setdefault(key, {}).setdefault(partition, []).append(record)
        while self.size > self._limit:
            self._drop_oldest()

    def reach(self, partition: int, end: int, last: LastRecord | None) -> None:
        """Take in up to where a partition is known, also where no record lies before that.

        Args:
            partition: Which.
            end: The offset before which everything was added.
            last: The last record before it; None where there was none since the last time.
        """
        queue = self._queues[partition]
        if end > queue.end:
            queue.end = end
            self.turn += 1
        if last is not None:
            queue.last = last

    def arrive(self, partition: int, offset: int, now: int) -> None:
        """Take in when records came, from that offset on; `add` follows.

        Args:
            partition: Which.
            offset: Of the first of them.
            now: Microseconds since the epoch.
        """
        queue = self._queues[partition]
        queue.arrivals.append((offset, min(queue.level, now), now))

    def note_caught_up(self, partition: int, now: int) -> None:
        """Take in that the tail had all of a partition at that time, in microseconds."""
        queue = self._queues.get(partition)
        if queue is not None:
            queue.level = now

    def level(self, partition: int) -> int:
        """Return when the tail had all of a partition last, in microseconds."""
        return self._queues[partition].level

    def remember(self, partition: int, offsets: Iterable[int], marks: Iterable[int]) -> None:
        """Remember the marks of records, in order; those of the last `MARKS` are kept."""
        queue = self._queues[partition]
        queue.offsets.extend(offsets)
        queue.marks.extend(marks)

    def mark(self, partition: int, offset: int) -> int | None:
        """Return the mark of the record at an offset; None where it is not remembered."""
        queue = self._queues.get(partition)
        if queue is None:
            return None
        at = bisect_left(queue.offsets, offset)
        if at < len(queue.offsets) and queue.offsets[at] == offset:
            return queue.marks[at]
        last = queue.last
        return last.mark if last is not None and last.offset == offset else None

    def last(self, partition: int, before: int | None = None) -> tuple[int, int] | None:
        """Return offset and mark of the last record that is known before a place.

        Args:
            partition: Which.
            before: The place; None for the log's end.
        """
        queue = self._queues.get(partition)
        if queue is None:
            return None
        if queue.last is not None and (before is None or queue.last.offset < before):
            return queue.last.offset, queue.last.mark
        at = bisect_left(queue.offsets, before or 0) - 1
        return (queue.offsets[at], queue.marks[at]) if at >= 0 else None

    def last_record(self, partition: int) -> LastRecord | None:
        """Return the last record of a partition, as far as it is known."""
        return self._queues[partition].last

    def read(self) -> dict[int, Read]:
        """Return up to where each partition was read, and by what the log is known again."""
        return {p: Read(queue.end, queue.last) for p, queue in self._queues.items()}

    def trim(self, position: Mapping[int, int], most: int | None = None) -> bool:
        """Drop what the projections hold by now.

        Args:
            position: Per partition the offset before which they hold everything.
            most: Records that are dropped at most, of each partition; None for all.

        Returns:
            Whether there is more to drop.
        """
        more = False
        for partition, queue in self._queues.items():
            checkpoint = position.get(partition, 0)
            if checkpoint <= queue.floor:
                continue
            if most is not None and len(queue.records) > most:
                # It may lie between two records: there are none from the one to the other.
                nearer = queue.records[most][0][1]
                if nearer < checkpoint:
                    checkpoint, more = nearer, True
            self._cut(partition, queue, checkpoint)
            queue.floor = checkpoint
        return more

    def covers(self, partition: int, checkpoint: int) -> bool:
        """Tell whether everything from a checkpoint on to the log's end is here."""
        queue = self._queues.get(partition)
        return queue is not None and checkpoint >= queue.floor

    def beyond(
        self, key: bytes, partition: int, checkpoint: int, most: int | None = None
    ) -> list[Record]:
        """Return the records of a key in a partition from a checkpoint on, in order.

        Args:
            key: Whose.
            partition: Where.
            checkpoint: The first offset.
            most: How many at most; None for all.
        """
        known = self.by_key.get(key)
        if known is None:
            return []
        if known[0][0] != partition:
            known = self._elsewhere.get(key, {}).get(partition, [])
        begin = bisect_left(known, checkpoint, key=_offset)
        return known[begin : None if most is None else begin + most]

    def between(self, partition: int, begin: int, end: int) -> Iterator[tuple[bytes, Record]]:
        """Yield key and record of a partition's records that have a key, in order.

        Args:
            partition: Which.
            begin: The first offset.
            end: The offset behind the last one.
        """
        for record, key, _size in self._queues[partition].records:
            if record[1] >= end:
                return
            if record[1] >= begin and key is not None:
                yield key, record

    def lagging_since(self, watermark: Watermark) -> int | None:
        """Return since when the projections lag.

        Args:
            watermark: What they hold.

        Returns:
            The log's timestamp, in microseconds, of the first record that they do not hold, kept
            within when it can have been appended: a producer may give it any. A little earlier
            where that record is not here any more. None where they are level, `UNKNOWN` where
            nobody can tell.
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
                _begin, before, behind = queue.arrivals[came]
                return min(max(timestamp, before), behind)
        if applied and applied < _OLDEST:
            return UNKNOWN
        return applied or queue.began

    def _drop_oldest(self) -> None:
        """Make room by an eighth of the records of the partition that takes the most."""
        partition, queue = max(self._queues.items(), key=lambda item: item[1].size)
        some = len(queue.records) // 8 + 1
        before = queue.records[some - 1][0][1] + 1
        self._cut(partition, queue, before)
        queue.floor = before
        self.dropped += some

    def _cut(self, partition: int, queue: _Queue, before: int) -> None:
        """Drop the records of a partition before an offset: of each key, all at once."""
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
        known = self.by_key.get(key)
        if known is None:
            return
        if known[0][0] != partition:
            others = self._elsewhere.get(key, {})
            if some := others.get(partition):
                del some[: bisect_left(some, before, key=_offset)]
                if not some:
                    del others[partition]
                    if not others:
                        del self._elsewhere[key]
            return
        if known[0][1] >= before:
            return
        if known[-1][1] >= before:
            del known[: bisect_left(known, before, key=_offset)]
            return
        if key not in self._elsewhere:
            del self.by_key[key]
            return
        others = self._elsewhere[key]
        # Another partition's take its place.
        other = next(iter(others))
        self.by_key[key] = others.pop(other)
        if not others:
            del self._elsewhere[key]


def _place(entry: tuple[Record, bytes | None, int]) -> int:
    return entry[0][1]
