"""`GET /jobs/search`: a page of jobs, newest first."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from aiohttp import web

from projections.reading import Cursor
from services.api.answers import answer, job_answer
from services.api.auth import Identity
from services.api.reading import reach_position
from services.api.requests import SearchQuery, page_size, read_query
from services.api.routes.endpoint import Endpoint
from services.api.service import Service

#: No store has more jobs; what lies behind is empty, and so is what lies behind this.
_FARTHEST: Final = 2**31


async def search(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Answer with the jobs that match, and where the next ones are."""
    query = read_query(SearchQuery, request.rel_url.raw_query_string)
    size = page_size(query, service.bounds.page)
    after = service.cursors.place(query)
    await reach_position(service, request)
    began = perf_counter()
    with service.store.snapshot() as snapshot:
        jobs = snapshot.search(
            identity.caller,
            query.filters(),
            size=size + 1,
            after=after,
            offset=min(query.offset, _FARTHEST),
        )
        held = snapshot.held
    read = perf_counter() - began
    headers = service.freshness.headers(held)
    headers["Server-Timing"] = f"store;dur={read * 1000:.3f}"
    following = None
    if len(jobs) > size:
        del jobs[size:]
        last = jobs[-1]
        following = service.cursors.next_page(query, Cursor(last.created_at, last.id))
        headers["Link"] = f'<{following}>; rel="next"'
    return answer({"jobs": [job_answer(job) for job in jobs], "next": following}, headers)


ENDPOINT: Final = Endpoint("GET", "/jobs/search", "search", search, SearchQuery)
