"""Reads jobs up to the end of the log: folds the tail's records onto the projections.

The fold is the function that the projectors use, and it refuses the same records. So the result is
what the projections themselves will hold a moment later.

A job may have very many events beyond the projections. Whether the caller may see the job is
decided before any of them is folded. A request folds a bounded number; where there are more, they
are folded once for all requests, some at a time, with other requests served in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple

from jobtrail.core.decoding import accept
from jobtrail.core.earlier import StoredEntries
from jobtrail.core.errors import EventError
from jobtrail.core.events import Created, Event, decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, event_key
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import State
from projections.ports.read import Caller, Snapshot
from services.api.live.buffer import Buffer, Record
from services.api.problems.problems import behind
from services.api.store import Store

#: Records that are folded before other requests are served: about a millisecond.
_AT_ONCE: Final = 200
#: The number of records from which on a folded job is cached, and the number of jobs in that cache:
#: more than one call may ask for.
_CACHED_FROM: Final = 64
_MOST_CACHED: Final = 2_000
#: Bytes of the cached audiences, without the one that was used last: a `job.created` may name 256
#: viewers, and they stay in memory after the record is dropped. Then the bytes of a job object
#: beside its texts, and of a text object.
_AUDIENCE_BYTES: Final = 16 << 20
_JOB_BYTES: Final = 500
_TEXT_BYTES: Final = 60
#: A `job.created` contains the first text, or an escape that may stand for a part of it.
_CREATED_MARKS: Final = (b"job.created", b"\\")
_offset: Final = itemgetter(1)


class TooManyNewEvents(Exception):
    """Jobs have more events beyond the projections than one request folds.

    Args:
        ids: Of the jobs.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(f"{len(ids)} jobs")
        self.ids = ids


class _Folded(NamedTuple):
    """A job with all events before an offset folded."""

    job: Job | None
    next_offset: int


class _Audiences(NamedTuple):
    """The audiences that records of one key give their job."""

    begin: int
    end: int
    #: The offsets of the `job.created` records, and for each a job with its owner and viewers.
    offsets: list[int]
    jobs: list[Job]

    @property
    def size(self) -> int:
        """Bytes of memory."""
        viewers = chain.from_iterable(job.viewers for job in self.jobs)
        return _JOB_BYTES * (1 + len(self.jobs)) + sum(_TEXT_BYTES + len(each) for each in viewers)


def is_long(job: Job | None) -> bool:
    """Tell whether a job's trail is in the projections, which are needed to fold onto it."""
    return job is not None and isinstance(job.earlier, StoredEntries)


def fold_each(
    job: Job | None,
    key: bytes,
    records: Iterable[Record],
    partitions: int,
    snapshot: Snapshot | None = None,
) -> Iterator[tuple[int, Job]]:
    """Fold records of one key, in order, onto its job.

    Args:
        job: Before the records; None if there is none.
        key: Of the records.
        records: The next ones of that key, of one partition.
        partitions: How many partitions the log has.
        snapshot: Of the projections, if `is_long` is true of the job.

    Yields:
        The offset of each record that a projector takes as a valid event, and the job after it.
    """
    events = list(_events(key, records, partitions))
    if events and job is not None and isinstance(job.earlier, StoredEntries):
        assert snapshot is not None
        job = _recalled(job, job.earlier, events, snapshot)
    for event, place in events:
        job = fold(job, event, place)[0]
        yield place.offset, job
    if events and job is not None and isinstance(job.earlier, StoredEntries):
        # The answers of the projections are needed no longer.
        job.earlier = job.earlier.with_answers({})


def fold_records(
    job: Job | None,
    key: bytes,
    records: Iterable[Record],
    partitions: int,
    snapshot: Snapshot | None = None,
) -> Job | None:
    """Return a job after records were folded onto it; see `fold_each`."""
    for _at, after in fold_each(job, key, records, partitions, snapshot):
        job = after
    return job


def _events(
    key: bytes, records: Iterable[Record], partitions: int
) -> Iterator[tuple[Event, Place]]:
    for partition, offset, timestamp, value in records:
        try:
            event = accept(key, value, partition, partitions)
        except EventError:
            continue
        yield event, Place(partition, offset, timestamp)


def _recalled(
    job: Job, earlier: StoredEntries, events: Sequence[tuple[Event, Place]], snapshot: Snapshot
) -> Job:
    """Return a copy of a job that knows which of some events are in its stored trail.

    The projections may have applied these events themselves since the job was read.
    """
    offsets: dict[bytes, int] = {}
    for event, place in events:
        offsets.setdefault(event_key(event.id), place.offset)
    trail = snapshot.trail(job.id)
    seen = {} if trail is None else trail.seen(offsets.keys())
    job = copy(job)
    job.earlier = earlier.with_answers(
        {key: seen.get(key, offset) < offset for key, offset in offsets.items()},
        stored_to=snapshot.watermark.position[events[0][1].partition],
    )
    return job


class Overlay:
    """Reads jobs by id, up to the end of the log.

    Args:
        buffer: The tail's records beyond the projections.
        most: The most events that one request folds.
    """

    def __init__(self, buffer: Buffer, most: int) -> None:
        self._buffer = buffer
        self._most = most
        #: By key; least recently used first.
        self._folded: OrderedDict[bytes, _Folded] = OrderedDict()
        #: By partition and key, with the bytes; least recently used first.
        self._audiences: OrderedDict[tuple[int, bytes], tuple[_Audiences, int]] = OrderedDict()
        self._audiences_size = 0
        #: How many requests had to wait until more events were folded.
        self.waited = 0

    def newer(
        self, snapshot: Snapshot, caller: Caller, ids: Iterable[str], partitions: int
    ) -> dict[str, Job | None]:
        """Return the jobs of which the tail has records beyond a snapshot.

        Args:
            snapshot: Of the projections.
            caller: Who asks.
            ids: Of the jobs; some may not be in the snapshot.
            partitions: How many partitions the log has.

        Returns:
            These jobs at the log's end; None for one that the caller may not see there.

        Raises:
            TooManyNewEvents: They have more such events than one request folds. Await `catch_up`,
                then call this again.
        """
        by_key = self._buffer.by_key
        if not by_key:
            return {}
        newer = [job_id for job_id in ids if job_id.encode() in by_key]
        if not newer:
            return {}
        found: dict[str, Job | None] = {}
        base = snapshot.watched(newer)
        left, too_many = self._most, []
        for job_id in newer:
            partition = partition_of(job_id, partitions)
            checkpoint = snapshot.watermark.position[partition]
            if not self._buffer.covers(partition, checkpoint):
                continue
            key = job_id.encode()
            job, begin = self._begin(key, base.get(job_id), checkpoint)
            records = self._buffer.beyond(key, partition, begin)
            if not (job is not None and caller.sees(job)) and not (
                records and self._may_see(caller, key, records)
            ):
                found[job_id] = None
                continue
            left -= len(records)
            if left < 0:
                too_many.append(job_id)
                continue
            if records:
                job = fold_records(job, key, records, partitions, snapshot)
                if len(records) >= _CACHED_FROM:
                    self._keep(key, _Folded(job, records[-1][1] + 1))
            found[job_id] = job if job is not None and caller.sees(job) else None
        if too_many:
            raise TooManyNewEvents(too_many)
        return found

    def _begin(self, key: bytes, base: Job | None, checkpoint: int) -> tuple[Job | None, int]:
        """Return a job as far as it is folded already, and the offset from which to go on."""
        folded = self._folded.get(key) if self._folded else None
        if folded is None:
            return base, checkpoint
        if folded.next_offset <= checkpoint:
            del self._folded[key]
            return base, checkpoint
        self._folded.move_to_end(key)
        return folded

    def _keep(self, key: bytes, folded: _Folded) -> None:
        self._folded[key] = folded
        self._folded.move_to_end(key)
        if len(self._folded) > _MOST_CACHED:
            self._folded.popitem(last=False)

    def _may_see(self, caller: Caller, key: bytes, records: Sequence[Record]) -> bool:
        """Tell whether records give a job an audience that includes the caller."""
        if caller.reads_all:
            return True
        if len(records) < _CACHED_FROM:
            return any(map(caller.sees, _created_jobs(records)[1]))
        return any(map(caller.sees, self.index_audiences(key, records).jobs))

    def index_audiences(self, key: bytes, records: Sequence[Record]) -> _Audiences:
        """Return the audiences that records give their job; each record is read once.

        Args:
            key: Of the records.
            records: All of that key in a partition from an offset on, at least one.
        """
        place = records[0][0], key
        begin, end = records[0][1], records[-1][1] + 1
        audiences, size = self._audiences.pop(place, (None, 0))
        self._audiences_size -= size
        if audiences is None or begin < audiences.begin or audiences.end < begin:
            audiences, size = _Audiences(begin, begin, [], []), 0
        offsets, jobs = _created_jobs(records[bisect_left(records, audiences.end, key=_offset) :])
        gone = bisect_left(audiences.offsets, begin)
        if gone or offsets or not size:
            audiences = _Audiences(
                begin,
                audiences.end,
                audiences.offsets[gone:] + offsets,
                audiences.jobs[gone:] + jobs,
            )
            size = audiences.size
        audiences = audiences._replace(begin=begin, end=max(end, audiences.end))
        self._audiences[place] = audiences, size
        self._audiences_size += size
        while len(self._audiences) > _MOST_CACHED or (
            self._audiences_size > _AUDIENCE_BYTES and len(self._audiences) > 1
        ):
            _place, (_old, size) = self._audiences.popitem(last=False)
            self._audiences_size -= size
        return audiences

    async def catch_up(
        self,
        store: Store,
        ids: Sequence[str],
        until: float,
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        """Fold the records of jobs beyond the projections, some at a time.

        Args:
            store: The projections.
            ids: Of the jobs.
            until: When to give up, by the loop's clock.
            pause: Lets other callers have their turn.

        Raises:
            Problem: 503 where it takes too long.
        """
        clock = asyncio.get_running_loop().time
        self.waited += 1
        for job_id in ids:
            complete = False
            while not complete:
                if clock() >= until:
                    raise behind("The projections lag by too many events of these jobs.")
                complete = self._fold_some(store, job_id)
                await pause()

    def _fold_some(self, store: Store, job_id: str) -> bool:
        """Fold some records of a job; return whether none are left."""
        key = job_id.encode()
        with store.snapshot(allow_recovering=True) as snapshot:
            partitions = store.partitions
            partition = partition_of(job_id, partitions)
            checkpoint = snapshot.watermark.position[partition]
            if not self._buffer.covers(partition, checkpoint):
                return True
            job, begin = self._begin(key, None, checkpoint)
            if begin == checkpoint:
                job = snapshot.watched([job_id]).get(job_id)
            records = self._buffer.beyond(key, partition, begin, _AT_ONCE)
            if records:
                job = fold_records(job, key, records, partitions, snapshot)
                self._keep(key, _Folded(job, records[-1][1] + 1))
        return len(records) < _AT_ONCE

    def forget(self) -> None:
        """Drop the caches: the log was replaced."""
        self._folded.clear()
        self._audiences.clear()
        self._audiences_size = 0

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
            snapshot: From which they were read.
            caller: Who asks; jobs that they may no longer see are removed.
            ids: Of the jobs; those that are not among `found` may be new.
            found: The jobs by id.
            partitions: How many partitions the log has.

        Raises:
            TooManyNewEvents: As `newer`.
        """
        for job_id, job in self.newer(snapshot, caller, ids, partitions).items():
            if job is None:
                found.pop(job_id, None)
            else:
                found[job_id] = job


def _created_jobs(records: Iterable[Record]) -> tuple[list[int], list[Job]]:
    """Return the offsets of `job.created` records, and for each a job with its audience."""
    offsets, jobs = [], []
    for _partition, offset, _timestamp, value in records:
        if value is None or not any(sign in value for sign in _CREATED_MARKS):
            continue
        with contextlib.suppress(EventError):
            event = decode(value)
            if isinstance(event, Created):
                job = Job(id=event.subject, state=State.CREATED, created_at=0, updated_at=0)
                job.owner, job.viewers = event.data.owner, tuple(event.data.viewers)
                offsets.append(offset)
                jobs.append(job)
    return offsets, jobs
