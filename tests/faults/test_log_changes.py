"""A log that changes under its projector: nothing of another log is ever taken for this one's."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition

from jobtrail.log.kafka import kafka_security
from jobtrail.log.questions import Log as KafkaLog
from jobtrail.log.questions import Read, last_record
from jobtrail.settings import Settings
from services.broker.topics import ensure_topics
from tests.conftest import MakeLog
from tests.contract.store_streams import PARTITIONS, Log, event
from tests.faults.conftest import OwnBroker
from tests.faults.flows import (
    applied,
    ends_of,
    held,
    is_folded,
    producer,
    read_topic,
    said,
    stream,
    until,
    write,
)
from tests.processes import Process, projector

LOST: Final = 3
#: Seconds after which Kafka removes a member that it does not hear from.
SESSION: Final = 30


async def level(settings: Settings) -> None:
    """Wait until the store holds the log."""
    ends = await ends_of(settings)
    await until(lambda: held(settings).position == ends, "the store is level")


async def started(settings: Settings, running: list[Process], number: int = 0) -> Process:
    """Start a projector on a log."""
    worker = projector(settings, number)
    running.append(worker)
    await worker.start()
    return worker


def cut_in_half(segment: Path) -> None:
    """Let a partition lose the end of its log, as a power cut may."""
    os.truncate(segment, segment.stat().st_size // 2)


async def admin(settings: Settings, do: Callable[[Any], Awaitable[Any]]) -> Any:
    """Do something that an operator may do to a topic."""
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await client.start()
    try:
        return await do(client)
    finally:
        await client.close()


async def make_again(settings: Settings) -> None:
    """Delete a log and make it again."""
    await admin(settings, lambda client: client.delete_topics([settings.topic]))
    while True:
        try:
            await ensure_topics(settings.bootstrap_servers, settings)
            return
        except (KafkaError, UnknownTopicOrPartitionError):
            continue


@pytest.mark.timeout(300)
@pytest.mark.parametrize("alive", [True, False])
async def test_a_log_that_lost_its_end_and_was_refilled(
    make_log: MakeLog, running: list[Process], own_broker: OwnBroker, alive: bool
) -> None:
    """Also where the last record is no event, so that it has no id."""
    settings = await make_log(bootstrap_servers=own_broker.servers)
    bad = [Log().add(b"no event", b"k", partition=p) for p in range(PARTITIONS)]
    await write(settings, [*stream(31), *bad])
    worker = await started(settings, running)
    await level(settings)
    if not alive:
        assert await worker.stop() == 0
    await own_broker.cut_power()
    cut_in_half(own_broker.segment(settings.topic, LOST))
    await own_broker.start()
    # Beyond where the store is, by other jobs and by the same ones, and again no event at last.
    await write(settings, [*stream(32), *stream(33), *bad])
    if not alive:
        await started(settings, running)
    await is_folded(settings)
    assert said(settings, "action=store_reset")


@pytest.mark.timeout(300)
async def test_a_broker_that_was_restored_from_a_copy(
    make_log: MakeLog, running: list[Process], own_broker: OwnBroker, tmp_path: Path
) -> None:
    """Its leaders count their epochs again from where the copy was made."""
    settings = await make_log(bootstrap_servers=own_broker.servers)
    await write(settings, stream(34))
    await own_broker.cut_power()
    copy = tmp_path / "copy"
    shutil.copytree(own_broker.data, copy)
    await own_broker.start()
    await write(settings, stream(35))
    await started(settings, running)
    await level(settings)
    await own_broker.cut_power()
    shutil.rmtree(own_broker.data)
    shutil.copytree(copy, own_broker.data)
    await own_broker.start()
    await write(settings, [*stream(36), *stream(37)])
    await is_folded(settings)
    assert said(settings, "action=store_reset")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("projectors", [1, 2])
@pytest.mark.parametrize("alive", [True, False])
async def test_a_topic_that_was_made_again(
    make_log: MakeLog, running: list[Process], alive: bool, projectors: int
) -> None:
    settings = await make_log()
    await write(settings, stream(38))
    workers = [await started(settings, running, number) for number in range(projectors)]
    await level(settings)
    if not alive:
        for worker in workers:
            assert await worker.stop() == 0
    await make_again(settings)
    await write(settings, [*stream(39), *stream(40)])
    if not alive:
        for number in range(projectors):
            await started(settings, running, number)
    await is_folded(settings)
    assert all(process.child.returncode is None for process in running[-projectors:])


@pytest.mark.timeout(300)
async def test_fewer_projectors_than_before_take_all_partitions_at_once(
    make_log: MakeLog, running: list[Process]
) -> None:
    """Those that were killed do not keep their partitions for a session of 30 seconds."""
    settings = await make_log()
    workers = [await started(settings, running, number) for number in range(3)]
    for worker in workers:
        await worker.kill()
    await write(settings, stream(41))
    gone = [option for number in (1, 2) for option in ("--gone", f"projector-{number}")]
    only = projector(settings, 0, *gone)
    running.append(only)
    # Later it would be the session's end that did it.
    async with asyncio.timeout(SESSION):
        await only.start()
        await is_folded(settings)
        await until(lambda: min(held(settings).beats.values()) > 0, "it says that it lives")


@pytest.mark.timeout(300)
async def test_another_number_of_partitions_is_refused_and_nothing_valid_is_a_dead_letter(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    jobs = [Log().tell("created", f"job-{number}") for number in range(400)]
    await write(settings, jobs)
    worker = await started(settings, running)
    await level(settings)
    grow = {settings.topic: NewPartitions(12)}
    await admin(settings, lambda client: client.create_partitions(grow))
    await write(settings, [r._replace(partition=number % 12) for number, r in enumerate(jobs)])
    assert await worker.child.wait() == 1
    # A restart refuses; so does one on a new store, and one whose settings were changed, too.
    for changes in ({}, {"store": "new"}, {"store": "newer", "partitions": 12}):
        values = dict(changes)
        if "store" in values:
            values["store"] = f"sqlite:///{settings.data_dir / str(values['store'])}"
        again = projector(settings.model_copy(update=values))
        running.append(again)
        await again.spawn()
        assert await again.child.wait() == 1
        last = again.log.read_text().splitlines()[-1]
        assert "12" in last, changes
        assert "jobtrail log copy" in last, changes
    assert not any((await read_topic(settings, settings.dead_topic)).values())


# --- offsets without a record


def told(job_id: str, number: int) -> dict[str, Any]:
    """Return an event as aiokafka's producer takes it."""
    kind = "created" if number == 0 else "progress"
    return {"key": job_id.encode(), "value": event(kind, job_id, f"{job_id}#{number}")}


@pytest.mark.timeout(300)
async def test_transactions_take_offsets_and_what_is_aborted_is_nowhere(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    await started(settings, running)
    async with producer(settings, transactional_id=f"t-{settings.topic}") as to:
        for number in range(6):
            async with to.transaction():
                for job in range(20):
                    await to.send(settings.topic, **told(f"committed-{job}", number))
            await to.begin_transaction()
            for job in range(20):
                await to.send(settings.topic, **told(f"aborted-{job}", number))
            await to.flush()
            await to.abort_transaction()
    jobs = await is_folded(settings)
    assert len(jobs) == 20
    # Others go on while one is open, and it counts when it is committed.
    async with producer(settings, transactional_id=f"o-{settings.topic}") as to:
        async with to.transaction():
            for job in range(20):
                await to.send(settings.topic, **told(f"late-{job}", 0))
        before = applied(settings)
        await write(settings, stream(42))
        await until(lambda: applied(settings) > before, "the others go on")
    jobs = await is_folded(settings)
    assert all(f"late-{job}" in jobs for job in range(20))
    assert not said(settings, "action=log_hole", "LogGapError")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("alive", [True, False])
async def test_deleted_records_are_passed_over(
    make_log: MakeLog, running: list[Process], alive: bool
) -> None:
    """Before the checkpoint, and beyond it while nobody folds."""
    settings = await make_log()
    await write(settings, stream(43))
    worker = await started(settings, running)
    await level(settings)
    before = held(settings).position
    if not alive:
        assert await worker.stop() == 0
        await write(settings, stream(44))
    ends = await ends_of(settings)
    limits = {TopicPartition(settings.topic, p): RecordsToDelete(end) for p, end in ends.items()}
    await admin(settings, lambda client: client.delete_records(limits))
    await write(settings, stream(45))
    if not alive:
        await started(settings, running)
    await level(settings)
    if not alive:
        assert said(settings, "action=log_begins_later")
        assert before != ends
    assert not said(settings, "action=log_hole", "action=store_reset")
    # A store that is made from here on begins where the log begins.
    fresh = settings.model_copy(
        update={"store": f"sqlite:///{settings.data_dir / 'new'}", "group": f"{settings.group}-2"}
    )
    await started(fresh, running)
    await is_folded(fresh)


class Fleeting(KafkaLog):
    """The log, of which all records are deleted as soon as somebody has asked where it ends."""

    async def ends(self) -> dict[int, int]:
        """Return where it ends."""
        ends = await super().ends()
        limits = {TopicPartition(self._topic, p): RecordsToDelete(end) for p, end in ends.items()}
        client = AIOKafkaAdminClient(**self._client)
        await client.start()
        try:
            await client.delete_records(limits)
        finally:
            await client.close()
        return ends


@pytest.mark.timeout(300)
async def test_records_that_are_deleted_while_they_are_looked_up_are_no_other_log(
    make_log: MakeLog,
) -> None:
    settings = await make_log()
    await write(settings, stream(46))
    topic = await read_topic(settings, settings.topic)
    read = {p: Read(some[-1].offset + 1, last_record(some[-1], -1)) for p, some in topic.items()}
    client = {"bootstrap_servers": settings.bootstrap_servers, **kafka_security(settings)}
    async with Fleeting(settings.topic, client) as log:
        assert await log.differences(read) == {}
