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
from services.api.problems.problems import TOO_MANY_WAITS, Fault, invalid
from services.api.reads.freshness import Freshness
from services.api.routes.current_states import (
    AT_ONCE,
    Status,
    check_whole,
    many_states,
    states_at_end,
)
from services.api.routes.reach import Known, reach_position, read_all, surely
from services.api.service import Service
from services.api.serving.endpoint import FRESHNESS, READS, Answer, Endpoint
from services.api.waits.watching import Wait

#: States by their jobs' ids, None for what the caller no longer sees; headers.
_Found = tuple[dict[str, Status | None], dict[str, str]]


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

    The states are those at the end of the log. A job that the caller does not see is left out as
    one that is unknown is; while it is not known whether there is such a job, because this process
    does not know the log to its end, there is no answer: after 5 s 503.

    With `wait` the answer comes as soon as the jobs have ended, or when the time is up, with the
    states as they then are; a line feed may come every 15 s before it, so that no proxy cuts the
    connection. Events are looked at one by one, in their order in the log from where the wait
    begins: it ends at the first at which all (or any) of the jobs have ended, and answers with the
    states right after that event, whatever comes next. Only while a process is too far behind the
    log to have all of its events, or a job has more of them beyond the projections than are folded
    at one go, does it see the states every now and then. A job that is unknown holds a wait for
    5 s from when that is certain. A service that is stopped answers 503, or cuts
    the connection where a line feed has been sent: such an answer has no end, ask again.

    The body is read as JSON whatever content type it is sent with.
    """
    read_query(NoQuery, request.rel_url.raw_query_string)
    asked = _asked(await read_all(service, request), service.bounds.ids)
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


async def _few(service: Service, caller: Caller, asked: _Asked) -> web.StreamResponse:
    known, headers = await surely(service, caller.user, lambda: _read(service, caller, asked.ids))
    return answer(_content(asked, asked.ids, known), headers)


async def _many(
    service: Service, request: web.Request, caller: Caller, asked: _Asked
) -> web.StreamResponse:
    """Answer in steps, between which others are served."""
    service.outgoing.check(caller.user)
    first: list[Watermark] = []
    long = LongAnswer(
        request,
        service.timeouts.sign_of_life,
        lambda: service.freshness.headers(first[0]),
    )
    with Members(long, service.reads.limits.page_bytes, service.outgoing, caller.user) as members:
        async for ids, states in many_states(service, caller, asked.ids):
            known = states.known
            first.append(states.fresh)
            missing = [job_id for job_id in ids if known.get(job_id) is None]
            if missing and _doubt(service, states.held, missing) is not None:
                more = await surely(service, caller.user, partial(_read, service, caller, missing))
                known |= more[0]
            await members.add(_content(asked, ids, known))
        return await members.end()


def _read(service: Service, caller: Caller, ids: Sequence[str]) -> tuple[_Found, Known | None]:
    """Read the states of a few jobs at the log's end, and the headers of the answer."""
    began = perf_counter()
    known, held, fresh = states_at_end(service, caller, ids)
    headers = service.freshness.headers(fresh)
    headers["Server-Timing"] = f"store;dur={(perf_counter() - began) * 1000:.3f}"
    if len(known) == len(ids) and None not in known.values():
        return (known, headers), None
    return (known, headers), _doubt(service, held, [i for i in ids if known.get(i) is None])


def _doubt(service: Service, held: Watermark, missing: Sequence[str]) -> Known | None:
    """Return what tells when it is known that these jobs are not there; None where it is."""
    coverage = service.coverage
    if coverage.knows(held, held.position):
        return None
    where = {partition_of(job_id, service.store.partitions) for job_id in missing}
    return None if coverage.knows(held, where) else lambda later: coverage.knows(later, where)


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
                known = {job_id: status_answer(jobs[job_id]) for job_id in ids if job_id in jobs}
                await members.add(_content(asked, ids, known))
            return await members.end()
    finally:
        service.waits.release(wait)


def _headers(freshness: Freshness, wait: Wait) -> dict[str, str]:
    position, held = wait.held()
    return freshness.at_end(position) if held is None else freshness.headers(held)


def _content(
    asked: _Asked, ids: Sequence[str], known: Mapping[str, Status | None]
) -> dict[str, Status]:
    content = {}
    for job_id in ids:
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
    answers=(Answer("The jobs, by their ids.", dict[str, results.Status], headers=FRESHNESS),),
    problems=(*READS, TOO_MANY_WAITS),
)
