"""`POST /jobs/statuses`: the states of jobs by their ids, and a wait for their end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final

import orjson
from aiohttp import web

from jobtrail.job import Job
from jobtrail.partitions import partition_of
from projections.reading import Caller, Held
from services.api.answers import LongAnswer, answer, status_answer
from services.api.reading import reach_position, read_all
from services.api.requests import FOREVER, NoQuery, StatusesBody, read_body, read_query
from services.api.routes.endpoint import Endpoint
from services.api.service import IDENTITY, SERVICE, Service
from services.api.store import is_recovering


async def statuses(request: web.Request) -> web.StreamResponse:
    """Answer with the states of jobs as they are at the end of the log."""
    service = request.app[SERVICE]
    read_query(NoQuery, request.rel_url.raw_query_string)
    body = read_body(StatusesBody, await read_all(service, request))
    ids = list(dict.fromkeys(body.job_ids))
    await reach_position(service, request, live=True)
    caller = request[IDENTITY].caller
    if body.wait:
        return await _wait(service, request, body, ids)
    began = perf_counter()
    with service.store.some() as snapshot:
        partitions = service.store.partitions
        _check(snapshot.held, ids, partitions)
        jobs = service.overlay.jobs(snapshot, caller, ids, partitions)
        headers = service.freshness.headers(service.freshness.with_tail(snapshot.held))
    headers["Server-Timing"] = f"store;dur={(perf_counter() - began) * 1000:.3f}"
    return answer(_content(ids, jobs, include_unknown=body.include_unknown), headers)


async def _wait(
    service: Service, request: web.Request, body: StatusesBody, ids: Sequence[str]
) -> web.StreamResponse:
    caller: Caller = request[IDENTITY].caller
    freshness = service.freshness
    with service.store.some() as snapshot:
        partitions = service.store.partitions
        held = snapshot.held
        _check(held, ids, partitions)
        wait = service.waits.register(
            snapshot, caller, ids, partitions, until_any=body.until == "any"
        )
    try:
        loop = asyncio.get_running_loop()
        long = LongAnswer(
            request,
            service.patience.sign_of_life,
            lambda: freshness.headers(freshness.at_end(held) if wait.is_live else held),
        )
        deadline = None if body.wait == FOREVER else loop.time() + body.wait
        await service.waits.hold(wait, deadline, long.sign_of_life)
        content = _content(ids, wait.jobs(), include_unknown=body.include_unknown)
        if wait.arrived is not None:
            service.metrics.wake_delay.observe(perf_counter() - wait.arrived)
        return await long.end(orjson.dumps(content))
    finally:
        service.waits.release(wait)


def _check(held: Held, ids: Sequence[str], partitions: int) -> None:
    """Refuse to answer for jobs whose part of the projections is not there."""
    if held.recovering and not held.recovering.isdisjoint(
        partition_of(job_id, partitions) for job_id in ids
    ):
        raise is_recovering(held)


def _content(
    ids: Sequence[str], jobs: dict[str, Job], *, include_unknown: bool
) -> dict[str, dict[str, Any]]:
    content = {}
    for job_id in ids:
        job = jobs.get(job_id)
        if job is not None:
            content[job_id] = status_answer(job)
        elif include_unknown:
            content[job_id] = {"id": job_id, "state": None, "output": None}
    return content


ENDPOINT: Final = Endpoint(
    "POST", "/jobs/statuses", "statuses", statuses, NoQuery, body=StatusesBody
)
