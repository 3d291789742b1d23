"""Records that rot on the broker's disk: it serves them as they are, with a wrong checksum."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from aiokafka.errors import CorruptRecordException

from jobtrail.core.errors import LogGapError
from jobtrail.log.copying import LogCopy
from jobtrail.log.kafka import kafka_security
from jobtrail.log.log_range import LogRange
from jobtrail.log.questions import Log
from jobtrail.replay.sources.holes import Holes
from jobtrail.replay.sources.log import LogSource
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.contract.store_streams import Record
from tests.faults.conftest import OwnBroker
from tests.faults.flows import ends_of, held, said, stream, until, write
from tests.faults.test_hole import in_order, jobtrail
from tests.processes import Process, api, projector

#: Of the first a batch in the middle rots, of the other one the last.
MIDDLE, LAST = 5, 2


async def level(settings: Settings) -> None:
    """Wait until the store holds the log."""
    ends = await ends_of(settings)
    await until(lambda: held(settings).position == ends, "the store is level")


def others(records: list[Record]) -> list[Record]:
    """Return what lies in partitions that are sound."""
    return [record for record in records if record.partition not in (MIDDLE, LAST)]


async def served_on(settings: Settings, running: list[Process]) -> tuple[Process, Process]:
    """Start a projector and an API process on a log."""
    folding, answering = projector(settings), api(settings)
    running += [folding, answering]
    await folding.start()
    await answering.start()
    return folding, answering


@pytest.mark.timeout(400)
async def test_what_rots_stops_its_partition_alone_until_it_is_skipped_on_purpose(
    make_log: MakeLog, running: list[Process], own_broker: OwnBroker
) -> None:
    settings = await make_log(bootstrap_servers=own_broker.servers)
    folding, answering = await served_on(settings, running)
    await until(lambda: "tail_follows" in answering.log.read_text(), "the tail is at the log's end")
    # So that all of it is read once it has rotted.
    assert await folding.stop() == 0
    os.kill(answering.child.pid, signal.SIGSTOP)
    for some in in_order(settings, 61):
        await write(settings, some)
    await own_broker.process.stop()
    rotten = {
        MIDDLE: own_broker.rot(settings.topic, MIDDLE),
        LAST: own_broker.rot(settings.topic, LAST, last=True),
    }
    await own_broker.start()
    os.kill(answering.child.pid, signal.SIGCONT)
    folding = projector(settings)
    running.append(folding)
    await folding.start()
    await until(lambda: set(held(settings).stopped) == {MIDDLE, LAST}, "it is found")
    await write(settings, others(stream(62)))
    ends = await ends_of(settings)
    sound = {p: end for p, end in ends.items() if p not in rotten}
    await until(lambda: sound.items() <= held(settings).position.items(), "the others go on")
    assert len(said(settings, "action=log_hole")) == 2
    for partition, (first, behind) in rotten.items():
        assert held(settings).position[partition] == first
        command = f"jobtrail skip --partition {partition} --to {behind}"
        assert command in held(settings).stopped[partition]
        assert "damaged" in held(settings).stopped[partition]
        done = await jobtrail(settings, *command.split()[1:])
        assert done.status == 0, done.errors
    await level(settings)
    await until(lambda: not held(settings).stopped, "it is said no longer")
    await write(settings, stream(63))
    await level(settings)
    assert folding.child.returncode is None
    assert not said(settings, "action=store_reset")
    lines = answering.log.read_text()
    assert "CorruptRecord" not in lines
    assert all(lines.count(f"tail_lost_records partition={p} ") == 1 for p in rotten)


@pytest.mark.timeout(400)
async def test_what_rots_once_it_is_folded_is_no_other_log(
    make_log: MakeLog, running: list[Process], own_broker: OwnBroker
) -> None:
    settings = await make_log(bootstrap_servers=own_broker.servers)
    await write(settings, stream(64))
    folding, answering = await served_on(settings, running)
    await level(settings)
    await own_broker.process.stop()
    first, _ = own_broker.rot(settings.topic, LAST, last=True)
    await own_broker.start()
    await write(settings, stream(65))
    await level(settings)
    assert not said(settings, "action=store_reset", "action=log_hole")
    assert folding.child.returncode is None
    assert "CorruptRecord" not in answering.log.read_text()
    client = {"bootstrap_servers": settings.bootstrap_servers, **kafka_security(settings)}
    async with Log(settings.topic, client) as log, asyncio.timeout(60):
        with pytest.raises(CorruptRecordException):
            await log.find({LAST: first})
    await refused_by_who_reads_all(settings)


async def refused_by_who_reads_all(settings: Settings) -> None:
    """Check that nobody takes the rest for the whole, but who says so."""
    async with LogRange(settings) as log:
        begins, ends = await log.begins(), await log.ends()
        with pytest.raises(LogGapError, match="damaged"):
            async for _ in log.read(begins, ends):
                pass
    with pytest.raises(LogGapError, match="missing"):
        async with LogCopy(settings, f"{settings.topic}-new", 3) as copying:
            await copying.run(lambda _: None)
    with pytest.raises(LogGapError, match="damaged"):
        await asyncio.to_thread(read_all, settings, Holes())
    told: list[str] = []
    read = await asyncio.to_thread(read_all, settings, Holes(told.append))
    assert len(told) == 1
    assert 0 < read < sum(ends.values())


def read_all(settings: Settings, holes: Holes) -> int:
    """Return how many records replay reads of a log."""
    source = LogSource(settings, holes=holes)
    try:
        return sum(batch.num_rows for batch in source.read({}, source.ends()))
    finally:
        source.close()
