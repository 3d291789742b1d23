"""Whatever a Kafka client writes: its partition gets behind it, and nobody else notices.

Each batch of `tests.hostile` is sent to a real broker; what it takes is read by all who read the
log.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import aiohttp
import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.default_records import DefaultRecord

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.core.errors import EventError
from jobtrail.log.batches import UnreadBatch
from jobtrail.log.dead_letters import (
    BATCH,
    NONE,
    RETRIED,
    RUN,
    DeadLetter,
    LetterFilter,
    records_of,
)
from jobtrail.log.dead_topic import DeadTopic
from jobtrail.log.log_range import LogRange
from jobtrail.replay.sources.log import LogSource
from jobtrail.settings import Settings
from projections.projector.dead_letters import ONE_BY_ONE, DeadLetters
from projections.projector.partition_state import DeadLetter as RefusedRecord
from projections.verify import verify
from tests.conftest import MakeLog
from tests.contract.store_streams import event
from tests.faults.flows import DEADLINE, ends_of, reached, read_topic
from tests.faults.test_poison import JOBS
from tests.hostile import Case, Odd, all_cases, batch, count_of, packed, send
from tests.processes import Process, api, projector

MIB: Final = 1 << 20
#: Where the hostile client writes; and where somebody else does.
HERE, THERE = 0, 1


class Taken(NamedTuple):
    """A batch that the broker took, and its offsets."""

    case: Case
    first: int
    last: int


def hostile_producer(settings: Settings) -> AIOKafkaProducer:
    """Return a producer that sends batches as they are, not started yet."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers, acks=1, max_request_size=4 * MIB
    )


async def write_all(settings: Settings) -> list[Taken]:
    """Send all cases to one partition, each with a good event behind it; another gets one, too."""
    taken: list[Taken] = []
    job = JOBS[HERE]
    async with hostile_producer(settings) as to:
        for number, case in enumerate(all_cases(event("progress", job, "same"), job.encode())):
            first = await send(to, settings.topic, HERE, case.data)
            if first is None:
                continue
            taken.append(Taken(case, first, first + count_of(case.data) - 1))
            for partition in (HERE, THERE):
                good = event("progress", JOBS[partition], f"good-{number}", progress=0.5)
                key = JOBS[partition].encode()
                await to.send_and_wait(settings.topic, good, key, partition=partition)
        await to.send_and_wait(settings.topic, event("completed", job, "last"), job.encode(), HERE)
    return taken


async def test_nothing_that_the_broker_takes_stops_anybody(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    running += [projector(settings), api(settings)]
    await running[0].start()
    token = make_token(local_secret(settings.data_dir), "root", (), [READ_ALL])
    url = await running[1].start()
    bearer = {"Authorization": f"Bearer {token}"}
    async with asyncio.timeout(DEADLINE), aiohttp.ClientSession(url, headers=bearer) as session:
        # The tail follows before anything is written.
        while (await session.get("/readyz")).status != 200:
            pass
        taken = await write_all(settings)
        assert len(taken) >= 50
        await reached(settings, await ends_of(settings))
        assert (await session.get("/readyz")).status == 200
        found = await (await session.get(f"/jobs/{JOBS[THERE]}/history")).json()
        assert len(found["events"]) == len(taken)
        found = await (await session.get(f"/jobs/{JOBS[HERE]}")).json()
        assert found["state"] == "completed"
        lag = (await session.get("/jobs/search")).headers["Jobtrail-Lag"]
        assert 0 <= float(lag) < DEADLINE
    for process in running:
        said = process.log.read_text()
        assert "tail_lost_records" not in said
        assert "Traceback" not in said
        assert psutil.Process(process.pid).memory_info().rss < 400 * MIB
    await check_letters(settings, taken)
    await check_readers(settings, taken)
    report = await verify(settings)
    assert not report.count, report.lines()


async def check_letters(settings: Settings, taken: list[Taken]) -> None:
    """Check that each batch has the letters that it should, and few."""
    async with DeadTopic(settings) as topic:
        letters = await topic.letters()
        for case, first, last in taken:
            here = [one for one in letters if first <= one.offset <= last]
            if case.read is None:
                ((kind, end, reason),) = [(one.kind, one.last, one.reason) for one in here]
                assert (kind, end) == (BATCH, last), case.name
                assert reason == (case.reason or reason), case.name
                assert reason.startswith("batch-"), case.name
            else:
                assert sum(one.records for one in here) == case.dead, case.name
                assert len(here) <= ONE_BY_ONE, case.name
        assert sum(len(value.value or b"") for value in await all_of(settings)) < 16 * MIB
        runs = [one for one in letters if one.kind == RUN][:3]
        async for letter, original in topic.originals(runs):
            assert len(records_of(letter, original)) == letter.records
        none = [one for one in letters if one.kind == NONE]
        async for _letter, original in topic.originals(none[:1]):
            assert (original.key, original.value) == (None, None)
        outcomes = await topic.retry([*none[:1], *runs[:1]], dry=True)
        assert {outcome.what for outcome in outcomes} == {"left"}
        await topic.drop(runs)
        left = {letter.place for letter in await topic.letters()}
        assert not left & {letter.place for letter in runs}


async def all_of(settings: Settings) -> list[Any]:
    """Return all records of the dead topic."""
    return [
        one for some in (await read_topic(settings, settings.dead_topic)).values() for one in some
    ]


async def check_readers(settings: Settings, taken: list[Taken]) -> None:
    """Check that everybody reads the same, and the original."""
    ends = await ends_of(settings)
    count = 0
    async with LogRange(settings) as log:
        async for _partition, group in log.read({HERE: 0}, {HERE: ends[HERE]}):
            for some in group.pieces():
                count += len(some)
                unread = [one.value for one in some if isinstance(one.value, UnreadBatch)]
                assert all(value.last < ends[HERE] for value in unread)
    expected = 1 + len(taken) + sum(1 if case.read is None else case.read for case, *_ in taken)
    assert count == expected
    assert await asyncio.to_thread(_replayed, settings, ends[HERE]) == expected


def _replayed(settings: Settings, end: int) -> int:
    source = LogSource(settings)
    try:
        return sum(len(some) for some in source.read({HERE: 0}, {HERE: end}))
    finally:
        source.close()


async def test_a_letter_of_many_records_is_written_back_whole(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    running.append(projector(settings))
    await running[0].start()
    job = JOBS[THERE]
    astray = [Odd(job.encode(), event("progress", job, f"{n}")) for n in range(ONE_BY_ONE + 50)]
    async with hostile_producer(settings) as to:
        assert await send(to, settings.topic, HERE, batch(packed(astray), len(astray))) == 0
    await reached(settings, {HERE: len(astray)})
    async with DeadTopic(settings) as topic:
        (letter,) = await topic.letters(LetterFilter(reasons=frozenset(["wrong-partition"])))
        assert (letter.kind, letter.records, letter.last) == (RUN, len(astray), len(astray) - 1)
        assert letter.job == job
        (outcome,) = await topic.retry([letter])
        assert outcome.what == RETRIED, outcome
        assert await topic.letters() == []
    await reached(settings, {THERE: len(astray)})
    log = (await read_topic(settings, settings.topic))[THERE]
    assert [(one.key, one.value) for one in log] == [(one.key, one.value) for one in astray]
    assert not (await verify(settings)).count


async def test_what_the_dead_topic_refuses_leaves_a_letter_all_the_same(make_log: MakeLog) -> None:
    settings = await make_log()
    # A topic that takes no record without a key, and none of more than 10 KB.
    strict = settings.model_copy(update={"dead_topic": f"{settings.dead_topic}-strict"})
    await make_strict(strict)
    letters = DeadLetters(strict)
    await letters.write_dead_letters(
        [dead(0, None, b"x" * 50_000), dead(1, None, b"no key"), dead(2, b"k", b"good")]
    )
    await letters.write_dead_letters([dead(3, None, None)])
    await letters.close()
    async with DeadTopic(strict) as topic:
        found: dict[int, DeadLetter] = {one.offset: one for one in await topic.letters()}
    assert sorted(found) == [0, 1, 2, 3]
    assert [found[n].cut for n in range(3)] == [True, True, False]


def dead(offset: int, key: bytes | None, value: bytes | None) -> RefusedRecord:
    """Return a record that is no event."""
    record = DefaultRecord(offset, 0, 0, key, value, [])
    return RefusedRecord(HERE, record, EventError("It is none.", reason="invalid"))


async def make_strict(settings: Settings) -> None:
    """Make a dead topic as somebody may have made it who did not read what it is for."""
    configs = {"cleanup.policy": "compact", "max.message.bytes": "10000"}
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics(
            [NewTopic(settings.dead_topic, 1, 1, topic_configs=configs)], timeout_ms=30_000
        )
    finally:
        await admin.close()
