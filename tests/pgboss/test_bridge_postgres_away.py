"""PostgreSQL goes and comes back: the bridge goes on."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import asyncpg

from tests.conftest import MakeLog
from tests.faults.flows import pass_on
from tests.pgboss.bridging import bridge, insert, until_counted
from tests.postgres import Postgres
from tests.processes import Process


async def test_postgres_restarts_and_the_bridge_goes_on(
    make_log: MakeLog, postgres: Postgres, dsn: str, two: tuple[Any, Any], running: list[Process]
) -> None:
    settings = await make_log()
    follower = bridge(settings, dsn)
    running.append(follower)
    first, _ = two
    await insert(first, "plain")
    await follower.spawn()
    await until_counted(settings, dsn)
    await postgres.stop()
    await postgres.start()
    connection = await asyncpg.connect(dsn)
    await insert(connection, "apart")
    await connection.close()
    await until_counted(settings, dsn)
    follower.signal(signal.SIGINT)
    assert await follower.child.wait() == 0
    assert "action=bridge_waits" in follower.log.read_text()


async def test_postgres_says_that_it_ends_before_it_closes(
    make_log: MakeLog, postgres: Postgres, dsn: str, two: tuple[Any, Any], running: list[Process]
) -> None:
    """The next question may come in between; asyncpg has an error of its own for that."""
    bridges: list[asyncio.StreamWriter] = []

    async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bridges.append(writer)
        await pass_on(reader, writer, "127.0.0.1", postgres.port)

    settings = await make_log()
    door = await asyncio.start_server(let_in, "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    follower = bridge(settings, dsn.replace(f":{postgres.port}/", f":{port}/"))
    running.append(follower)
    first, _ = two
    await insert(first, "plain")
    await follower.spawn()
    await until_counted(settings, dsn)
    said = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    bridges[-1].write(b"E" + (len(said) + 4).to_bytes(4, "big") + said)
    await insert(first, "apart")
    await until_counted(settings, dsn)
    follower.signal(signal.SIGINT)
    assert await follower.child.wait() == 0
    assert "action=bridge_waits" in follower.log.read_text()
    door.close()
