"""`GET /jobs`: the jobs of one bulk, however large, in bounded memory, and a wait for their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from aiohttp import web

from jobtrail.client.results import Status
from jobtrail.job import Job
from jobtrail.states import ENDED, STATES
from projections.reading import Caller, Cursor, Filters, Held, job_of
from services.api.answers import LongAnswer, encode, status_answer
from services.api.auth import Deadline, Identity
from services.api.endpoint import FRESHNESS, READS, Answer, Endpoint
from services.api.problems import NOT_FOUND, TOO_MANY_WAITS, not_found
from services.api.reading import reach_position
from services.api.requests import BulkQuery, read_query
from services.api.service import Service
from services.api.waits import Wait

#: Jobs that are in memory at a time.
PAGE: Final = 1000
_UNENDED: Final = tuple(state for state in STATES if state not in ENDED)


class _Page(NamedTuple):
    """Some jobs of a bulk, and what the projections hold that they were read from."""

    jobs: list[Job]
    #: Where the next page begins; None after the last one.
    end: Cursor | None
    held: Held


async def bulk(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Answer with the state of every job of a bulk.

    However large the bulk is: the answer is streamed. With `wait` it comes as soon as every job has
    ended, or when the time is up; a line feed may come every 15 s before it, so that no proxy cuts
    the connection. 404 where the caller sees no job of the bulk.
    """
    query = read_query(BulkQuery, request.rel_url.raw_query_string)
    live = query.wait != 0
    await reach_position(service, request, live=live)
    reader = _Bulk(service, identity.caller, query.filters, live=live)
    long = LongAnswer(request, service.patience.sign_of_life, reader.headers)
    if query.wait:
        await reader.hold(long, service.gate.deadline(identity, query.wait))
    page = reader.page(None)
    if not page.jobs:
        raise not_found("You see no job of such a bulk.")
    if page.end is None:
        return await long.end(_content(page))
    await long.write(b"{" + _members(page))
    async for further in reader.pages(page.end):
        await long.write(b"," + _members(further))
    return await long.end(b"}")


class _Bulk:
    """Reads one bulk on behalf of one caller, each page from a view of its own."""

    def __init__(self, service: Service, caller: Caller, filters: Filters, *, live: bool) -> None:
        self._service = service
        self._caller = caller
        self._filters = filters
        self._live = live
        self._held: Held | None = None

    def headers(self) -> dict[str, str]:
        """Say how fresh the first page is."""
        assert self._held is not None
        return self._service.freshness.headers(self._held)

    def page(self, after: Cursor | None, filters: Filters | None = None) -> _Page:
        """Read some jobs, up to the log's end where that is wanted."""
        service = self._service
        with service.store.snapshot() as snapshot:
            held = snapshot.held
            filters = filters or self._filters
            page = snapshot.search(self._caller, filters, size=PAGE, after=after)
            jobs = [job_of(*line) for line in page]
            last = jobs[-1] if len(jobs) == PAGE else None
            end = Cursor(last.created_at, last.id) if last is not None else None
            if self._live:
                found = {job.id: job for job in jobs}
                service.overlay.lay_over(
                    snapshot, self._caller, list(found), found, service.store.partitions
                )
                jobs = list(found.values())
            if after is None:
                self._held = service.freshness.with_tail(held) if self._live else held
        return _Page(jobs, end, held)

    async def pages(self, after: Cursor | None) -> AsyncIterator[_Page]:
        """Read the jobs from a place on that has jobs behind it."""
        while after is not None:
            # Writing to a fast client does not let others run.
            await asyncio.sleep(0)
            page = self.page(after)
            if page.jobs:
                yield page
            after = page.end

    async def hold(self, long: LongAnswer, deadline: Deadline) -> None:
        """Wait until every job has ended, those that join meanwhile too, or the time is up."""
        await self._first_job(deadline)
        waits = self._service.waits
        over = True
        while over:
            wait = await self._register()
            if wait is None:
                return
            try:
                await waits.hold(wait, deadline, long.sign_of_life)
                over = wait.is_over
            finally:
                waits.release(wait)

    async def _first_job(self, deadline: Deadline) -> None:
        """Have patience with a bulk whose first event may still be under way."""
        now = asyncio.get_running_loop().time
        until = min(now() + self._service.patience.unknown, deadline())
        while not (page := self.page(None)).jobs:
            position = page.held.position
            left = until - now()
            if left <= 0 or not await self._service.progress.leaves(position, left):
                return

    async def _register(self) -> Wait | None:
        """Watch some jobs that have not ended; None where there are none."""
        service = self._service
        unended = self._filters._replace(states=_UNENDED)
        after = None
        while True:
            page = self.page(after, unended)
            ids = [job.id for job in page.jobs if job.state not in ENDED]
            if ids:
                with service.store.snapshot() as snapshot:
                    return service.waits.register(
                        snapshot, self._caller, ids, service.store.partitions
                    )
            if page.end is None:
                return None
            after = page.end
            await asyncio.sleep(0)


def _content(page: _Page) -> bytes:
    return encode({job.id: status_answer(job) for job in page.jobs})


def _members(page: _Page) -> bytes:
    """Return a page as members of an object, without the object."""
    return _content(page)[1:-1]


ENDPOINT: Final = Endpoint(
    "GET",
    "/jobs",
    "bulk",
    bulk,
    BulkQuery,
    answers=(Answer("The jobs, by their ids.", dict[str, Status], headers=FRESHNESS),),
    problems=(*READS, NOT_FOUND, TOO_MANY_WAITS),
)
