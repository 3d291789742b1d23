"""The internals of aiohttp that the API uses, each with its reason; nothing else imports them.

aiohttp has no hook for connections of another kind, and does not say how much of an answer is out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from jobtrail.internals.internal import Internal

__all__ = [
    "AppRunner",
    "Connection",
    "HttpProcessingError",
    "LineTooLong",
    "Server",
    "bytes_out",
    "continue_request",
    "keep_connection",
    "rfc822_formatted_time",
    "send_complete",
]

#: The distribution whose internals these are.
LIBRARY: Final = "aiohttp"

_PROTOCOL: Final = "aiohttp.web:RequestHandler"
_SERVER: Final = "aiohttp.web:Server"
_RESPONSE: Final = "aiohttp.web:Response"
_REQUEST: Final = "aiohttp.web:BaseRequest"
_WRITER: Final = "aiohttp.http_writer:StreamWriter"

_BOUND: Final = "connections are bounded, and those that do not read are closed"
_PROBLEMS: Final = "what never gets as far as the application is answered with a problem, too"
_COMPLETE: Final = "an answer that is complete goes out at once"
_OUT: Final = "once some of an answer is out, an error can only end the connection"
_CONTINUE: Final = "whether a body is wanted is said before it is sent"

INTERNALS: Final = (
    Internal(_PROTOCOL, _BOUND),
    Internal(f"{_PROTOCOL}._manager", _BOUND),
    Internal(f"{_PROTOCOL}._loop", _BOUND),
    Internal(f"{_PROTOCOL}.transport", _BOUND),
    Internal(f"{_PROTOCOL}.connection_made", _BOUND, ("self", "transport")),
    Internal(f"{_PROTOCOL}.connection_lost", _BOUND, ("self", "exc")),
    Internal(f"{_PROTOCOL}.pause_writing", _BOUND, ("self",)),
    Internal(f"{_PROTOCOL}.resume_writing", _BOUND, ("self",)),
    Internal(
        f"{_PROTOCOL}.handle_error", _PROBLEMS, ("self", "request", "status", "exc", "message")
    ),
    Internal("aiohttp.http_exceptions:HttpProcessingError", _PROBLEMS),
    Internal("aiohttp.http_exceptions:LineTooLong", _PROBLEMS),
    Internal(_SERVER, _BOUND),
    Internal(f"{_SERVER}._connections", _BOUND),
    Internal(f"{_SERVER}._loop", _BOUND),
    Internal(f"{_SERVER}._kwargs", _BOUND),
    Internal(f"{_SERVER}.request_handler", _BOUND),
    Internal(f"{_SERVER}.request_factory", _BOUND),
    Internal(f"{_SERVER}.handler_cancellation", _BOUND),
    Internal("aiohttp.web:AppRunner._make_server", _BOUND, ("self",)),
    Internal(f"{_RESPONSE}._keep_alive", _COMPLETE),
    Internal(f"{_RESPONSE}._eof_sent", _COMPLETE),
    Internal(f"{_RESPONSE}._body_length", _COMPLETE),
    Internal(f"{_WRITER}.write_headers", _COMPLETE, ("self", "status_line", "headers")),
    Internal(f"{_WRITER}.write_eof", _COMPLETE, ("self", "chunk")),
    Internal("aiohttp.helpers:rfc822_formatted_time", "`Date`, made once a second", ()),
    Internal(f"{_REQUEST}.writer", _OUT),
    Internal(f"{_WRITER}.output_size", _OUT),
    Internal(f"{_WRITER}.write", _CONTINUE),
    Internal(f"{_REQUEST}.protocol", "a connection's first timer would run beside a long answer"),
    Internal(f"{_PROTOCOL}.keep_alive", "the same", ("self", "val")),
)


class Server(web.Server):
    """Makes the connections, which a class of ours says in `__call__`.

    Args:
        like: Server of the application, whose place it takes.
    """

    def __init__(self, like: web.Server) -> None:
        super().__init__(
            like.request_handler,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            **like._kwargs,
        )

    @property
    def connection_count(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def connect(
        self, kind: Callable[..., web.RequestHandler], *arguments: Any
    ) -> web.RequestHandler:
        """Return a connection of a class; it is given this server, arguments and aiohttp's own."""
        return kind(self, *arguments, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    @property
    def server(self) -> web.Server | None:
        """What has made it; None once it is closed."""
        return self._manager

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it runs in."""
        return self._loop


class AppRunner(web.AppRunner):
    """Runs the application on a server of our own kind."""

    async def _make_server(self) -> web.Server:
        return self.server_like(await super()._make_server())

    def server_like(self, made: web.Server) -> web.Server:
        """Return the server; aiohttp's own unless it is overridden.

        Args:
            made: The application's, which nobody has connected to.
        """
        return made


async def send_complete(request: web.BaseRequest, response: web.Response, body: bytes) -> None:
    """Send a 200 as a whole, on a connection that stays open.

    Args:
        request: What is answered.
        response: The answer, with all of its headers.
        body: Its body.
    """
    writer = request.writer
    response._keep_alive = True
    # There is nothing that `write_eof` would have to send.
    response._eof_sent = True
    await writer.write_headers("HTTP/1.1 200 OK", response.headers)
    await writer.write_eof(body)
    response._body_length = writer.output_size


def bytes_out(request: web.BaseRequest) -> int:
    """Return how much of a request's answer was sent: 0 before it begins."""
    return request.writer.output_size


async def continue_request(request: web.BaseRequest) -> None:
    """Say that the client may send the body; the answer itself has not begun by that."""
    writer = request.writer
    await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    writer.output_size = 0


def keep_connection(request: web.BaseRequest) -> None:
    """End the timer that waits for a connection's first request, which has come."""
    request.protocol.keep_alive(True)
