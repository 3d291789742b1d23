"""Asks for answers as fast as they come: `python -m benchmarks.hammer` is the load process.

A closed loop: each connection sends its next request, drawn at random from prepared ones, when
the answer to the one before is whole. It tells its own CPU time and the server's, and how long
the server was ready to run and had no core, so that a figure that others spoilt is seen.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop

from benchmarks.client import HttpProtocol, address
from benchmarks.usage import Meter, read_all

_T = TypeVar("_T")


class Task(msgspec.Struct):
    """What the load process is told."""

    url: str
    #: The server's processes.
    pids: list[int]
    connections: int
    #: Seconds that are not measured, and seconds that are.
    warm_up: float
    seconds: float
    requests: list[bytes]


class Hammered(msgspec.Struct):
    """What it found."""

    seconds: float
    #: Of every request that was answered in that time.
    latencies_ms: list[float]
    #: How many answers were not 200.
    errors: int
    #: Bytes of bodies.
    received: int
    #: What `load` and `server` took.
    processes: dict[str, dict[str, float]]


class Seen:
    """What connections have seen since the warm-up."""

    def __init__(self) -> None:
        self._latencies: list[float] = []
        self._received = 0
        #: How many answers were not 200, and connections were lost.
        self.errors = 0

    def add(self, since: float, status: int, body: bytes) -> None:
        """Note an answer to what was asked at this time."""
        self._latencies.append(time.perf_counter() - since)
        self._received += len(body)
        if status != 200:
            self.errors += 1

    async def measure(self, task: Task, asking: Awaitable[None]) -> Hammered:
        """Return what is seen, and what the processes take, while something is awaited."""
        meter = Meter({"load": os.getpid(), "server": partial(read_all, task.pids)})
        self._latencies.clear()
        self.errors = self._received = 0
        began = time.perf_counter()
        await asking
        seconds = time.perf_counter() - began
        return Hammered(
            seconds=seconds,
            latencies_ms=[1000 * latency for latency in self._latencies],
            errors=self.errors,
            received=self._received,
            processes=meter.stop(),
        )


class _Looper(HttpProtocol):
    """A connection that asks again as soon as it is answered."""

    def __init__(self, requests: Sequence[bytes], seen: Seen, seed: int) -> None:
        super().__init__()
        self._requests = requests
        self._draw = random.Random(seed).random
        self._counts = seen
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._ask()

    def _ask(self) -> None:
        requests = self._requests
        request = requests[int(self._draw() * len(requests))]
        self._sent = time.perf_counter()
        self.send(request)

    def answered(self, status: int, body: bytes) -> None:
        self._counts.add(self._sent, status, body)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._counts.errors += 1


async def hammer(task: Task) -> Hammered:
    """Carry out a task."""
    loop = asyncio.get_running_loop()
    seen = Seen()
    loopers = []
    for seed in range(task.connections):
        looper = partial(_Looper, task.requests, seen, seed)
        transport, _ = await loop.create_connection(looper, *address(task.url))
        loopers.append(transport)
    await asyncio.sleep(task.warm_up)
    found = await seen.measure(task, asyncio.sleep(task.seconds))
    for transport in loopers:
        transport.abort()
    return found


def carry_out(path: str, kind: type[_T], work: Callable[[_T], Awaitable[Hammered]]) -> None:
    """Read a load process's task from a file, and print what was found, both as MessagePack.

    Args:
        path: The file.
        kind: Of task.
        work: Does it.
    """
    task = msgspec.msgpack.decode(Path(path).read_bytes(), type=kind)
    gc.freeze()
    gc.disable()

    async def run() -> Hammered:
        return await work(task)

    sys.stdout.buffer.write(msgspec.msgpack.encode(uvloop.run(run())))


if __name__ == "__main__":
    carry_out(sys.argv[1], Task, hammer)
