"""Requests that never get as far as the application are answered with problems too.

aiohttp's parser gives up on a request with a plain text; this puts our form in its place, with
the status that says what was too long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from services.api.answers import BASE_HEADERS
from services.api.problems import (
    CONTENT_TYPE,
    Problem,
    internal,
    too_many_connections,
    unreadable,
)
from services.api.service import SERVICE

logger = logging.getLogger(__name__)

#: The longest request line: a search's filters and cursor. Bytes.
MAX_LINE: Final = 16 * 1024
#: The longest header: a token of 8 KiB and its name. Bytes; not the same as `MAX_LINE`, since
#: that is how the two are told apart.
MAX_HEADER: Final = 12 * 1024
_TOO_MANY_HEADERS: Final = "Too many headers"


#: Seconds in which a connection that is refused may say what it wants.
_REFUSED_WITHIN: Final = 1.0
#: Connections that are being refused at a time; further ones are cut.
_MOST_REFUSED: Final = 1_000


class _Refused(asyncio.Protocol):
    """A connection beyond the bound: the answer to its first words is that there is no room.

    Not before them: what arrives at a closed connection takes the answer away with it.
    """

    def __init__(self, transport: asyncio.Transport, over: Callable[[], None]) -> None:
        self._transport = transport
        self._over = over
        self._timer = asyncio.get_running_loop().call_later(_REFUSED_WITHIN, transport.abort)

    def data_received(self, _data: bytes) -> None:
        """Answer, and close."""
        self._transport.write(_NO_ROOM)
        self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the connection."""
        self._timer.cancel()
        self._over()


def _no_room() -> bytes:
    problem = too_many_connections()
    body = problem.body()
    headers = {
        **BASE_HEADERS,
        **problem.headers,
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(len(body)),
    }
    lines = [f"HTTP/1.1 {problem.status} Service Unavailable"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


_NO_ROOM: Final = _no_room()


class _Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take up a connection while there is room."""
        manager = self._manager
        assert isinstance(manager, _Server)
        if manager.is_full:
            # uvloop's are transports by what they do, not by their class.
            manager.refuse(cast(asyncio.Transport, transport))
        else:
            super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that failed outside of the application."""
        if request.writer.output_size > 0:
            # Only a broken connection says that the part that is out is not the whole.
            raise ConnectionResetError("the answer can't be finished") from exc
        if isinstance(exc, HttpProcessingError):
            problem = _unreadable(exc)
        else:
            logger.error("action=failed status=%d", status, exc_info=exc)
            problem = internal()
        response = problem.response()
        for name, value in BASE_HEADERS.items():
            response.headers.setdefault(name, value)
        response.force_close()
        return response


def _unreadable(error: HttpProcessingError) -> Problem:
    if isinstance(error, LineTooLong):
        return unreadable(414 if MAX_LINE in error.args else 431)
    return unreadable(431 if _TOO_MANY_HEADERS in error.message else 400)


class _Server(web.Server):
    def __init__(self, like: web.Server, most: int, **kwargs: Any) -> None:
        super().__init__(
            like.request_handler,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            **kwargs,
        )
        self._most = most
        self._refusing = 0

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return len(self._connections) >= self._most

    def refuse(self, transport: asyncio.Transport) -> None:
        """Say that there is no room."""
        if self._refusing >= _MOST_REFUSED:
            transport.abort()
            return
        self._refusing += 1
        transport.set_protocol(_Refused(transport, self._refused))

    def _refused(self) -> None:
        self._refusing -= 1

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs the application on connections of our own kind.

    Args:
        app: The application.
        shutdown_timeout: Seconds that requests have to end once the service is told to.
    """

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        bounds = app[SERVICE].bounds
        self._most = bounds.connections
        super().__init__(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=bounds.idle_timeout,
            # A body that was not wanted has as long as one that was.
            lingering_time=bounds.read_timeout,
            max_line_size=MAX_LINE,
            max_field_size=MAX_HEADER,
            shutdown_timeout=shutdown_timeout,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, self._most, **made._kwargs)
