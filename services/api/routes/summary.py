"""`GET /jobs/summary`: how many jobs of each type are in each state."""

from __future__ import annotations

from operator import methodcaller
from time import perf_counter
from typing import Any, Final

from aiohttp import web

from jobtrail.contract.results import Summary
from jobtrail.core.states import STATES
from jobtrail.core.trail import STATE_CODES
from projections.ports.meter import TooLong
from services.api.access.auth import Identity
from services.api.http.answers import answer
from services.api.http.requests import SummaryQuery, read_query
from services.api.routes.reach import reach_cut, reach_position
from services.api.service import Service
from services.api.serving.endpoint import FRESHNESS, LONG_READS, Answer, Endpoint, Link

#: The contract lists them by name.
_COLUMNS: Final = [(str(state), STATE_CODES[state]) for state in sorted(STATES)]


async def summary(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Count the jobs that the caller may see, by type and state.

    With `asOf`, those that the caller could see then, as they were.
    """
    query = read_query(SummaryQuery, request.rel_url.raw_query_string)
    await reach_position(service, request)
    if query.as_of is not None:
        await reach_cut(service, query.as_of, user=identity.caller.user)
    began = perf_counter()
    if query.as_of is not None:
        counts, watermark = await service.past.summary(identity.caller, query.filters, query.as_of)
    else:
        try:
            with service.store.snapshot() as snapshot, snapshot.meter:
                counts = snapshot.summary(identity.caller, query.filters)
                watermark = snapshot.watermark
        except TooLong:
            count = methodcaller("summary", identity.caller, query.filters)
            counts, watermark = await service.reads.read(identity.caller.user, count)
    headers = service.freshness.headers(watermark)
    headers["Server-Timing"] = f"store;dur={(perf_counter() - began) * 1000:.3f}"
    return answer({"jobType": [_entry(name, of) for name, of in counts.items()]}, headers)


def _entry(job_type: str | None, counts: list[int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"jobType": job_type, "total": sum(counts)}
    for name, code in _COLUMNS:
        entry[name] = counts[code]
    return entry


ENDPOINT: Final = Endpoint(
    "GET",
    "/jobs/summary",
    "summary",
    summary,
    SummaryQuery,
    answers=(
        Answer(
            "One entry for each type.",
            Summary,
            headers=FRESHNESS,
            links={"search": Link("search", {"jobType": "$response.body#/jobType/0/jobType"})},
        ),
    ),
    problems=LONG_READS,
)
