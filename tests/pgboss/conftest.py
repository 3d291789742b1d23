"""One PostgreSQL and one installation of pg-boss for all of these tests; a database for each."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.pgboss.servers import SCRIPTS, install, programs
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
