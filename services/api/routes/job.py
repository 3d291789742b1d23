"""`GET /jobs/{id}` and `GET /jobs/{id}/history`: one job, and what happened to it."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from aiohttp import web

from jobtrail.asof import Cut, prefix, was_for_others
from jobtrail.client import results
from jobtrail.events import Name
from jobtrail.job import Job, read_trail
from jobtrail.partitions import partition_of
from projections.reading import Caller, Cursor, Then
from services.api.answers import answer, entry_answer, job_answer
from services.api.auth import Identity
from services.api.endpoint import FRESHNESS, READS, Answer, Endpoint, Link, Parameter
from services.api.problems import LOG_UNAVAILABLE, NOT_FOUND, PAST_GONE, Problem, not_found
from services.api.reading import reach_cut, reach_position
from services.api.requests import HistoryQuery, JobQuery, page_size, read_query
from services.api.service import Service
from services.api.store import is_recovering

_UNSEEN: Final = "You see no job of this id."
#: Who sees a job may have changed: what he saw then is decided by the job as it was.
_EVERYBODY: Final = Caller("", reads_all=True)


async def job(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Answer with one job as it is at the end of the log, or with `asOf` as it was then.

    The ids `search`, `summary`, `statuses` and `events` are paths of their own: ask for such jobs
    by `POST /jobs/statuses`.
    """
    query = read_query(JobQuery, request.rel_url.raw_query_string)
    await reach_position(service, request, live=True)
    if query.as_of is not None:
        await reach_cut(service, query.as_of, live=True)
        return await _job_then(service, request, identity, query.as_of)
    found, _partition, headers = _find(service, identity.caller, request.match_info["id"])
    return answer(job_answer(found), headers)


async def history(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Answer with a job's events in order, those that were ignored too, and why."""
    query = read_query(HistoryQuery, request.rel_url.raw_query_string)
    size = page_size(query, service.bounds.page)
    await reach_position(service, request, live=True)
    found, partition, headers = _find(service, identity.caller, request.match_info["id"])
    entries = [entry for entry in read_trail(found.trail) if entry.offset >= query.from_offset]
    page = entries[:size]
    bodies = await service.bodies.read(partition, [entry.offset for entry in page])
    following = None
    if len(entries) > len(page):
        path = f"/jobs/{quote(found.id, safe='')}/history"
        following = f"{path}?fromOffset={entries[len(page)].offset}&size={size}"
        headers["Link"] = f'<{following}>; rel="next"'
    events = [entry_answer(entry, partition, bodies.get(entry.offset)) for entry in page]
    return answer({"id": found.id, "events": events, "next": following}, headers)


async def _job_then(
    service: Service, request: web.Request, identity: Identity, cut: Cut
) -> web.StreamResponse:
    caller = identity.caller
    found, partition, headers = _find(service, _EVERYBODY, request.match_info["id"])
    then = prefix(found.trail, partition, cut)
    if then is None or not (caller.sees(found) or was_for_others(found.trail, then)):
        # Before anything is read that may fail: nothing tells him that there is such a job.
        raise not_found(_UNSEEN)
    if not then.whole:
        place = Cursor(found.created_at, found.id)
        try:
            (found,) = await service.past.fold([Then(place, None, partition, then.events)])
        except Problem:
            if caller.sees(found):
                raise
            # Whether it was his nobody can tell now; that it is there, nobody may tell.
            raise not_found(_UNSEEN) from None
    if not caller.sees(found):
        raise not_found(_UNSEEN)
    return answer(job_answer(found), headers)


def _find(service: Service, caller: Caller, job_id: str) -> tuple[Job, int, dict[str, str]]:
    """Return a job with its trail, its partition, and the headers of an answer about it."""
    with service.store.some() as snapshot:
        partitions = service.store.partitions
        partition = partition_of(job_id, partitions)
        if partition in snapshot.held.recovering:
            raise is_recovering(snapshot.held)
        jobs = {k: v for k, v in snapshot.watched([job_id]).items() if caller.sees(v)}
        service.overlay.lay_over(snapshot, caller, [job_id], jobs, partitions)
        headers = service.freshness.headers(service.freshness.with_tail(snapshot.held))
    if job_id not in jobs:
        raise not_found(_UNSEEN)
    return jobs[job_id], partition, headers


_ID: Final = Parameter("id", "The job; a `/` in it is written as `%2F`.", Name)
_ITS_ID: Final = "$response.body#/id"
JOB: Final = Endpoint(
    "GET",
    "/jobs/{id}",
    "job",
    job,
    JobQuery,
    answers=(
        Answer(
            "The job.",
            results.Job,
            headers=FRESHNESS,
            links={
                "history": Link("history", {"id": _ITS_ID}),
                "statuses": Link("statuses", body={"jobIds": [_ITS_ID]}),
            },
        ),
    ),
    problems=(*READS, NOT_FOUND, PAST_GONE, LOG_UNAVAILABLE),
    places=(_ID,),
)
HISTORY: Final = Endpoint(
    "GET",
    "/jobs/{id}/history",
    "history",
    history,
    HistoryQuery,
    answers=(
        Answer(
            "Some of the job's events, in their order in the log.",
            results.History,
            headers=(*FRESHNESS, "Link"),
            links={
                "job": Link("job", {"id": _ITS_ID}),
                "rest": Link(
                    "history",
                    {"id": _ITS_ID, "fromOffset": "$response.body#/events/0/offset"},
                ),
            },
        ),
    ),
    problems=(*READS, NOT_FOUND, LOG_UNAVAILABLE),
    places=(_ID,),
)
