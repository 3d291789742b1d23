"""Clients that behave badly, all at once: `python -m benchmarks.mob FILE` is their process.

It says `ready` when all of them are there, and goes on until standard input ends. Who is hung up
on comes again; an answer of another status than the one that is due ends it with an error.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from benchmarks.client import address
from jobtrail.processes.runtime import end_with_parent

_CONNECTED_AT_ONCE: Final = 50


class Mob(msgspec.Struct):
    """Who is in it."""

    url: str
    token: str
    #: Connections on which half a head is sent and nothing more.
    half_open: int
    #: Connections on which a body comes at a byte a second.
    dripping: int
    #: Requests a second whose headers are too large.
    oversized: float
    #: Requests a second whose body is a gzip bomb.
    bombs: float


class Gang:
    """Sends what a mob sends."""

    def __init__(self, mob: Mob) -> None:
        self._mob = mob
        self._door = asyncio.Semaphore(_CONNECTED_AT_ONCE)
        post = f"POST /jobs/statuses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mob.token}\r\n"
        self._half = b"GET /jobs/search HTTP/1.1\r\nHost: x\r\nX: "
        self._body = f"{post}Content-Length: 1000\r\n\r\n".encode()
        self._large = self._half + b"y" * 65536
        bomb = f"{post}Content-Encoding: gzip\r\nContent-Length: 1000000000\r\n\r\n"
        self._bomb = bomb.encode() + b"\x1f\x8b" * 32768

    async def run(self, stop: asyncio.Event) -> None:
        """Come, say so, and behave badly until told to stop."""
        mob = self._mob
        ready = [asyncio.Event() for _ in range(mob.half_open + mob.dripping)]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._hold(number < mob.half_open, here))
                for number, here in enumerate(ready)
            ]
            tasks += [
                group.create_task(_again_and_again(self._large_head, mob.oversized)),
                group.create_task(_again_and_again(self._gzip_bomb, mob.bombs)),
            ]
            for here in ready:
                await here.wait()
            print("ready", flush=True)
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def _hold(self, half_open: bool, here: asyncio.Event) -> None:
        """Hold a connection; when the service ends it, hold another one."""
        while True:
            async with self._door:
                reader, writer = await asyncio.open_connection(*address(self._mob.url))
            writer.write(self._half if half_open else self._body)
            here.set()
            answer = asyncio.create_task(_status(reader))
            while not answer.done():
                await asyncio.wait([answer], timeout=1.0)
                if not half_open:
                    writer.write(b" ")
            _check(answer.result(), None if half_open else 408)
            writer.close()

    async def _large_head(self) -> None:
        await self._refused(self._large, 431)

    async def _gzip_bomb(self) -> None:
        await self._refused(self._bomb, 415)

    async def _refused(self, request: bytes, status: int) -> None:
        reader, writer = await asyncio.open_connection(*address(self._mob.url))
        writer.write(request)
        _check(await _status(reader), status)
        writer.transport.abort()


async def _again_and_again(send: Callable[[], Awaitable[None]], per_second: float) -> None:
    clock = asyncio.get_running_loop().time
    due = clock()
    while True:
        await send()
        due = max(due + 1 / per_second, clock())
        await asyncio.sleep(due - clock())


async def _status(reader: asyncio.StreamReader) -> int | None:
    """Return the status that is answered, None where the service hangs up."""
    try:
        return int((await reader.readexactly(12)).split()[1])
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _check(found: int | None, due: int | None) -> None:
    # Who is reset while they send may lose the answer.
    if found is not None and found != due:
        raise RuntimeError(f"answered {found}, not {due}")


async def _main(mob: Mob) -> None:
    stop = asyncio.Event()
    end_with_parent(stop)
    await Gang(mob).run(stop)


def main(arguments: Sequence[str]) -> None:
    """Read who is in it from a file in MessagePack, and let them loose."""
    uvloop.run(_main(msgspec.msgpack.decode(Path(arguments[0]).read_bytes(), type=Mob)))


if __name__ == "__main__":
    main(sys.argv[1:])
