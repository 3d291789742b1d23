"""How soon a partition is behind whatever a Kafka client writes.

Each batch of `tests.hostile` that the broker takes is sent to one partition, an event behind it and
one to another partition; plain events before that, in the same way. It is told when the projections
hold each of the two events, and when an API process answers with the first.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from benchmarks.asking import warmed
from benchmarks.client import Connection, get
from benchmarks.options import PATIENCE, Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage, Tokens
from benchmarks.stats import distribution, latencies
from jobtrail.access.tokens import READ_ALL
from jobtrail.core.partitions import partition_of
from jobtrail.settings import Settings
from projections.sqlite.read.reader import SqliteReader
from tests.hostile import all_cases, send
from tests.processes import api, projector

PLAIN: Final = "a plain event"
ODD: Final = "an event behind an odd batch"
ELSEWHERE: Final = "an event elsewhere"
#: The partition of the odd batches, and another one.
_HERE, _THERE = 0, 1
#: Seconds between two looks at the projections: they cost a fifth of a millisecond each.
_LOOK: Final = 0.002
_LARGEST: Final = 4 * 2**20
_PARTITIONS: Final = 8


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    settings = await stage.settings()
    worker, service = projector(settings), api(settings)
    url, _ = await asyncio.gather(stage.start(service), stage.start(worker))
    connection = await warmed(url)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers, acks=1, max_request_size=_LARGEST
    )
    await producer.start()
    trial = _Trial(settings, connection, producer)
    try:
        await trial.begin()
        for _ in range(options.plain_records):
            await trial.run(PLAIN, PLAIN, None)
        for _ in range(options.runs):
            for case in all_cases(*trial.record(_HERE)[::-1]):
                await trial.run(ODD, case.name, case.data)
    finally:
        await producer.stop()
        connection.close()
        trial.close()
    return Result(
        figure="odd_records",
        what="Milliseconds until an event is in the projections and answers, behind odd batches.",
        parameters={
            "runs": options.runs,
            "plain_events": options.plain_records,
            "odd_batches": len({run["case"] for run in trial.runs if run["kind"] == ODD}),
            "projectors": 1,
        },
        runs=trial.runs,
        rows=_rows(trial.runs),
        distributions={
            name: distribution(values)
            for kind in (PLAIN, ODD)
            for name, values in _by_measure(trial.runs, kind).items()
        },
    )


class _Trial:
    """Sends batches and looks when what lies behind them is there.

    Args:
        settings: Whose log and store.
        connection: To the API.
        producer: Sends batches as they are.
    """

    def __init__(
        self, settings: Settings, connection: Connection, producer: AIOKafkaProducer
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._producer = producer
        self._token = Tokens(settings).of("onlooker", READ_ALL)
        self._reader: SqliteReader | None = None
        self._numbers = iter(range(10**9))
        self._jobs = [
            next(job for n in range(1_000) if partition_of(job := f"job-{n}", _PARTITIONS) == p)
            for p in (_HERE, _THERE)
        ]
        self.runs: list[dict[str, Any]] = []

    def record(self, partition: int, kind: str = "progress", data: str = "") -> tuple[bytes, bytes]:
        """Make up an event of a partition's job: its key and its value."""
        job, number = self._jobs[partition], next(self._numbers)
        data = data or f'"progress":{number % 100 / 100}'
        return job.encode(), (
            f'{{"specversion":"1.0","id":"event-{number}","source":"//benchmarks.example/odd",'
            f'"type":"job.{kind}","subject":"{job}","time":"2026-01-01T00:00:00Z",'
            f'"data":{{{data}}}}}'
        ).encode()

    async def begin(self) -> None:
        """Create the jobs, and wait until they are there."""
        created = '"jobType":"odd","owner":"alice"'
        for partition in (_HERE, _THERE):
            offset = await self._send(partition, *self.record(partition, "created", created))
            await self._projected(partition, offset)
            await self._answered(partition, offset)

    async def run(self, kind: str, name: str, data: bytes | None) -> None:
        """Send a batch, and the two events behind it; note how long they took."""
        topic = self._settings.topic
        if data is not None and await send(self._producer, topic, _HERE, data) is None:
            # Refused by the broker: nobody has to read it.
            return
        began = time.perf_counter()
        here, there = [
            await self._send(partition, *self.record(partition)) for partition in (_HERE, _THERE)
        ]
        projected, elsewhere, answered = await asyncio.gather(
            self._projected(_HERE, here),
            self._projected(_THERE, there),
            self._answered(_HERE, here),
        )
        self.runs.append(
            {
                "kind": kind,
                "case": name,
                "projections": 1000 * (projected - began),
                "answers": 1000 * (answered - began),
                ELSEWHERE: 1000 * (elsewhere - began),
            }
        )

    async def _send(self, partition: int, key: bytes, value: bytes) -> int:
        about = await self._producer.send_and_wait(self._settings.topic, value, key, partition)
        offset: int = about.offset
        return offset

    async def _projected(self, partition: int, offset: int) -> float:
        until = time.perf_counter() + PATIENCE
        while self._held(partition) <= offset:
            if time.perf_counter() > until:
                raise RuntimeError(f"the projections do not get to {partition}:{offset}")
            await asyncio.sleep(_LOOK)
        return time.perf_counter()

    def _held(self, partition: int) -> int:
        if self._reader is None:
            self._reader = SqliteReader(self._settings.store_folder)
        with self._reader.snapshot() as snapshot:
            return snapshot.watermark.position.get(partition, 0)

    async def _answered(self, partition: int, offset: int) -> float:
        place = f"{partition}:{offset + 1}"
        request = get(f"/jobs/{self._jobs[partition]}", self._token, Jobtrail_Position=place)
        async with asyncio.timeout(PATIENCE):
            # 503 where it was not there in time.
            while (answer := await self._connection.ask(request)).status == 503:
                pass
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.body.decode()}")
        return answer.at

    def close(self) -> None:
        """Let go of the store."""
        if self._reader is not None:
            self._reader.close()


def _by_measure(runs: Sequence[dict[str, Any]], kind: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if run["kind"] == kind:
            found[f"{kind}, in projections"].append(run["projections"])
            found[f"{kind}, in answers"].append(run["answers"])
            if kind == ODD:
                found[f"{ELSEWHERE} meanwhile, in projections"].append(run[ELSEWHERE])
    return found


def _rows(runs: Sequence[dict[str, Any]]) -> list[Row]:
    return [
        Row(name, "ms", latencies(values))
        for kind in (PLAIN, ODD)
        for name, values in _by_measure(runs, kind).items()
    ]
