"""Jobs up to the end of the log: what the tail knows beyond the projections, folded onto them.

The fold is the same function that the projectors use, and it refuses the same records, so laying
the tail over a projection gives what the projection itself will say a moment later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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

    def jobs(
        self, snapshot: Snapshot, caller: Caller, ids: Sequence[str], partitions: int
    ) -> dict[str, Job]:
        """Return those of these jobs that the caller sees, as they are at the log's end.

        Args:
            snapshot: Of the projections.
            caller: Who asks.
            ids: Which jobs.
            partitions: How many partitions the log has.
        """
        found = {job.id: job for job in snapshot.jobs(caller, list(ids))}
        self.lay_over(snapshot, caller, ids, found, partitions)
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
        by_key = self._buffer.by_key
        if not by_key:
            return
        newer = [job_id for job_id in ids if job_id.encode() in by_key]
        if not newer:
            return
        base = snapshot.watched(newer)
        for job_id in newer:
            partition = partition_of(job_id, partitions)
            checkpoint = snapshot.held.position[partition]
            if not self._buffer.covers(partition, checkpoint):
                continue
            key = job_id.encode()
            records = self._buffer.beyond(key, partition, checkpoint)
            job = fold_records(base.get(job_id), key, records, partitions)
            if job is not None and caller.sees(job):
                found[job_id] = job
            else:
                found.pop(job_id, None)
