"""`/healthz`, `/readyz` and `/metrics`: for whoever runs the service, without a token."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from jobtrail.errors import StoreError
from jobtrail.position import format_position
from services.api.answers import BASE_HEADERS, answer
from services.api.auth import Identity
from services.api.problems import not_ready
from services.api.requests import NoQuery, read_query
from services.api.routes.endpoint import Endpoint
from services.api.service import Service


async def healthz(
    _service: Service, request: web.Request, _identity: Identity
) -> web.StreamResponse:
    """Say that the process lives."""
    read_query(NoQuery, request.rel_url.raw_query_string)
    return answer({"alive": True}, {})


async def readyz(service: Service, request: web.Request, _identity: Identity) -> web.StreamResponse:
    """Say whether log, projections and tail are up, and how far each is behind."""
    read_query(NoQuery, request.rel_url.raw_query_string)
    parts = {"log": _log(service), "projections": _projections(service), "tail": _tail(service)}
    ready = all(part["up"] for part in parts.values())
    if not ready:
        raise not_ready({"ready": ready, **parts})
    return answer({"ready": ready, **parts}, {})


def _log(service: Service) -> dict[str, Any]:
    silent = service.tail.silent_for()
    return {
        "up": service.tail.is_up(),
        "silentSeconds": round(silent, 3) if silent != float("inf") else None,
    }


def _projections(service: Service) -> dict[str, Any]:
    try:
        with service.store.view() as snapshot:
            held = snapshot.held
    except StoreError as error:
        return {"up": False, "detail": error.what}
    lag = service.freshness.lag(held)
    return {
        "up": not held.recovering,
        "recovering": sorted(held.recovering),
        "position": format_position(held.position),
        "lagSeconds": round(lag, 3) if lag is not None else None,
    }


def _tail(service: Service) -> dict[str, Any]:
    buffer = service.buffer
    return {
        "up": buffer.followed > 0 and service.tail.is_up(),
        "position": format_position(buffer.position),
        "lagRecords": service.tail.records_behind(),
        "bufferedBytes": buffer.size,
    }


async def metrics(
    service: Service, request: web.Request, _identity: Identity
) -> web.StreamResponse:
    """Give Prometheus the figures of this process."""
    read_query(NoQuery, request.rel_url.raw_query_string)
    text = service.metrics.text()
    return web.Response(body=text, headers={**BASE_HEADERS, "Content-Type": CONTENT_TYPE_LATEST})


HEALTHZ: Final = Endpoint("GET", "/healthz", "healthz", healthz, NoQuery, public=True)
READYZ: Final = Endpoint("GET", "/readyz", "readyz", readyz, NoQuery, public=True)
METRICS: Final = Endpoint("GET", "/metrics", "metrics", metrics, NoQuery, public=True)
