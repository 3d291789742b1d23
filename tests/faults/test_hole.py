"""A hole in the log: records that were acknowledged are gone, and nothing says why."""

from __future__ import annotations

import asyncio
import sys
from typing import NamedTuple

import pytest

from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.contract.store_streams import Record
from tests.faults.conftest import OwnBroker
from tests.faults.flows import ends_of, held, is_folded, said, stream, until, write
from tests.processes import Process, projector

HURT = 5


class Done(NamedTuple):
    """How a command ended."""

    status: int | None
    errors: str


async def jobtrail(settings: Settings, *arguments: str) -> Done:
    """Run a command on the settings' log and store."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jobtrail", *arguments),
        env=child_environment(settings),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await child.communicate()
    return Done(child.returncode, errors.decode())


def in_order(settings: Settings, seed: int) -> list[list[Record]]:
    """Return a stream in pieces, so that each partition has several batches."""
    records = list(stream(seed))
    return [records[at : at + 100] for at in range(0, len(records), 100)]


@pytest.mark.timeout(300)
async def test_a_hole_stops_its_partition_alone_until_it_is_skipped_on_purpose(
    make_log: MakeLog, running: list[Process], own_broker: OwnBroker
) -> None:
    settings = await make_log(bootstrap_servers=own_broker.servers)
    for some in in_order(settings, 51):
        await write(settings, some)
    await own_broker.cut_power()
    first, behind = own_broker.cut_out(settings.topic, HURT)
    await own_broker.start()
    worker = projector(settings)
    running.append(worker)
    await worker.start()
    ends = await ends_of(settings)
    others = {partition: end for partition, end in ends.items() if partition != HURT}
    await until(lambda: HURT in held(settings).stopped, "the hole is found")
    await until(lambda: others.items() <= held(settings).position.items(), "the others go on")
    assert held(settings).position[HURT] == first
    (line,) = said(settings, "action=log_hole")
    assert f"offset {first}" in line
    command = f"jobtrail skip --partition {HURT} --to {behind}"
    assert command in line
    assert command in held(settings).stopped[HURT]
    # What the log has is not skipped.
    refused = await jobtrail(settings, "skip", "--partition", "0", "--to", "1")
    assert refused.status == 1
    refused = await jobtrail(settings, "skip", "--partition", str(HURT), "--to", str(behind + 1))
    assert refused.status == 2, refused.errors
    assert f"an offset up to {behind}" in refused.errors
    assert held(settings).position[HURT] == first
    done = await jobtrail(settings, "skip", "--partition", str(HURT), "--to", str(behind))
    assert done.status == 0, done.errors
    assert "action=hole_skipped" in done.errors
    jobs = await is_folded(settings)
    assert len(jobs) > 100
    await until(lambda: not held(settings).stopped, "it is said no longer")
    assert len(said(settings, "action=log_hole")) == 1
