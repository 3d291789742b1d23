"""Fixtures of the contract tests: each store under test, fresh or filled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from projections.ports.read import ProjectionReader
from tests.contract.api_service import Api, running
from tests.contract.oidc_provider import OidcProvider, oidc_provider
from tests.contract.store_feeding import fill
from tests.contract.store_model import Model
from tests.contract.store_streams import Log, seeded_log
from tests.contract.stores import IMPLEMENTATIONS, Kit


@pytest.fixture(params=IMPLEMENTATIONS)
def unmade(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    """Return a store that nobody has created yet."""
    store = IMPLEMENTATIONS[request.param](tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def store(unmade: Kit) -> Kit:
    """Return an empty store."""
    unmade.create()
    return unmade


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """Return a service with an empty store that follows the log."""
    async with running(tmp_path) as api:
        api.make_store()
        api.follow()
        yield api


@pytest.fixture
async def provider() -> AsyncIterator[OidcProvider]:
    """Return a running provider."""
    async with oidc_provider() as provider:
        yield provider


class Filled(NamedTuple):
    """A store that holds a whole log, to be read only."""

    reader: ProjectionReader
    model: Model
    log: Log


@pytest_asyncio.fixture(scope="session", params=IMPLEMENTATIONS)
async def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Filled]:
    """Return a store filled from the log of seed 1, and the fold of that log."""
    store = IMPLEMENTATIONS[request.param](tmp_path_factory.mktemp("filled") / "store")
    store.create()
    log = seeded_log(1)
    await fill(store, log)
    yield Filled(store.reader(), Model(log).advance(), log)
    store.close()
