"""`GET /jobs/search`: a page of jobs, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final, NamedTuple

from aiohttp import web

from jobtrail.client.results import Page
from projections.reading import Audience, Cursor
from services.api.answers import answer, row_answer
from services.api.auth import Identity
from services.api.endpoint import FRESHNESS, READS, Answer, Endpoint, Link
from services.api.reading import reach_position
from services.api.requests import SearchQuery, page_size, read_search
from services.api.service import Service

#: No store has more jobs; what lies behind is empty, and so is what lies behind this.
_FARTHEST: Final = 2**31


async def search(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Find jobs, newest first, page by page.

    `next` of a page leads to the one behind it, with the same filters: no job is skipped or shown
    twice while new ones arrive. The order is that of `createdAt`, descending, then that of `id`.
    """
    query = read_search(request.rel_url.raw_query_string)
    size = page_size(query, service.bounds.page)
    after = service.cursors.place(query)
    await reach_position(service, request)
    began = perf_counter()
    with service.store.snapshot() as snapshot:
        lines = snapshot.search(
            identity.caller,
            query.filters(),
            make=_line,
            size=size + 1,
            after=after,
            offset=min(query.offset, _FARTHEST),
        )
        held = snapshot.held
    read = perf_counter() - began
    headers = service.freshness.headers(held)
    headers["Server-Timing"] = f"store;dur={read * 1000:.3f}"
    following = None
    if len(lines) > size:
        del lines[size:]
        following = service.cursors.next_page(query, lines[-1].place)
        headers["Link"] = f'<{following}>; rel="next"'
    return answer({"jobs": [line.job for line in lines], "next": following}, headers)


class _Line(NamedTuple):
    """A job of a page."""

    place: Cursor
    job: dict[str, Any]


def _line(row: Sequence[Any], audience: Audience, job_type: str | None) -> _Line:
    return _Line(Cursor(row[2], row[0]), row_answer(row, audience, job_type))


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
    problems=READS,
)
