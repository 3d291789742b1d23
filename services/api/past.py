"""What was true: read beside the event loop, and folded from the log where jobs have changed since.

Counts and listings of the past may have to read much, so they have a thread and a connection of
their own; requests stand in line for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

from jobtrail.asof import Cut, fold_again
from jobtrail.errors import StoreError
from jobtrail.job import Job
from projections.reading import Caller, Cursor, Filters, Held, Snapshot, Then
from services.api.bodies import Bodies
from services.api.problems import past_gone
from services.api.store import Store, as_problem, is_recovering

#: The most that is looked at for a page whose offset can only be counted on folded jobs.
_MOST: Final = 1_000
_T = TypeVar("_T")


class PastPage(NamedTuple):
    """A page of jobs as they were."""

    jobs: list[Job]
    #: Behind which job the rest begins; None where there is no more.
    reached: Cursor | None
    #: How many matches are to be passed over there.
    skip: int
    held: Held


class Past:
    """Answers what was true.

    Args:
        store: The projections; read by nobody else.
        bodies: The log.
    """

    def __init__(self, store: Store, bodies: Bodies) -> None:
        self._store = store
        self._bodies = bodies
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="past")

    async def summary(
        self, caller: Caller, filters: Filters, cut: Cut
    ) -> tuple[dict[str | None, list[int]], Held]:
        """Count jobs by type and state as they were.

        Raises:
            Problem: 503 where the projections can't be read.
        """
        return await self._read(lambda snapshot: snapshot.summary_at(caller, filters, cut))

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
        looked, held = await self._read(
            lambda snapshot: snapshot.search_at(
                caller,
                filters,
                cut,
                size=size + min(later, _MOST),
                after=after,
                skip=skip - later,
            )
        )
        jobs = [job for job in await self.fold(looked.found) if filters.match(job)]
        passed = min(later, len(jobs))
        reached = looked.reached
        jobs = jobs[passed:]
        if len(jobs) > size:
            jobs = jobs[:size]
            reached = Cursor(jobs[-1].created_at, jobs[-1].id)
        return PastPage(jobs, reached, skip - looked.skipped - passed, held)

    async def fold(self, found: Sequence[Then]) -> list[Job]:
        """Return jobs as they were; the events of all of them are read together.

        Raises:
            Problem: As above.
        """
        wanted: dict[int, list[int]] = {}
        for then in found:
            wanted.setdefault(then.partition, []).extend(offset for offset, _time in then.events)
        bodies = {
            partition: await self._bodies.read(partition, sorted(offsets))
            for partition, offsets in wanted.items()
        }
        jobs = []
        for then in found:
            job = then.job
            if job is None:
                job = fold_again(then.partition, then.events, bodies[then.partition])
                if job is None:
                    raise past_gone(then.place.id)
            jobs.append(job)
        return jobs

    async def _read(self, ask: Callable[[Snapshot], _T]) -> tuple[_T, Held]:
        def read() -> tuple[_T, Held]:
            try:
                with self._store.view() as snapshot:
                    if snapshot.held.recovering:
                        raise is_recovering(snapshot.held)
                    return ask(snapshot), snapshot.held
            except StoreError as error:
                raise as_problem(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    def close(self) -> None:
        """Wait for what is being read, then let go of the projections."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._store.close()
