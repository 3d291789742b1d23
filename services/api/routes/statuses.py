"""`POST /jobs/statuses`: the states of jobs by their ids, and a wait for their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Final, NamedTuple

from aiohttp import web

from jobtrail.contract import results
from jobtrail.core.partitions import partition_of
from projections.ports.meter import TooLong
from projections.ports.read import Caller, Watermark
from services.api.access.auth import Identity
from services.api.http.answers import LongAnswer, Members, answer, status_answer
from services.api.http.requests import NoQuery, StatusesBody, read_body, read_query
from services.api.problems.problems import TOO_MANY_WAITS
from services.api.reads.freshness import Freshness
from services.api.routes.current_states import (
    AT_ONCE,
    Status,
    check_whole,
    many_states,
    states_at_end,
)
from services.api.routes.reach import IsCertain, reach_position, read_all, read_until_certain
from services.api.service import Service
from services.api.serving.endpoint import FRESHNESS, READS, Answer, Endpoint
from services.api.waits.watching import Wait

#: States by id of the job, None for a job that the caller may no longer see; headers.
_Found = tuple[dict[str, Status | None], dict[str, str]]


class _StatusesRequest(NamedTuple):
    """What an open wait keeps of its request."""

    ids: tuple[str, ...]
    wait: int
    until_any: bool
    include_unknown: bool


async def statuses(
    service: Service, request: web.Request, identity: Identity
) -> web.StreamResponse:
    """Answer with the states of jobs; with `wait`, once they have ended.

    The states are those at the end of the log. A job that the caller may not see is left out, as an
    unknown one is. While it is not certain whether a job exists, because this process has not read
    the log to its end, there is no answer; after 5 s it is 503.

    With `wait` the answer comes as soon as the jobs have ended, or when the time is up, with the
    states at that time; a line feed may come every 15 s before it, so that no proxy closes the
    connection. The wait follows the events one by one, in their order in the log from where it
    begins: it ends with the first event after which all (or any) of the jobs have ended, and
    answers with the states right after that event, whatever comes next. Only while a process lags
    too far to have all events, or a job has more of them beyond the projections than are folded in
    one step, it sees the states from time to time. An unknown job keeps a wait open for 5 s from
    when it is certain that it does not exist. A service that stops answers 503, or closes the
    connection if a line feed has been sent: such an answer has no end, ask again.

    The body is parsed as JSON, whatever content type it is sent with.
    """
    read_query(NoQuery, request.rel_url.raw_query_string)
    asked = _asked(await read_all(service, request))
    await reach_position(service, request, live=True)
    if asked.wait:
        return await _wait(service, request, identity, asked)
    if len(asked.ids) <= AT_ONCE:
        try:
            return await _few(service, identity.caller, asked)
        except TooLong:
            # Their outputs are large.
            pass
    return await _many(service, request, identity.caller, asked)


async def _few(service: Service, caller: Caller, asked: _StatusesRequest) -> web.StreamResponse:
    by_id, headers = await read_until_certain(
        service, caller.user, lambda: _read(service, caller, asked.ids)
    )
    return answer(_content(asked, asked.ids, by_id), headers)


async def _many(
    service: Service, request: web.Request, caller: Caller, asked: _StatusesRequest
) -> web.StreamResponse:
    """Answer in steps, with other requests served in between."""
    service.outgoing.check(caller.user)
    first: list[Watermark] = []
    long = LongAnswer(
        request,
        service.timeouts.sign_of_life,
        lambda: service.freshness.headers(first[0]),
    )
    with Members(long, service.reads.limits.page_bytes, service.outgoing, caller.user) as members:
        async for ids, states in many_states(service, caller, asked.ids):
            by_id = states.by_id
            first.append(states.fresh)
            missing = [job_id for job_id in ids if by_id.get(job_id) is None]
            if missing and _certainty(service, states.watermark, missing) is not None:
                more = await read_until_certain(
                    service, caller.user, partial(_read, service, caller, missing)
                )
                by_id |= more[0]
            await members.add(_content(asked, ids, by_id))
        return await members.end()


def _read(service: Service, caller: Caller, ids: Sequence[str]) -> tuple[_Found, IsCertain | None]:
    """Read the states of a few jobs at the log's end, and the headers of the answer."""
    began = perf_counter()
    by_id, watermark, fresh = states_at_end(service, caller, ids)
    headers = service.freshness.headers(fresh)
    headers["Server-Timing"] = f"store;dur={(perf_counter() - began) * 1000:.3f}"
    if len(by_id) == len(ids) and None not in by_id.values():
        return (by_id, headers), None
    return (by_id, headers), _certainty(
        service, watermark, [i for i in ids if by_id.get(i) is None]
    )


def _certainty(service: Service, watermark: Watermark, missing: Sequence[str]) -> IsCertain | None:
    """Return what tells when absence of jobs is certain; None if it is certain now."""
    absence = service.absence
    if absence.is_certain(watermark, watermark.position):
        return None
    where = {partition_of(job_id, service.store.partitions) for job_id in missing}
    if absence.is_certain(watermark, where):
        return None
    return lambda later: absence.is_certain(later, where)


def _asked(raw: bytes) -> _StatusesRequest:
    body = read_body(StatusesBody, raw)
    ids = tuple(dict.fromkeys(body.job_ids))
    return _StatusesRequest(ids, body.wait, body.until == "any", body.include_unknown)


async def _wait(
    service: Service, request: web.Request, identity: Identity, asked: _StatusesRequest
) -> web.StreamResponse:
    user = identity.caller.user
    wait = await service.waits.register(
        partial(service.store.snapshot, allow_recovering=True),
        check_whole,
        identity.caller,
        asked.ids,
        until_any=asked.until_any,
    )
    try:
        headers = partial(_headers, service.freshness, wait)
        long = LongAnswer(request, service.timeouts.sign_of_life, headers)
        deadline = service.gate.deadline(identity, asked.wait)
        await service.waits.hold(wait, deadline, long.sign_of_life)
        if wait.arrived is not None:
            service.metrics.wake_delay.observe(perf_counter() - wait.arrived)
        jobs = wait.jobs()
        with Members(long, service.reads.limits.page_bytes, service.outgoing, user) as members:
            for at in range(0, len(asked.ids), AT_ONCE):
                if at:
                    await service.turns.pause(user)
                ids = asked.ids[at : at + AT_ONCE]
                by_id = {job_id: status_answer(jobs[job_id]) for job_id in ids if job_id in jobs}
                await members.add(_content(asked, ids, by_id))
            return await members.end()
    finally:
        service.waits.release(wait)


def _headers(freshness: Freshness, wait: Wait) -> dict[str, str]:
    position, watermark = wait.position()
    return freshness.at_end(position) if watermark is None else freshness.headers(watermark)


def _content(
    asked: _StatusesRequest, ids: Sequence[str], by_id: Mapping[str, Status | None]
) -> dict[str, Status]:
    content = {}
    for job_id in ids:
        status = by_id.get(job_id)
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
    answers=(Answer("The jobs, by their ids.", dict[str, results.Status], headers=FRESHNESS),),
    problems=(*READS, TOO_MANY_WAITS),
)
