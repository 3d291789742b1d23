"""Clients that do not do as they should: sockets that send, read and end just as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from urllib.parse import urlsplit


async def connect(url: str, *, receives: int | None = None) -> socket.socket:
    """Connect to a service; this side takes so many bytes ahead of being read."""
    place = urlsplit(url)
    sock = socket.socket()
    if receives is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (place.hostname, place.port))
    return sock


async def send(sock: socket.socket, some: bytes) -> None:
    """Send bytes; one who was hung up on does not mind."""
    with contextlib.suppress(ConnectionError):
        await asyncio.get_running_loop().sock_sendall(sock, some)


async def until_end(sock: socket.socket, *, at_once: int = 65536, pause: float = 0.0) -> bytes:
    """Read until the service hangs up, so many bytes at a time; return all of them."""
    loop, found = asyncio.get_running_loop(), bytearray()
    with sock, contextlib.suppress(ConnectionError):
        while some := await loop.sock_recv(sock, at_once):
            found += some
            if pause:
                await asyncio.sleep(pause)
    return bytes(found)


async def status_of(sock: socket.socket) -> int:
    """Read as much of an answer as says its status."""
    loop, found = asyncio.get_running_loop(), b""
    while len(found) < 12:
        some = await loop.sock_recv(sock, 12 - len(found))
        if not some:
            raise ConnectionError(f"the service hung up after {found!r}")
        found += some
    return int(found.split()[1])


def reset(sock: socket.socket) -> None:
    """End a connection as a machine does that has forgotten it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
