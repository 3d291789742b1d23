"""Clients that hold a connection and do not go on: none is waited for for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from services.api.limits.limits import Timeouts
from tests.contract.api_service import Api, running
from tests.waiting import look_again, until

#: Seconds after which a test gives up waiting for anything.
DEADLINE: Final = 60.0
#: More than fits between a server and a client whose buffer is small.
SIZE: Final = 6_000_000


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    timeouts = Timeouts(answer=0.2)
    async with running(tmp_path, timeouts=timeouts, read_timeout=0.2, idle_timeout=0.2) as api:
        api.make_store()
        api.follow()
        yield api


async def connected(api: Api, *, receives: int | None = None) -> socket.socket:
    """A connection; its side receives so many bytes ahead of being read."""
    _, _, address = api.url.partition("//")
    host, _, port = address.partition(":")
    sock = socket.socket()
    if receives is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return sock


async def to_end(sock: socket.socket) -> bytes:
    """Read until the service hangs up."""
    loop, found = asyncio.get_running_loop(), b""
    with contextlib.suppress(ConnectionError):
        while some := await loop.sock_recv(sock, 1 << 16):
            found += some
    return found


async def fill(api: Api) -> None:
    """Let there be a bulk whose answer has `SIZE` bytes and some."""
    for number in range(100):
        api.emit(f"j{number}", "created", bulkId="b")
        api.emit(f"j{number}", "completed", output="x" * (SIZE // 100))
    await api.project()


async def until_served(api: Api, number: int) -> None:
    """Return when the service has as many connections."""
    async with asyncio.timeout(DEADLINE):
        await until(lambda: api.connections() == number)


@pytest.mark.parametrize(
    "some", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", b"GET /healthz HTTP/1.1\r\n"]
)
async def test_a_request_that_does_not_come_is_not_waited_for(api: Api, some: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        with await connected(api) as sock:
            await loop.sock_sendall(sock, some)
            assert await to_end(sock) == b""
        # The same behind a request that was answered.
        with await connected(api) as sock:
            whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            await loop.sock_sendall(sock, whole + some)
            found = await to_end(sock)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert found.count(b"HTTP/1.1") == 1


async def test_headers_that_drip_in_are_not_waited_for_any_longer(api: Api) -> None:
    loop = asyncio.get_running_loop()
    with await connected(api) as sock:
        await loop.sock_sendall(sock, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
        reading = asyncio.create_task(to_end(sock))
        async with asyncio.timeout(DEADLINE):
            while not reading.done():
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(sock, b"y")
                await look_again()
        assert await reading == b""


@pytest.mark.parametrize("path", ["/jobs?bulkId=b", "/jobs/search?size=1000"])
@pytest.mark.parametrize("hang_up", [False, True])
async def test_a_client_that_does_not_read_is_hung_up_on(
    api: Api, path: str, hang_up: bool
) -> None:
    """A stream and an answer in one piece; one that goes on and one that is the last."""
    await fill(api)
    loop = asyncio.get_running_loop()
    bearer = api.bearer("alice")["Authorization"]
    last = "Connection: close\r\n" if hang_up else ""
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\n{last}Authorization: {bearer}\r\n\r\n"
    with await connected(api, receives=4096) as sock:
        await loop.sock_sendall(sock, head.encode())
        await until_served(api, 1)
        await until_served(api, 0)
        found = await to_end(sock)
    # Part of it is there, and nothing that says that it is the whole.
    assert found.startswith(b"HTTP/1.1 200 ")
    assert len(found) < SIZE
    assert not found.endswith(b"0\r\n\r\n")


async def test_a_client_that_reads_slowly_gets_all_of_it(api: Api) -> None:
    await fill(api)
    loop = asyncio.get_running_loop()
    bearer = api.bearer("alice")["Authorization"]
    head = f"GET /jobs?bulkId=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {bearer}"
    received = 0
    with await connected(api, receives=65536) as sock:
        await loop.sock_sendall(sock, head.encode() + b"\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            while some := await loop.sock_recv(sock, 1 << 16):
                received += len(some)
                await look_again()
    assert received > SIZE


async def test_a_client_that_resets_its_connection_is_forgotten(api: Api) -> None:
    loop = asyncio.get_running_loop()
    socks = [await connected(api) for _ in range(20)]
    for sock in socks:
        await loop.sock_sendall(sock, b"POST /jobs/statuses HTTP/1.1\r\nHost: x\r\n")
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    await until_served(api, 0)
