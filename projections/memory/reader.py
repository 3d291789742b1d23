"""The read side of the store in memory: every question is answered by looking at every job."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, NamedTuple

from jobtrail.core.asof import Cut, prefix
from jobtrail.core.job import Job
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import STATES
from jobtrail.core.trail import (
    CHUNK_BYTES,
    ENTRY_BYTES,
    STATE_CODES,
    VERDICTS,
    DescriptionSpan,
    Prefix,
    description_span,
    raw_entries,
    start_of,
)
from projections.memory.store import MemoryStore, Partition, StoredJob
from projections.ports.meter import Meter, TooLong
from projections.ports.read import (
    Audience,
    Caller,
    Cursor,
    Filters,
    Line,
    ListingPart,
    PastJob,
    PastPage,
    Snapshot,
    Status,
    Trail,
    Watermark,
    line_of,
)

#: Jobs that one look into the past looks at, and events that it has read from the log, at most.
_MOST_LOOKED_AT: Final = 10_000
_MOST_EVENTS: Final = 2_000
#: Steps of a meter that a look at a job counts for.
_STEPS: Final = 20
#: About what a job takes beside its error and output, in bytes.
_JOB_BYTES: Final = 500


class MemoryReader:
    """An API process's view of a store; see `projections.ports.read.ProjectionReader`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.meter = Meter(2**62, rows=2**62, audiences=2**62)

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has."""
        return len(self._store.partitions)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a view of the store as it is now."""
        return nullcontext(MemorySnapshot(self._store.partitions, self.meter))

    def close(self) -> None:
        """Do nothing: the store lives on."""


class _Then(NamedTuple):
    """A job at a cut."""

    stored: StoredJob
    #: What it was, by its description.
    described: Job
    prefix: Prefix


class MemorySnapshot:
    """One consistent view; see `projections.ports.read.Snapshot`.

    Args:
        partitions: What is stored.
        meter: Ends questions that look at too much.
    """

    def __init__(self, partitions: Mapping[int, Partition], meter: Meter) -> None:
        self._partitions = partitions
        self.meter = meter
        parts = partitions.items()
        lasts = {number: part.checkpoint.last for number, part in parts}
        self.watermark = Watermark(
            position={number: part.checkpoint.next_offset for number, part in parts},
            timestamps={number: last.timestamp if last else 0 for number, last in lasts.items()},
            recovering=frozenset(n for n, part in parts if part.checkpoint.is_recovering),
            last={number: last for number, last in lasts.items() if last},
            beats={number: part.beat_at for number, part in parts},
            proved={number: part.beat.proved for number, part in parts},
            stopped={number: part.beat.stopped for number, part in parts if part.beat.stopped},
            lineage="-".join(str(part.generation) for _number, part in parts),
        )

    def _find(self, job_id: str) -> StoredJob | None:
        return self._partitions[partition_of(job_id, len(self._partitions))].jobs.get(job_id)

    def _jobs(self) -> Iterator[tuple[int, StoredJob]]:
        """Yield all jobs with their partitions.

        Raises:
            TooLong: The meter ends it.
        """
        looks = max(1, self.meter.every // _STEPS)
        everything = (
            (number, stored)
            for number, part in self._partitions.items()
            for stored in part.jobs.values()
        )
        for count, one in enumerate(everything, 1):
            if count % looks == 0 and self.meter.active and self.meter.tick():
                raise TooLong
            yield one

    def _visible(self, caller: Caller, after: Cursor | None = None) -> list[Job]:
        """Return the jobs that a caller sees, newest first.

        Raises:
            TooLong: There are too many, or they are of too many audiences.
        """
        found = [stored.job for _number, stored in self._jobs() if caller.sees(stored.job)]
        if self.meter.active and not caller.reads_all:
            audiences = {(job.owner, job.viewers) for job in found}
            if len(audiences) > self.meter.audiences:
                raise TooLong
        if after is not None:
            found = [job for job in found if _order(_place(job)) > _order(after)]
        return sorted(found, key=lambda job: _order(_place(job)))

    def _bounded(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Yield jobs whose outputs have no more bytes than the meter allows.

        Raises:
            TooLong: They have more.
        """
        left = self.meter.rows
        for job in jobs:
            left -= len(job.output or b"")
            if left < 0 and self.meter.active:
                raise TooLong
            yield job

    def states(self, caller: Caller, ids: Sequence[str]) -> list[Status]:
        """Return the states of those of these jobs that the caller sees, of each once."""
        jobs = [stored.job for job_id in dict.fromkeys(ids) if (stored := self._find(job_id))]
        visible = self._bounded(job for job in jobs if caller.sees(job))
        return [(job.id, STATE_CODES[job.state], job.output) for job in visible]

    def watched(self, ids: list[str]) -> dict[str, Job]:
        """Return these jobs with the last entries of their trails, for any caller."""
        found = [stored for job_id in ids if (stored := self._find(job_id))]
        return {stored.job.id: stored.with_last_entries for stored in found}

    def audiences(self, places: Iterable[tuple[str, int]]) -> dict[str, Audience]:
        """Return the audiences of jobs, for no caller."""
        found = [self._partitions[number].jobs.get(job_id) for job_id, number in places]
        return {one.job.id: (one.job.owner, one.job.viewers) for one in found if one}

    def trail(self, job_id: str) -> Trail | None:
        """Return the way to a job's trail; None where there is no such job."""
        stored = self._find(job_id)
        return MemoryTrail(stored.trail) if stored else None

    def search(
        self,
        caller: Caller,
        filters: Filters,
        *,
        size: int,
        after: Cursor | None = None,
        offset: int = 0,
    ) -> list[Line]:
        """Return a page of jobs, newest first."""
        found = [job for job in self._visible(caller, after) if filters.match(job)]
        return [line_of(job) for job in self._bounded(found[offset : offset + size])]

    def search_some(
        self,
        caller: Caller,
        filters: Filters,
        *,
        size: int,
        after: Cursor | None = None,
        skip: int = 0,
        most: int,
        most_bytes: int,
    ) -> ListingPart:
        """Return the jobs that match among the next ones of a listing."""
        lines: list[Line] = []
        taken, reached = 0, after
        for looked, job in enumerate(self._visible(caller, after)):
            if looked >= most or len(lines) >= size or (lines and taken >= most_bytes):
                return ListingPart(lines, reached, skip)
            reached = _place(job)
            if filters.match(job) and skip:
                skip -= 1
            elif filters.match(job):
                lines.append(line_of(job))
                taken += _JOB_BYTES + len(job.output or b"") + len(job.error or b"")
        return ListingPart(lines, None, skip)

    def summary(self, caller: Caller, filters: Filters) -> dict[str | None, list[int]]:
        """Count jobs by type and state."""
        asked = _counted(filters)
        jobs = [job for job in self._visible(caller) if asked.match(job)]
        return _count((job.job_type, STATE_CODES[job.state]) for job in jobs)

    def search_at(
        self,
        caller: Caller,
        filters: Filters,
        cut: Cut,
        *,
        size: int,
        after: Cursor | None = None,
        skip: int = 0,
    ) -> PastPage:
        """Look for jobs that matched at a cut, newest first, as all of them were then."""
        described = filters._replace(states=(), tags=(), updated_since=None)
        listed = [then for then in self._then(caller, cut) if described.match(then.described)]
        listed.sort(key=lambda then: _order(_place(then.described)))
        found: list[PastJob] = []
        skipped = events = looked = 0
        reached = after
        for then in listed:
            place = _place(then.described)
            if after is not None and _order(place) <= _order(after):
                continue
            if looked == _MOST_LOOKED_AT:
                return PastPage(found, skipped, reached)
            looked += 1
            if _may_match(then, filters):
                if skipped < skip:
                    skipped += 1
                else:
                    events += 0 if then.prefix.complete else len(then.prefix.events)
                    if len(found) == size or (found and events > _MOST_EVENTS):
                        return PastPage(found, skipped, reached)
                    found.append(self._past_job(then, place))
            reached = place
        return PastPage(found, skipped, None)

    def _past_job(self, then: _Then, place: Cursor) -> PastJob:
        partition = partition_of(place.id, len(self._partitions))
        if then.prefix.complete:
            return PastJob(place, then.stored.job, partition, ())
        return PastJob(place, None, partition, then.prefix.events)

    def _then(self, caller: Caller, cut: Cut) -> Iterator[_Then]:
        """Yield the jobs that there were at a cut and that the caller saw."""
        for number, stored in self._jobs():
            before = prefix([stored.trail], number, cut)
            if before is None:
                continue
            last = before.events[-1][0]
            # The first event after the cut that made it something else knows what it was.
            described = next((job for at, job in stored.former if at > last), stored.job)
            if caller.sees(described):
                yield _Then(stored, described, before)

    def summary_at(self, caller: Caller, filters: Filters, cut: Cut) -> dict[str | None, list[int]]:
        """Count jobs by type and state as they were at a cut."""
        asked = _counted(filters)
        return _count(
            (then.described.job_type, STATE_CODES[then.prefix.state])
            for then in self._then(caller, cut)
            if asked.match(then.described)
        )

    def verdicts(self) -> dict[str, int]:
        """Count the records that are applied, by the fold's verdict; `dead` is no valid event."""
        tallies = [part.tally for part in self._partitions.values()]
        sums = map(sum, zip(*tallies, strict=True))
        return dict(zip((*VERDICTS, "dead"), sums, strict=True))


class MemoryTrail:
    """A job's trail; see `projections.ports.read.Trail`."""

    def __init__(self, trail: bytes) -> None:
        self._trail = trail

    def page(self, offset: int, size: int) -> bytes:
        """Return consecutive entries, packed, among which those of a page are."""
        begin = start_of(self._trail, offset)
        return self._trail[begin : begin + size * ENTRY_BYTES]

    def chunks(self) -> Iterator[bytes]:
        """Yield all of it."""
        yield self._trail

    def seen(self, keys: Collection[bytes]) -> Mapping[bytes, int]:
        """Return of those of these keys that are before its last entries the first offset."""
        earlier = self._trail[: len(self._trail) // CHUNK_BYTES * CHUNK_BYTES]
        found: dict[bytes, int] = {}
        for key, offset, *_ in raw_entries(earlier):
            if key in keys:
                found.setdefault(key, offset)
        return found

    def said(self) -> DescriptionSpan:
        """Return the first and the last offset of an event that may describe the job."""
        return description_span(self._trail)


def _place(job: Job) -> Cursor:
    return Cursor(job.created_at, job.id)


def _order(place: Cursor) -> tuple[int, str]:
    return -place.created_at, place.id


def _counted(filters: Filters) -> Filters:
    """Return those filters that a summary knows."""
    return Filters(
        job_types=filters.job_types,
        created_from=filters.created_from,
        created_to=filters.created_to,
    )


def _may_match(then: _Then, filters: Filters) -> bool:
    """Tell whether a job matched at a cut; its tags only where they are what they were."""
    state, updated_at, _events, complete = then.prefix
    return (
        (not filters.states or state in filters.states)
        and (filters.updated_since is None or updated_at >= filters.updated_since)
        and (not complete or Filters(tags=filters.tags).match(then.stored.job))
    )


def _count(
    jobs: Iterable[tuple[str | None, int]],
) -> dict[str | None, list[int]]:
    """Count types and codes of states, by the types' names; jobs without one come last."""
    counts: dict[str | None, list[int]] = {}
    for job_type, state in jobs:
        counts.setdefault(job_type, [0] * len(STATES))[state] += 1
    return {
        name: counts[name] for name in sorted(counts, key=lambda name: (name is None, name or ""))
    }
