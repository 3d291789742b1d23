"""`GET /jobs/{id}` and `GET /jobs/{id}/history`: one job, and its events.

`GET /job?id=` and `GET /job/history?id=` are the same for any id, since a path can't name all of
them: clients and proxies remove `.` and `..`, even percent-encoded (RFC 3986, 5.2.4), and `search`,
`summary`, `statuses` and `events` are other paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from aiohttp import web

from jobtrail.contract import results
from jobtrail.core.asof import Cut, had_other_viewers
from jobtrail.core.events import Name
from jobtrail.core.job import Job, kept_trail
from jobtrail.core.partitions import partition_of
from jobtrail.core.trail import TrailEntry, description_span, merged_spans, start_of, trail_page
from projections.ports.read import Caller, Cursor, PastJob, Snapshot, Watermark
from services.api.access.auth import Identity
from services.api.http.answers import answer, entry_answer, job_answer
from services.api.http.requests import (
    HistoryByIdQuery,
    HistoryQuery,
    JobByIdQuery,
    JobQuery,
    read_query,
)
from services.api.problems.problems import NOT_FOUND, PAST_GONE, Problem, not_found
from services.api.routes.reach import IsCertain, reach_cut, reach_position, read_until_certain
from services.api.service import Service
from services.api.serving.endpoint import (
    FRESHNESS,
    LONG_READS,
    READS,
    Answer,
    Endpoint,
    Link,
    Parameter,
)
from services.api.store import is_recovering

#: Events that are read before their bytes are counted.
_AT_ONCE: Final = 50
_UNSEEN: Final = "You see no job of this id."


async def job(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Answer with one job as it is at the end of the log, or with `asOf` as it was then.

    The ids `search`, `summary`, `statuses`, `events`, `.` and `..` can't be named in a path: use
    `GET /job` for such jobs.
    """
    query = read_query(JobQuery, request.rel_url.raw_query_string)
    return await _job(service, request, identity, request.match_info["id"], query.as_of)


async def job_by_id(
    service: Service, request: web.Request, identity: Identity
) -> web.StreamResponse:
    """Answer with one job as `GET /jobs/{id}` does, whatever its id."""
    query = read_query(JobByIdQuery, request.rel_url.raw_query_string)
    return await _job(service, request, identity, query.id, query.as_of)


async def _job(
    service: Service, request: web.Request, identity: Identity, job_id: str, as_of: Cut | None
) -> web.StreamResponse:
    if as_of is not None:
        await reach_cut(service, as_of, user=identity.caller.user, live=True)
    # Last, in the same step of the event loop as the read: later the tail may have lost records.
    await reach_position(service, request, live=True)
    if as_of is not None:
        return await _job_then(service, job_id, identity, as_of)
    found, _partition, headers, _trail = await _find(service, identity.caller, job_id)
    return answer(job_answer(found), headers)


async def history(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Answer with a job's events in order, including ignored ones and why they were ignored."""
    query = read_query(HistoryQuery, request.rel_url.raw_query_string)
    job_id = request.match_info["id"]
    path = f"/jobs/{quote(job_id, safe='')}/history?"
    return await _history(service, request, identity, job_id, query, path)


async def history_by_id(
    service: Service, request: web.Request, identity: Identity
) -> web.StreamResponse:
    """Answer with a job's events as `GET /jobs/{id}/history` does, whatever its id."""
    query = read_query(HistoryByIdQuery, request.rel_url.raw_query_string)
    path = f"/job/history?id={quote(query.id, safe='')}&"
    return await _history(service, request, identity, query.id, query, path)


async def _history(
    service: Service,
    request: web.Request,
    identity: Identity,
    job_id: str,
    query: HistoryQuery,
    path: str,
) -> web.StreamResponse:
    """Answer with a page of a job's events; `path` is that of the next page."""
    size = query.size
    await reach_position(service, request, live=True)
    asked = (query.from_offset, size + 1)
    found, partition, headers, trail = await _find(service, identity.caller, job_id, asked)
    entries = trail_page(trail, *asked)
    page, bodies = await _bodies_of(service, identity.caller, found.id, partition, entries[:size])
    following = None
    if len(entries) > len(page):
        following = f"{path}fromOffset={entries[len(page)].offset}&size={size}"
        headers["Link"] = f'<{following}>; rel="next"'
    events = [entry_answer(entry, partition, bodies.get(entry.offset)) for entry in page]
    return answer({"id": found.id, "events": events, "next": following}, headers)


async def _bodies_of(
    service: Service, caller: Caller, job_id: str, partition: int, entries: Sequence[TrailEntry]
) -> tuple[Sequence[TrailEntry], dict[int, bytes | None]]:
    """Return the entries that fit on a page, and the bodies of their events by offset."""
    left = service.reads.limits.page_bytes
    found: dict[int, bytes | None] = {}
    for at in range(0, len(entries), _AT_ONCE):
        offsets = [entry.offset for entry in entries[at : at + _AT_ONCE]]
        keys = dict.fromkeys(offsets, job_id.encode())
        bodies = await service.bodies.read(partition, keys, caller.user)
        for number, offset in enumerate(offsets, at):
            left -= len(bodies.get(offset) or b"")
            if left < 0 and number:
                return entries[:number], found
            if offset in bodies:
                found[offset] = bodies[offset]
    return entries, found


async def _job_then(
    service: Service, job_id: str, identity: Identity, cut: Cut
) -> web.StreamResponse:
    caller = identity.caller
    # The audience may have changed: whether the caller could see the job is decided by the job as
    # it was.
    everybody = Caller(caller.user, reads_all=True)
    found, partition, headers, _trail = await _find(service, everybody, job_id)
    if not caller.sees(found) and not _was_for_others(service, found, partition):
        # They never could see it. A longer answer would reveal that the job exists.
        raise await _unseen(service, caller.user, partition)
    try:
        then, said = await service.past.look_back(found, partition, cut, caller.user)
    except Problem:
        if caller.sees(found):
            raise
        raise await _unseen(service, caller.user, partition) from None
    if then is None or not (caller.sees(found) or had_other_viewers(said, then)):
        # Before the log is read: an error there would reveal that the job exists.
        raise await _unseen(service, caller.user, partition)
    if not then.complete:
        place = Cursor(found.created_at, found.id)
        try:
            (found,) = await service.past.fold(
                [PastJob(place, None, partition, then.events)], caller.user
            )
        except Problem:
            if caller.sees(found):
                raise
            # Whether they could see it is not known now, so that it exists must not be revealed.
            raise await _unseen(service, caller.user, partition) from None
    if not caller.sees(found):
        raise await _unseen(service, caller.user, partition)
    return answer(job_answer(found), headers)


def _was_for_others(service: Service, job: Job, partition: int) -> bool:
    """Tell whether the audience of a job was set more than once."""
    with service.store.snapshot(allow_recovering=True) as snapshot:
        trail = None if job.earlier is None else snapshot.trail(job.id)
        beyond = kept_trail(job)
        if trail is None:
            first, last = description_span(beyond)
        else:
            beyond = beyond[start_of(beyond, snapshot.watermark.position[partition]) :]
            first, last = merged_spans(trail.said(), description_span(beyond))
    return first != last


#: A job, its partition, the headers of the answer, and the wanted part of its trail, packed.
_Found = tuple[Job, int, dict[str, str], bytes]
#: The first offset, and how many events.
_HistoryRange = tuple[int, int]


async def _find(
    service: Service, caller: Caller, job_id: str, page: _HistoryRange | None = None
) -> _Found:
    """Return a job.

    Args:
        service: The service.
        caller: Who asks.
        job_id: Which.
        page: The part of its trail that is wanted, if any.

    Raises:
        Problem: 404 where the caller sees no such job; 503 while that is not certain.
    """
    found = await read_until_certain(
        service, caller.user, lambda: _read(service, caller, job_id, page)
    )
    if found is None:
        raise not_found(_UNSEEN)
    return found


def _read(
    service: Service, caller: Caller, job_id: str, page: _HistoryRange | None
) -> tuple[_Found | None, IsCertain | None]:
    with service.store.snapshot(allow_recovering=True) as snapshot:
        partitions = service.store.partitions
        partition = partition_of(job_id, partitions)
        watermark = snapshot.watermark
        if partition in watermark.recovering:
            raise is_recovering(watermark)
        # Checked before the job is read, so that one of another user takes as long as one that does
        # not exist.
        seen = caller.reads_all or snapshot.states(caller, [job_id])
        jobs = snapshot.watched([job_id]) if seen else {}
        service.overlay.lay_over(snapshot, caller, [job_id], jobs, partitions)
        headers = service.freshness.headers(service.freshness.with_tail(watermark))
        if job_id in jobs:
            found = jobs[job_id]
            trail = b"" if page is None else _part(snapshot, found, partition, page)
            return (found, partition, headers, trail), None
    return None, _certainty(service, partition, watermark)


def _part(snapshot: Snapshot, job: Job, partition: int, page: _HistoryRange) -> bytes:
    """Return entries that include those of a page; of a long trail only a part is read."""
    beyond = kept_trail(job)
    if job.earlier is None:
        return beyond
    stored = snapshot.trail(job.id)
    beyond = beyond[start_of(beyond, snapshot.watermark.position[partition]) :]
    return beyond if stored is None else stored.page(*page) + beyond


def _certainty(service: Service, partition: int, watermark: Watermark) -> IsCertain | None:
    """Return what tells when absence in a partition is certain; None if it is certain now."""
    absence = service.absence
    if absence.is_certain(watermark, (partition,)):
        return None
    return lambda later: absence.is_certain(later, (partition,))


async def _unseen(service: Service, user: str, partition: int) -> Problem:
    """Return the answer for a job that the caller may not see: the same as for an absent one.

    Raises:
        Problem: 503 while absence is not certain.
    """

    def look() -> tuple[None, IsCertain | None]:
        with service.store.snapshot(allow_recovering=True) as snapshot:
            return None, _certainty(service, partition, snapshot.watermark)

    await read_until_certain(service, user, look)
    return not_found(_UNSEEN)


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
    problems=(*LONG_READS, NOT_FOUND, PAST_GONE),
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
    problems=(*READS, NOT_FOUND),
    places=(_ID,),
)
JOB_BY_ID: Final = Endpoint(
    "GET",
    "/job",
    "jobById",
    job_by_id,
    JobByIdQuery,
    answers=JOB.answers,
    problems=JOB.problems,
)
HISTORY_BY_ID: Final = Endpoint(
    "GET",
    "/job/history",
    "historyById",
    history_by_id,
    HistoryByIdQuery,
    answers=HISTORY.answers,
    problems=HISTORY.problems,
)
