"""Events at a steady rate: `python -m benchmarks.flow FILE` is the process that sends them.

All are made before it says `ready`; then they are sent until standard input ends. Some are of a few
jobs that are told of again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec
import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks.load import BEGIN, Load
from benchmarks.stage import Stage
from jobtrail.core.partitions import partition_of
from jobtrail.processes.runtime import end_with_parent
from jobtrail.settings import Settings

PARTITIONS: Final = 8
#: Seconds between two batches of a partition.
_BETWEEN: Final = 0.02
#: Jobs that are told of again and again, and who owns them.
_HOT: Final = 10
HOT: Final = "hot"


class Flow(msgspec.Struct):
    """What is sent."""

    bootstrap_servers: str
    topic: str
    load: Load
    #: Events a second, and how many are made.
    rate: int
    events: int
    #: Every how-many-th event is of a hot job; 0: none is.
    hot_every: int
    #: Where it is written in the end how many were sent.
    told: str

    @classmethod
    def of(cls, settings: Settings, load: Load, rate: int, events: int, hot_every: int = 0) -> Self:
        """Return a flow into the log of some settings."""
        told = str(settings.data_dir / "sent")
        return cls(settings.bootstrap_servers, settings.topic, load, rate, events, hot_every, told)


@contextlib.asynccontextmanager
async def going_on(
    stage: Stage, settings: Settings, flow: Flow, sent: dict[str, int]
) -> AsyncIterator[None]:
    """Send events meanwhile, in a process of its own; note how many it sent a second."""
    process = await stage.start_told("flow", flow, settings)
    began = asyncio.get_running_loop().time()
    yield
    if process.child.returncode is not None:
        raise RuntimeError(f"the sender went away: {process.log.read_text()[-2000:]}")
    assert process.child.stdin is not None
    process.child.stdin.close()
    await process.child.wait()
    seconds = asyncio.get_running_loop().time() - began
    await stage.end(process)
    number = int((settings.data_dir / "sent").read_text())
    sent["sent_per_second"] = int(number / seconds)


def records(flow: Flow) -> Iterator[tuple[str, bytes]]:
    """Make up the events."""
    others = flow.load.records()
    if not flow.hot_every:
        yield from others
        return
    for number in itertools.count():
        if number % flow.hot_every == 0:
            yield _progress(number // flow.hot_every, number)
        else:
            yield next(others)


def hot_jobs() -> Iterator[tuple[str, bytes]]:
    """Make up what creates the jobs that are told of again and again."""
    for number in range(_HOT):
        yield _hot(number, f"hot-{number}-created", "created", f'"jobType":"hot","owner":"{HOT}"')


def _progress(turn: int, number: int) -> tuple[str, bytes]:
    return _hot(turn, f"hot-{number}", "progress", f'"progress":{number % 100 / 100}')


def _hot(turn: int, event_id: str, kind: str, data: str) -> tuple[str, bytes]:
    job_id = f"hot-{turn % _HOT}"
    time = BEGIN.isoformat(timespec="milliseconds")[:-6]
    return job_id, (
        f'{{"specversion":"1.0","id":"{event_id}","source":"//benchmarks.example/hot",'
        f'"type":"job.{kind}","subject":"{job_id}","time":"{time}Z","data":{{{data}}}}}'
    ).encode()


async def run(flow: Flow) -> int:
    """Send until standard input ends; return how many were sent."""
    stop = asyncio.Event()
    end_with_parent(stop)
    made = [
        (partition_of(job_id, PARTITIONS), job_id.encode(), value)
        for job_id, value in itertools.islice(records(flow), flow.events)
    ]
    producer = AIOKafkaProducer(
        bootstrap_servers=flow.bootstrap_servers, acks="all", enable_idempotence=True
    )
    await producer.start()
    print("ready", flush=True)
    sent = 0
    began = time.perf_counter()
    try:
        while not stop.is_set():
            due = min(int((time.perf_counter() - began) * flow.rate), len(made))
            batches = [producer.create_batch() for _ in range(PARTITIONS)]
            for partition, key, value in made[sent:due]:
                batches[partition].append(key=key, value=value, timestamp=None)
            sent = due
            waiting = [
                await producer.send_batch(batch, flow.topic, partition=partition)
                for partition, batch in enumerate(batches)
                if batch.record_count()
            ]
            await asyncio.gather(*waiting)
            await asyncio.sleep(_BETWEEN)
    finally:
        await producer.stop()
    return sent


def main(arguments: Sequence[str]) -> None:
    """Read what to send from a file in MessagePack, and send it."""
    flow = msgspec.msgpack.decode(Path(arguments[0]).read_bytes(), type=Flow)
    sent = uvloop.run(run(flow))
    Path(flow.told).write_text(str(sent), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
