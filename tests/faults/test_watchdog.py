"""A projector that is alive but does not get on: the watchdog says which partition, and ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import pytest

from jobtrail.log.kafka import kafka_security
from jobtrail.log.questions import Log
from jobtrail.settings import Settings
from projections.projector.partition_state import DeadLetter
from projections.projector.projector import Projector
from projections.projector.vitals import Vitals
from projections.projector.watchdog import watch
from projections.sqlite.files import schema
from projections.sqlite.write.writer import SqliteWriter
from services.broker.topics import ensure_topics
from tests.conftest import MakeLog
from tests.contract.store_streams import PARTITIONS
from tests.faults.flows import DEADLINE, equals_fold, read_log, said, stream, write
from tests.groups import group_of
from tests.processes import Process, projector
from tests.waiting import look_again

#: Seconds without progress that are too long here.
STALLED_AFTER: Final = 1.0
#: How often the watchdog looks in that time.
LOOKS: Final = 4


class WatchedLog(Log):
    """Counts how often somebody looked where it ends."""

    looks = 0

    async def ends(self) -> dict[int, int]:
        ends = await super().ends()
        self.looks += 1
        return ends


async def write_dead_letters(letters: Sequence[DeadLetter]) -> None:
    """Take dead letters; nobody reads them here."""


@asynccontextmanager
async def idle(settings: Settings) -> AsyncIterator[tuple[WatchedLog, Projector]]:
    """Give a log, and a projector with a store of its own that nobody feeds."""
    client = {"bootstrap_servers": settings.bootstrap_servers, **kafka_security(settings)}
    async with WatchedLog(settings.topic, client) as log:
        schema.create(
            settings.store_folder,
            schema.Layout(schema.SCHEMA_VERSION, settings.shards, log.partitions),
            await log.begins(),
            await log.ends(),
        )
        projector = Projector(
            SqliteWriter(settings.store_folder), log, log.partitions, write_dead_letters
        )
        try:
            yield log, projector
        finally:
            projector.close()


async def test_a_projector_that_gets_nothing_is_found(make_log: MakeLog) -> None:
    settings = await make_log()
    await write(settings, stream(21, jobs=20, events=100, steady=0))
    async with idle(settings) as (log, projector), asyncio.timeout(DEADLINE):
        reason = await watch(log, projector, lambda: {5}, Vitals(STALLED_AFTER))
        end = (await log.ends())[5]
        assert reason.startswith(f"partition 5 stays at offset 0, the log ends at {end}, nothing ")
        # Who has nothing assigned may be the one that is stuck: then all partitions count.
        reason = await watch(log, projector, set, Vitals(STALLED_AFTER))
        assert reason.startswith("partition ")


async def test_a_projector_that_gets_on_is_left_alone(make_log: MakeLog) -> None:
    """However slow it is; and partitions that are level or somebody else's are not waited for."""
    settings = await make_log()
    await write(settings, stream(22, jobs=20, events=200, steady=0))
    records = (await read_log(settings)).records
    slow, level, others = sorted(range(PARTITIONS), key=lambda p: -len(records[p]))[:3]
    async with idle(settings) as (log, projector), asyncio.timeout(DEADLINE):
        await projector.apply(level, group_of(records[level]))
        vitals = Vitals(STALLED_AFTER)
        watching = asyncio.create_task(watch(log, projector, lambda: {slow, level}, vitals))
        for record in records[slow][: 2 * LOOKS]:
            seen = log.looks
            await projector.apply(slow, group_of([record]))
            while log.looks == seen:
                await look_again()
            assert not watching.done()
        checkpoints = await projector.checkpoints()
        assert checkpoints[others].next_offset == 0 < checkpoints[slow].next_offset
        watching.cancel()


@pytest.mark.timeout(300)
async def test_a_stalled_process_ends_and_gets_on_when_it_is_started_anew(
    make_log: MakeLog, running: list[Process]
) -> None:
    """What holds it up here: a dead letter, and no topic for it."""
    settings = await make_log(stalled_after=STALLED_AFTER)
    held_up = settings.model_copy(update={"dead_topic": f"{settings.dead_topic}-later"})
    worker = projector(held_up)
    running.append(worker)
    await worker.start()
    await write(settings, stream(23))
    async with asyncio.timeout(DEADLINE):
        assert await worker.child.wait() == 1
    (line,) = said(settings, "action=projector_stalled")
    assert "nothing was applied for" in line
    await ensure_topics(settings.bootstrap_servers, held_up)
    await worker.start()
    await equals_fold(settings)
