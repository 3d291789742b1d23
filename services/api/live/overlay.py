"""Jobs up to the end of the log: what the tail knows beyond the projections, folded onto them.

The fold is the same function that the projectors use, and it refuses the same records, so laying
the tail over a projection gives what the projection itself will say a moment later.

A job may have very many events beyond the projections. Whether the caller sees it is looked at
before any of them is folded; a request folds a bounded number, and where there are more they are
folded once for all who ask, some at a time with others served in between.
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
from jobtrail.core.errors import EventError
from jobtrail.core.events import Created, Event, decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, event_key
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import State
from jobtrail.core.trail import Elsewhere
from projections.ports.read import Caller, Snapshot
from services.api.live.buffer import Buffer, Record
from services.api.problems.problems import behind
from services.api.store import Store

#: Records that are folded before others are served: about a millisecond.
_AT_ONCE: Final = 200
#: Of so many records and more the outcome is kept for the next who asks; and of how many jobs:
#: more than one call may ask for.
_WORTH: Final = 64
_KEPT: Final = 2_000
#: Bytes of what records say of whose jobs are, of all but the one that was looked at last: a
#: `job.created` may name 256 viewers, and none of it goes with the records. What an object of it
#: takes beside its text, and a text of its own.
_SAID_BYTES: Final = 16 << 20
_JOB_BYTES: Final = 500
_TEXT_BYTES: Final = 60
#: What a value has in it that is a `job.created`: that, or an escape that may stand for a part.
_SAYS: Final = (b"job.created", b"\\")
_offset: Final = itemgetter(1)


class Ahead(Exception):
    """Jobs have more events beyond the projections than a request folds.

    Args:
        ids: Of the jobs.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(f"{len(ids)} jobs")
        self.ids = ids


class _Folded(NamedTuple):
    """A job with everything before an offset."""

    job: Job | None
    next_offset: int


class _Said(NamedTuple):
    """What the records of a key say of whose the job is."""

    begin: int
    end: int
    #: The offsets of those that may be a `job.created`, and jobs with such an owner and viewers.
    offsets: list[int]
    jobs: list[Job]

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""
        viewers = chain.from_iterable(job.viewers for job in self.jobs)
        return _JOB_BYTES * (1 + len(self.jobs)) + sum(_TEXT_BYTES + len(each) for each in viewers)


def is_long(job: Job | None) -> bool:
    """Tell whether the projections have to be asked before an event is folded onto a job."""
    return job is not None and isinstance(job.earlier, Elsewhere)


def fold_each(
    job: Job | None,
    key: bytes,
    records: Iterable[Record],
    partitions: int,
    snapshot: Snapshot | None = None,
) -> Iterator[tuple[int, Job]]:
    """Fold records of one key, in order, onto what is known of its job.

    Args:
        job: What is known so far.
        key: The records' key.
        records: The next ones of that key, of one partition.
        partitions: How many partitions the log has.
        snapshot: Of the projections, where `is_long` says so.

    Yields:
        The offset of each that is a valid event, as for a projector, and the job after it.
    """
    events = list(_events(key, records, partitions))
    if events and job is not None and isinstance(job.earlier, Elsewhere):
        assert snapshot is not None
        job = _recalled(job, job.earlier, events, snapshot)
    for event, place in events:
        job = fold(job, event, place)[0]
        yield place.offset, job
    if events and job is not None and isinstance(job.earlier, Elsewhere):
        # What was asked is of no use any more.
        job.earlier = job.earlier.told({})


def fold_records(
    job: Job | None,
    key: bytes,
    records: Iterable[Record],
    partitions: int,
    snapshot: Snapshot | None = None,
) -> Job | None:
    """Return a job after records were folded onto it; as `fold_each`."""
    for _offset_of, after in fold_each(job, key, records, partitions, snapshot):
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
    job: Job, earlier: Elsewhere, events: Sequence[tuple[Event, Place]], snapshot: Snapshot
) -> Job:
    """Return a job that knows which of some events the projections have seen before.

    The projections may have gone on since the job was read, over these very events.
    """
    offsets: dict[bytes, int] = {}
    for event, place in events:
        offsets.setdefault(event_key(event.id), place.offset)
    trail = snapshot.trail(job.id)
    seen = {} if trail is None else trail.seen(offsets.keys())
    job = copy(job)
    job.earlier = earlier.told(
        {key: seen.get(key, offset) < offset for key, offset in offsets.items()},
        reaching=snapshot.watermark.position[events[0][1].partition],
    )
    return job


class Overlay:
    """Reads jobs by their ids, up to the end of the log.

    Args:
        buffer: What the tail knows beyond the projections.
        most: Events that one request folds, at most.
    """

    def __init__(self, buffer: Buffer, most: int) -> None:
        self._buffer = buffer
        self._most = most
        #: By key; those that were asked for longest ago first.
        self._folded: OrderedDict[bytes, _Folded] = OrderedDict()
        #: By partition and key, with what it takes.
        self._said: OrderedDict[tuple[int, bytes], tuple[_Said, int]] = OrderedDict()
        self._said_size = 0
        #: How often a request had to wait until more events were folded.
        self.waited = 0

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

        Raises:
            Ahead: They have more events there than a request folds: `catch_up` is to be awaited.
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
                if len(records) >= _WORTH:
                    self._keep(key, _Folded(job, records[-1][1] + 1))
            found[job_id] = job if job is not None and caller.sees(job) else None
        if too_many:
            raise Ahead(too_many)
        return found

    def _begin(self, key: bytes, base: Job | None, checkpoint: int) -> tuple[Job | None, int]:
        """Return a job as far as it is folded already, and from where on it is not."""
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
        if len(self._folded) > _KEPT:
            self._folded.popitem(last=False)

    def _may_see(self, caller: Caller, key: bytes, records: Sequence[Record]) -> bool:
        """Tell whether a caller may see a job by what records say of whose it is."""
        if caller.reads_all:
            return True
        if len(records) < _WORTH:
            return any(map(caller.sees, _described(records)[1]))
        return any(map(caller.sees, self.look_through(key, records).jobs))

    def look_through(self, key: bytes, records: Sequence[Record]) -> _Said:
        """Look what records say of whose their job is; each is looked at once.

        Args:
            key: Of all of them.
            records: All that there are of it in a partition from an offset on, one or more.
        """
        place = records[0][0], key
        begin, end = records[0][1], records[-1][1] + 1
        said, size = self._said.pop(place, (None, 0))
        self._said_size -= size
        if said is None or begin < said.begin or said.end < begin:
            said, size = _Said(begin, begin, [], []), 0
        offsets, jobs = _described(records[bisect_left(records, said.end, key=_offset) :])
        gone = bisect_left(said.offsets, begin)
        if gone or offsets or not size:
            said = _Said(begin, said.end, said.offsets[gone:] + offsets, said.jobs[gone:] + jobs)
            size = said.size
        said = said._replace(begin=begin, end=max(end, said.end))
        self._said[place] = said, size
        self._said_size += size
        while len(self._said) > _KEPT or (self._said_size > _SAID_BYTES and len(self._said) > 1):
            _place, (_old, size) = self._said.popitem(last=False)
            self._said_size -= size
        return said

    async def catch_up(
        self,
        store: Store,
        ids: Sequence[str],
        until: float,
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        """Fold what jobs have beyond the projections, some at a time.

        Args:
            store: The projections.
            ids: Of the jobs.
            until: When it is given up, by the loop's clock.
            pause: Lets others have their turn.

        Raises:
            Problem: 503 where it takes too long.
        """
        clock = asyncio.get_running_loop().time
        self.waited += 1
        for job_id in ids:
            whole = False
            while not whole:
                if clock() >= until:
                    raise behind("The projections are behind by too many events of these jobs.")
                whole = self._fold_some(store, job_id)
                await pause()

    def _fold_some(self, store: Store, job_id: str) -> bool:
        """Fold some records of a job; return whether that was all."""
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
        """Forget what was folded: the log is another one."""
        self._folded.clear()
        self._said.clear()
        self._said_size = 0

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
            caller: Who asks: jobs that they can't see any more are taken out.
            ids: Which jobs; those that are not among `found` may be new.
            found: The jobs by id.
            partitions: How many partitions the log has.

        Raises:
            Ahead: As `newer`.
        """
        for job_id, job in self.newer(snapshot, caller, ids, partitions).items():
            if job is None:
                found.pop(job_id, None)
            else:
                found[job_id] = job


def _described(records: Iterable[Record]) -> tuple[list[int], list[Job]]:
    """Return which records may say whose a job is: their offsets, and such jobs."""
    offsets, jobs = [], []
    for _partition, offset, _timestamp, value in records:
        if value is None or not any(sign in value for sign in _SAYS):
            continue
        with contextlib.suppress(EventError):
            event = decode(value)
            if isinstance(event, Created):
                job = Job(id=event.subject, state=State.CREATED, created_at=0, updated_at=0)
                job.owner, job.viewers = event.data.owner, tuple(event.data.viewers)
                offsets.append(offset)
                jobs.append(job)
    return offsets, jobs
