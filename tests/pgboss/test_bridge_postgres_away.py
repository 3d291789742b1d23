"""PostgreSQL goes and comes back: the bridge goes on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any, Final

import asyncpg

from tests.conftest import MakeLog
from tests.faults.flows import copy
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


class Farewell:
    """Stands between clients and PostgreSQL, and ends one's connection in the server's name.

    Args:
        port: PostgreSQL's.
    """

    #: What PostgreSQL says before it closes a connection as it is shut down.
    _WORDS: Final = (
        b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    )
    #: Seconds after which it closes, although the client has asked nothing more.
    _CLOSES_WITHIN: Final = 1.0

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        #: Of the connection that was made last: ends it.
        self._end: asyncio.Event | None = None

    async def open(self) -> int:
        """Let clients in; return at which port."""
        self._server = await asyncio.start_server(self._let_in, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def say(self) -> None:
        """Say that the connection ends; it is closed once the client has asked one thing more."""
        assert self._end is not None
        self._end.set()

    def close(self) -> None:
        """Let nobody in any more."""
        assert self._server is not None
        self._server.close()

    async def _let_in(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        end = self._end = asyncio.Event()
        server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        asked = asyncio.create_task(copy(client, to_server))
        answered = asyncio.create_task(copy(server, to_client))
        ended = asyncio.create_task(end.wait())
        try:
            await asyncio.wait({asked, answered, ended}, return_when=asyncio.FIRST_COMPLETED)
            if end.is_set():
                # The server says nothing behind its last words.
                for way in (answered, asked):
                    way.cancel()
                await asyncio.wait({answered, asked})
                to_client.write(b"E" + (len(self._WORDS) + 4).to_bytes(4, "big") + self._WORDS)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.read(1), self._CLOSES_WITHIN)
        finally:
            for task in (asked, answered, ended):
                task.cancel()
            to_client.close()
            to_server.close()


async def test_postgres_says_that_it_ends_before_it_closes(
    make_log: MakeLog, postgres: Postgres, dsn: str, two: tuple[Any, Any], running: list[Process]
) -> None:
    """The next question may come in between; asyncpg has an error of its own for that."""
    settings = await make_log()
    door = Farewell(postgres.port)
    port = await door.open()
    follower = bridge(settings, dsn.replace(f":{postgres.port}/", f":{port}/"))
    running.append(follower)
    first, _ = two
    await insert(first, "plain")
    await follower.spawn()
    await until_counted(settings, dsn)
    door.say()
    await insert(first, "apart")
    await until_counted(settings, dsn)
    follower.signal(signal.SIGINT)
    assert await follower.child.wait() == 0
    assert "action=bridge_waits" in follower.log.read_text()
    door.close()
