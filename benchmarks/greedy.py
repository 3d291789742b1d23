"""One caller who asks for too much: `python -m benchmarks.greedy FILE` is their process.

It says `ready` when it has begun, and goes on until standard input ends. Some connections ask again
as soon as they are answered, whatever the answer is; others ask and never read.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks.client import HttpProtocol, address
from jobtrail.processes.runtime import end_with_parent


class Greedy(msgspec.Struct):
    """What they are told."""

    url: str
    #: Connections that ask again and again, and what is drawn from.
    connections: int
    requests: list[bytes]
    #: Connections that ask once a second and read nothing, and for what.
    unread: int
    unread_request: bytes
    #: Where the number of answers by status is written in the end.
    told: str


class _Asker(HttpProtocol):
    """A connection that asks again as soon as it is answered."""

    def __init__(self, greedy: Greedy, statuses: Counter[int], seed: int) -> None:
        super().__init__()
        self._requests = greedy.requests
        self._statuses = statuses
        self._draw = random.Random(seed)
        self.lost = asyncio.get_running_loop().create_future()
        self._left = 0
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take in a part; the body is thrown away."""
        if self._left > 0:
            self._left -= len(data)
        elif self._left < 0:
            # Its length was not said: it ends with an empty part.
            self._left = 0 if data.endswith(b"0\r\n\r\n") else -1
        else:
            head, _, body = data.partition(b"\r\n\r\n")
            self._status = int(head[9:12])
            _, said, length = head.partition(b"Content-Length: ")
            self._left = int(length.partition(b"\r\n")[0]) - len(body) if said else -1
            if not said and body.endswith(b"0\r\n\r\n"):
                self._left = 0
        if not self._left:
            self.answered(self._status, b"")

    def _ask(self) -> None:
        self.send(self._draw.choice(self._requests))

    def answered(self, status: int, body: bytes) -> None:
        self._statuses[status] += 1
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class _Unread(asyncio.Protocol):
    """A connection that asks and does not read."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.pause_reading()  # type: ignore[attr-defined]
        transport.write(self._request)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


async def _again_and_again(url: str, make: partial[Any]) -> None:
    """Hold a connection, and another one when it is lost."""
    loop = asyncio.get_running_loop()
    while True:
        transport, protocol = await loop.create_connection(make, *address(url))
        try:
            await protocol.lost
        finally:
            transport.abort()
        await asyncio.sleep(0.05)


async def run(greedy: Greedy) -> Counter[int]:
    """Ask until standard input ends; return how many answers had which status."""
    stop = asyncio.Event()
    end_with_parent(stop)
    statuses: Counter[int] = Counter()
    makers: list[partial[Any]] = []
    if greedy.requests:
        makers += [partial(_Asker, greedy, statuses, seed) for seed in range(greedy.connections)]
    makers += [partial(_Unread, greedy.unread_request)] * greedy.unread
    tasks = [asyncio.create_task(_again_and_again(greedy.url, make)) for make in makers]
    print("ready", flush=True)
    ended = asyncio.create_task(stop.wait())
    await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    return statuses


def main(arguments: Sequence[str]) -> None:
    """Read what to do from a file in MessagePack, and do it."""
    greedy = msgspec.msgpack.decode(Path(arguments[0]).read_bytes(), type=Greedy)
    statuses = uvloop.run(run(greedy))
    Path(greedy.told).write_bytes(msgspec.json.encode(dict(statuses)))


if __name__ == "__main__":
    main(sys.argv[1:])
