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
from services.api.routes.reach import Known, look_again, reach_position, surely
from services.api.service import Service
from services.api.serving.endpoint import FRESHNESS, LONG_READS, Answer, Endpoint
from services.api.waits.watching import Wait

#: Jobs that are in memory at a time.
PAGE: Final = 1000
#: Seconds between two looks whether a job has joined while the projections are behind, at most.
_LOOK_AGAIN: Final = 0.25
_FIRST_PAUSE: Final = 0.005
#: For how many times as long as it took to look through a bulk it is not looked through again.
_SPARED: Final = 4.0
_UNENDED: Final = tuple(state for state in STATES if state not in ENDED)


class _Page(NamedTuple):
    """Some jobs of a bulk, and what the projections hold that they were read from."""

    ids: list[str]
    #: Their states as members of an object, without the object.
    members: bytes
    #: Where the next page begins; None after the last one.
    end: Cursor | None
    held: Watermark


async def bulk(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Answer with the state of every job of a bulk.

    However large the bulk is: the answer is streamed. With `wait` it comes as soon as every job has
    ended, or when the time is up; a line feed may come every 15 s before it, so that no proxy cuts
    the connection. Jobs that join meanwhile are waited for too, and the jobs are looked at again
    when those that had not ended have: one that was taken up again by then is waited for again. To
    look at a large bulk again and again takes the service at most a fifth of its time for that. A
    service that is stopped answers 503, or cuts the connection where a line feed has been sent.
    404 where the caller sees no job of the bulk and all that the log has was looked at, else 503.
    """
    query = read_query(BulkQuery, request.rel_url.raw_query_string)
    live = query.wait != 0
    # Which jobs there are is read from an index of the projections: the tail is not enough.
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
                said = reader.position
                async for ids, states in many_states(service, identity.caller, page.ids, said):
                    known = ((job_id, states.known.get(job_id)) for job_id in ids)
                    await members.add({job_id: status for job_id, status in known if status})
            else:
                await members.add_encoded(page.members)
            if page.end is None:
                return await members.end()
            page = await reader.page(page.end, begun=long.begun)


class _Bulk:
    """Reads one bulk on behalf of one caller, each page from a view of its own."""

    def __init__(self, service: Service, caller: Caller, filters: Filters, *, live: bool) -> None:
        self._live = live
        self._service = service
        self._caller = caller
        self._filters = filters
        self._held: Watermark | None = None
        #: The log's end when the bulk was looked for; None while that is not known.
        self._end: Mapping[int, int] | None = None
        #: When the bulk may be looked through again, by the loop's clock.
        self._again_at = 0.0

    @property
    def position(self) -> Mapping[int, int]:
        """How fresh the first page is."""
        assert self._held is not None
        return self._held.position

    def headers(self) -> dict[str, str]:
        """Say how fresh the first page is."""
        assert self._held is not None
        return self._service.freshness.headers(self._held)

    async def first_page(self, *, begun: bool) -> _Page:
        """Read the first jobs; where there are none, once that is certain.

        Args:
            begun: Whether the answer has begun: it is not refused any more.

        Raises:
            Problem: 503 where it does not become so.
        """
        page = await self.page(None, begun=begun)
        # Before it is looked at again: what is certain then was there to be read.
        while not page.ids and not self._knows(page.held):
            await surely(self._service, self._caller.user, self._known)
            await look_again(self._service, self._caller.user)
            page = await self.page(None, begun=begun)
        return page

    def _known(self) -> tuple[None, Known | None]:
        with self._service.store.snapshot() as snapshot:
            return None, None if self._knows(snapshot.watermark) else self._knows

    def _knows(self, held: Watermark) -> bool:
        """Tell whether the projections hold what the log had when the bulk was looked for."""
        if self._end is None:
            self._end = self._service.coverage.end(held)
        return self._end is not None and not held.recovering and holds(held.position, self._end)

    async def page(
        self, after: Cursor | None, filters: Filters | None = None, *, begun: bool = False
    ) -> _Page:
        """Read the next jobs that there are; those of a large bulk beside the event loop."""
        asked = filters or self._filters
        page = self._small(asked) if after is None else None
        if page is None:
            page = await self._large(after, asked, begun=begun)
        if after is None:
            held = page.held
            self._held = self._service.freshness.with_tail(held) if self._live else held
        return page

    async def _large(self, after: Cursor | None, asked: Filters, *, begun: bool) -> _Page:
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
            (part, members), held = await self._service.reads.read(
                self._caller.user, read, begun=begun
            )
            after = part.reached
            if part.lines or after is None:
                return _Page(_ids(part.lines), members, after, held)

    def _small(self, filters: Filters) -> _Page | None:
        """Read a bulk that has few jobs on the event loop; None where it has more."""
        try:
            with self._service.store.snapshot() as snapshot, snapshot.meter:
                held = snapshot.watermark
                lines = snapshot.search(self._caller, filters, size=AT_ONCE + 1)
        except TooLong:
            return None
        if len(lines) > AT_ONCE:
            return None
        return _Page(_ids(lines), _members(lines), None, held)

    async def hold(self, long: LongAnswer, deadline: Deadline) -> None:
        """Wait until every job has ended, those that join meanwhile too, or the time is up."""
        await self._first_job(deadline)
        waits = self._service.waits
        over = True
        while over:
            known = self._knows_all()
            wait = await self._register(deadline)
            if wait is None:
                left = deadline() - asyncio.get_running_loop().time()
                if known or left <= 0:
                    return
                # A job may have joined that the projections do not hold yet.
                await long.sign_of_life()
                await self._service.progress.until(self._knows, min(left, _LOOK_AGAIN))
                await look_again(self._service, self._caller.user)
                continue
            try:
                await waits.hold(wait, deadline, long.sign_of_life)
                over = wait.over
            finally:
                waits.release(wait)

    async def _first_job(self, deadline: Deadline) -> None:
        """Have timeouts with a bulk whose first event may still be under way."""
        now = asyncio.get_running_loop().time
        until = min(now() + self._service.timeouts.unknown, deadline())
        pause = _FIRST_PAUSE
        while not (page := await self.page(None)).ids:
            position = page.held.position
            left = until - now()
            if left <= 0 or not await self._service.progress.leaves(position, left):
                return
            # Not with each event of others.
            await asyncio.sleep(min(pause, max(0.0, until - now())))
            pause = min(2 * pause, _LOOK_AGAIN)
            await look_again(self._service, self._caller.user)

    def _knows_all(self) -> bool:
        """Tell whether what is read now has all that the log had when the bulk was looked for."""
        with self._service.store.snapshot() as snapshot:
            return self._knows(snapshot.watermark)

    async def _register(self, deadline: Deadline) -> Wait | None:
        """Watch some jobs that have not ended; None where there are none."""
        clock = asyncio.get_running_loop().time
        pause = min(self._again_at, deadline()) - clock()
        if pause > 0:
            await asyncio.sleep(pause)
        began = clock()
        try:
            return await self._watch_some()
        finally:
            ended = clock()
            self._again_at = ended + _SPARED * (ended - began)

    async def _watch_some(self) -> Wait | None:
        service = self._service
        unended = self._filters._replace(states=_UNENDED)
        after = None
        while True:
            page = await self.page(after, unended, begun=True)
            ids = []
            async for some, states in many_states(service, self._caller, page.ids):
                known = ((job_id, states.known.get(job_id)) for job_id in some)
                ids += [job_id for job_id, status in known if status and not _has_ended(status)]
            if ids:
                return await service.waits.register(
                    service.store.snapshot, _is_whole, self._caller, ids
                )
            if page.end is None:
                return None
            after = page.end


def _has_ended(status: Mapping[str, Any]) -> bool:
    return status["state"] in ENDED


def _is_whole(_held: Watermark, _ids: Sequence[str], _partitions: int) -> None:
    """Take any view: it is whole, or it was refused when it was opened."""


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
