"""The broker killed under a bridge from pg-boss: it waits, goes on, and nothing is missed."""

from __future__ import annotations

import asyncio

import asyncpg

from jobtrail.integrations.pgboss.bridge import Bridge, BridgeOptions
from tests.conftest import MakeLog
from tests.faults.conftest import OwnBroker
from tests.faults.flows import fold_of, read_log, until
from tests.pgboss.servers import programs
from tests.postgres import Postgres

#: What the bridge reads of version 9's table.
TABLE = """
CREATE SCHEMA pgboss;
CREATE TABLE pgboss.job (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text DEFAULT 'work', priority int DEFAULT 0,
  data jsonb, state text DEFAULT 'created', retryCount int DEFAULT 0, retryDelay int DEFAULT 0,
  retryBackoff boolean DEFAULT false, startAfter timestamptz DEFAULT now(), startedOn timestamptz,
  createdOn timestamptz DEFAULT now(), completedOn timestamptz, output jsonb
)
"""
INSERT = "INSERT INTO pgboss.job (name) SELECT 'work' FROM generate_series(1, 500)"


async def test_the_bridge_waits_for_the_broker(make_log: MakeLog, own_broker: OwnBroker) -> None:
    settings = await make_log(bootstrap_servers=own_broker.servers)
    server = await Postgres(programs()).start()
    stop = asyncio.Event()
    try:
        dsn = await server.make("jobs")
        connection = await asyncpg.connect(dsn)
        await connection.execute(TABLE)
        await connection.execute(INSERT)
        made = Bridge(settings, BridgeOptions(dsn, every=0.05))
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(made.run(stop))
            await until(lambda: made.figures.acknowledged == 500, "the first jobs are sent")
            await own_broker.cut_power()
            read = made.figures.read
            await connection.execute(INSERT)
            await until(lambda: made.figures.read > read, "it reads while there is no broker")
            await own_broker.start()
            await until(lambda: made.figures.acknowledged >= 1_000, "it goes on")
            stop.set()
            await following
        await connection.close()
    finally:
        stop.set()
        await server.remove()
    assert len(fold_of(await read_log(settings)).jobs) == 1_000
