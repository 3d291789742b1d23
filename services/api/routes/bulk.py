"""`GET /jobs`: the jobs of one bulk, however large, in bounded memory, and a wait for their end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiohttp import web

from jobtrail.contract.results import Status
from jobtrail.core.position import holds
from jobtrail.core.states import ENDED, STATES
from projections.ports.meter import TooLong
from projections.ports.read import Caller, Cursor, Filters, Line, ListingPart, Snapshot, Watermark
from services.api.access.auth import Deadline, Identity
from services.api.http.answers import LongAnswer, Members, encode, stored_status
from services.api.http.requests import BulkQuery, read_query
from services.api.problems.problems import NOT_FOUND, TOO_MANY_WAITS, not_found
from services.api.routes.current_states import AT_ONCE, many_states
from services.api.routes.reach import (
    IsCertain,
    pause_before_retry,
    reach_position,
    read_until_certain,
)
from services.api.service import Service
from services.api.serving.endpoint import FRESHNESS, LONG_READS, Answer, Endpoint
from services.api.waits.watching import Wait

#: Jobs of a page that is read.
PAGE: Final = 1000
#: The most seconds between two checks for new jobs of a bulk, while the projections lag.
_RETRY_AFTER: Final = 0.25
_FIRST_PAUSE: Final = 0.005
#: A bulk is read again only after so many times as long as the last read of it took.
_PAUSE_FACTOR: Final = 4.0
_UNENDED: Final = tuple(state for state in STATES if state not in ENDED)


class _BulkPage(NamedTuple):
    """Some jobs of a bulk, and the watermark of the projections from which they were read."""

    ids: list[str]
    #: Their states as members of an object, without the object.
    members: bytes
    #: Where the next page begins; None after the last one.
    end: Cursor | None
    watermark: Watermark


async def bulk(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Answer with the state of every job of a bulk.

    The answer to a large bulk is streamed. With `wait` it comes as soon as every job has ended, or
    when the time is up; a line feed may come every 15 s before it, so that no proxy closes the
    connection. Jobs that join the bulk during the wait are waited for too. When the watched jobs
    have ended, the bulk is read again, and a job that was restarted by then is waited for again. A
    large bulk is read again only as often as takes a fifth of the time. A service that stops
    answers 503, or closes the connection if a line feed has been sent. Answers 404 if the caller
    sees no job of the bulk and the projections have reached the end of the log, else 503.
    """
    query = read_query(BulkQuery, request.rel_url.raw_query_string)
    live = query.wait != 0
    # Only an index of the projections knows the jobs of a bulk; the tail is not enough.
    await reach_position(service, request)
    user = identity.caller.user
    service.outgoing.check(user)
    reader = _Bulk(service, identity.caller, query.filters, live=live)
    long = LongAnswer(request, service.timeouts.sign_of_life, reader.headers)
    if query.wait:
        with service.slots.take(user):
            await reader.hold(long, service.gate.deadline(identity, query.wait))
    page = await reader.first_page(begun=long.begun)
    if not page.ids:
        raise not_found("You see no job of such a bulk.")
    with Members(long, service.reads.limits.page_bytes, service.outgoing, user) as members:
        while True:
            if live:
                position = reader.position
                async for ids, states in many_states(service, identity.caller, page.ids, position):
                    found = ((job_id, states.by_id.get(job_id)) for job_id in ids)
                    await members.add({job_id: status for job_id, status in found if status})
            else:
                await members.add_encoded(page.members)
            if page.end is None:
                return await members.end()
            page = await reader.page(page.end, begun=long.begun)


class _Bulk:
    """Reads one bulk for one caller, each page from a snapshot of its own."""

    def __init__(self, service: Service, caller: Caller, filters: Filters, *, live: bool) -> None:
        self._live = live
        self._service = service
        self._caller = caller
        self._filters = filters
        self._held: Watermark | None = None
        #: The log's end when the bulk was first read; None while it is not known.
        self._end: Mapping[int, int] | None = None
        #: When the bulk may be read again, by the loop's clock.
        self._again_at = 0.0

    @property
    def position(self) -> Mapping[int, int]:
        """The position of the first page."""
        assert self._held is not None
        return self._held.position

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer, by the first page."""
        assert self._held is not None
        return self._service.freshness.headers(self._held)

    async def first_page(self, *, begun: bool) -> _BulkPage:
        """Read the first page; an empty one only once that is certain.

        Args:
            begun: Whether a part of the answer is sent, so that the read must not be refused.

        Raises:
            Problem: 503 where it does not become certain in time.
        """
        page = await self.page(None, begun=begun)
        # Certain first, then read again: the second read has all jobs up to the log's end.
        while not page.ids and not self._holds_log_end(page.watermark):
            await read_until_certain(self._service, self._caller.user, self._read_nothing)
            await pause_before_retry(self._service, self._caller.user)
            page = await self.page(None, begun=begun)
        return page

    def _read_nothing(self) -> tuple[None, IsCertain | None]:
        with self._service.store.snapshot() as snapshot:
            return None, None if self._holds_log_end(snapshot.watermark) else self._holds_log_end

    def _holds_log_end(self, watermark: Watermark) -> bool:
        """Tell whether the projections have reached the end that the log had at first."""
        if self._end is None:
            self._end = self._service.absence.end(watermark)
        return (
            self._end is not None
            and not watermark.recovering
            and holds(watermark.position, self._end)
        )

    async def page(
        self, after: Cursor | None, filters: Filters | None = None, *, begun: bool = False
    ) -> _BulkPage:
        """Read the next page; one of a large bulk as a long read."""
        asked = filters or self._filters
        page = self._small(asked) if after is None else None
        if page is None:
            page = await self._large(after, asked, begun=begun)
        if after is None:
            watermark = page.watermark
            self._held = self._service.freshness.with_tail(watermark) if self._live else watermark
        return page

    async def _large(self, after: Cursor | None, asked: Filters, *, begun: bool) -> _BulkPage:
        limits = self._service.reads.limits

        def read(snapshot: Snapshot) -> tuple[ListingPart, bytes]:
            part = snapshot.search_some(
                self._caller,
                asked,
                size=PAGE,
                after=after,
                most=limits.rows,
                most_bytes=limits.page_bytes,
            )
            return part, _members(part.lines)

        while True:
            (part, members), watermark = await self._service.reads.read(
                self._caller.user, read, begun=begun
            )
            after = part.reached
            if part.lines or after is None:
                return _BulkPage(_ids(part.lines), members, after, watermark)

    def _small(self, filters: Filters) -> _BulkPage | None:
        """Read a bulk with few jobs on the event loop; return None if it has more."""
        try:
            with self._service.store.snapshot() as snapshot, snapshot.meter:
                watermark = snapshot.watermark
                lines = snapshot.search(self._caller, filters, size=AT_ONCE + 1)
        except TooLong:
            return None
        if len(lines) > AT_ONCE:
            return None
        return _BulkPage(_ids(lines), _members(lines), None, watermark)

    async def hold(self, long: LongAnswer, deadline: Deadline) -> None:
        """Wait until every job of the bulk has ended, or the time is up."""
        await self._first_job(deadline)
        waits = self._service.waits
        over = True
        while over:
            complete = self._has_all()
            wait = await self._register(deadline)
            if wait is None:
                left = deadline() - asyncio.get_running_loop().time()
                if complete or left <= 0:
                    return
                # A job may have joined that the projections have not applied yet.
                await long.sign_of_life()
                await self._service.progress.until(self._holds_log_end, min(left, _RETRY_AFTER))
                await pause_before_retry(self._service, self._caller.user)
                continue
            try:
                await waits.hold(wait, deadline, long.sign_of_life)
                over = wait.over
            finally:
                waits.release(wait)

    async def _first_job(self, deadline: Deadline) -> None:
        """Wait a while for the first job: its event may not be applied, or not written, yet."""
        now = asyncio.get_running_loop().time
        until = min(now() + self._service.timeouts.unknown, deadline())
        pause = _FIRST_PAUSE
        while not (page := await self.page(None)).ids:
            position = page.watermark.position
            left = until - now()
            if left <= 0 or not await self._service.progress.leaves(position, left):
                return
            # Not after each event of other jobs.
            await asyncio.sleep(min(pause, max(0.0, until - now())))
            pause = min(2 * pause, _RETRY_AFTER)
            await pause_before_retry(self._service, self._caller.user)

    def _has_all(self) -> bool:
        """Read the watermark now, and tell whether it has reached that end of the log."""
        with self._service.store.snapshot() as snapshot:
            return self._holds_log_end(snapshot.watermark)

    async def _register(self, deadline: Deadline) -> Wait | None:
        """Watch some jobs that have not ended; return None if there are none."""
        clock = asyncio.get_running_loop().time
        pause = min(self._again_at, deadline()) - clock()
        if pause > 0:
            await asyncio.sleep(pause)
        began = clock()
        try:
            return await self._watch_some()
        finally:
            ended = clock()
            self._again_at = ended + _PAUSE_FACTOR * (ended - began)

    async def _watch_some(self) -> Wait | None:
        service = self._service
        unended = self._filters._replace(states=_UNENDED)
        after = None
        while True:
            page = await self.page(after, unended, begun=True)
            ids = []
            async for some, states in many_states(service, self._caller, page.ids):
                found = ((job_id, states.by_id.get(job_id)) for job_id in some)
                ids += [job_id for job_id, status in found if status and not _has_ended(status)]
            if ids:
                return await service.waits.register(
                    service.store.snapshot, _accept_any, self._caller, ids
                )
            if page.end is None:
                return None
            after = page.end


def _has_ended(status: Mapping[str, Any]) -> bool:
    return status["state"] in ENDED


def _accept_any(_held: Watermark, _ids: Sequence[str], _partitions: int) -> None:
    """Accept any snapshot: one with recovering partitions was refused when it was opened."""


def _ids(lines: Sequence[Line]) -> list[str]:
    return [line[0][0] for line in lines]


def _members(lines: Sequence[Line]) -> bytes:
    """Return the states of jobs as members of an object, without the object."""
    rows = (line[0] for line in lines)
    return encode({row[0]: stored_status(row[0], row[1], row[11]) for row in rows})[1:-1]


ENDPOINT: Final = Endpoint(
    "GET",
    "/jobs",
    "bulk",
    bulk,
    BulkQuery,
    answers=(Answer("The jobs, by their ids.", dict[str, Status], headers=FRESHNESS),),
    problems=(*LONG_READS, NOT_FOUND, TOO_MANY_WAITS),
)
