"""`GET /jobs/search`: a page of jobs, newest first."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from aiohttp import web

from jobtrail.asof import Cut
from jobtrail.client.results import Page
from projections.reading import Cursor
from services.api.answers import answer, job_answer, line_answer
from services.api.auth import Identity
from services.api.endpoint import FRESHNESS, READS, Answer, Endpoint, Link
from services.api.problems import LOG_UNAVAILABLE, PAST_GONE
from services.api.reading import reach_cut, reach_position
from services.api.requests import SearchQuery, page_size, read_search
from services.api.service import Service

#: No store has more jobs; what lies behind is empty, and so is what lies behind this.
_FARTHEST: Final = 2**31


async def search(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Find jobs, newest first, page by page.

    `next` of a page leads to the one behind it, with the same filters: no job is skipped or shown
    twice while new ones arrive. The order is that of `createdAt`, descending, then that of `id`.

    With `asOf` everything is as it was then: who saw what, the order, and what the filters are held
    against. A page may then have fewer jobs than asked for, or none, although there is a `next`:
    one request looks at 10,000 jobs at most.
    """
    query = read_search(request.rel_url.raw_query_string)
    size = page_size(query, service.bounds.page)
    after, skip = service.cursors.place(query)
    await reach_position(service, request)
    if query.as_of is not None:
        await reach_cut(service, query.as_of)
        return await _search_past(service, identity, query, query.as_of, size, after, skip)
    began = perf_counter()
    with service.store.snapshot() as snapshot:
        lines = snapshot.search(
            identity.caller,
            query.filters,
            size=size + 1,
            after=after,
            offset=min(skip, _FARTHEST),
        )
        held = snapshot.held
    read = perf_counter() - began
    headers = service.freshness.headers(held)
    headers["Server-Timing"] = f"store;dur={read * 1000:.3f}"
    following = None
    if len(lines) > size:
        del lines[size:]
        last = lines[-1][0]
        following = service.cursors.next_page(query, Cursor(last[2], last[0]))
        headers["Link"] = f'<{following}>; rel="next"'
    return answer({"jobs": [line_answer(*line) for line in lines], "next": following}, headers)


async def _search_past(
    service: Service,
    identity: Identity,
    query: SearchQuery,
    cut: Cut,
    size: int,
    after: Cursor | None,
    skip: int,
) -> web.StreamResponse:
    began = perf_counter()
    page = await service.past.search(
        identity.caller, query.filters, cut, size=size, after=after, skip=min(skip, _FARTHEST)
    )
    headers = service.freshness.headers(page.held)
    headers["Server-Timing"] = f"past;dur={(perf_counter() - began) * 1000:.3f}"
    following = None
    if page.reached is not None:
        following = service.cursors.next_page(query, page.reached, page.skip)
        headers["Link"] = f'<{following}>; rel="next"'
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
    problems=(*READS, PAST_GONE, LOG_UNAVAILABLE),
)
