"""`POST /jobs/statuses`: the states of jobs by their ids, and a wait for their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, NamedTuple

from aiohttp import web

from jobtrail.client.results import Status
from jobtrail.partitions import partition_of
from projections.reading import Caller, Held
from services.api.answers import LongAnswer, answer, encode, status_answer, stored_status
from services.api.auth import Identity
from services.api.endpoint import FRESHNESS, READS, Answer, Endpoint
from services.api.freshness import Freshness
from services.api.problems import TOO_MANY_WAITS, Fault, invalid
from services.api.reading import reach_position, read_all
from services.api.requests import NoQuery, StatusesBody, read_body, read_query
from services.api.service import Service
from services.api.store import is_recovering
from services.api.waits import Wait

_Status = dict[str, Any]


class _Asked(NamedTuple):
    """What a held wait keeps of its request."""

    ids: tuple[str, ...]
    wait: int
    until_any: bool
    include_unknown: bool


async def statuses(
    service: Service, request: web.Request, identity: Identity
) -> web.StreamResponse:
    """Answer with the states of jobs, once they have ended where that is wanted.

    The states are those at the end of the log. With `wait` the answer comes as soon as the jobs
    have ended, or when the time is up, with the states as they then are; a line feed may come every
    15 s before it, so that no proxy cuts the connection. A job that the caller does not see is left
    out as one that is unknown is, and holds a wait for 5 s at most. The body is read as JSON
    whatever content type it is sent with.
    """
    read_query(NoQuery, request.rel_url.raw_query_string)
    asked = _asked(await read_all(service, request), service.bounds.ids)
    await reach_position(service, request, live=True)
    caller = identity.caller
    if asked.wait:
        return await _wait(service, request, identity, asked)
    began = perf_counter()
    with service.store.some() as snapshot:
        partitions = service.store.partitions
        _check(snapshot.held, asked.ids, partitions)
        known: dict[str, _Status | None] = {
            status[0]: stored_status(*status) for status in snapshot.states(caller, asked.ids)
        }
        newer = service.overlay.newer(snapshot, caller, asked.ids, partitions)
        headers = service.freshness.headers(service.freshness.with_tail(snapshot.held))
    headers["Server-Timing"] = f"store;dur={(perf_counter() - began) * 1000:.3f}"
    for job_id, job in newer.items():
        known[job_id] = None if job is None else status_answer(job)
    return answer(_content(asked, known), headers)


def _asked(raw: bytes, most: int) -> _Asked:
    body = read_body(StatusesBody, raw)
    if len(body.job_ids) > most:
        detail = f"List should have at most {most} items, not {len(body.job_ids)}."
        raise invalid([Fault("pointer", "/jobIds", detail)])
    ids = tuple(dict.fromkeys(body.job_ids))
    return _Asked(ids, body.wait, body.until == "any", body.include_unknown)


async def _wait(
    service: Service, request: web.Request, identity: Identity, asked: _Asked
) -> web.StreamResponse:
    wait = _register(service, identity.caller, asked)
    try:
        long = LongAnswer(
            request, service.patience.sign_of_life, partial(_headers, service.freshness, wait)
        )
        deadline = service.gate.deadline(identity, asked.wait)
        await service.waits.hold(wait, deadline, long.sign_of_life)
        if wait.arrived is not None:
            service.metrics.wake_delay.observe(perf_counter() - wait.arrived)
        ended = {job_id: status_answer(job) for job_id, job in wait.jobs().items()}
        return await long.end(encode(_content(asked, ended)))
    finally:
        service.waits.release(wait)


def _register(service: Service, caller: Caller, asked: _Asked) -> Wait:
    with service.store.some() as snapshot:
        partitions = service.store.partitions
        _check(snapshot.held, asked.ids, partitions)
        return service.waits.register(
            snapshot, caller, asked.ids, partitions, until_any=asked.until_any
        )


def _headers(freshness: Freshness, wait: Wait) -> dict[str, str]:
    held = wait.read_from
    return freshness.at_end() if held is None else freshness.headers(held)


def _check(held: Held, ids: Sequence[str], partitions: int) -> None:
    """Refuse to answer for jobs whose part of the projections is not there."""
    if held.recovering and not held.recovering.isdisjoint(
        partition_of(job_id, partitions) for job_id in ids
    ):
        raise is_recovering(held)


def _content(asked: _Asked, known: Mapping[str, _Status | None]) -> dict[str, _Status]:
    content = {}
    for job_id in asked.ids:
        status = known.get(job_id)
        if status is not None:
            content[job_id] = status
        elif asked.include_unknown:
            content[job_id] = {"id": job_id, "state": None, "output": None}
    return content


ENDPOINT: Final = Endpoint(
    "POST",
    "/jobs/statuses",
    "statuses",
    statuses,
    NoQuery,
    body=StatusesBody,
    answers=(Answer("The jobs, by their ids.", dict[str, Status], headers=FRESHNESS),),
    problems=(*READS, TOO_MANY_WAITS),
)
