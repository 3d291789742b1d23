"""The broker killed under a `JobProducer`, for longer than any send is given."""

from __future__ import annotations

import asyncio
import itertools
import os
import time

import psutil
import pytest

from jobtrail import JobProducer
from jobtrail.core.errors import LogUnavailable
from jobtrail.core.job import event_key, kept_trail
from jobtrail.core.trail import Verdict, read_trail
from jobtrail.produce.job_producer import WITHIN
from tests.conftest import MakeLog
from tests.faults.conftest import OwnBroker
from tests.faults.flows import fold_of, read_log, until

#: Seconds that the broker is away: longer than a send is given. A long run may take 30.
AWAY = float(os.environ.get("OUTAGE_SECONDS", "10"))
#: Events a second.
RATE = 5_000
#: Bytes that a process may grow by meanwhile: what is under way, twenty thousand tasks, and tracks.
ROOM = 200 << 20


class Sends:
    """Sends progress of jobs at a steady rate, again where it was refused."""

    def __init__(self, producer: JobProducer) -> None:
        self._producer = producer
        self._numbers = itertools.count()
        #: Ids of the events that Kafka has said to have.
        self.acknowledged: set[str] = set()
        self.refused = 0
        self.unknown = 0
        #: The longest that a send took to be refused, seconds.
        self.slowest = 0.0
        #: Seconds by which this process itself came too late, all together.
        self.late = 0.0
        self.over = False

    async def run(self) -> None:
        """Send until it is over; what nobody waits for any more is still answered."""
        tick = 0.02
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as tasks:
            while not self.over:
                for _ in range(int(RATE * tick)):
                    tasks.create_task(self._send(next(self._numbers)))
                due = max(due + tick, loop.time())
                await asyncio.sleep(due - loop.time())
                self.late += loop.time() - due

    async def _send(self, number: int) -> None:
        event = self._producer.events.progress(f"job-{number % 500}", event_id=f"e-{number}")
        while True:
            began = time.perf_counter()
            try:
                await self._producer.send(event)
            except LogUnavailable as error:
                self.refused += 1
                self.unknown += error.outcome_unknown
                self.slowest = max(self.slowest, time.perf_counter() - began)
                if self.refused > 20_000:
                    # As a program does that has no room for more: it is lost, and known to be.
                    return
            else:
                self.acknowledged.add(event.id)
                return


@pytest.mark.timeout(240)
async def test_a_killed_broker_loses_nothing_that_was_acknowledged(
    make_log: MakeLog, own_broker: OwnBroker
) -> None:
    settings = await make_log(bootstrap_servers=own_broker.servers)
    async with JobProducer("//tests/outage", settings=settings) as producer:
        sends = Sends(producer)
        sending = asyncio.create_task(sends.run())
        await until(lambda: len(sends.acknowledged) > RATE, "events flow")
        used = psutil.Process().memory_info().rss
        await own_broker.cut_power()
        await asyncio.sleep(AWAY)
        acknowledged = len(sends.acknowledged)
        grown = psutil.Process().memory_info().rss - used
        await own_broker.start()
        await until(lambda: len(sends.acknowledged) > acknowledged + RATE, "sending goes on")
        sends.over = True
        await sending
    assert sends.refused > 0
    assert sends.unknown > 0, "what was under way may be in the log"
    # What a busy machine takes from this process, it takes from the producer in it, too.
    assert sends.slowest < 1.5 * WITHIN + sends.late, "a refusal was not told in time"
    assert grown < ROOM
    jobs = fold_of(await read_log(settings)).jobs
    applied = [
        entry.key
        for job in jobs.values()
        for entry in read_trail(kept_trail(job))
        if entry.verdict is Verdict.APPLIED
    ]
    assert len(applied) == len(set(applied)), "an event took effect twice"
    assert {event_key(event_id) for event_id in sends.acknowledged} <= set(applied)
