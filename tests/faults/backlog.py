"""A log that stays far ahead of its store, so that projectors never stop catching up."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from aiokafka import AIOKafkaProducer

from benchmarks.load import Load
from jobtrail.core.partition_columns import partitions_of
from jobtrail.settings import Settings
from projections.sqlite.read.reader import SqliteReader
from tests.contract.store_streams import PARTITIONS
from tests.faults.flows import producer, until

#: Records that the store is behind: far more, in each partition, than a projector takes for level.
AHEAD: Final = 40_000
_JOBS: Final = 1_250
#: A job's retries make its life longer, and some of its events not allowed.
_LIFE: Final = ("created", *("active", "retry") * 9, "completed")
_BATCH_BYTES: Final = 256 * 1024
_WRITTEN_TOGETHER: Final = 5_000
_LOOK_EVERY: Final = 0.02


def _turns(seed: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield keys and values of jobs' events, for ever; one in ten comes twice, some are no event.

    The same jobs are told of again and again, each time under other ids: that is made quickly.
    """
    draw = random.Random(seed)
    load = Load(_JOBS, owners=400, under_way=800, life=_LIFE, seed=seed)
    made: list[tuple[bytes, bytes]] = []
    for job_id, value in load.records():
        made.append((job_id.encode(), value))
        if draw.random() < 0.1:
            made.append(made[-1 - int(draw.random() ** 4 * len(made))])
        if draw.random() < 0.0005:
            made.append((job_id.encode(), b"no event"))
    for turn in itertools.count():
        mark = b".%d" % turn
        yield [(key + mark, value.replace(key, key + mark)) for key, value in made]


class Backlog:
    """Writes as fast as it can until the store is `AHEAD` records behind, while it is open.

    It looks what the store holds all the time, and that no checkpoint ever goes back.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._turns = _turns(seed)
        self._under_way = asyncio.TaskGroup()
        self._over = asyncio.Event()
        self.written = 0
        #: What the store held at the last look.
        self.position: dict[int, int] = {}

    @property
    def applied(self) -> int:
        """How many records the store held at the last look."""
        return sum(self.position.values())

    async def __aenter__(self) -> Self:
        await self._under_way.__aenter__()
        self._under_way.create_task(self._look())
        self._under_way.create_task(self._write())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        await self._under_way.__aexit__(kind, error, trace)

    async def is_far_ahead(self) -> None:
        """Wait until the store is far behind: somebody has to hold the projectors up."""
        await until(lambda: self.written - self.applied > AHEAD, "the log is far ahead")

    async def gets_on(self) -> None:
        """Wait until every partition has got on from where it is now."""
        before = dict(self.position)
        await until(
            lambda: all(self.position[p] > offset for p, offset in before.items()),
            "every partition gets on",
        )

    async def _look(self) -> None:
        await until((self._settings.store_folder / "store.json").exists, "there is a store")
        reader = SqliteReader(self._settings.store_folder)
        try:
            await self._look_into(reader)
        finally:
            reader.close()

    async def _look_into(self, reader: SqliteReader) -> None:
        while not self._over.is_set():
            with reader.snapshot() as snapshot:
                found = dict(snapshot.watermark.position)
            back = {p: (was, found[p]) for p, was in self.position.items() if found[p] < was}
            assert not back, f"checkpoints went back, (from, to) by partition: {back}"
            self.position = found
            await asyncio.sleep(_LOOK_EVERY)

    async def _write(self) -> None:
        async with producer(self._settings, max_batch_size=_BATCH_BYTES) as to:
            for turn in self._turns:
                for begin in range(0, len(turn), _WRITTEN_TOGETHER):
                    while self.written - self.applied > AHEAD and not self._over.is_set():
                        await asyncio.sleep(_LOOK_EVERY)
                    if self._over.is_set():
                        return
                    await self._append(to, turn[begin : begin + _WRITTEN_TOGETHER])

    async def _append(self, to: AIOKafkaProducer, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Append records by whole batches: `send` would cost each as much as its fold."""
        batches = [to.create_batch() for _ in range(PARTITIONS)]
        places = partitions_of([key for key, _ in records], PARTITIONS)
        sent = []
        for place, (key, value) in zip(places, records, strict=True):
            if batches[place].append(key=key, value=value, timestamp=None) is None:
                full, batches[place] = batches[place], to.create_batch()
                batches[place].append(key=key, value=value, timestamp=None)
                sent.append(await to.send_batch(full, self._settings.topic, partition=place))
        for place, batch in enumerate(batches):
            if batch.record_count():
                sent.append(await to.send_batch(batch, self._settings.topic, partition=place))
        await asyncio.gather(*sent)
        self.written += len(records)
