"""Answers about the past: jobs as they were, folded again from the log where they changed since.

Counts and listings of the past may have to read much, so they run as long reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Final, NamedTuple

from jobtrail.core.asof import Cut, fold_again, prefix
from jobtrail.core.job import Job, kept_trail
from jobtrail.core.trail import (
    DescriptionSpan,
    Event,
    Prefix,
    description_span,
    merged_spans,
    start_of,
)
from projections.ports.meter import TooLong
from projections.ports.read import Caller, Cursor, Filters, PastJob, Snapshot, Watermark
from services.api.live.bodies import Bodies
from services.api.problems.problems import past_gone
from services.api.reads.reads import Reads

#: The most jobs that are skipped on one page where only folded jobs tell which ones match.
_MOST: Final = 1_000
#: Events of several jobs that are in memory at a time; also those between two checks of the time.
_EVENTS: Final = 200
#: The number of events from which on a job is folded in the thread of long reads.
_MANY: Final = 500


class PastPage(NamedTuple):
    """A page of jobs as they were."""

    jobs: list[Job]
    #: The job after which the next page begins; None if there is none.
    reached: Cursor | None
    #: How many matches the next page has to skip.
    skip: int
    watermark: Watermark


class Past:
    """Answers questions about the past.

    Args:
        reads: Reads the projections.
        bodies: Reads the log.
    """

    def __init__(self, reads: Reads, bodies: Bodies) -> None:
        self._reads = reads
        self._bodies = bodies

    async def summary(
        self, caller: Caller, filters: Filters, cut: Cut
    ) -> tuple[dict[str | None, list[int]], Watermark]:
        """Count jobs by type and state as they were.

        Raises:
            Problem: 503 where the projections can't be read.
        """
        return await self._reads.read(
            caller.user, lambda snapshot: snapshot.summary_at(caller, filters, cut)
        )

    async def search(
        self,
        caller: Caller,
        filters: Filters,
        cut: Cut,
        *,
        size: int,
        after: Cursor | None,
        skip: int,
    ) -> PastPage:
        """Return a page of jobs that matched, newest first; it may have fewer jobs than asked for.

        Args:
            caller: Who asks.
            filters: Which jobs match.
            cut: The instant or position of the past.
            size: The most jobs.
            after: The job after which the page begins; None for the first page.
            skip: How many matches to skip first.

        Raises:
            Problem: 410 where the log no longer has events that are needed; 503 where it does not
                answer, or the projections can't be read.
        """
        # A filter by tags can only be applied to folded jobs, so skipping has to wait for that.
        later = skip if filters.tags else 0
        found, watermark = await self._reads.read(
            caller.user,
            lambda snapshot: snapshot.search_at(
                caller,
                filters,
                cut,
                size=size + min(later, _MOST),
                after=after,
                skip=skip - later,
            ),
        )
        folded, complete = await self._fold_some(found.found, caller.user)
        # If they are too large for one page, the next one begins after the last folded job.
        reached = found.reached if complete else found.found[len(folded) - 1].place
        jobs = [job for job in folded if filters.match(job)]
        passed = min(later, len(jobs))
        jobs = jobs[passed:]
        if len(jobs) > size:
            jobs = jobs[:size]
            reached = Cursor(jobs[-1].created_at, jobs[-1].id)
        return PastPage(jobs, reached, skip - found.skipped - passed, watermark)

    async def _fold_some(self, found: Sequence[PastJob], user: str) -> tuple[list[Job], bool]:
        """Fold jobs until a page is full; also return whether all of them were folded."""
        jobs: list[Job] = []
        left = self._reads.limits.page_bytes
        for some in _groups(found):
            if left <= 0:
                return jobs, False
            folded = await self.fold(some, user)
            left -= sum(len(job.output or b"") + len(job.error or b"") for job in folded)
            jobs += folded
        return jobs, True

    async def fold(self, found: Sequence[PastJob], user: str) -> list[Job]:
        """Return jobs as they were. The events of all of them are read together.

        Args:
            found: The jobs.
            user: Who asks.

        Raises:
            Problem: As `search`.
        """
        wanted: dict[int, dict[int, bytes]] = {}
        for past_job in found:
            key = past_job.place.id.encode()
            wanted.setdefault(past_job.partition, {}).update(
                (at, key) for at, _time in past_job.events
            )
        bodies = {
            partition: await self._bodies.read(partition, dict(sorted(keys.items())), user)
            for partition, keys in wanted.items()
        }
        jobs = []
        for past_job in found:
            job = past_job.job
            if job is None:
                some = bodies[past_job.partition]
                if len(past_job.events) <= _MANY:
                    job = fold_again(past_job.partition, past_job.events, some)
                else:
                    job = await self._reads.beside(
                        user, partial(_fold_long, past_job.partition, past_job.events, some)
                    )
                if job is None:
                    raise past_gone(past_job.place.id)
            jobs.append(job)
        return jobs

    async def look_back(
        self, job: Job, partition: int, cut: Cut, user: str
    ) -> tuple[Prefix | None, DescriptionSpan]:
        """Return a job's events before a cut, and where its owner was said first and last.

        Args:
            job: As it is at the log's end.
            partition: Of its events.
            cut: The instant or position of the past.
            user: Who asks.

        Raises:
            Problem: 429 or 503 where too many wait, 503 where it takes too long or the projections
                can't be read.
        """
        if job.earlier is None:
            return prefix((job.trail,), partition, cut), description_span(job.trail)

        def read(snapshot: Snapshot) -> tuple[Prefix | None, DescriptionSpan]:
            beyond = kept_trail(job)
            beyond = beyond[start_of(beyond, snapshot.watermark.position[partition]) :]
            trail = snapshot.trail(job.id)
            if trail is None:
                return prefix((beyond,), partition, cut), description_span(beyond)
            then = prefix(chain(trail.chunks(), (beyond,)), partition, cut)
            return then, merged_spans(trail.said(), description_span(beyond))

        found, _held = await self._reads.read(user, read)
        return found


def _fold_long(
    partition: int,
    events: Iterable[Event],
    bodies: Mapping[int, bytes | None],
    is_over: Callable[[], bool],
) -> Job | None:
    """Fold events until the time is up; see `jobtrail.core.asof.fold_again`.

    Raises:
        TooLong: It is.
    """
    return fold_again(partition, _before(events, is_over), bodies)


def _before(events: Iterable[Event], is_over: Callable[[], bool]) -> Iterator[Event]:
    """Yield events until the time is up.

    Raises:
        TooLong: It is.
    """
    for number, event in enumerate(events):
        if not number % _EVENTS and is_over():
            raise TooLong
        yield event


def _groups(found: Sequence[PastJob]) -> Iterator[list[PastJob]]:
    """Yield jobs in groups of at most `_EVENTS` events, or of a single job with more."""
    group: list[PastJob] = []
    events = 0
    for past_job in found:
        events += len(past_job.events)
        if group and events > _EVENTS:
            yield group
            group, events = [], len(past_job.events)
        group.append(past_job)
    if group:
        yield group
