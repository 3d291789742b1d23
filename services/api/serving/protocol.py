"""Requests that never get as far as the application are answered with problems too.

aiohttp's parser gives up on a request with a plain text; this puts our form in its place, with
the status that says what was too long. And while aiohttp hangs up on a client whose request does
not come, it waits for ever for one that does not read its answer: this hangs up on it too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from aiohttp import hdrs, web

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

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: What answers which method of which path that has no names in it.
DIRECT: Final = web.AppKey("direct", dict[tuple[str, str], _Handler])

#: The longest request line: a search's filters and cursor. Bytes.
MAX_LINE: Final = 16 * 1024
#: The longest header: a token of 8 KiB and its name. Bytes; not the same as `MAX_LINE`, since
#: that is how the two are told apart.
MAX_HEADER: Final = 12 * 1024
_TOO_MANY_HEADERS: Final = "Too many headers"
#: Bytes that the kernel holds of an answer beyond those on their way. By itself it takes some MiB
#: a connection, and a client that reads slowly looks for a long time as if it did not read at all.
_UNSENT: Final = 128 * 1024
_TCP_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
#: A connection that is closed sends nothing more.
_AT_ONCE: Final = struct.pack("ii", 1, 0)
#: Bytes of an answer that a client has to take within `Timeouts.answer`: about 2 KiB a second.
_TAKEN: Final = 64 * 1024


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


class _Protocol(Connection):
    """One connection.

    Args:
        manager: The server.
        timeouts: How long to wait for the client.
        **kwargs: Of aiohttp.
    """

    __slots__ = ("_look", "_patience")

    def __init__(self, manager: web.Server, timeouts: Timeouts, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._patience = timeouts
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take up a connection while there is room."""
        manager = self.server
        assert isinstance(manager, _Server)
        # uvloop's are transports by what they do, not by their class.
        stream = cast(asyncio.Transport, transport)
        if manager.is_full:
            manager.refuse(stream)
            return
        super().connection_made(transport)
        # So that it is told of anything that the client does not take, even as it hangs up.
        stream.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        if _TCP_NOTSENT_LOWAT is not None and sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the client."""
        self._stop_looking()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that has not taken all that is sent to it."""
        super().pause_writing()
        if self.transport is not None:
            self._look_later(self.transport)

    def resume_writing(self) -> None:
        """Go on: the client has taken everything."""
        self._stop_looking()
        super().resume_writing()

    def _look_later(self, transport: asyncio.Transport) -> None:
        left = transport.get_write_buffer_size()
        self._look = self.loop.call_later(
            self._patience.answer, self._has_taken_enough, transport, left
        )

    def _has_taken_enough(self, transport: asyncio.Transport, before: int) -> None:
        """Hang up on a client that hardly reads: its answer would be in memory for ever."""
        if before - transport.get_write_buffer_size() >= _TAKEN:
            self._look_later(transport)
        else:
            logger.info("action=hung_up the client does not read its answer")
            if (sock := transport.get_extra_info("socket")) is not None:
                # Or the kernel would go on sending what it has, for as long as that takes.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            transport.abort()

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that failed outside of the application."""
        if bytes_out(request) > 0:
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


class _Server(Server):
    def __init__(
        self,
        like: web.Server,
        direct: Mapping[tuple[str, str], _Handler],
        most: int,
        timeouts: Timeouts,
    ) -> None:
        super().__init__(like, _directed(direct, like.request_handler))
        self._most = most
        self._patience = timeouts
        self._refusing = 0

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return self.connection_count >= self._most

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
        return self.connect(_Protocol, self._patience)


def _directed(direct: Mapping[tuple[str, str], _Handler], otherwise: Any) -> Any:
    """Return what answers requests: most of them without a look through the application's routes.

    Args:
        direct: See `DIRECT`.
        otherwise: The application's own handler: of paths with names in them or written in another
            way, of those that are not there, and of who asks first whether they may send a body.
    """

    def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
        path, _, _ = request.raw_path.partition("?")
        found = direct.get((request.method, path))
        if found is None or hdrs.EXPECT in request.headers:
            answer: Awaitable[web.StreamResponse] = otherwise(request)
            return answer
        return found(request)

    return handle


class Runner(AppRunner):
    """Runs the application on connections of our own kind.

    Args:
        app: The application.
        bounds: How many connections, and how long they may take to say what they want.
        timeouts: How long to wait for clients that do not read.
        shutdown_timeout: Seconds that requests have to end once the service is told to.
    """

    def __init__(
        self, app: web.Application, bounds: Bounds, timeouts: Timeouts, *, shutdown_timeout: float
    ) -> None:
        self._most = bounds.connections
        self._patience = timeouts
        super().__init__(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            # From the connection's beginning, and from each answer, to the end of a request's head.
            keepalive_timeout=bounds.idle_timeout,
            # A body that was not wanted has as long as one that was.
            lingering_time=bounds.read_timeout,
            max_line_size=MAX_LINE,
            max_field_size=MAX_HEADER,
            shutdown_timeout=shutdown_timeout,
        )

    def server_like(self, made: web.Server) -> web.Server:
        """Return a server that makes connections of our own kind."""
        direct = self.app.get(DIRECT, {})
        return _Server(made, direct, self._most, self._patience)
