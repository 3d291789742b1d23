"""Asks at a steady rate, as a service's callers do: `python -m benchmarks.pacing` is the process.

An open loop: when a request is made does not depend on when the one before was answered, and the
wait for a connection counts. So an answer that is late is late for all that stand behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from benchmarks.client import HttpProtocol, address
from benchmarks.hammer import Hammered, Seen, Task, carry_out
from benchmarks.options import PATIENCE

#: How far ahead of others it is for a processor, as of `nice`.
_FIRST: Final = -10


class PacedTask(Task):
    """What the load process is told: `connections` is how many are there to be taken."""

    #: Requests a second.
    rate: float


class _Pool:
    """Idle connections, requests that wait for one, and what was answered."""

    def __init__(self) -> None:
        self.idle: list[_Asker] = []
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.under_way = 0
        #: Is set whenever an answer leaves nothing under way.
        self.settled = asyncio.Event()
        self.seen = Seen()

    def ask(self, request: bytes) -> None:
        """Send a request, or have it wait for a connection."""
        self.under_way += 1
        made = time.perf_counter()
        if self.idle:
            self.idle.pop().ask(made, request)
        else:
            self.waiting.append((made, request))


class _Asker(HttpProtocol):
    """A connection that asks when it is told to."""

    def __init__(self, pool: _Pool) -> None:
        super().__init__()
        self._pool = pool
        self._made = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.idle.append(self)

    def ask(self, made: float, request: bytes) -> None:
        """Send a request that was made at this time."""
        self._made = made
        self.send(request)

    def answered(self, status: int, body: bytes) -> None:
        pool = self._pool
        pool.seen.add(self._made, status, body)
        pool.under_way -= 1
        if not pool.under_way:
            pool.settled.set()
        if pool.waiting:
            self.ask(*pool.waiting.popleft())
        else:
            pool.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.seen.errors += 1


async def pace(task: PacedTask) -> Hammered:
    """Carry out a task."""
    loop, pool = asyncio.get_running_loop(), _Pool()
    transports = []
    for _ in range(task.connections):
        transport, _ = await loop.create_connection(partial(_Asker, pool), *address(task.url))
        transports.append(transport)
    await _ask(pool, task.requests, task.rate, task.warm_up)
    found = await pool.seen.measure(task, _ask(pool, task.requests, task.rate, task.seconds))
    for transport in transports:
        transport.abort()
    return found


async def _ask(pool: _Pool, requests: Sequence[bytes], rate: float, seconds: float) -> None:
    """Ask for so many seconds, then wait until all is answered.

    The gaps are those of many callers who know nothing of each other.
    """
    draw = random.Random(1)
    began, due = time.perf_counter(), 0.0
    while (due := due + draw.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        pool.ask(draw.choice(requests))
    async with asyncio.timeout(PATIENCE):
        while pool.under_way:
            pool.settled.clear()
            await pool.settled.wait()


if __name__ == "__main__":
    # What it measures is not to be how long it waits for a processor itself, as if it were on a
    # machine of its own. Only an administrator may.
    with contextlib.suppress(PermissionError):
        os.nice(_FIRST)
    carry_out(sys.argv[1], PacedTask, pace)
