"""Requests that never get as far as the application are answered with problems too.

aiohttp's parser gives up on a request with a plain text; this puts our form in its place, with
the status that says what was too long.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from services.api.answers import BASE_HEADERS
from services.api.problems import Problem, internal, unreadable

logger = logging.getLogger(__name__)

#: The longest request line: a search's filters and cursor. Bytes.
MAX_LINE: Final = 16 * 1024
#: The longest header: a token of 8 KiB and its name. Bytes; not the same as `MAX_LINE`, since
#: that is how the two are told apart.
MAX_HEADER: Final = 12 * 1024
_TOO_MANY_HEADERS: Final = "Too many headers"


class _Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ()

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
    def __init__(self, like: web.Server, **kwargs: Any) -> None:
        super().__init__(
            like.request_handler,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            **kwargs,
        )

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs the application on connections of our own kind.

    Args:
        app: The application.
        shutdown_timeout: Seconds that requests have to end once the service is told to.
    """

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        super().__init__(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=30.0,
            max_line_size=MAX_LINE,
            max_field_size=MAX_HEADER,
            shutdown_timeout=shutdown_timeout,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, **made._kwargs)
