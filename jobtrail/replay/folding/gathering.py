"""Events brought together by job: slices of the log that each hold the whole of their jobs.

A job's events lie in one partition, so partitions are what is gathered first, without a copy of
any event. What is too large for memory goes to files, and a partition that is too large for a slice
is split by a hash of the job.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from jobtrail.replay.schemas import EVENTS
from jobtrail.replay.tables import Spool, Table, package

#: What a fold does not look at.
_UNUSED: Final = ("logged_at", "details")
GATHERED: Final = pa.schema([field for field in EVENTS if field.name not in _UNUSED])
#: How many files the partitions share, and how many a group of partitions is split into at most.
_GROUPS: Final = 64
_PARTS: Final = 256
#: Of the memory that is given: what the events take that wait, and one slice at a time. A slice is
#: there as it was gathered, as arrays of numbers, and as the rows that are made of it.
_WAITING: Final = 4
_SLICE: Final = 6


class Gathering:
    """Takes the events of a log as they come and gives them back by slices.

    Args:
        memory_mib: How much memory may be used, in MiB; the events of one job have to fit.
        folder: Where files go; None is the system's folder for such.
    """

    def __init__(self, memory_mib: int, folder: Path | None = None) -> None:
        self.memory_bytes = memory_mib * 2**20
        self.folder = folder
        self._waiting_bytes = self.memory_bytes // _WAITING
        self._slice_bytes = self.memory_bytes // _SLICE
        self._groups: dict[int, Spool] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next events of `schemas.EVENTS`, or of `GATHERED`."""
        if batch.num_rows == 0:
            return
        gathered = batch.select(GATHERED.names)
        if gathered.schema != GATHERED:
            # As a database gives them: the same instants, said in another time zone.
            gathered = gathered.cast(GATHERED)
        partitions = batch.column("partition").to_numpy()
        if partitions[0] == partitions[-1] and (partitions == partitions[0]).all():
            self._group(int(partitions[0])).add(gathered)
        else:
            for partition in np.unique(partitions):
                self._group(int(partition)).add(gathered.filter(pa.array(partitions == partition)))
        if sum(group.held for group in self._groups.values()) > self._waiting_bytes:
            for group in self._groups.values():
                group.flush()

    def _group(self, partition: int) -> Spool:
        number = partition % _GROUPS
        if number not in self._groups:
            self._groups[number] = self._spool(self._waiting_bytes)
        return self._groups[number]

    def _spool(self, most: int) -> Spool:
        return Spool(GATHERED, most, self.folder)

    def slices(self) -> Iterator[pa.RecordBatch]:
        """Yield the events by slices, each in log order, and let go of them on the way."""
        for group in self._groups.values():
            if group.is_in_file:
                group.flush()
        together: list[pa.RecordBatch] = []
        size = 0
        for _, group in sorted(self._groups.items()):
            if size + group.size > self._slice_bytes and together:
                yield pa.concat_batches(together)
                together, size = [], 0
            table = group.table()
            if group.size > self._slice_bytes:
                # A quarter more of them, since no hash makes them equal.
                parts = group.size * 5 // (self._slice_bytes * 4) + 1
                for part in self._split(table, min(parts, _PARTS)):
                    yield _whole(part)
            else:
                together += table.batches()
                size += group.size
            table.close()
        self._groups = {}
        if together:
            yield pa.concat_batches(together)

    def _split(self, table: Table, parts: int) -> Iterator[Table]:
        """Split the events of some partitions by job."""
        spools = [self._spool(self._waiting_bytes // parts) for _ in range(parts)]
        for batch in table.batches():
            part_of = hashes(batch.column("job_id")) % np.uint64(parts)
            order = np.argsort(part_of, kind="stable")
            sorted_batch = batch.take(pa.array(order))
            bounds = np.searchsorted(part_of[order], np.arange(parts + 1, dtype=np.uint64))
            for part, spool in enumerate(spools):
                begin, end = int(bounds[part]), int(bounds[part + 1])
                spool.add(sorted_batch.slice(begin, end - begin))
        for spool in spools:
            if spool.rows:
                yield spool.table()


def hashes(texts: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return a number for each text: the same for the same, seldom the same for others."""
    found: np.ndarray[tuple[int], np.dtype[np.uint64]] = (
        package("polars").from_arrow(texts).hash().to_numpy()
    )
    return found


def _whole(table: Table) -> pa.RecordBatch:
    batches = list(table.batches())
    table.close()
    return pa.concat_batches(batches)
