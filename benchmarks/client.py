"""An HTTP client that costs next to nothing: prepared bytes out, as little as possible read.

It knows what the service sends and no more: HTTP/1.1 with `Content-Length`, or chunked where a
wait has sent signs of life.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from benchmarks.options import PATIENCE


def address(url: str) -> tuple[str, int]:
    """Return host and port of a service."""
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    return place.hostname, place.port


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    #: When it was there, by `time.perf_counter`.
    at: float


def get(path: str, token: str | None = None, **headers: str) -> bytes:
    """Return the bytes of a GET.

    Args:
        path: With its query.
        token: Whose request it is.
        **headers: Others, with `_` for `-`.
    """
    return _head("GET", path, token, headers) + b"\r\n"


def post(path: str, token: str, body: bytes, form: str = "application/json") -> bytes:
    """Return the bytes of a POST of JSON, or of another content type."""
    headers = {"Content_Type": form, "Content_Length": str(len(body))}
    return _head("POST", path, token, headers) + b"\r\n" + body


def _head(method: str, path: str, token: str | None, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n").encode()


class HttpProtocol(asyncio.Protocol, ABC):
    """One connection on which one request at a time is under way."""

    def __init__(self) -> None:
        #: uvloop's transports are no subclasses of asyncio's.
        self.transport: Any = None
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def send(self, request: bytes) -> None:
        """Send a request."""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take in what came; `answered` is called when the answer is whole."""
        seen = self._seen = self._seen + data if self._seen else data
        end = seen.find(b"\r\n\r\n")
        if end < 0:
            return
        at = seen.find(b"Content-Length: ", 0, end)
        if at >= 0:
            length = int(seen[at + 16 : seen.find(b"\r\n", at)])
            if len(seen) < end + 4 + length:
                return
            body = seen[end + 4 : end + 4 + length]
        elif seen.endswith(b"0\r\n\r\n"):
            body = _joined(seen[end + 4 :])
        else:
            return
        self._seen = b""
        self.answered(int(seen[9:12]), body)

    @abstractmethod
    def answered(self, status: int, body: bytes) -> None:
        """Take in a whole answer."""


def _joined(chunks: bytes) -> bytes:
    """Return the body that was sent in chunks."""
    parts = []
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        chunks = rest[length + 2 :] if length else b""
    return b"".join(parts)


class Connection(HttpProtocol):
    """A connection whose answers are awaited; made with `open`."""

    def __init__(self) -> None:
        super().__init__()
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to a service."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, *address(url))
        return protocol

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the answer comes later."""
        self._answer = asyncio.get_running_loop().create_future()
        self.send(request)
        return self._answer

    async def expect(self, request: bytes) -> Answer:
        """Send a request and return its answer.

        Raises:
            RuntimeError: It is not 200.
        """
        answer = await self.ask(request)
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.body.decode()}")
        return answer

    def answered(self, status: int, body: bytes) -> None:
        """Hand the answer to who asked."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(status, body, time.perf_counter()))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for an answer that none will come."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the service hung up: {exc}"))

    def close(self) -> None:
        """Hang up."""
        if self._answer is not None:
            self._answer.cancel()
        if self.transport is not None:
            self.transport.close()


async def until_ready(connection: Connection) -> None:
    """Wait until the service behind a connection says that it is ready.

    Raises:
        TimeoutError: It does not become so.
    """
    await until(connection, get("/readyz"), lambda answer: answer.status == 200)


async def until(connection: Connection, request: bytes, enough: Callable[[Answer], bool]) -> None:
    """Ask again and again until an answer will do.

    Raises:
        TimeoutError: None does.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            if enough(await connection.ask(request)):
                return
            await asyncio.sleep(0.02)
