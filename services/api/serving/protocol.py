"""The part of the server below the application: connections, and requests that can't be parsed.

aiohttp answers a request that its parser refuses with plain text. Here such a request gets a
problem, whose status says what was too long. aiohttp closes the connection of a client that does
not send its request, but waits for ever for a client that does not read its answer. Here such a
connection is closed too. Connections beyond the bound get a problem, which aiohttp has no way to
give. Requests are routed by the application's router alone.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web

from services.api.http.answers import BASE_HEADERS
from services.api.internals.aiohttp_internals import (
    AppRunner,
    Connection,
    HttpProcessingError,
    LineTooLong,
    Server,
    bytes_out,
)
from services.api.limits.limits import Bounds, Timeouts
from services.api.problems.problems import (
    CONTENT_TYPE,
    Problem,
    internal,
    too_many_connections,
    unreadable,
)

logger = logging.getLogger(__name__)

#: The longest request line: a search's filters and cursor. Bytes.
MAX_LINE: Final = 16 * 1024
#: The longest header: a token of 8 KiB and its name. Bytes. It must differ from `MAX_LINE`, since
#: aiohttp's error names the bound that was exceeded and nothing else.
MAX_HEADER: Final = 12 * 1024
_TOO_MANY_HEADERS: Final = "Too many headers"
#: Bytes of an answer that the kernel buffers beyond those in flight. By default it buffers some
#: MiB a connection, so that a slow client seems for a long time not to read at all.
_UNSENT: Final = 128 * 1024
_TCP_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
#: SO_LINGER with 0 seconds: closing the connection discards what is not sent yet.
_AT_ONCE: Final = struct.pack("ii", 1, 0)
#: Bytes of an answer that a client has to read within `Timeouts.answer`: about 2 KiB a second.
_MIN_READ: Final = 64 * 1024


#: Seconds that a refused connection has to send the first bytes of its request.
_REFUSED_WITHIN: Final = 1.0
#: Refused connections that may wait for these bytes; further ones are closed without an answer.
_MOST_REFUSED: Final = 1_000


class _Refused(asyncio.Protocol):
    """A connection beyond the bound: its first request is answered with a problem.

    The answer waits for the request: bytes that arrive at a closed connection reset it, and the
    client then loses an answer that it has not read yet.
    """

    def __init__(self, transport: asyncio.Transport, over: Callable[[], None]) -> None:
        self._transport = transport
        self._over = over
        self._timer = asyncio.get_running_loop().call_later(_REFUSED_WITHIN, transport.abort)

    def data_received(self, _data: bytes) -> None:
        """Answer and close."""
        self._transport.write(_REFUSAL)
        self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the connection."""
        self._timer.cancel()
        self._over()


def _refusal() -> bytes:
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


_REFUSAL: Final = _refusal()


class _Protocol(Connection):
    """One connection.

    Args:
        manager: The server.
        timeouts: How long to wait for the client.
        **kwargs: Of aiohttp.
    """

    __slots__ = ("_check", "_timeouts")

    def __init__(self, manager: web.Server, timeouts: Timeouts, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._timeouts = timeouts
        self._check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection if fewer than the bound are open."""
        manager = self.server
        assert isinstance(manager, _Server)
        # uvloop's transports have the methods of `asyncio.Transport`, but another base class.
        stream = cast(asyncio.Transport, transport)
        if manager.is_full:
            manager.refuse(stream)
            return
        super().connection_made(transport)
        # So `pause_writing` is called for any byte that the client does not read.
        stream.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        if _TCP_NOTSENT_LOWAT is not None and sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the client."""
        self._stop_checking()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start to watch a client that has not read everything that was sent."""
        super().pause_writing()
        if self.transport is not None:
            self._check_later(self.transport)

    def resume_writing(self) -> None:
        """Stop watching: the client has read everything."""
        self._stop_checking()
        super().resume_writing()

    def _check_later(self, transport: asyncio.Transport) -> None:
        left = transport.get_write_buffer_size()
        self._check = self.loop.call_later(
            self._timeouts.answer, self._check_progress, transport, left
        )

    def _check_progress(self, transport: asyncio.Transport, before: int) -> None:
        """Close the connection of a client that hardly reads: its answer would stay in memory."""
        if before - transport.get_write_buffer_size() >= _MIN_READ:
            self._check_later(transport)
        else:
            logger.info("action=hung_up the client does not read its answer")
            if (sock := transport.get_extra_info("socket")) is not None:
                # Else the kernel would go on sending what it has buffered.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            transport.abort()

    def _stop_checking(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that failed outside of the application."""
        if bytes_out(request) > 0:
            # Only a broken connection tells the client that the answer is incomplete.
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


class _Server(Server):
    def __init__(self, like: web.Server, most: int, timeouts: Timeouts) -> None:
        super().__init__(like)
        self._most = most
        self._timeouts = timeouts
        self._refusing = 0

    @property
    def is_full(self) -> bool:
        """Whether as many connections as allowed are open."""
        return self.connection_count >= self._most

    def refuse(self, transport: asyncio.Transport) -> None:
        """Answer the connection's first request with a problem."""
        if self._refusing >= _MOST_REFUSED:
            transport.abort()
            return
        self._refusing += 1
        transport.set_protocol(_Refused(transport, self._refused))

    def _refused(self) -> None:
        self._refusing -= 1

    def __call__(self) -> web.RequestHandler:
        return self.connect(_Protocol, self._timeouts)


class Runner(AppRunner):
    """Runs the application on connections with these bounds.

    Args:
        app: The application.
        bounds: How many connections there may be, and how long a request may take to arrive.
        timeouts: How long to wait for clients that do not read.
        shutdown_timeout: Seconds that running requests have to finish when the service stops.
    """

    def __init__(
        self, app: web.Application, bounds: Bounds, timeouts: Timeouts, *, shutdown_timeout: float
    ) -> None:
        self._most = bounds.connections
        self._timeouts = timeouts
        super().__init__(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            # Counted from the connection's start, or the last answer, to the end of the next head.
            keepalive_timeout=bounds.idle_timeout,
            # A body that nobody reads has as long to arrive as one that is read.
            lingering_time=bounds.read_timeout,
            max_line_size=MAX_LINE,
            max_field_size=MAX_HEADER,
            shutdown_timeout=shutdown_timeout,
        )

    def server_like(self, made: web.Server) -> web.Server:
        """Return a server that makes connections of our own kind."""
        return _Server(made, self._most, self._timeouts)
