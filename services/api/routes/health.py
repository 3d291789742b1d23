"""`/healthz`, `/readyz` and `/metrics`: for operators, without a token."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from jobtrail.contract.readiness import DRAINING, LOG_SILENT
from jobtrail.core.errors import StoreError
from jobtrail.core.position import format_position
from services.api.access.auth import Identity
from services.api.http.answers import BASE_HEADERS, answer
from services.api.http.requests import NoQuery, read_query
from services.api.problems.problems import NOT_READY, Problem, not_ready
from services.api.problems.shapes import Alive, LogHealth, ProjectionsHealth, Readiness, TailHealth
from services.api.service import Service
from services.api.serving.endpoint import Answer, Endpoint


async def healthz(
    _service: Service, request: web.Request, _identity: Identity
) -> web.StreamResponse:
    """Tell that the process is alive."""
    read_query(NoQuery, request.rel_url.raw_query_string)
    return answer(Alive(True), {})


async def readyz(service: Service, request: web.Request, _identity: Identity) -> web.StreamResponse:
    """Tell whether log, projections and tail are up and make progress, and how far each lags.

    `reasons` says in words what is wrong: a log that does not answer, projections that can't be
    read or are being folded again, a partition that does not move although it has events to apply,
    no heartbeat of a projector, or a process that is draining.
    """
    read_query(NoQuery, request.rel_url.raw_query_string)
    log, tail = _log(service), _tail(service)
    projections, reasons = _projections(service)
    if not log.up:
        reasons.insert(0, LOG_SILENT)
    elif not tail.up:
        reasons.insert(0, "The live end of the log is not followed yet.")
    if service.draining.is_set():
        reasons.insert(0, DRAINING)
    ready = log.up and projections.up and tail.up and not reasons
    readiness = Readiness(ready, tuple(reasons), log, projections, tail)
    if not ready:
        raise not_ready(readiness)
    return answer(readiness, {})


def _log(service: Service) -> LogHealth:
    silent = service.liveness.silent_for()
    return LogHealth(service.liveness.is_up, round(silent, 3) if silent != float("inf") else None)


def _projections(service: Service) -> tuple[ProjectionsHealth, list[str]]:
    try:
        with service.store.snapshot(allow_recovering=True) as snapshot:
            watermark = snapshot.watermark
    except Problem as problem:
        cause = problem.__cause__
        detail = cause.what if isinstance(cause, StoreError) else problem.detail
        return ProjectionsHealth(up=False, detail=detail), [detail]
    lag = service.freshness.lag(watermark)
    stalls = service.stalls
    stalls.note(watermark)
    silent = max((stalls.silent_for(watermark, p) for p in watermark.position), default=0.0)
    health = ProjectionsHealth(
        up=not watermark.recovering,
        recovering=tuple(sorted(watermark.recovering)),
        position=format_position(watermark.position),
        lag_seconds=round(lag, 3) if lag is not None else None,
        proven=format_position(watermark.proved),
        still_seconds=round(max(map(stalls.still_for, watermark.position), default=0.0), 3),
        silent_seconds=round(silent, 3) if silent != float("inf") else None,
    )
    return health, stalls.reasons(watermark)


def _tail(service: Service) -> TailHealth:
    buffer = service.buffer
    return TailHealth(
        up=buffer.followed > 0 and service.liveness.is_up,
        position=format_position(buffer.position),
        lag_records=service.tail.lag_records(),
        buffered_bytes=buffer.size,
    )


async def metrics(
    service: Service, request: web.Request, _identity: Identity
) -> web.StreamResponse:
    """Answer with the metrics of this process for Prometheus."""
    read_query(NoQuery, request.rel_url.raw_query_string)
    text = service.metrics.text()
    return web.Response(body=text, headers={**BASE_HEADERS, "Content-Type": CONTENT_TYPE_LATEST})


HEALTHZ: Final = Endpoint(
    "GET",
    "/healthz",
    "healthz",
    healthz,
    NoQuery,
    public=True,
    answers=(Answer("The process is alive.", Alive),),
)
READYZ: Final = Endpoint(
    "GET",
    "/readyz",
    "readyz",
    readyz,
    NoQuery,
    public=True,
    answers=(Answer("Everything is up.", Readiness),),
    problems=(NOT_READY,),
)
METRICS: Final = Endpoint(
    "GET",
    "/metrics",
    "metrics",
    metrics,
    NoQuery,
    public=True,
    answers=(Answer("The metrics, in the text format of Prometheus.", media=("text/plain",)),),
)
