"""Replay and archive of logs whose offsets have gaps: by right, or since something is lost.

README invites any Kafka client to write: transactions leave control records, and records that were
never committed; compaction and deleted beginnings take records out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete

from jobtrail.core.errors import LogGapError
from jobtrail.core.partitions import partition_of
from jobtrail.log.kafka import is_compacted
from jobtrail.replay import Replay
from jobtrail.replay.sources.holes import Holes
from jobtrail.replay.sources.log import LogSource
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.replaying import event, run
from tests.faults.conftest import OwnBroker

PARTITIONS = 2
DEADLINE = 60


@asynccontextmanager
async def producer(settings: Settings, **options: Any) -> AsyncIterator[Any]:
    client = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, **options)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def created(client: Any, settings: Settings, *job_ids: str) -> None:
    """Send the first event of jobs, each acknowledged."""
    for job_id in job_ids:
        value = json.dumps(event("created", job_id, 1, jobType="t", owner="o")).encode()
        await client.send_and_wait(
            settings.topic, value, job_id.encode(), partition_of(job_id, PARTITIONS)
        )


async def in_transactions(settings: Settings) -> None:
    """Write jobs that were committed, named c..., and such as were not, named a..."""
    async with producer(settings, transactional_id=settings.topic) as client:
        for number in range(4):
            async with client.transaction():
                await created(client, settings, *(f"c{number}.{n}" for n in range(10)))
            with suppress(ZeroDivisionError):
                async with client.transaction():
                    await created(client, settings, *(f"a{number}.{n}" for n in range(10)))
                    raise ZeroDivisionError


def jobs(settings: Settings, **options: Any) -> set[str]:
    """Return the ids of the jobs that replay finds, read in two ways."""
    with Replay(LogSource(settings, **options)) as replay:
        one_by_one = {one.event.subject for one in replay.events()}
        together = {row["id"] for row in replay.state_at().to_arrow().to_pylist()}
    assert one_by_one == together
    return together


COMMITTED = {f"c{number}.{n}" for number in range(4) for n in range(10)}


async def test_what_was_aborted_is_shown_nowhere(make_log: MakeLog, tmp_path: Path) -> None:
    settings = await make_log(partitions=PARTITIONS)
    await in_transactions(settings)
    assert await asyncio.to_thread(jobs, settings) == COMMITTED

    # A growing export: now behind control records, then behind an open transaction.
    to = tmp_path / "log.ndjson"
    grow = ("--to", str(to), "--since", "last", "--json")
    status, out, err = await run(settings, *grow)
    assert (status, json.loads(out)["rows"], err) == (0, 40, "")
    async with producer(settings, transactional_id=settings.topic) as client:
        await client.begin_transaction()
        await created(client, settings, "open.1", "open.2")
        status, out, _ = await run(settings, *grow)
        assert (status, json.loads(out)["rows"]) == (0, 0)
        await client.commit_transaction()
    status, out, _ = await run(settings, *grow)
    assert (status, json.loads(out)["rows"]) == (0, 2)
    lines = [json.loads(line)["job_id"] for line in to.read_text().splitlines()]
    assert sorted(lines) == sorted({*COMMITTED, "open.1", "open.2"})

    # An archive of it: alone and together with the log.
    archive = str(tmp_path / "archive")
    options = ("--to", archive, "--segment-records", "7", "--json")
    status, out, err = await run(settings, *options, name="archive")
    assert (status, err) == (0, "")
    count = json.loads(out)["records"]
    assert 0 < count < len(lines) < sum(json.loads(out)["archived"].values())
    status, out, err = await run(settings, *options, "--all", name="archive")
    assert (status, count + json.loads(out)["records"] >= len(lines), err) == (0, True, "")
    status, out, _ = await run(settings, *options, "--verify", name="archive")
    assert (status, json.loads(out)["records"]) == (0, len(lines))
    status, out, _ = await run(settings, "--archive", archive, "--json")
    assert sorted(json.loads(line)["job_id"] for line in out.splitlines()) == sorted(lines)


async def test_a_transaction_that_is_open_hides_what_came_later(make_log: MakeLog) -> None:
    settings = await make_log(partitions=1)
    value = json.dumps(event("created", "j", 1, jobType="t", owner="o")).encode()
    async with producer(settings, transactional_id=settings.topic) as client:
        await client.begin_transaction()
        await client.send_and_wait(settings.topic, value, b"j", 0)
        async with producer(settings) as other:
            await other.send_and_wait(settings.topic, value, b"j", 0)
        source = await asyncio.to_thread(LogSource, settings)
        try:
            assert await asyncio.to_thread(source.ends) == {0: 0}
            await client.abort_transaction()
            async with asyncio.timeout(DEADLINE):
                while await asyncio.to_thread(source.ends) != {0: 3}:
                    await asyncio.to_thread(source.begins)
            batches = await asyncio.to_thread(lambda: list(source.read({0: 0}, {0: 3})))
        finally:
            await asyncio.to_thread(source.close)
    assert [n for batch in batches for n in batch["offset"].to_pylist()] == [1]


async def delete_before(settings: Settings, offsets: dict[int, int]) -> None:
    async with admin(settings) as client:
        await client.delete_records(
            {
                TopicPartition(settings.topic, partition): RecordsToDelete(before_offset=offset)
                for partition, offset in offsets.items()
            }
        )


async def test_a_beginning_that_moves(make_log: MakeLog) -> None:
    settings = await make_log(partitions=PARTITIONS)
    ids = [f"j{n}" for n in range(40)]
    async with producer(settings) as client:
        # One batch for each partition: the new beginnings lie within.
        await asyncio.gather(*(created(client, settings, job_id) for job_id in ids))
    replay = await asyncio.to_thread(lambda: Replay(LogSource(settings)))
    told: list[str] = []
    skipping = await asyncio.to_thread(LogSource, settings, holes=Holes(told.append))
    try:
        begins = {p: end // 2 for p, end in replay.ends.items()}
        await delete_before(settings, begins)
        # Whoever reads from the beginning reads from where it is now.
        left = await asyncio.to_thread(lambda: [one.place for one in replay.events()])
        assert len(left) == sum(replay.ends[p] - begins[p] for p in begins)
        assert min(place.offset for place in left if place.partition == 0) == begins[0]
        # Whoever had read up to a place is told what they missed.
        with pytest.raises(LogGapError, match=f"partition 0, offsets 0 to {begins[0] - 1}") as gone:
            await asyncio.to_thread(lambda: list(replay.events(since={0: 0, 1: begins[1]})))
        assert "--skip-holes" in str(gone.value)
        for _ in range(2):
            found = await asyncio.to_thread(
                lambda: list(skipping.read({0: 0, 1: begins[1]}, replay.ends))
            )
            assert sum(map(len, found)) == len(left)
        assert len(told) == 1
        assert f"offsets 0 to {begins[0] - 1}" in told[0]
        # A log that ends before is another one: there is nothing to skip.
        beyond = {0: replay.ends[0] + 5}
        with pytest.raises(LogGapError, match="ends before"):
            await asyncio.to_thread(lambda: list(skipping.read(beyond, {0: beyond[0] + 1})))
    finally:
        await asyncio.to_thread(skipping.close)
        await asyncio.to_thread(replay.close)
    status, out, err = await run(settings, "--since", "0:0", "--json")
    assert status == 1
    assert f"partition 0, offsets 0 to {begins[0] - 1}" in err
    status, out, err = await run(settings, "--since", "0:0", "--json", "--skip-holes")
    assert (status, len(out.splitlines())) == (0, len(left))
    assert err.count("skipped: ") == 1


async def configure(settings: Settings, **configs: str) -> None:
    wanted = {name.replace("_", "."): value for name, value in configs.items()}
    resource = ConfigResource(ConfigResourceType.TOPIC, settings.topic, configs=wanted)
    async with admin(settings) as client:
        await client.alter_configs([resource])


def places(settings: Settings, told: list[str] | None = None) -> list[int]:
    """Return the offsets of all records of a log of one partition."""
    source = LogSource(settings, holes=Holes(None if told is None else told.append))
    try:
        found = list(source.read({}, source.ends()))
    finally:
        source.close()
    return [offset for batch in found for offset in batch["offset"].to_pylist()]


async def segments(settings: Settings, count: int) -> None:
    """Write ten records to each of so many segments, of ten jobs."""
    async with producer(settings) as client:
        for second in range(0, 10 * count, 10):
            for number in range(10):
                value = json.dumps(
                    event("created", f"j{number}", second, jobType="t", owner="o")
                ).encode()
                await client.send_and_wait(
                    settings.topic, value, b"j%d" % number, 0, timestamp_ms=1000 * second
                )


async def test_what_compaction_takes_is_no_loss(make_log: MakeLog) -> None:
    settings = await make_log(partitions=1)
    options = {"bootstrap_servers": settings.bootstrap_servers}
    assert not await is_compacted(options, settings.topic)
    await configure(
        settings,
        cleanup_policy="compact,delete",
        retention_ms="-1",
        segment_ms="1000",
        min_cleanable_dirty_ratio="0.001",
    )
    assert await is_compacted(options, settings.topic)
    await segments(settings, 4)
    async with asyncio.timeout(DEADLINE):
        # Kafka compacts when it gets to it: all but the last segment.
        while len(found := await asyncio.to_thread(places, settings)) > 20:
            pass
    assert found == list(range(20, 40))
    assert await asyncio.to_thread(jobs, settings) == {f"j{n}" for n in range(10)}


async def test_a_hole_is_named_and_can_be_skipped(
    make_log: MakeLog, own_broker: OwnBroker, tmp_path: Path
) -> None:
    settings = await make_log(partitions=1, bootstrap_servers=own_broker.servers)
    await configure(settings, retention_ms="-1", segment_ms="1000")
    await segments(settings, 4)
    assert await own_broker.process.stop() == 0
    own_broker.lose_segment(settings.topic, 0, 10)
    await own_broker.start()
    hole = "partition 0, offsets 10 to 19"
    to = ("--to", str(tmp_path / "a"), "--all")
    for name, more in (("replay", ("--json",)), ("archive", to)):
        status, _, err = await run(settings, *more, name=name)
        assert (status, err.count(hole), "--skip-holes" in err) == (1, 1, True), err
    told: list[str] = []
    assert await asyncio.to_thread(places, settings, told) == [*range(10), *range(20, 40)]
    assert len(told) == 1
    assert hole in told[0]
    # Jobs are looked for in a first read, and read in a second one: it is named once.
    filtered = ("--job-type", "none", "--json", "--skip-holes")
    status, _, err = await run(settings, *filtered)
    assert (status, err.count(hole)) == (0, 1), err
    status, out, err = await run(settings, *to, "--skip-holes", name="archive")
    assert (status, err.count(hole), out.startswith("30 records")) == (0, 1, True), err
    # Of a compacted log it would be none.
    await configure(settings, retention_ms="-1", segment_ms="1000", cleanup_policy="compact")
    assert len(await asyncio.to_thread(places, settings)) == 30
