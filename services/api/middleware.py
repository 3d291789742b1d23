"""The one middleware: who asks, what went wrong, and what it took.

One, because every layer costs each request; it is also the only place where an exception becomes
an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from services.api.answers import BASE_HEADERS
from services.api.problems import Problem, from_http, internal
from services.api.routes.endpoint import Endpoint, Handler
from services.api.service import IDENTITY, Service

logger = logging.getLogger(__name__)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SERVER_TIMING: Final = "Server-Timing"
#: What metrics call a request whose client went away before the answer.
_CLIENT_LEFT: Final = 499


def make_middleware(
    service: Service, endpoints: Mapping[web.AbstractRoute, Endpoint]
) -> Middleware:
    """Return the middleware of a service.

    Args:
        service: The service.
        endpoints: By route; a route that is not among them needs no token.
    """
    gate = service.gate
    answered = service.metrics.answered

    @web.middleware
    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = perf_counter()
        endpoint = endpoints.get(request.match_info.route)
        status = _CLIENT_LEFT
        try:
            if endpoint is not None and not endpoint.public:
                authorization = request.headers.get("Authorization")
                request[IDENTITY] = await gate.identify(authorization)
            response = await handler(request)
            status = response.status
        except Exception as error:
            response = _failed(request, error)
            status = response.status
        finally:
            seconds = perf_counter() - began
            answered(
                endpoint.name if endpoint is not None else "none",
                request.method if request.method in _METHODS else "other",
                status,
                seconds,
            )
        if not response.prepared:
            headers = response.headers
            store = headers.get(_SERVER_TIMING)
            total = f"total;dur={seconds * 1000:.3f}"
            headers[_SERVER_TIMING] = f"{store}, {total}" if store else total
        return response

    return serve


def _failed(request: web.Request, error: Exception) -> web.StreamResponse:
    """Return the answer to a request that failed.

    Raises:
        Exception: The same, where a part of the answer is out: the connection has to break, so
            that the part is not taken for the whole.
    """
    if isinstance(error, Problem):
        problem = error
        if problem.reason is not None:
            level = logging.WARNING if problem.status >= 500 else logging.INFO
            logger.log(level, "action=refused status=%d %s", problem.status, problem.reason)
    elif isinstance(error, web.HTTPException):
        problem = from_http(error)
    elif isinstance(error, ConnectionError):
        raise error
    else:
        logger.error("action=failed path=%s", request.path, exc_info=error)
        problem = internal()
    if request.writer.output_size > 0:
        raise error
    response = problem.response()
    for name, value in BASE_HEADERS.items():
        response.headers.setdefault(name, value)
    return response
