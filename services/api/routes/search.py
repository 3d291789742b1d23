"""`GET /jobs/search`: a page of jobs, newest first."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from aiohttp import web

from jobtrail.contract.results import Page
from jobtrail.core.asof import Cut
from projections.ports.meter import TooLong
from projections.ports.read import Cursor, Snapshot, Watermark
from services.api.access.auth import Identity
from services.api.http.answers import answer, encode, encoded_answer, job_answer, line_answer
from services.api.http.cursors import Place
from services.api.http.requests import SearchQuery, read_search
from services.api.problems.problems import PAST_GONE
from services.api.routes.reach import reach_cut, reach_position
from services.api.service import Service
from services.api.serving.endpoint import FRESHNESS, LONG_READS, Answer, Endpoint, Link

#: More jobs than any store has: a larger offset gives the same empty page.
_FARTHEST: Final = 2**31
#: Jobs; larger pages are long reads, since each job takes the event loop 3 us.
_BRIEF: Final = 100


async def search(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Find jobs, newest first, page by page.

    `next` of a page leads to the following one, with the same filters: no job is skipped or shown
    twice while new ones arrive. Jobs are ordered by `createdAt`, descending, then by `id`.

    A page may have fewer jobs than asked for, or none, although there is a `next`: one request
    reads 20,000 jobs at most, whether they match or not, and answers with 2 MiB of them at most.
    Only a page whose `next` is null is the last one.

    With `asOf` everything is as it was then: which jobs the caller could see, the order, and the
    values that the filters compare. One request then reads 10,000 jobs at most.
    """
    query = read_search(request.rel_url.raw_query_string)
    size = query.size
    place = service.cursors.place(query)
    await reach_position(service, request)
    if query.as_of is not None:
        await reach_cut(service, query.as_of, user=identity.caller.user)
        return await _search_past(service, identity, query, query.as_of, size, place)
    user = identity.caller.user
    if size <= _BRIEF and service.reads.is_brief(user, query.filters, place.skip):
        try:
            return _search_at_once(service, identity, query, size, place)
        except TooLong:
            # The try has cost no more than a large page.
            service.reads.was_too_long(user, query.filters, place.skip)
    return await _search_some(service, identity, query, size, place)


def _search_at_once(
    service: Service, identity: Identity, query: SearchQuery, size: int, place: Place
) -> web.StreamResponse:
    """Answer on the event loop, as nearly all searches are.

    Raises:
        TooLong: It would take more than a millisecond or so.
    """
    began = perf_counter()
    with service.store.snapshot() as snapshot, snapshot.meter:
        watermark = snapshot.watermark
        place.check(watermark.lineage)
        lines = snapshot.search(
            identity.caller,
            query.filters,
            size=size + 1,
            after=place.after,
            offset=min(place.skip, _FARTHEST),
        )
    read = perf_counter() - began
    following = None
    if len(lines) > size:
        del lines[size:]
        last = lines[-1][0]
        following = service.cursors.next_page(query, Cursor(last[2], last[0]), watermark.lineage)
    headers = _headers(service, watermark, "store", read, following)
    return answer({"jobs": [line_answer(*line) for line in lines], "next": following}, headers)


async def _search_some(
    service: Service, identity: Identity, query: SearchQuery, size: int, place: Place
) -> web.StreamResponse:
    """Answer with what matches among the next jobs, as a long read."""
    began = perf_counter()
    caller, limits, cursors = identity.caller, service.reads.limits, service.cursors
    service.outgoing.check(caller.user)

    def read(snapshot: Snapshot) -> tuple[bytes, str | None]:
        lineage = snapshot.watermark.lineage
        place.check(lineage)
        part = snapshot.search_some(
            caller,
            query.filters,
            size=size,
            after=place.after,
            skip=min(place.skip, _FARTHEST),
            most=limits.rows,
            most_bytes=limits.page_bytes,
        )
        following = None
        if part.reached is not None:
            following = cursors.next_page(query, part.reached, lineage, part.skip)
        # Encoded in the thread too, since that takes as long as reading.
        jobs = [line_answer(*line) for line in part.lines]
        return encode({"jobs": jobs, "next": following}), following

    (body, following), watermark = await service.reads.read(caller.user, read)
    return encoded_answer(
        body, _headers(service, watermark, "store", perf_counter() - began, following)
    )


def _headers(
    service: Service, watermark: Watermark, what: str, seconds: float, following: str | None
) -> dict[str, str]:
    """Return the headers of a page.

    Args:
        service: The service.
        watermark: Of the projections that were read.
        what: The name of the read in `Server-Timing`.
        seconds: That it took.
        following: The URL of the next page; None if there is none.
    """
    headers = service.freshness.headers(watermark)
    headers["Server-Timing"] = f"{what};dur={seconds * 1000:.3f}"
    if following is not None:
        headers["Link"] = f'<{following}>; rel="next"'
    return headers


async def _search_past(
    service: Service,
    identity: Identity,
    query: SearchQuery,
    cut: Cut,
    size: int,
    place: Place,
) -> web.StreamResponse:
    began = perf_counter()
    page = await service.past.search(
        identity.caller,
        query.filters,
        cut,
        size=size,
        after=place.after,
        skip=min(place.skip, _FARTHEST),
    )
    place.check(page.watermark.lineage)
    read = perf_counter() - began
    following = None
    if page.reached is not None:
        following = service.cursors.next_page(
            query, page.reached, page.watermark.lineage, page.skip
        )
    headers = _headers(service, page.watermark, "past", read, following)
    return answer({"jobs": [job_answer(job) for job in page.jobs], "next": following}, headers)


_FIRST: Final = "$response.body#/jobs/0"
ENDPOINT: Final = Endpoint(
    "GET",
    "/jobs/search",
    "search",
    search,
    SearchQuery,
    answers=(
        Answer(
            "A page of jobs.",
            Page,
            headers=(*FRESHNESS, "Link"),
            links={
                "job": Link("job", {"id": f"{_FIRST}/id"}),
                "history": Link("history", {"id": f"{_FIRST}/id"}),
                "statuses": Link("statuses", body={"jobIds": [f"{_FIRST}/id"]}),
                "bulk": Link("bulk", {"bulkId": f"{_FIRST}/bulkId"}),
            },
        ),
    ),
    problems=(*LONG_READS, PAST_GONE),
)
