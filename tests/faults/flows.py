"""Events on their way: streams made from a seed, the log as it is, and the store against its fold.

What a store has to hold is asked of the contract tests' model: it knows no store, and judges and
folds a log with `jobtrail.core.decoding.accept` and `jobtrail.core.fold.fold` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError, StoreNotReady
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.position import holds
from jobtrail.core.states import STATES
from jobtrail.log.kafka import kafka_security
from jobtrail.log.questions import Log as KafkaLog
from jobtrail.settings import Settings
from projections.ports.read import Caller, Filters, Watermark
from projections.sqlite.read.reader import SqliteReader
from projections.verify import verify
from tests.contract.store_checks import check_equal, with_whole_trail
from tests.contract.store_model import Model, whole
from tests.contract.store_streams import Log, Record, seeded_log
from tests.contract.stores import SqliteStore

#: Seconds after which a test gives up waiting for anything.
DEADLINE: Final = 120.0
#: Seconds between two looks at a service, too: it answers a caller only so often.
LOOK: Final = 0.01
#: Seconds between two batches of a flow: so many events a second.
_SEND_EVERY: Final = 0.02
#: Room for records larger than any event may be.
_MAX_REQUEST: Final = 1 << 22


def stream(seed: int, **shape: int) -> list[Record]:
    """Return jobs' events in the order in which they are written; a tenth of them come twice.

    One in a hundred is no event. The shape is that of `seeded_log`.
    """
    log = seeded_log(seed, **shape)
    return sorted(itertools.chain(*log.records.values()), key=lambda record: record.timestamp)


def endless(seed: int) -> Iterator[Record]:
    """Yield such streams one behind the other, for ever."""
    for number in itertools.count():
        yield from stream(seed * 100_000 + number, jobs=120, events=900, steady=1)


def producer(settings: Settings, **options: Any) -> AIOKafkaProducer:
    """Return a producer for records of any kind, not started yet."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        max_request_size=_MAX_REQUEST,
        **options,
    )


async def write(settings: Settings, records: Iterable[Any], **options: Any) -> None:
    """Append records to the log, each to its own partition, and wait until Kafka has them."""
    async with asyncio.timeout(DEADLINE), producer(settings, **options) as to:
        sent = [
            await to.send(
                settings.topic,
                record.value,
                record.key,
                partition=record.partition,
                headers=list(record.headers),
            )
            for record in records
        ]
        await asyncio.gather(*sent)


class Traffic:
    """Writes an endless stream, about a thousand events a second, while its context is open."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._records = endless(seed)
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        assert self._task is not None
        await self._task

    async def _write(self) -> None:
        async with producer(self._settings) as to:
            while not self._over.is_set():
                sent = [
                    await to.send(
                        self._settings.topic, record.value, record.key, partition=record.partition
                    )
                    for record in itertools.islice(self._records, 20)
                ]
                await asyncio.gather(*sent)
                await asyncio.sleep(_SEND_EVERY)


async def read_topic(settings: Settings, topic: str) -> dict[int, list[Any]]:
    """Return all committed records of a topic, by partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    async with asyncio.timeout(DEADLINE), consumer:
        consumer.assign([TopicPartition(topic, 0)])
        while not (partitions := consumer.partitions_for_topic(topic)):
            await asyncio.sleep(LOOK)
        places = [TopicPartition(topic, number) for number in sorted(partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(places)
        found: dict[int, list[Any]] = {place.partition: [] for place in places}
        # Not counted: some offsets have no record.
        while any([await consumer.position(place) < end for place, end in ends.items()]):
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                found[place.partition] += records
    return found


async def ends_of(settings: Settings) -> dict[int, int]:
    """Return the offset behind the last committed record of each partition of the log."""
    client = {"bootstrap_servers": settings.bootstrap_servers, **kafka_security(settings)}
    async with KafkaLog(settings.topic, client) as log:
        return await log.ends()


async def is_folded(settings: Settings) -> dict[str, Job]:
    """Wait until the store is level, and compare its jobs and counts with the pure fold.

    In contrast to `equals_fold` the log may begin anywhere, and offsets may have no record.
    """
    ends = await ends_of(settings)
    await until(lambda: held(settings).position == ends, f"the store is at {ends}")
    jobs: dict[str, Job] = {}
    for partition, records in (await read_topic(settings, settings.topic)).items():
        for record in records:
            with contextlib.suppress(EventError):
                event = accept(record.key, record.value, partition, len(ends))
                place = Place(partition, record.offset, record.timestamp * 1000)
                jobs[event.subject], _ = fold(jobs.get(event.subject), event, place)
    counts = Counter((job.job_type, job.state) for job in jobs.values())
    reader = SqliteReader(settings.store_folder)
    with reader.snapshot() as snapshot:
        assert snapshot.watermark.position == ends
        assert not snapshot.watermark.recovering
        watched = snapshot.watched([*jobs, "never heard of"])
        assert {
            job_id: whole(with_whole_trail(snapshot, job)) for job_id, job in watched.items()
        } == {job_id: whole(job) for job_id, job in jobs.items()}
        found = snapshot.summary(Caller("admin", reads_all=True), Filters())
        rows = snapshot.search(Caller("admin", reads_all=True), Filters(), size=len(jobs) + 1)
    reader.close()
    assert len(rows) == len(jobs)
    assert counts == Counter(
        {
            (name, state): count
            for name, by_state in found.items()
            for state, count in zip(STATES, by_state, strict=True)
            if count
        }
    )
    return jobs


async def read_log(settings: Settings) -> Log:
    """Return the log as it is in Kafka."""
    log = Log()
    log.records = await read_topic(settings, settings.topic)
    for partition, records in log.records.items():
        assert [record.offset for record in records] == list(range(len(records))), partition
    return log


def held(settings: Settings) -> Watermark:
    """Return what the store holds; nothing, while there is none."""
    try:
        reader = SqliteReader(settings.store_folder)
    except StoreNotReady:
        return Watermark({}, {}, frozenset())
    try:
        with reader.snapshot() as snapshot:
            return snapshot.watermark
    finally:
        reader.close()


def applied(settings: Settings) -> int:
    """Return how many records of the log the store holds."""
    return sum(held(settings).position.values())


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fail, saying what was waited for, if it never does."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise AssertionError(f"waited {DEADLINE:.0f} s in vain until {what}") from None


async def all_get_on(settings: Settings) -> None:
    """Wait until every partition has got on from where it is now."""
    before = held(settings).position
    await until(
        lambda: all(held(settings).position[p] > offset for p, offset in before.items()),
        "every partition gets on",
    )


async def reached(settings: Settings, position: Mapping[int, int]) -> None:
    """Wait until the store holds a position."""
    await until(
        lambda: holds(held(settings).position, position), f"the store holds {dict(position)}"
    )


def fold_of(log: Log) -> Model:
    """Return the pure fold of a log."""
    return Model(log).advance()


async def equals_fold(settings: Settings) -> Log:
    """Wait until the store holds the log, compare them row by row, and return the log.

    Every job with its whole trail, every counter, the tallies, each checkpoint, every listing; and
    what `jobtrail verify` compares, which is also how jobs changed.
    """
    log = await read_log(settings)
    await reached(settings, log.ends())
    model = fold_of(log)
    check_equal(SqliteStore(settings.store_folder, settings.shards), model)
    assert sum(itertools.chain(*model.tallies().values())) == len(log)
    report = await verify(settings)
    assert not report.count, report.lines()
    assert report.jobs == len(model.jobs)
    return log


def said(settings: Settings, *texts: str) -> Sequence[str]:
    """Return the lines of the projectors' logs that hold one of these texts."""
    return [
        line
        for file in sorted((settings.data_dir / "logs").glob("projector-*.log"))
        for line in file.read_text(errors="replace").splitlines()
        if any(text in line for text in texts)
    ]


def losses(settings: Settings) -> Sequence[str]:
    """Return what projectors said of records that were lost, and of parts that they emptied."""
    return said(settings, "LogGapError", "Records of the log are missing", "action=store_reset")


async def pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
) -> None:
    """Stand between a client and a server, and pass on what either says until it ends."""
    from_server, to_server = await asyncio.open_connection(host, port)
    async with asyncio.TaskGroup() as ways:
        ways.create_task(copy(reader, to_server))
        ways.create_task(copy(from_server, writer))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until it ends."""
    with contextlib.suppress(OSError):
        while some := await reader.read(1 << 16):
            writer.write(some)
    writer.close()
