"""Asks the table in PostgreSQL: `python -m benchmarks.peers.postgres_asking` is a load process.

The same closed loop as over HTTP, by asyncpg: each of its connections asks again when the rows are
there. So what an API in front of the table would take is not in it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from functools import partial
from typing import Any

import asyncpg
import msgspec

from benchmarks.hammer import Hammered, carry_out
from benchmarks.usage import Meter, read_tree


class Question(msgspec.Struct):
    """What the load process is told."""

    dsn: str
    #: PostgreSQL's process.
    pid: int
    connections: int
    #: Seconds that are not measured, and seconds that are.
    warm_up: float
    seconds: float
    query: str
    #: To be drawn from.
    arguments: list[list[Any]]


async def _ask_on(
    pool: Any, question: Question, latencies: list[float], seed: int, until: float
) -> None:
    """Ask on one connection for so long; the last answer is waited for, as it may take seconds."""
    draw = random.Random(seed).random
    arguments, query = question.arguments, question.query
    async with pool.acquire() as connection:
        while time.perf_counter() < until:
            some = arguments[int(draw() * len(arguments))]
            sent = time.perf_counter()
            await connection.fetch(query, *some)
            latencies.append(1000 * (time.perf_counter() - sent))


async def ask(question: Question) -> Hammered:
    """Ask a question for as long as it says."""
    size = question.connections
    pool = await asyncpg.create_pool(question.dsn, min_size=size, max_size=size)
    latencies: list[float] = []
    until = time.perf_counter() + question.warm_up + question.seconds
    asking = [
        asyncio.create_task(_ask_on(pool, question, latencies, n, until)) for n in range(size)
    ]
    await asyncio.sleep(question.warm_up)
    meter = Meter({"load": os.getpid(), "server": partial(read_tree, question.pid)})
    latencies.clear()
    began = time.perf_counter()
    await asyncio.wait(asking, return_when=asyncio.FIRST_EXCEPTION)
    seconds = time.perf_counter() - began
    processes = meter.stop()
    errors = sum(not task.done() or task.exception() is not None for task in asking)
    found = Hammered(seconds, list(latencies), errors, 0, processes)
    pool.terminate()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return found


if __name__ == "__main__":
    carry_out(sys.argv[1], Question, ask)
