"""The broker killed under load: what was acknowledged stays, and all get on when it is back."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import Final

import pytest

from jobtrail.core.errors import LogUnavailable
from jobtrail.core.events import decode
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.contract.store_streams import Log, event
from tests.faults.conftest import OwnBroker
from tests.faults.flows import applied, equals_fold, held, losses, pass_on, until
from tests.processes import Process, projector

#: Seconds that a writer waits for the log.
WITHIN: Final = 3.0


class Sender:
    """Sends events until it is told to stop; what was not acknowledged it sends again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = map(str, itertools.count())
        self._pending: list[str] = []
        #: Ids of the events that Kafka has said to have.
        self.acknowledged: set[str] = set()
        #: How often a start, an append or a settling was given up.
        self.refusals = 0
        self.over = False

    async def run(self) -> None:
        while not self.over:
            try:
                async with LogWriter(self._settings, WITHIN) as writer:
                    while not self.over:
                        await self._send(writer)
            except LogUnavailable:
                self.refusals += 1

    async def _send(self, writer: LogWriter) -> None:
        left = [name for name in self._pending if name not in self.acknowledged]
        self._pending = [*left, *itertools.islice(self._names, 20)]
        for name in self._pending:
            job = f"job-{int(name) % 50}"
            taken = partial(self.acknowledged.add, name)
            await writer.append(job, event("progress", job, name), taken)
        await writer.settle()


def ids_in(log: Log) -> list[str]:
    """Return the ids of the events in a log."""
    return [decode(record.value).id for records in log.records.values() for record in records]


async def started_again_and_again(worker: Process) -> None:
    """Start a process anew whenever it ends, as `jobtrail up` does."""
    while True:
        await worker.child.wait()
        await worker.spawn()


@pytest.mark.timeout(420)
async def test_a_killed_broker_loses_nothing_and_stops_nobody_for_good(
    make_log: MakeLog, running: list[Process], own_broker: OwnBroker
) -> None:
    assert LogUnavailable.retriable
    settings = await make_log(bootstrap_servers=own_broker.servers)
    worker, sender = projector(settings), Sender(settings)
    running.append(worker)
    await worker.start()
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(sender.run())
        keeping = tasks.create_task(started_again_and_again(worker))
        await until(lambda: applied(settings) > 500, "events flow")
        await own_broker.cut_power()
        # Under way when it happened, and then a start: both are told in time.
        await until(lambda: sender.refusals >= 2, "writers are told that the log is unavailable")
        before, acknowledged = applied(settings), len(sender.acknowledged)
        assert held(settings).recovering == frozenset()
        await own_broker.start()
        await until(lambda: len(sender.acknowledged) > acknowledged + 100, "writers get on")
        await until(lambda: applied(settings) > before + 100, "the projector gets on")
        sender.over = True
        await sending
        log = await equals_fold(settings)
        keeping.cancel()
    assert sender.acknowledged <= set(ids_in(log))
    assert losses(settings) == []


async def test_a_broker_that_goes_while_a_projector_starts_is_one_line_and_a_new_start(
    make_log: MakeLog, running: list[Process], kafka: str
) -> None:
    """Its first connection, for questions, gets through; Faust's is refused."""
    host, _, port = kafka.rpartition(":")

    async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        door.close()
        await pass_on(reader, writer, host, int(port))

    door = await asyncio.start_server(let_in, "127.0.0.1", 0)
    settings = await make_log()
    address = f"127.0.0.1:{door.sockets[0].getsockname()[1]}"
    worker = projector(settings.model_copy(update={"bootstrap_servers": address}))
    running.append(worker)
    await worker.spawn()
    assert await worker.child.wait() == 1
    lines = worker.log.read_text().splitlines()
    assert "action=projector_failed The log can't be reached: KafkaConnectionError" in lines[-1]
    assert not [line for line in lines if "Traceback" in line]
