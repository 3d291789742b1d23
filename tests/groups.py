"""Records as a fetch brings them, and a log in memory that can be asked what Kafka's is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobtrail.log.batches import Limits
from jobtrail.log.consumers import Group
from jobtrail.log.questions import Read, last_record


class _Batch(list[Any]):
    """A batch that is taken apart already."""

    @property
    def timestamp(self) -> int:
        return int(max(record.timestamp for record in self))

    @property
    def base_offset(self) -> int:
        return int(self[0].offset)

    @property
    def next_offset(self) -> int:
        return int(self[-1].offset) + 1

    def all_records(self, _limits: Limits) -> tuple[list[Any], int]:
        return self, 0


def group_of(
    records: Sequence[Any],
    *,
    begin: int | None = None,
    next_offset: int | None = None,
    epoch: int = 0,
    breaks: int = 0,
) -> Group:
    """Return records as one group.

    Args:
        records: In order; offsets between them are accounted for.
        begin: The first offset that is accounted for; None: that of the first record.
        next_offset: The one behind the last; None: behind the last record.
        epoch: Of the leader.
        breaks: Of the connection.
    """
    first = records[0].offset if begin is None else begin
    behind = records[-1].offset + 1 if next_offset is None else next_offset
    return Group(first, behind, epoch, breaks, [_Batch(records)] if records else [])


class MemoryLog:
    """A log in memory: what `jobtrail.log.questions.Log` answers of one in Kafka.

    Args:
        records: Per partition, in order; may be changed under whoever asks.
        compacted: Whether offsets may be missing.
        trusted: Whether it is whatever somebody has read.
    """

    def __init__(
        self, records: Mapping[int, list[Any]], *, compacted: bool = False, trusted: bool = False
    ) -> None:
        self.records = records
        self.compacted = compacted
        self.trusted = trusted
        #: Per partition where it begins, if not with its first record.
        self.began: dict[int, int] = {}

    @property
    def partitions(self) -> int:
        """How many partitions it has."""
        return len(self.records)

    async def refresh(self) -> None:
        """Know everything."""

    async def begins(self) -> dict[int, int]:
        """Return the first offset of each partition."""
        firsts = {p: some[0].offset if some else 0 for p, some in self.records.items()}
        return firsts | self.began

    async def ends(self) -> dict[int, int]:
        """Return the offset behind the last record of each partition."""
        return {p: some[-1].offset + 1 if some else 0 for p, some in self.records.items()}

    async def find(self, offsets: Mapping[int, int]) -> dict[int, Any]:
        """Return per partition the record at an offset; None where none lies there."""
        found: dict[int, Any] = dict.fromkeys(offsets)
        for partition, offset in offsets.items():
            for record in self.records[partition]:
                if record.offset == offset:
                    found[partition] = record
        return found

    async def close(self) -> None:
        """Hold no connection."""

    async def is_compacted(self) -> bool:
        """Tell whether offsets may be missing."""
        return self.compacted

    async def accounted_from(self, partition: int, offset: int) -> int:
        """Return the first offset from there on that there is."""
        if self.trusted:
            return offset
        return int(min(r.offset for r in self.records[partition] if r.offset >= offset))

    async def differences(self, read: Mapping[int, Read]) -> dict[int, str]:
        """Tell of which partitions it is another log."""
        found: dict[int, str] = {}
        if self.trusted:
            return found
        begins, ends = await self.begins(), await self.ends()
        for partition, (next_offset, last) in read.items():
            if next_offset > ends[partition]:
                found[partition] = f"it ends at {ends[partition]}, it was read up to {next_offset}"
            elif last is not None and last.offset >= begins[partition]:
                there = [r for r in self.records[partition] if r.offset == last.offset]
                if not there:
                    if not self.compacted:
                        found[partition] = f"at offset {last.offset} it has no record any more"
                elif last_record(there[0], last.epoch) != last:
                    found[partition] = f"at offset {last.offset} it has another record"
        return found
