"""The client's transport: connections, errors as exceptions, and retries.

aiohttp is imported with the first connection: it takes most of the time that `import
jobtrail.client` would, and a command that only prints its help opens none.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from yarl import URL

from jobtrail.client.errors import ApiError, ServiceUnavailable
from jobtrail.client.sse import Message, messages

if TYPE_CHECKING:
    import aiohttp

#: Statuses of temporary failures: overloaded, unavailable, recovering.
_PASSING: Final = frozenset({429, 502, 503, 504})
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
#: Seconds. A request that was open for this long before it broke counts as served: a read that the
#: service refuses is refused sooner.
_SERVED: Final = 10.0
#: Seconds without a byte after which a connection is given up: the service sends signs of life more
#: often.
_SILENCE: Final = 60.0


class Retry:
    """When, and for how long, a temporary failure is retried.

    Args:
        patience: Seconds after which retries end.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._pause = _FIRST_PAUSE
        self._give_up: float | None = None

    async def pause(self, error: ServiceUnavailable, open_for: float = 0.0) -> None:
        """Pause before the next attempt, by the service's `Retry-After` where it sends one.

        Patience counts from the first failure; a request that was open for long counts as served.

        Args:
            error: The failure.
            open_for: Seconds for which the request was open.

        Raises:
            ServiceUnavailable: The error itself, once patience has run out.
        """
        if self._give_up is None or open_for >= _SERVED:
            self._give_up = time.monotonic() + self._patience
            self._pause = _FIRST_PAUSE
        wanted = error.retry_after or self._pause * random.uniform(0.5, 1)  # noqa: S311
        if time.monotonic() + wanted > self._give_up:
            raise error
        await asyncio.sleep(wanted)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)


class Transport:
    """Sends requests to one service.

    Args:
        url: The service.
        token: The caller's token or API key.
        patience: Seconds after which retries of a temporary failure end.
    """

    def __init__(self, url: URL, token: str, patience: float) -> None:
        self._url = url
        self._token = token
        self._patience = patience
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Open the connections; an event loop has to run."""
        import aiohttp

        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def retry(self) -> Retry:
        """Return the retries of a request that begins now."""
        return Retry(self._patience)

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> bytes:
        """Send a request, with retries; return the content of the answer.

        Args:
            method: Of HTTP.
            path: Relative to the service.
            headers: Of the request.
            body: Sent as JSON, or a function that makes it for each attempt; None for none.

        Raises:
            ApiError: The service refused; `ServiceUnavailable` where it can't answer now.
        """
        retry = self.retry()
        while True:
            began, answered = time.monotonic(), False
            try:
                content = body() if callable(body) else body
                async with self._request(method, path, headers, content) as answer:
                    answered = True
                    return await answer.read()
            except ServiceUnavailable as error:
                # A connection without a byte was not served.
                answered = answered or error.status != 0
                await retry.pause(error, time.monotonic() - began if answered else 0.0)

    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncGenerator[Message]:
        """Listen to server-sent events until the connection ends.

        Raises:
            ServiceUnavailable: The stream has ended, or could not be opened.
            ApiError: The service refused.
        """
        async with self._request("GET", path, headers) as answer:
            async for message in messages(answer.content.iter_any()):
                yield message
        raise ServiceUnavailable(0, {"title": "The service ended the stream."}, f"GET {path}")

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: Any = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; raise where it breaks or is not answered with 200."""
        import aiohttp

        assert self._session is not None, "use the client as an async context manager"
        url = self._url.join(URL(path, encoded=True))
        try:
            async with self._session.request(method, url, json=body, headers=headers) as answer:
                if answer.status != 200:
                    raise _refusal(answer, await answer.read(), f"{method} {url.path}")
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServiceUnavailable(
                0, {"title": "The service was not reached.", "detail": repr(error)}, str(url)
            ) from None


def _refusal(answer: aiohttp.ClientResponse, content: bytes, where: str) -> ApiError:
    try:
        problem = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {}
    if answer.status in _PASSING:
        return ServiceUnavailable(
            answer.status, problem, where, _seconds(answer.headers.get("Retry-After"))
        )
    return ApiError(answer.status, problem, where)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdecimal() else None
