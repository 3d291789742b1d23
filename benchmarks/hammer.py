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


class _Tally:
    """What the connections have seen since the warm-up."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors = 0
        self.received = 0

    def clear(self) -> None:
        self.latencies.clear()
        self.errors = self.received = 0


class _Looper(HttpProtocol):
    """A connection that asks again as soon as it is answered."""

    def __init__(self, requests: Sequence[bytes], tally: _Tally, seed: int) -> None:
        super().__init__()
        self._requests = requests
        self._draw = random.Random(seed).random
        self._tally = tally
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
        tally = self._tally
        tally.latencies.append(time.perf_counter() - self._sent)
        tally.received += len(body)
        if status != 200:
            tally.errors += 1
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tally.errors += 1


async def hammer(task: Task) -> Hammered:
    """Carry out a task."""
    loop = asyncio.get_running_loop()
    tally = _Tally()
    loopers = []
    for seed in range(task.connections):
        looper = partial(_Looper, task.requests, tally, seed)
        transport, _ = await loop.create_connection(looper, *address(task.url))
        loopers.append(transport)
    await asyncio.sleep(task.warm_up)
    meter = Meter({"load": os.getpid(), "server": partial(read_all, task.pids)})
    tally.clear()
    began = time.perf_counter()
    await asyncio.sleep(task.seconds)
    seconds = time.perf_counter() - began
    found = Hammered(
        seconds=seconds,
        latencies_ms=[1000 * latency for latency in tally.latencies],
        errors=tally.errors,
        received=tally.received,
        processes=meter.stop(),
    )
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
