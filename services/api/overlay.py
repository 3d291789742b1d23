"""Jobs up to the end of the log: what the tail knows beyond the projections, folded onto them.

The fold is the same function that the projectors use, and it refuses the same records, so laying
the tail over a projection gives what the projection itself will say a moment later.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobtrail.decoding import accept
from jobtrail.errors import EventError
from jobtrail.fold import fold
from jobtrail.job import Job, Place
from jobtrail.partitions import partition_of
from projections.reading import Caller, Snapshot
from services.api.buffer import Buffer, Record


def fold_record(job: Job | None, key: bytes, record: Record, partitions: int) -> Job | None:
    """Fold one record onto what is known of its job.

    Args:
        job: What is known so far.
        key: The record's key.
        record: The next one of that key.
        partitions: How many partitions the log has.

    Returns:
        The job after it; the same one where the record is no valid event, as for a projector.
    """
    partition, offset, timestamp, value = record
    try:
        event = accept(key, value, partition, partitions)
    except EventError:
        return job
    return fold(job, event, Place(partition, offset, timestamp))[0]


def fold_records(
    job: Job | None, key: bytes, records: Iterable[Record], partitions: int
) -> Job | None:
    """Fold the records of one key, in order, onto what is known of its job."""
    for record in records:
        job = fold_record(job, key, record, partitions)
    return job


class Overlay:
    """Reads jobs by their ids, up to the end of the log.

    Args:
        buffer: What the tail knows beyond the projections.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def newer(
        self, snapshot: Snapshot, caller: Caller, ids: Iterable[str], partitions: int
    ) -> dict[str, Job | None]:
        """Return what the tail knows of jobs beyond a snapshot.

        Args:
            snapshot: Of the projections.
            caller: Who asks.
            ids: Which jobs; some of them may be new.
            partitions: How many partitions the log has.

        Returns:
            Such jobs as they are at the log's end; None for one that the caller does not see then.
        """
        by_key = self._buffer.by_key
        if not by_key:
            return {}
        newer = [job_id for job_id in ids if job_id.encode() in by_key]
        if not newer:
            return {}
        found: dict[str, Job | None] = {}
        base = snapshot.watched(newer)
        for job_id in newer:
            partition = partition_of(job_id, partitions)
            checkpoint = snapshot.held.position[partition]
            if not self._buffer.covers(partition, checkpoint):
                continue
            key = job_id.encode()
            records = self._buffer.beyond(key, partition, checkpoint)
            job = fold_records(base.get(job_id), key, records, partitions)
            found[job_id] = job if job is not None and caller.sees(job) else None
        return found

    def lay_over(
        self,
        snapshot: Snapshot,
        caller: Caller,
        ids: Iterable[str],
        found: dict[str, Job],
        partitions: int,
    ) -> None:
        """Bring jobs that were read from a snapshot up to the log's end, in place.

        Args:
            snapshot: Where they were read.
            caller: Who asks: jobs that he can't see any more are taken out.
            ids: Which jobs; those that are not among `found` may be new.
            found: The jobs by id.
            partitions: How many partitions the log has.
        """
        for job_id, job in self.newer(snapshot, caller, ids, partitions).items():
            if job is None:
                found.pop(job_id, None)
            else:
                found[job_id] = job
