"""One PostgreSQL and one installation of pg-boss for all of these tests; a database for each."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.pgboss.servers import SCRIPTS, Driver, install, programs
from tests.postgres import Postgres


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[Postgres]:
    server = Postgres(programs())
    await server.start()
    yield server
    await server.remove()


@pytest.fixture
async def dsn(postgres: Postgres) -> str:
    """Make an empty database."""
    return await postgres.make(f"db_{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def pg_boss(pytestconfig: pytest.Config) -> Path:
    """Return a folder with pg-boss 9, 10 and 12, kept from run to run."""
    locked = hashlib.sha256((SCRIPTS / "package-lock.json").read_bytes()).hexdigest()[:12]
    assert pytestconfig.cache is not None
    return install(pytestconfig.cache.mkdir(f"pg-boss-{locked}"))


@pytest.fixture
async def two(dsn: str, pg_boss: Path) -> AsyncIterator[tuple[Any, Any]]:
    """Two connections to a database with pg-boss 12 in it."""
    async with Driver(pg_boss, "newest.mjs", dsn, "0") as driver:
        await driver.stage("install")
        await driver.stage("end")
    first, second = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    yield first, second
    await first.close()
    await second.close()
