"""A power cut on one machine: the log lost events that the store has applied.

The projector says so, empties the part of the store that was folded from what is gone, and folds
the log as it is now; until then reads of that part are `recovering`.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

import pytest

from jobtrail.settings import Settings
from services.broker.topics import ensure_topics
from tests.conftest import MakeLog
from tests.contract.store_streams import PARTITIONS, Log
from tests.faults.conftest import OwnBroker
from tests.faults.flows import equals_fold, held, losses, stream, until, write
from tests.processes import Process, projector

#: The partition that loses records, and all that are in the same file of the store.
LOST: Final = 3
TOGETHER: Final = {partition for partition in range(PARTITIONS) if partition % 2 == LOST % 2}


async def filled(settings: Settings, running: list[Process]) -> None:
    """Fill a log and its store; in the partition that will be harmed no event comes first."""
    first = Log().add(b"no event", None, partition=LOST)
    await write(settings, [first, *stream(11)])
    await write(settings, stream(12))
    worker = projector(settings)
    running.append(worker)
    await worker.start()
    await equals_fold(settings)
    assert await worker.stop() == 0
    assert losses(settings) == []


async def folded_anew(settings: Settings, running: list[Process], how: str) -> None:
    """Start a projector on a log that lost events, and watch the store become its fold."""
    before = held(settings).position
    # Without a dead-letter topic it gets no further than that first record.
    unburied = settings.model_copy(update={"dead_topic": f"{settings.dead_topic}-later"})
    running.append(projector(unburied))
    await running[-1].spawn()
    await until(lambda: LOST in held(settings).recovering, "the projector finds the loss")
    (line,) = losses(settings)
    assert "action=store_reset" in line
    assert f"partition={LOST} The log is not the one that was folded: {how}" in line
    now = held(settings)
    assert now.recovering <= TOGETHER
    assert now.position[LOST] == 0
    assert {p: now.position[p] for p in before if p not in TOGETHER} == {
        p: offset for p, offset in before.items() if p not in TOGETHER
    }
    await ensure_topics(settings.bootstrap_servers, unburied)
    await until(lambda: not held(settings).recovering, "the log is folded anew")
    await equals_fold(settings)


@pytest.mark.timeout(420)
async def test_a_log_that_lost_events_is_folded_anew(
    make_log: MakeLog, running: list[Process], own_broker: OwnBroker
) -> None:
    logs = [await make_log(bootstrap_servers=own_broker.servers) for _ in range(2)]
    shorter, replaced = logs
    async with asyncio.TaskGroup() as both:
        for settings in logs:
            both.create_task(filled(settings, running))
    end = held(replaced).position[LOST]
    await own_broker.cut_power()
    for settings in logs:
        segment = own_broker.segment(settings.topic, LOST)
        os.truncate(segment, segment.stat().st_size * 2 // 3)
    await own_broker.start()
    await write(replaced, stream(13))
    async with asyncio.TaskGroup() as both:
        both.create_task(folded_anew(shorter, running, "it ends at "))
        both.create_task(
            folded_anew(replaced, running, f"at offset {end - 1} it has another record")
        )
