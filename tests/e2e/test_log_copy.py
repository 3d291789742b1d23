"""A log that grows, by a copy with other partitions: each record once, those of a job in order."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete

from jobtrail.core.errors import LogGapError, UsageError
from jobtrail.core.partitions import partition_of, partition_of_key
from jobtrail.log.copying import Copied, LogCopy
from jobtrail.replay import Replay
from jobtrail.replay.sources.log import LogSource
from jobtrail.settings import Settings, as_environment
from tests.conftest import MakeLog
from tests.e2e.replaying import event, run, write
from tests.processes import clean_environment

OLD, NEW = 3, 5
JOBS = 150
#: What tells where a record lies, and what it says of time alone.
PLACES = {"partition"}


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def life(n: int) -> list[dict[str, Any]]:
    found = [
        event("created", f"j{n}", n, jobType=f"t{n % 2}", owner=f"u{n % 5}"),
        event("active", f"j{n}", n + 10, attempt=0),
        event("completed", f"j{n}", n + 20, output={"n": n}),
    ]
    del found[1]["time"]  # it is what the log says
    return found[: 1 + n % 3]


async def filled(make_log: MakeLog, seed: int = 5) -> Settings:
    """Make a log of jobs side by side, and of records that are no events."""
    settings = await make_log(partitions=OLD)
    lives = [life(n) for n in range(JOBS)]
    rows = [one for step in range(3) for each in lives for one in each[step : step + 1]]
    records = [(one["subject"], json.dumps(one).encode()) for one in rows]
    await write(settings, [*records, ("j1", b"no event"), ("j1", records[1][1])])
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer:
        batch = producer.create_batch()
        batch.append(timestamp=None, key=None, value=None, headers=[("a", None), ("é", b"\xff")])
        batch.append(timestamp=7, key=b"\xff", value=random.Random(seed).randbytes(20))
        await (await producer.send_batch(batch, settings.topic, partition=1))
    return settings


def grown(settings: Settings) -> Settings:
    topic = f"{settings.topic}-new"
    return settings.model_copy(update={"topic": topic, "partitions": NEW})


def records(settings: Settings) -> list[list[dict[str, Any]]]:
    """Return the records of each partition."""
    source = LogSource(settings)
    try:
        found: list[list[dict[str, Any]]] = [[] for _ in source.begins()]
        for batch in source.read({}, source.ends()):
            found[batch["partition"][0].as_py()] += batch.to_pylist()
    finally:
        source.close()
    return found


def jobs(settings: Settings) -> dict[str, dict[str, Any]]:
    with Replay(LogSource(settings)) as replay:
        rows = replay.state_at().to_arrow().to_pylist()
    return {row["id"]: {k: v for k, v in row.items() if k not in PLACES} for row in rows}


def same(old: Settings, new: Settings) -> None:
    """Check that a log is the copy of another: each record once, those of each key in order."""

    def by_key(settings: Settings) -> dict[bytes | None, list[tuple[Any, ...]]]:
        found: dict[bytes | None, list[tuple[Any, ...]]] = {}
        for number, partition in enumerate(records(settings)):
            for one in partition:
                key = one["key"]
                wanted = 0 if key is None else partition_of_key(key, NEW)
                assert settings is old or number == wanted
                headers = [tuple(header.values()) for header in one["headers"] or ()]
                row = (one["logged_at"], one["value"], headers)
                found.setdefault(key, []).append(row)
        return found

    assert by_key(new) == by_key(old)
    assert jobs(new) == jobs(old)


async def copy(settings: Settings, *more: str) -> dict[str, Any]:
    arguments = ("--to-topic", grown(settings).topic, "--partitions", str(NEW), "--json")
    status, out, err = await run(settings, *arguments, *more, name="log copy")
    assert (status, err) == (0, ""), err
    found: dict[str, Any] = json.loads(out)
    return found


async def test_a_log_grows_while_it_is_written_to(make_log: MakeLog) -> None:
    old = await filled(make_log)
    new = grown(old)
    done = await copy(old)
    count = sum(map(len, await asyncio.to_thread(records, old)))
    assert (done["records"], done["moved"], done["left_out"]) == (count, 1, 0)
    await asyncio.to_thread(same, old, new)
    # What came since, once all who write were stopped.
    more = [event("created", f"late{n}", n, jobType="t", owner="o") for n in range(20)]
    await write(old, [(one["subject"], json.dumps(one).encode()) for one in more])
    assert (await copy(old, "--resume"))["records"] == 20
    assert (await copy(old, "--resume"))["records"] == 0
    await asyncio.to_thread(same, old, new)


async def test_what_is_in_the_way_is_refused(make_log: MakeLog) -> None:
    old = await filled(make_log)
    name = grown(old).topic
    await copy(old)
    to = ("--to-topic",)
    for wrong, said in (
        ((*to, name, "--partitions", str(NEW)), "Say --resume"),
        ((*to, name, "--partitions", str(NEW + 1), "--resume"), "another number of partitions"),
        ((*to, old.topic, "--partitions", str(NEW)), "into another topic"),
        ((*to, "job-events-dead", "--partitions", "1"), "into another topic"),
    ):
        status, out, err = await run(old, *wrong, name="log copy")
        assert (status, out, said in err) == (2, "", True), err
    # A topic that no copy of this log has begun.
    other = await filled(make_log)
    with pytest.raises(UsageError, match="not empty"):
        async with LogCopy(old, other.topic, OLD, resume=True):
            pass


async def copied(settings: Settings, **options: Any) -> Copied:
    async with LogCopy(settings, grown(settings).topic, NEW, **options) as copying:
        return await copying.run(lambda _: None)


async def test_a_beginning_that_was_deleted_is_not_copied_and_a_loss_is_told(
    make_log: MakeLog,
) -> None:
    old = await filled(make_log)
    tp = TopicPartition(old.topic, 0)
    async with _admin(old) as client:
        await client.delete_records({tp: RecordsToDelete(before_offset=7)})
        done = await copied(old)
        await asyncio.to_thread(same, old, grown(old))
        await write(old, [(f"j{n}", b"no event") for n in range(30)])
        end = done.position[0] + 1
        await client.delete_records({tp: RecordsToDelete(before_offset=end)})
    with pytest.raises(LogGapError, match=f"offset {end - 1}, up to which it is copied"):
        await copied(old, resume=True)


async def test_partitions_that_were_added_are_made_good(make_log: MakeLog) -> None:
    """The jobs that were there went on in other partitions: a copy puts them together again."""
    old = await make_log(partitions=OLD)
    lives = [life(n) for n in range(JOBS)]

    async def step(number: int) -> None:
        rows = [one for each in lives for one in each[number : number + 1]]
        await write(old, [(one["subject"], json.dumps(one).encode()) for one in rows])

    await step(0)
    async with _admin(old) as client:
        await client.create_partitions({old.topic: NewPartitions(total_count=NEW + 2)})
    altered = old.model_copy(update={"partitions": NEW + 2})
    async with AIOKafkaProducer(bootstrap_servers=old.bootstrap_servers) as producer:
        for number in (1, 2):
            for each in lives:
                for one in each[number : number + 1]:
                    await producer.send_and_wait(
                        old.topic,
                        json.dumps(one).encode(),
                        one["subject"].encode(),
                        partition=partition_of(one["subject"], NEW + 2),
                    )
    # What a projector would refuse: the log must not be used as it is.
    assert len(await asyncio.to_thread(jobs, altered)) < JOBS
    done = await copied(old)
    assert done.records == sum(map(len, lives))
    assert done.moved > 0
    found = await asyncio.to_thread(jobs, grown(old))
    states = ["created", "active", "completed"]
    assert {k: v["state"] for k, v in found.items()} == {
        f"j{n}": states[len(each) - 1] for n, each in enumerate(lives)
    }
    assert not any(job["ignored"] for job in found.values())


async def test_a_copy_that_is_killed_goes_on(make_log: MakeLog) -> None:
    old = await filled(make_log)
    new = grown(old)
    chance = random.Random(11)
    killed = 0
    while True:
        after = chance.randrange(1, 150)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.copy_dying", new.topic, str(NEW), str(after)),
            env={**clean_environment(), **as_environment(old)},
        )
        if await process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 2
    await asyncio.to_thread(same, old, new)


async def sent(settings: Settings, *records: tuple[bytes, bytes]) -> None:
    """Write records that are far larger than Kafka's bound for a batch, packed."""
    async with AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers,
        compression_type="gzip",
        max_request_size=1 << 24,
    ) as producer:
        for key, value in records:
            await producer.send_and_wait(settings.topic, value, key)


async def test_what_is_larger_than_a_batch_may_be_is_packed_again(make_log: MakeLog) -> None:
    old = await filled(make_log)
    await sent(old, (b"j1", bytes(3 << 20)), (b"j2", json.dumps(life(2)[0]).encode()))
    done = await copied(old)
    assert done.left_out == 0
    await asyncio.to_thread(same, old, grown(old))


async def bound(settings: Settings, size: int) -> None:
    """Bound the batches of the new topic."""
    resource = ConfigResource(
        ConfigResourceType.TOPIC, grown(settings).topic, {"max.message.bytes": str(size)}
    )
    async with _admin(settings) as client:
        await client.alter_configs([resource])


async def test_what_the_new_topic_does_not_take_is_told_by_its_place_or_no_event(
    make_log: MakeLog,
) -> None:
    old = await filled(make_log)
    before = await copied(old)
    await bound(old, 20_000)
    noise = random.Random(4).randbytes(30_000)
    # Batches of many are no matter, nor is what is no event.
    await write(old, [("j3", noise), *[(f"j{n}", bytes(900)) for n in range(100)]])
    done = await copied(old, resume=True)
    assert (done.records, done.left_out) == (101, 1)
    output = {"noise": noise.hex()}
    large = event("completed", "large", 900, output=output)
    await write(old, [("large", json.dumps(large).encode())])
    place = partition_of("large", OLD)
    with pytest.raises(UsageError) as caught:
        await copied(old, resume=True)
    assert f"partition {place}, offset {done.position[place]}" in str(caught.value.where)
    assert "20,000 bytes" in str(caught.value.expected)
    await bound(old, 1 << 20)
    done = await copied(old, resume=True)
    assert (done.records, done.left_out) == (1, 0)
    assert before.left_out == 0
