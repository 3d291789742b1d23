"""`/healthz`, `/readyz` and `/metrics` of a projector: for those who run it, without a token.

Nothing in the answers is secret: they tell partitions, offsets and figures, and no job. One
connection is one request. How many there are, and how long each lives, is bounded, so that nobody
who reaches the port slows the projector by more than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from jobtrail.core.errors import SettingError
from projections.projector.health import Health

logger = logging.getLogger(__name__)

#: Connections at a time; further ones are cut. Two checks and Prometheus are three.
MOST_CONNECTIONS: Final = 32
#: Seconds that a connection lives, its request and its answer included.
CONNECTION_SECONDS: Final = 10.0
#: Bytes of the request line, and of each header.
_MOST_HEAD: Final = 4 * 1024
_JSON: Final = "application/json"
_METHODS: Final = ("GET", "HEAD")


def _healthz(_health: Health) -> web.Response:
    return web.Response(body=b'{"alive":true}', content_type=_JSON)


def _readyz(health: Health) -> web.Response:
    said = health.readiness()
    headers = {} if said.ready else {"Retry-After": "1"}
    return web.Response(
        body=msgspec.json.encode(said),
        status=200 if said.ready else 503,
        content_type=_JSON,
        headers=headers,
    )


def _metrics(health: Health) -> web.Response:
    return web.Response(body=health.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})


_ANSWERS: Final[dict[str, Callable[[Health], web.Response]]] = {
    "/healthz": _healthz,
    "/readyz": _readyz,
    "/metrics": _metrics,
}


class _Connection(web.RequestHandler):
    """One connection, which does not live longer than it may."""

    __slots__ = ("_life",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it up."""
        super().connection_made(transport)
        # uvloop's are transports by what they do, not by their class.
        abort = cast(asyncio.Transport, transport).abort
        self._life = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self._life.cancel()
        super().connection_lost(exc)


class _TooMany(asyncio.Protocol):
    """A connection beyond the bound."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Cut it."""
        transport.close()


@contextlib.asynccontextmanager
async def serving_health(health: Health, host: str, port: int) -> AsyncIterator[None]:
    """Answer for a projector while the context is open.

    Args:
        health: What is answered.
        host: Address to listen on.
        port: Port to listen on; 0: nothing is served.

    Raises:
        SettingError: It can't listen there.
    """
    if not port:
        yield
        return

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer = _ANSWERS.get(request.path)
        if answer is None:
            response = web.Response(status=404, text="There are /healthz, /readyz and /metrics.\n")
        elif request.method not in _METHODS:
            response = web.Response(status=405, headers={"Allow": ", ".join(_METHODS)})
        else:
            response = answer(health)
        response.headers["Cache-Control"] = "no-store"
        response.force_close()
        return response

    server = web.Server(handle)
    options: dict[str, Any] = {
        "access_log": None, "max_line_size": _MOST_HEAD, "max_field_size": _MOST_HEAD,
        "lingering_time": 0.0,
    }  # fmt: skip
    loop = asyncio.get_running_loop()

    def connect() -> asyncio.Protocol:
        if len(server.connections) >= MOST_CONNECTIONS:
            return _TooMany()
        return _Connection(server, loop=loop, **options)

    try:
        listener = await loop.create_server(connect, host, port, backlog=MOST_CONNECTIONS)
    except OSError as error:
        raise SettingError(
            "The projector can't listen there for questions about its health.",
            where=f"{host}:{port}",
            found=error.strerror or str(error),
            hint="Set JOBTRAIL_HEALTH_HOST and JOBTRAIL_HEALTH_PORT, another port for each "
            "projector of a machine; 0 turns it off.",
        ) from None
    logger.info("action=health_served host=%s port=%d", host, port)
    try:
        yield
    finally:
        listener.close()
        await server.shutdown(0)
