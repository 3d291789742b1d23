"""The one layer between the server and the endpoints: authentication, errors, and metrics.

There is one because every layer costs each request time and each open wait memory. It is also the
only place where an exception becomes an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

from aiohttp import web

from jobtrail.access.tokens import WRITE
from jobtrail.core.errors import StoreError
from projections.ports.meter import TooLong
from services.api.access.auth import NOBODY
from services.api.http.answers import BASE_HEADERS, CompleteResponse
from services.api.http.outgoing import LARGE
from services.api.http.response_encoding import compressed
from services.api.internals.aiohttp_internals import bytes_out
from services.api.limits.overload import busy
from services.api.problems.problems import Problem, forbidden, from_http, internal
from services.api.service import Service
from services.api.serving.endpoint import Endpoint
from services.api.store import as_problem

logger = logging.getLogger(__name__)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SERVER_TIMING: Final = "Server-Timing"
#: The status in metrics of a request whose client disconnected before the answer.
_CLIENT_LEFT: Final = 499


def serving(
    service: Service, endpoint: Endpoint
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler that aiohttp calls for an endpoint."""
    name, handle, public = endpoint.name, endpoint.handle, endpoint.public
    permission = endpoint.permission
    identify, prove, take = service.gate.identify, service.gate.prove, service.rate.take
    answered, prepare = service.metrics.answered, service.encoder.prepare
    enter, outgoing = service.turns.enter, service.outgoing

    async def serve(request: web.Request) -> web.StreamResponse:
        began = perf_counter()
        status = _CLIENT_LEFT
        identity = NOBODY
        size = 0
        try:
            if not public:
                authorization = request.headers.get("Authorization")
                found = identify(authorization)
                identity = found if found is not None else await prove(authorization)
                if (turn := enter(identity.caller.user)) is not None:
                    await turn
                take(identity.caller.user)
                if permission is not None and permission not in identity.permissions:
                    raise forbidden(permission)
            response, coding = prepare(request, await handle(service, request, identity))
            if coding is not None:
                response = await compressed(response, coding)
            if (
                not public
                and type(response) is CompleteResponse
                and (length := len(response.content)) >= LARGE
            ):
                outgoing.take(identity.caller.user, length, written=permission == WRITE)
                size = length
            status = response.status
        except Exception as error:
            response = _failed(request, error)
            status = response.status
        finally:
            seconds = perf_counter() - began
            method = request.method
            answered(name, method if method in _METHODS else "other", status, seconds)
        if not response.prepared:
            headers = response.headers
            store = headers.get(_SERVER_TIMING)
            total = f"total;dur={seconds * 1000:.3f}"
            headers[_SERVER_TIMING] = f"{store}, {total}" if store else total
        if size:
            try:
                # Sent here rather than by aiohttp, to free its bytes when the client has read it.
                await response.prepare(request)
                await response.write_eof()
            finally:
                outgoing.free(identity.caller.user, size)
        return response

    return serve


def _failed(request: web.Request, error: Exception) -> web.StreamResponse:
    """Return the answer to a request that failed.

    Raises:
        Exception: The same one, where a part of the answer is sent already: the connection has to
            break, so that the client does not take that part for the complete answer.
    """
    if isinstance(error, Problem):
        problem = error
        if problem.reason is not None:
            level = logging.WARNING if problem.status >= 500 else logging.INFO
            logger.log(level, "action=refused status=%d %s", problem.status, problem.reason)
    elif isinstance(error, web.HTTPException):
        problem = from_http(error)
    elif isinstance(error, StoreError):
        problem = as_problem(error)
        logger.warning("action=refused status=%d %s", problem.status, problem.reason)
    elif isinstance(error, TooLong):
        problem = busy()
    elif isinstance(error, ConnectionError):
        raise error
    else:
        logger.error("action=failed path=%s", request.path, exc_info=error)
        problem = internal()
    if bytes_out(request) > 0:
        raise error
    response = problem.response()
    for name, value in BASE_HEADERS.items():
        response.headers.setdefault(name, value)
    return response
