"""What the tail has seen of the log and the projections have not: raw records, found by key.

Nothing is decoded here. The buffer knows, per partition, from which offset on it has everything;
laid over a projection that is at least there, it brings a job up to the end of the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

from projections.reading import Held

#: partition, offset, the log's timestamp in microseconds, value
Record = tuple[int, int, int, bytes | None]

#: What a record costs beside its key and value.
_OVERHEAD: Final = 400


class _Queue:
    """The records of one partition in order, for dropping them in order."""

    __slots__ = ("began", "end", "floor", "records", "size")

    def __init__(self, offset: int, now: int) -> None:
        #: From here on the buffer has every record up to `end`.
        self.floor = offset
        #: The next offset that the tail will see.
        self.end = offset
        #: offset, timestamp, key, size
        self.records: deque[tuple[int, int, bytes | None, int]] = deque()
        self.size = 0
        #: When the tail began to follow: what it has not seen is older. Microseconds.
        self.began = now


class Buffer:
    """Records beyond the projections, in bounded memory.

    Args:
        limit: The most bytes; beyond it the oldest records are dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queues: dict[int, _Queue] = {}
        #: By key the records that it has. Not to be changed by others.
        self.by_key: dict[bytes, list[Record]] = {}
        #: Bytes held.
        self.size = 0
        #: Changes whenever the log's end, as it is known here, does.
        self.turn = 0
        #: How many records were dropped because there were too many.
        self.dropped = 0

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
        partition, offset, timestamp, value = record
        queue = self._queues[partition]
        queue.end = offset + 1
        self.turn += 1
        if offset < queue.floor:
            return
        size = _OVERHEAD + len(key or b"") + len(value or b"")
        queue.records.append((offset, timestamp, key, size))
        queue.size += size
        self.size += size
        if key is not None:
            known = self.by_key.get(key)
            if known is None:
                self.by_key[key] = [record]
            else:
                known.append(record)
        while self.size > self._limit:
            self._drop_oldest()

    def trim(self, position: Mapping[int, int]) -> None:
        """Drop what the projections hold by now."""
        for partition, queue in self._queues.items():
            checkpoint = position.get(partition, 0)
            if checkpoint <= queue.floor:
                continue
            self._cut(partition, queue, checkpoint)
            queue.floor = checkpoint

    def covers(self, partition: int, checkpoint: int) -> bool:
        """Tell whether everything from a checkpoint on to the log's end is here."""
        queue = self._queues.get(partition)
        return queue is not None and checkpoint >= queue.floor

    def beyond(self, key: bytes, partition: int, checkpoint: int) -> list[Record]:
        """Return the records of a key in a partition from a checkpoint on, in order."""
        return [
            record
            for record in self.by_key.get(key, ())
            if record[0] == partition and record[1] >= checkpoint
        ]

    def between(self, partition: int, begin: int, end: int) -> Iterator[tuple[bytes, Record]]:
        """Yield key and record of a partition's records that have a key, in order.

        Args:
            partition: Which.
            begin: The first offset.
            end: The offset behind the last one.
        """
        for offset, _timestamp, key, _size in self._queues[partition].records:
            if offset >= end:
                return
            if offset >= begin and key is not None:
                for record in self.by_key[key]:
                    if record[:2] == (partition, offset):
                        yield key, record
                        break

    def behind_since(self, held: Held) -> int | None:
        """Return since when the projections lag.

        Args:
            held: What they hold.

        Returns:
            The log's timestamp, in microseconds, of the first record that they do not hold; a
            little earlier where that record is not here any more. None where they are level.
        """
        since: int | None = None
        for partition, queue in self._queues.items():
            checkpoint = held.position.get(partition, 0)
            if checkpoint >= queue.end:
                continue
            found = self._since(queue, checkpoint, held.timestamps.get(partition, 0))
            if since is None or found < since:
                since = found
        return since

    @staticmethod
    def _since(queue: _Queue, checkpoint: int, applied: int) -> int:
        if checkpoint >= queue.floor:
            for offset, timestamp, _key, _size in queue.records:
                if offset >= checkpoint:
                    return timestamp
        return applied or queue.began

    def _drop_oldest(self) -> None:
        """Make room by an eighth of the records of the partition that takes the most."""
        partition, queue = max(self._queues.items(), key=lambda item: item[1].size)
        some = len(queue.records) // 8 + 1
        before = queue.records[some - 1][0] + 1
        self._cut(partition, queue, before)
        queue.floor = before
        self.dropped += some

    def _cut(self, partition: int, queue: _Queue, before: int) -> None:
        """Drop the records of a partition before an offset: of each key, all at once."""
        records = queue.records
        while records and records[0][0] < before:
            _offset, _timestamp, key, size = records.popleft()
            queue.size -= size
            self.size -= size
            if key is None:
                continue
            known = self.by_key.get(key)
            if known is None or (known[0][0] == partition and known[0][1] >= before):
                continue
            kept = [r for r in known if r[0] != partition or r[1] >= before]
            if kept:
                self.by_key[key] = kept
            else:
                del self.by_key[key]
