"""What was true: read beside the event loop, and folded from the log where jobs have changed since.

Counts and listings of the past may have to read much, so they are done as all long reads are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Final, NamedTuple

from jobtrail.core.asof import Cut, Event, Prefix, Said, fold_again, prefix, said_by_both, said_in
from jobtrail.core.job import Job, kept_trail, place_of
from projections.ports.meter import TooLong
from projections.ports.read import Caller, Cursor, Filters, PastJob, Snapshot, Watermark
from services.api.live.bodies import Bodies
from services.api.problems.problems import past_gone
from services.api.reads.reads import Reads

#: The most that is looked at for a page whose offset can only be counted on folded jobs.
_MOST: Final = 1_000
#: Events of several jobs that are in memory at a time.
_EVENTS: Final = 200
#: Events of a job from which on they are folded beside the event loop.
_MANY: Final = 500


class PastPage(NamedTuple):
    """A page of jobs as they were."""

    jobs: list[Job]
    #: Behind which job the rest begins; None where there is no more.
    reached: Cursor | None
    #: How many matches are to be passed over there.
    skip: int
    held: Watermark


class Past:
    """Answers what was true.

    Args:
        reads: The projections.
        bodies: The log.
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
        """Return a page of jobs that matched, newest first; one may be short of jobs.

        Args:
            caller: Who asks.
            filters: What matches.
            cut: Up to where the log counts.
            size: The most jobs.
            after: Where the page begins.
            skip: How many matches to pass over there.

        Raises:
            Problem: 410 where the log does not hold what has to be folded; 503 where it does not
                answer, or the projections can't be read.
        """
        # Only a folded job's tags tell whether it counts among those to be passed over.
        later = skip if filters.tags else 0
        looked, held = await self._reads.read(
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
        folded, whole = await self._fold_some(looked.found, caller.user)
        # As many as there is room for; the next page begins behind them.
        reached = looked.reached if whole else looked.found[len(folded) - 1].place
        jobs = [job for job in folded if filters.match(job)]
        passed = min(later, len(jobs))
        jobs = jobs[passed:]
        if len(jobs) > size:
            jobs = jobs[:size]
            reached = Cursor(jobs[-1].created_at, jobs[-1].id)
        return PastPage(jobs, reached, skip - looked.skipped - passed, held)

    async def _fold_some(self, found: Sequence[PastJob], user: str) -> tuple[list[Job], bool]:
        """Fold jobs until their answers have so many bytes; tell whether all of them were."""
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
        """Return jobs as they were; the events of all of them are read together.

        Args:
            found: The jobs.
            user: Who asks.

        Raises:
            Problem: As above.
        """
        wanted: dict[int, dict[int, bytes]] = {}
        for then in found:
            key = then.place.id.encode()
            wanted.setdefault(then.partition, {}).update((at, key) for at, _time in then.events)
        bodies = {
            partition: await self._bodies.read(partition, dict(sorted(keys.items())), user)
            for partition, keys in wanted.items()
        }
        jobs = []
        for then in found:
            job = then.job
            if job is None:
                some = bodies[then.partition]
                if len(then.events) <= _MANY:
                    job = fold_again(then.partition, then.events, some)
                else:
                    job = await self._reads.beside(
                        user, partial(_fold_long, then.partition, then.events, some)
                    )
                if job is None:
                    raise past_gone(then.place.id)
            jobs.append(job)
        return jobs

    async def look_back(
        self, job: Job, partition: int, cut: Cut, user: str
    ) -> tuple[Prefix | None, Said]:
        """Return what of a job lies before a cut, and where it was said what it is.

        Args:
            job: As it is at the log's end.
            partition: Where its events lie.
            cut: Up to where the log counts.
            user: Who asks.

        Raises:
            Problem: 429 or 503 where too many wait, 503 where it takes too long or the projections
                can't be read.
        """
        if job.earlier is None:
            return prefix((job.trail,), partition, cut), said_in(job.trail)

        def look(snapshot: Snapshot) -> tuple[Prefix | None, Said]:
            beyond = kept_trail(job)
            beyond = beyond[place_of(beyond, snapshot.watermark.position[partition]) :]
            trail = snapshot.trail(job.id)
            if trail is None:
                return prefix((beyond,), partition, cut), said_in(beyond)
            then = prefix(chain(trail.chunks(), (beyond,)), partition, cut)
            return then, said_by_both(trail.said(), said_in(beyond))

        found, _held = await self._reads.read(user, look)
        return found


def _fold_long(
    partition: int,
    events: Iterable[Event],
    bodies: Mapping[int, bytes | None],
    is_over: Callable[[], bool],
) -> Job | None:
    """Fold events for as long as there is time; see `jobtrail.core.asof.fold_again`.

    Raises:
        TooLong: There is none left.
    """
    return fold_again(partition, _before(events, is_over), bodies)


def _before(events: Iterable[Event], is_over: Callable[[], bool]) -> Iterator[Event]:
    """Yield events for as long as there is time.

    Raises:
        TooLong: There is none left.
    """
    for number, event in enumerate(events):
        if not number % _EVENTS and is_over():
            raise TooLong
        yield event


def _groups(found: Sequence[PastJob]) -> Iterator[list[PastJob]]:
    """Yield jobs in groups that have no more events than may be in memory, or are single jobs."""
    group: list[PastJob] = []
    events = 0
    for then in found:
        events += len(then.events)
        if group and events > _EVENTS:
            yield group
            group, events = [], len(then.events)
        group.append(then)
    if group:
        yield group
